"""What each part of the algorithm costs in the compiled loop, on one core.

    make bench-variants        or, with what to vary:  make bench-variants ARGS="--rounds 9 --save"

All train a network at batch 32 on the same bars; rounds alternate over the variants, so that a machine
whose speed drifts slows all, and ratios are taken round by round. The ensemble of eight is set against
eight loops run one after the other. Prints a table; with `--save` writes
`benchmarks/results/variants.json` and the table in docs/algorithms.md.
"""

import argparse
import os
import time
from typing import Any

from benchmarks.record import ALGORITHMS, machine, save
from benchmarks.throughput import spread
from benchmarks.work import WORK, build

BASE = "uniform, one step"
LINEAR = "linear"
VARIANTS: dict[str, dict[str, Any]] = {
    BASE: {},
    "prioritised, 1,000,000 stored": {"replay": {"prioritised": True, "capacity": 1_000_000}},
    "3-step": {"learner": {"n_step": 3}},
    "dueling": {"network": {"dueling": True}},
    "all actions": {"learner": {"backup": "all_actions"}},
    "Double": {"learner": {"target": "double"}},
    "Munchausen": {"learner": {"target": "munchausen"}},
    "layer norm": {"network": {"layer_norm": True}},
    "noisy": {"network": {"noisy": True}},
    "32 quantiles": {"network": {"quantiles": 32}},
    LINEAR: {"linear": True},
    "linear, 8 seeds at once": {"linear": True, "seeds": 8},
    "8 seeds at once": {"seeds": 8},
}


def main() -> None:
    parser = argparse.ArgumentParser(description="the cost of each part, on one core")
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--iterations", type=int, default=4_000, help="a round of one variant")
    parser.add_argument("--core", type=int, default=0, help="the core that it is pinned to")
    parser.add_argument("--save", action="store_true", help="write the JSON and the table")
    options = parser.parse_args()
    os.sched_setaffinity(0, {options.core})  # before TensorFlow counts the cores
    load_before = os.getloadavg()[0]
    loops = {}
    for name, parts in VARIANTS.items():
        stored = {"capacity": WORK["capacity"], **parts.get("replay", {})}
        stored["learning_starts"] = stored["capacity"]  # the ring is full before the first update
        work = {**WORK, "hidden": []} if "linear" in parts else WORK
        loops[name] = build(work, {**parts, "replay": stored})
        loops[name].run(stored["capacity"] // WORK["streams"] + 100)
    times: dict[str, list[float]] = {name: [] for name in loops}
    for _ in range(options.rounds):
        for name, loop in loops.items():
            began = time.perf_counter()
            loop.run(options.iterations)
            times[name].append((time.perf_counter() - began) / options.iterations * 1e6)
    result = {
        "work": WORK,
        **machine(load_before),
        "iterations": options.iterations,
        "microseconds_an_iteration": times,
    }
    print(table(result))
    if options.save:
        save("variants", result, table(result), ALGORITHMS)


def table(result: dict[str, Any]) -> str:
    """The result in Markdown: medians and spreads, and ratios round by round."""
    times = result["microseconds_an_iteration"]
    rows = ["| variant | µs an iteration (range) | against | ratio (range) |", "|---|---|---|---|"]
    for name, found in times.items():
        seeds = VARIANTS[name].get("seeds", 1)
        against = LINEAR if "linear" in VARIANTS[name] else BASE
        label = f"{against}, {seeds} one after the other" if seeds > 1 else against
        ratios = [own / (seeds * base) for own, base in zip(found, times[against], strict=True)]
        if name == against:
            label = shown = "-"
        elif seeds > 1:
            faster = [1 / ratio for ratio in ratios]
            shown = f"{spread(faster, '.2f')} x the throughput"
        else:
            shown = spread(ratios, ".2f")
        rows.append(f"| {name} | {spread(found, ',.1f')} | {label} | {shown} |")
    count = len(times[BASE])
    return "\n".join(
        [
            *rows,
            "",
            f"Two layers of 64 unless linear, batch 32, 4 streams, full rings of 100,000 unless said. "
            f"{result['cpu']}, one core, {count} rounds of {result['iterations']:,} iterations, "
            f"interleaved, {result['time'][:10]}.",
        ]
    )


if __name__ == "__main__":
    main()
