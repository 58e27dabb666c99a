"""How fast an event log becomes bars, beside the time that parsing its JSON takes alone.

    make bench-events          or, with what to vary:  make bench-events ARGS="--events 2000000 --save"

Rounds alternate: the parser alone over the file's blocks, then the whole conversion of the same file,
from JSON Lines on disk to Parquet. Peak memory is that of a process of its own, over a longer log.
Prints a table; with `--save` writes `benchmarks/results/events.json` and the table in docs/event-log.md.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import polars as pl

from benchmarks.record import EVENT_LOG, machine, save
from market.events.convert import convert
from market.events.files import BLOCK_BYTES, text_chunks
from market.events.formats import JsonLines
from tests.support.synthetic_events import write_event_log

LOGS = {
    "trades and quotes": {"trade": 0.5, "quote": 0.5},
    "5% three-level books": {"trade": 0.5, "quote": 0.45, "book": 0.05},
}


def parse(log: Path) -> float:
    """Seconds that the parser takes for a file."""
    form = JsonLines()
    began = time.perf_counter()
    with log.open("rb") as file:
        for text in text_chunks(log, file, BLOCK_BYTES):
            form.parse_block(text)
    return time.perf_counter() - began


def make_bars(log: Path, out: Path) -> float:
    """Seconds that a conversion takes."""
    began = time.perf_counter()
    convert([log], "1s", out)
    return time.perf_counter() - began


def peak_memory(log: Path, out: Path) -> float:
    """Peak resident memory in MB of a process that converts a file."""
    code = "import sys; from pathlib import Path; from market.events.convert import convert; "
    code += "convert([Path(sys.argv[1])], '1s', Path(sys.argv[2]))"
    process = os.posix_spawn(
        sys.executable, [sys.executable, "-c", code, str(log), str(out)], os.environ
    )
    _, status, usage = os.wait4(process, 0)
    if status:
        raise SystemExit("the conversion whose memory is measured failed; see its error above")
    return usage.ru_maxrss / 1000


def main() -> None:
    parser = argparse.ArgumentParser(description="event log to bars, beside JSON parsing alone")
    parser.add_argument("--rounds", type=int, default=7, help="rounds of each, alternating")
    parser.add_argument("--events", type=int, default=2_000_000, help="events of a timed log")
    parser.add_argument("--long", type=int, default=20_000_000, help="events of the long log")
    parser.add_argument("--save", action="store_true", help="write the JSON and the table")
    options = parser.parse_args()
    os.environ["PYTHONPATH"] = str(Path(__file__).parents[1])
    load_before = os.getloadavg()[0]
    logs = {}
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log.jsonl"
        out = Path(folder) / "bars.parquet"
        for name, shares in LOGS.items():
            write_event_log(log, options.events, seed=1, shares=shares)
            parse(log)
            rounds = [(parse(log), make_bars(log, out)) for _ in range(options.rounds)]
            parsing, whole = (list(seconds) for seconds in zip(*rounds, strict=True))
            logs[name] = {"bytes": log.stat().st_size, "parsing": parsing, "whole": whole}
        write_event_log(log, options.long, seed=1, shares=LOGS["trades and quotes"])
        began = time.perf_counter()
        memory = peak_memory(log, out)
        seconds = time.perf_counter() - began
        size = log.stat().st_size
    result = {
        **machine(load_before),
        "versions": {"polars": version("polars"), "threads": pl.thread_pool_size()},
        "events": options.events,
        "seconds": logs,
        "long": {"events": options.long, "bytes": size, "megabytes": memory, "seconds": seconds},
    }
    print(table(result))
    if options.save:
        save("events", result, table(result), EVENT_LOG)


def table(result: dict[str, Any]) -> str:
    """The result in Markdown: medians, ranges, and the ratio round by round."""
    rows = [
        "| log | events/s, file to file (range) | JSON parser alone | time, parser = 1 (range) |",
        "|---|---|---|---|",
    ]
    for name, seconds in result["seconds"].items():
        speeds = sorted(result["events"] / one for one in seconds["whole"])
        alone = result["events"] / statistics.median(seconds["parsing"])
        pairs = zip(seconds["whole"], seconds["parsing"], strict=True)
        ratios = sorted(whole / parsing for whole, parsing in pairs)
        rows.append(
            f"| {name} | {statistics.median(speeds):,.0f} ({speeds[0]:,.0f} to {speeds[-1]:,.0f}) "
            f"| {alone:,.0f} | {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}) |"
        )
    long = result["long"]
    return "\n".join(
        [
            *rows,
            "",
            f"{long['events']:,} events ({long['bytes'] / 1e9:.1f} GB) took {long['seconds']:.0f} s and "
            f"{long['megabytes']:,.0f} MB of memory at the peak. {result['cpu']}, "
            f"{result['versions']['threads']} threads, {result['events']:,} events a round, "
            f"{len(seconds['whole'])} rounds, {result['time'][:10]}.",
        ]
    )


if __name__ == "__main__":
    main()
