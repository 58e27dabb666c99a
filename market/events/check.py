"""What is odd about an event log, found while it streams through.

The same rules and the same order as in a conversion. Medians come from histograms, so that memory does
not grow with the log.
"""

from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from market.events.convert import MAX_REJECTED, spoken
from market.events.files import Rejected, event_blocks
from market.events.order import EventOrder
from market.events.schema import BOOK, KINDS, TRADE, time_of
from market.findings import EXAMPLES, OUTLIER, ROBUST, Finding, Report, length

LONG_PAUSE = 1000.0  # times the median pause between events
ALWAYS = ("malformed", "duplicate", "out of order", "clock jump", "crossed quote", "zero price")
Numbers = NDArray[np.float64]


class _Histogram:
    """Counts of positive numbers by size, 32 bins to a doubling, so quantiles are within 2.2%.

    From 2^-64 to 2^64; what is smaller or larger counts in the outermost bins.
    """

    BINS = 32
    FROM = -64
    DOUBLINGS = 128

    def __init__(self) -> None:
        self.counts = np.zeros(self.BINS * self.DOUBLINGS, np.int64)

    def add(self, values: Numbers) -> None:
        place = np.floor(np.log2(values) * self.BINS).astype(np.int64) - self.FROM * self.BINS
        place = np.clip(place, 0, len(self.counts) - 1)
        self.counts += np.bincount(place, minlength=len(self.counts))

    def median(self) -> float:
        """Zero where there is nothing."""
        total = int(self.counts.sum())
        if not total:
            return 0.0
        place = int(np.searchsorted(np.cumsum(self.counts), (total + 1) // 2))
        return float(2 ** ((place + 0.5) / self.BINS + self.FROM))

    def above(self, value: float) -> int:
        """How many are in bins above that of a value."""
        place = int(np.floor(np.log2(value) * self.BINS)) - self.FROM * self.BINS
        return int(self.counts[place + 1 :].sum())


@dataclass
class _Seen:
    """What is kept of one instrument's events."""

    events: int = 0
    last_time: int | None = None
    last_price: float | None = None
    pauses: _Histogram = field(default_factory=_Histogram)
    moves: _Histogram = field(default_factory=_Histogram)
    longest: list[tuple[float, int]] = field(default_factory=list)  # pause, line after it
    largest: list[tuple[float, float, int]] = field(default_factory=list)  # size, return, line

    def add(self, events: pl.DataFrame) -> None:
        lines = events["line"].to_numpy()
        ns = events["ns"].to_numpy()
        self.events += len(lines)
        pauses = np.diff(ns, prepend=ns[0] if self.last_time is None else self.last_time) / 1e9
        self.last_time = int(ns[-1])
        self.pauses.add(pauses[pauses > 0])
        top = np.argsort(-pauses, kind="stable")[:EXAMPLES]
        self.longest += [(float(pauses[i]), int(lines[i])) for i in top]
        self.longest = sorted(self.longest, reverse=True)[:EXAMPLES]
        traded = events.filter(pl.col("kind") == TRADE)
        if not traded.height:
            return
        price = traded["price"].to_numpy()
        first = price[0] if self.last_price is None else self.last_price
        moves = np.diff(np.log(price), prepend=np.log(first))
        self.last_price = float(price[-1])
        self.moves.add(abs(moves[moves != 0]))
        top = np.argsort(-abs(moves), kind="stable")[:EXAMPLES]
        self.largest += [
            (float(abs(moves[i])), float(moves[i]), int(traded["line"][int(i)])) for i in top
        ]
        self.largest = sorted(self.largest, reverse=True)[:EXAMPLES]


def check_events(path: Path, block_bytes: int) -> Report:
    """Reads a log to its end and reports on it."""
    report = Report(str(path), "events")
    order = EventOrder()
    kinds: Counter[str] = Counter()
    faults: Counter[str] = Counter()
    examples: dict[str, list[Rejected]] = {}
    seen: dict[str, _Seen] = {}
    units: set[str] = set()
    times: list[int] = []  # the first and the last
    locked = blank = 0

    def take(name: str, events: pl.DataFrame) -> None:
        nonlocal locked, times
        if not events.height:
            return
        for kind, count in events["kind"].value_counts().iter_rows():
            kinds[KINDS[kind]] += count
        times = [*times, events["ns"][0], events["ns"][-1]]
        times = [min(times), max(times)]
        quoted = events.filter((pl.col("kind") <= BOOK) & (pl.col("kind") != TRADE))
        locked += int((quoted["bid"] == quoted["ask"]).sum())
        seen.setdefault(name, _Seen()).add(events)

    def reject(lines: list[Rejected]) -> None:
        for line in lines:
            faults[line.fault] += 1
            known = examples.setdefault(line.fault, [])
            known.append(line)
            known.sort(key=lambda line: line.line)
            del known[EXAMPLES:]
        lines.clear()

    with closing(event_blocks([path], block_bytes)) as blocks:
        for block in blocks:
            report.rows += block.lines
            blank += block.blank
            units |= block.units
            for name, events in order.next(block):
                take(name, events)
            reject(block.rejected)
            reject(order.rejected)
    for name, events in order.end():
        take(name, events)
    reject(order.rejected)
    bad = faults.total()
    if bad > MAX_REJECTED * report.rows:
        report.refusal = f"{bad:,} of {report.rows:,} lines are bad, {bad / report.rows:.2%}"
    elif not times:
        report.refusal = "it holds no event"
    if times:
        report.period = f"{time_of(times[0])} to {time_of(times[1])}"
    report.contents = {
        "times": spoken(units),
        **{f"{kind} events": f"{kinds[kind]:,}" for kind in KINDS if kinds[kind]},
        **({"blank lines": f"{blank:,}"} if blank else {}),
        **{f"instrument {name}": f"{one.events:,} events" for name, one in sorted(seen.items())},
    }
    for fault in dict.fromkeys((*ALWAYS, *faults)):
        shown = [f"line {line.line}: {line.reason}" for line in examples.get(fault, [])]
        report.findings.append(Finding(fault, faults[fault], "", shown))
    report.findings.append(Finding("locked quotes", locked, "bid equals ask"))
    for name, one in sorted(seen.items()):
        report.findings += _of_instrument(f" of {name}" if len(seen) > 1 else "", one)
    return report


def _of_instrument(of: str, seen: _Seen) -> list[Finding]:
    long = LONG_PAUSE * seen.pauses.median()
    large = OUTLIER * ROBUST * seen.moves.median()
    return [
        Finding(
            f"gaps{of}",
            seen.pauses.above(long) if long else 0,
            f"pauses above {LONG_PAUSE:,.0f} x the median, {length(long)}" if long else "",
            [f"line {line}: {length(p)}" for p, line in seen.longest if long and p > long],
        ),
        Finding(
            f"outliers{of}",
            seen.moves.above(large) if large else 0,
            f"price changes above {OUTLIER:g} robust deviations, {large:.2%}" if large else "",
            [
                f"line {line}: {np.expm1(move):+.2%}"
                for size, move, line in seen.largest
                if large and size > large
            ],
        ),
    ]
