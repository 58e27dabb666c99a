"""How the time of an update grows with what is stored, batched, simulated, seen and learned.

    make bench-growth      or, with what to vary:  make bench-growth ARGS="--rounds 9 --save"

Each axis varies one size of the work that `throughput.py` measures, rings full, and runs the loop and
the floor at each; rounds alternate over an axis, and ratios are taken round by round. Prints a table;
with `--save` writes `benchmarks/results/growth.json`, the table in docs/performance.md and its picture.
"""

import argparse
import logging
import os
import statistics
from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, NullLocator

from benchmarks.floor import floor
from benchmarks.record import HERE, PERFORMANCE, machine, save
from benchmarks.throughput import seconds_of, spread
from benchmarks.work import FEATURES, WORK, build, first_update, table_of

PICTURE = HERE.parent / "docs/images/growth.png"
AXES: dict[str, tuple[str, dict[int, Any]]] = {
    "transitions held": ("capacity", {n: n for n in (10**4, 10**5, 10**6, 10**7)}),
    "batch": ("batch", {n: n for n in (32, 128, 512, 2048, 4096)}),
    "streams": ("streams", {n: n for n in (1, 4, 16, 64, 256, 1024)}),
    "features": ("features", {n: FEATURES[:n] for n in (3, 8, 16, 32, 64)}),
    "units of each layer": ("hidden", {n: [n, n] for n in (16, 32, 64, 128, 256, 512)}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description="how the time of an update grows, on one core")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.3, help="about how long a round of one")
    parser.add_argument("--core", type=int, default=0, help="the core that it is pinned to")
    parser.add_argument("--save", action="store_true", help="write the JSON, table and picture")
    options = parser.parse_args()
    os.sched_setaffinity(0, {options.core})  # before TensorFlow counts the cores
    logging.getLogger("tensorflow").setLevel(logging.ERROR)  # it warns of many programs
    load_before = os.getloadavg()[0]
    axes: dict[str, dict[str, Any]] = {}
    for axis, (setting, points) in AXES.items():
        works = {str(n): {**WORK, setting: value} for n, value in points.items()}
        axes[axis] = measured(works, options)
        print(axis, "measured", flush=True)
    result = {"work": WORK, **machine(load_before), "axes": axes}
    print(table(result))
    if options.save:
        save("growth", result, table(result), PERFORMANCE)
        picture(result).savefig(PICTURE, metadata={"Software": None})


def measured(works: dict[str, dict[str, Any]], options: argparse.Namespace) -> dict[str, Any]:
    """Microseconds an iteration of the loop and of the floor's fastest form, round by round."""
    runs: dict[tuple[str, str], Callable[[int], Any]] = {}
    counts = {}
    stored = {}
    for point, work in works.items():
        # The ring is full before the first update.
        full = {**work, "learning_starts": work["capacity"]}
        loop = build(full)
        runs[point, "loop"] = loop.run
        runs[point, "floor"] = floor(work, table_of(work).state_size, fastest=True)
        loop.run(first_update(full))
        ring = loop.variables["replay/ring"].shape.num_elements() * 4
        stored[point] = ring / (work["capacity"] // work["streams"] * work["streams"])
    for key, run in runs.items():
        run(20)
        counts[key] = max(1, int(20 * options.seconds / seconds_of(run, 20)))
    times: dict[str, dict[str, list[float]]] = {point: {"loop": [], "floor": []} for point in works}
    for _ in range(options.rounds):
        for (point, which), run in runs.items():
            count = counts[point, which]
            times[point][which].append(seconds_of(run, count) / count * 1e6)
    return {"microseconds_an_iteration": times, "bytes_a_transition": stored}


def table(result: dict[str, Any]) -> str:
    """The result in Markdown: medians and spreads, and ratios round by round."""
    rows = [
        "| what grows | to | µs an update (range) | times the first (range) | times the floor (range) |",
        "|---|---|---|---|---|",
    ]
    for axis, found in result["axes"].items():
        times = found["microseconds_an_iteration"]
        first = next(iter(times.values()))["loop"]
        for place, (point, each) in enumerate(times.items()):
            grown = [own / base for own, base in zip(each["loop"], first, strict=True)]
            floors = [own / base for own, base in zip(each["loop"], each["floor"], strict=True)]
            rows.append(
                f"| {'' if place else axis} | {int(point):,} | {spread(each['loop'], ',.1f')} "
                f"| {spread(grown, '.2f') if place else ''} | {spread(floors, '.2f')} |"
            )
    stored = max(max(each["bytes_a_transition"].values()) for each in result["axes"].values())
    rounds = len(first)
    return "\n".join(
        [
            *rows,
            "",
            f"Two layers of 64, 4 streams, batch 32, one feature, 100,000 held, but for what grows; "
            f"rings full; {stored:.0f} bytes a transition held; the floor in its fastest form. "
            f"{result['cpu']}, one core, {rounds} rounds interleaved over each axis, "
            f"{result['time'][:10]}.",
        ]
    )


def picture(result: dict[str, Any]) -> Figure:
    """Medians along each axis, loop and floor, both scales logarithmic."""
    figure = Figure(figsize=(12, 3.2), layout="constrained", dpi=110)
    panels = np.atleast_1d(figure.subplots(1, len(result["axes"])))
    for axes, (axis, found) in zip(panels, result["axes"].items(), strict=True):
        times = found["microseconds_an_iteration"]
        for which, label, style in (
            ("loop", "an update", "o-"),
            ("floor", "its products alone", "s--"),
        ):
            medians = [statistics.median(each[which]) for each in times.values()]
            axes.loglog([int(point) for point in times], medians, style, label=label, markersize=4)
        axes.set_xticks([int(point) for point in times])
        axes.xaxis.set_major_formatter(EngFormatter(places=0, sep=""))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel(axis)
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("µs")
    figure.axes[0].legend(frameon=False, loc="upper left")
    low = min(axes.get_ylim()[0] for axes in figure.axes)
    high = max(axes.get_ylim()[1] for axes in figure.axes)
    for axes in figure.axes:
        axes.set_ylim(low, high)
    return figure


if __name__ == "__main__":
    main()
