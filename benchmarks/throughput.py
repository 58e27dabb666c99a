"""Training throughput of qdesk, of its peers and of the floor, at the same settings, on one core.

    make bench-throughput      or, with what to vary:  make bench-throughput ARGS="--rounds 9 --save"

All train the same network on the same bars, costs, batch, streams, update ratio, optimizer, ring and
target schedule. Rounds alternate A B A B ..., so that a machine whose speed drifts slows all, and
ratios are taken round by round. Start-up and compilation are outside the timing and are reported apart.
The floor (`benchmarks/floor.py`) runs in qdesk's own process. Prints a table; with `--save` writes
`benchmarks/results/throughput.json`, hardware included, and the table in docs/performance.md.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from importlib.metadata import version
from typing import Any

from benchmarks.floor import bytes_touched, floor
from benchmarks.peer import Peer
from benchmarks.record import PERFORMANCE, machine, save
from benchmarks.work import WORK, build, first_update, table_of

QDESK = "qdesk"
SB3 = "Stable-Baselines3"
REJAX = "rejax"
SMALL_RING = "rejax, ring of 4,096"
FLOORS = {"the floor, as written": False, "the floor, fastest": True}
PEERS: dict[str, tuple[str, dict[str, Any]]] = {
    SB3: ("peer_sb3.py", {}),
    REJAX: ("peer_rejax.py", {}),
    SMALL_RING: ("peer_rejax.py", {"capacity": 4096}),
}
# What a piece of work changes, and who takes part beside qdesk and the floors.
CASES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "two layers, 4 streams, batch 32, Adam": ({}, [SB3, REJAX, SMALL_RING]),
    "two layers, 64 streams, batch 512, Adam": ({"streams": 64, "batch": 512}, [SB3, REJAX]),
    "linear, 4 streams, batch 32, SGD": ({"hidden": [], "optimizer": "sgd"}, [SB3]),
}


def main() -> None:
    parser = argparse.ArgumentParser(description="qdesk, its peers and the floor, on one core")
    parser.add_argument("--rounds", type=int, default=15, help="rounds of each, alternating")
    parser.add_argument("--seconds", type=float, default=0.5, help="about how long a round of one")
    parser.add_argument("--core", type=int, default=0, help="the core that all are pinned to")
    parser.add_argument("--save", action="store_true", help="write the JSON and the table")
    options = parser.parse_args()
    os.sched_setaffinity(0, {options.core})  # before TensorFlow counts the cores; peers inherit it
    load_before = os.getloadavg()[0]
    versions = {name: version(name) for name in ("tensorflow", "keras", "numpy")}
    cases = {}
    for name, (change, peers) in CASES.items():
        cases[name], of_peers = measured({**WORK, **change}, peers, options)
        versions |= of_peers
    result = {"work": WORK, **machine(load_before), "versions": versions, "cases": cases}
    print(table(result))
    if options.save:
        save("throughput", result, table(result), PERFORMANCE)


def measured(
    work: dict[str, Any], peers: list[str], options: argparse.Namespace
) -> tuple[dict[str, Any], dict[str, str]]:
    """One piece of work: microseconds an iteration of each, round by round; versions of the peers."""
    began = time.perf_counter()
    loop = build(work)
    compiled = time.perf_counter()
    loop.compile()
    now = time.perf_counter()
    state_size = table_of(work).state_size
    with ExitStack() as stack:
        opened = {
            name: stack.enter_context(Peer(PEERS[name][0], {**work, **PEERS[name][1]}))
            for name in peers
        }
        runs: dict[str, Callable[[int], Any]] = {
            QDESK: loop.run,
            **{name: floor(work, state_size, fastest) for name, fastest in FLOORS.items()},
            **{name: peer.run for name, peer in opened.items()},
        }
        counts = {}
        for name, run in runs.items():
            run(first_update(work))
            run(10)
            counts[name] = max(1, int(10 * options.seconds / seconds_of(run, 10)))
        times: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(options.rounds):
            for name, run in runs.items():
                times[name].append(seconds_of(run, counts[name]) / counts[name] * 1e6)
        versions = {key: each for peer in opened.values() for key, each in peer.versions.items()}
    found = {
        "streams": work["streams"],
        "bytes_touched": bytes_touched(work, state_size),
        "build_seconds": compiled - began,
        "compile_seconds": now - compiled,
        "microseconds_an_iteration": times,
    }
    return found, versions


def seconds_of(run: Callable[[int], Any], iterations: int) -> float:
    """By the peer's own clock, else by ours."""
    began = time.perf_counter()
    own = run(iterations)
    return own if isinstance(own, float) else time.perf_counter() - began


def table(result: dict[str, Any]) -> str:
    """The result in Markdown: medians and spreads; ratios are medians of the rounds' own."""
    rows = [
        "| work | who | µs an iteration (range) | env steps/s | updates/s | beside it qdesk (range) |",
        "|---|---|---|---|---|---|",
    ]
    for name, case in result["cases"].items():
        times = case["microseconds_an_iteration"]
        for who, found in times.items():
            middle = statistics.median(found)
            ratios = [own / other for own, other in zip(times[QDESK], found, strict=True)]
            if who == QDESK:
                shown = ""
            elif who in FLOORS:
                shown = f"takes {spread(ratios, '.2f')} times as long"
            else:
                faster = [1 / ratio for ratio in ratios]
                form = ",.0f" if min(faster) > 10 else ".1f"
                shown = f"is {spread(faster, form)} times as fast"
            steps = "" if who in FLOORS else f"{case['streams'] * 1e6 / middle:,.0f}"
            rows.append(
                f"| {name if who == QDESK else ''} | {who} | {spread(found, ',.1f')} | {steps} "
                f"| {1e6 / middle:,.0f} | {shown} |"
            )
    touched = ", ".join(
        f"{case['bytes_touched'] / 1e3:,.0f} kB" for case in result["cases"].values()
    )
    first = next(iter(result["cases"].values()))
    rounds = len(first["microseconds_an_iteration"][QDESK])
    of_peers = (
        f"{name.removeprefix('peer ')} {number}"
        for name, number in result["versions"].items()
        if name in ("tensorflow", "peer stable-baselines3", "peer torch", "peer rejax", "peer jax")
    )
    return "\n".join(
        [
            *rows,
            "",
            f"{result['cpu']}, one core, {rounds} rounds interleaved, load before "
            f"{result['load_before']:.2f}, {result['time'][:10]}; {', '.join(of_peers)}. Compiling took "
            f"{first['compile_seconds']:.1f} s before. State that an iteration must read or write at "
            f"least: {touched}.",
        ]
    )


def spread(values: list[float], form: str) -> str:
    """A median with its range."""
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


if __name__ == "__main__":
    main()
