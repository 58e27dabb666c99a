"""What is to be known about data before it is trusted: `qdesk data check`.

Bars are looked at whole. Event logs stream through the same rules and the same order as in a
conversion; medians over them come from histograms, so that memory does not grow with the log.
"""

from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from market.bars import NUMBERS, PRICES, Bars, BarsError, parsed_times, path_of, read_table
from market.convert import spoken
from market.event_files import BLOCK_BYTES, Rejected, event_blocks
from market.event_order import EventOrder
from market.events import BOOK, KINDS, TRADE, time_of

# A return is an outlier past so many robust standard deviations (1.4826 x the median absolute
# deviation). Iglewicz and Hoaglin (1993) flag from 3.5 on; returns have heavier tails than what
# that is meant for, and 10 leaves errors of the feed rather than news.
OUTLIER = 10.0
ROBUST = 1.4826
LONG_PAUSE = 1000.0  # times the median pause between events
EXAMPLES = 3
Numbers = NDArray[np.float64]


@dataclass
class Finding:
    """One kind of thing that was looked for.

    Attributes:
        name: what.
        count: how many.
        note: the rule or the sum of it.
        examples: the first few, or the largest.
    """

    name: str
    count: int = 0
    note: str = ""
    examples: list[str] = field(default_factory=list)


@dataclass
class Report:
    """What a file holds and what is odd about it.

    Attributes:
        source: the file.
        kind: bars or events.
        rows: of bars, or lines of a log.
        period: first and last time.
        contents: what there is of each kind or instrument.
        findings: what was looked for.
        refusal: why it cannot be used as it is; empty where it can.
    """

    source: str
    kind: str
    rows: int = 0
    period: str = "none"
    contents: dict[str, str] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    refusal: str = ""


def check(source: str, block_bytes: int = BLOCK_BYTES) -> Report:
    """Reports on bars (a sample's name, or a file) or on an event log.

    Raises:
        BarsError: the file cannot be read at all.
        EventsError: the same of an event log.
    """
    path = path_of(source)
    suffixes = {suffix for suffix in path.suffixes if suffix not in {".gz", ".zst"}}
    log = bool(suffixes & {".jsonl", ".ndjson"}) or path.suffix in {".gz", ".zst"}
    if log or {"type", "instrument"} <= _columns(path):
        return _check_events(path, block_bytes)
    return _check_bars(source, read_table(path))


def _columns(path: Path) -> set[str]:
    """The names of a file's columns; none where they cannot be read, which is said when it is."""
    try:
        if path.suffix == ".parquet":
            return set(pl.read_parquet_schema(path))
        with path.open(encoding="utf-8", errors="replace") as file:
            return {name.strip('"\ufeff\r\n ') for name in file.readline(2**20).split(",")}
    except (OSError, pl.exceptions.PolarsError):
        return set()


def _check_bars(source: str, table: pl.DataFrame) -> Report:
    report = Report(source, "bars", table.height)
    try:
        Bars.of(source, table)
    except BarsError as error:
        report.refusal = str(error)
    numeric = {
        name for name, dtype in table.schema.items() if dtype.is_numeric() or dtype == pl.String
    }
    if not {*NUMBERS} <= numeric or "time" not in table.columns or table.is_empty():
        return report
    times = parsed_times(table["time"])
    stamps = times.dt.epoch("us")
    numbers = table.select(pl.col(NUMBERS).cast(pl.Float64, strict=False))
    unread = (
        times.is_null()
        | numbers.select(pl.any_horizontal(pl.all().is_null() | ~pl.all().is_finite())).to_series()
    )
    known = stamps.drop_nulls()
    if len(known):
        report.period = f"{_stamp(known.min())} to {_stamp(known.max())}"
    steps = np.diff(known.to_numpy())
    forward = steps[steps > 0]
    usual = float(np.median(forward)) if len(forward) else 0.0
    if usual:
        report.contents["interval"] = f"{usual / 1e6:g} s (median)"
    close = numbers["close"].to_numpy()
    report.findings = [
        _rows("unreadable", unread),
        _rows(
            "zero or negative prices",
            numbers.select(pl.any_horizontal(pl.col(PRICES) <= 0)).to_series(),
        ),
        _rows("duplicate times", stamps.is_duplicated() & ~stamps.is_first_distinct()),
        _rows("out of order", (stamps < stamps.cum_max().shift(1)).fill_null(value=False)),
        _gaps(known.to_numpy(), usual),
        _outliers(close),
    ]
    if {"bid", "ask"} <= numeric:
        bid, ask = (table[name].cast(pl.Float64, strict=False) for name in ("bid", "ask"))
        report.findings += [_rows("crossed quotes", bid > ask), _rows("locked quotes", bid == ask)]
    if table.schema.get("carried") in (pl.Boolean, pl.String):
        carried = table["carried"].cast(pl.String) == "true"
        report.findings.append(_rows("carried bars", carried, "no trades; the price before"))
    return report


def _rows(name: str, where: pl.Series, note: str = "") -> Finding:
    rows = where.fill_null(value=False).arg_true()
    return Finding(name, len(rows), note, [f"row {row + 1}" for row in rows[:EXAMPLES]])


def _stamp(microseconds: object) -> str:
    return time_of(int(str(microseconds)) * 1000)


def _gaps(stamps: NDArray[np.int64], usual: float) -> Finding:
    steps = np.diff(stamps)
    wide = np.flatnonzero(steps > 1.5 * usual) if usual else np.array([], np.int64)
    missing = int(np.sum(np.round(steps[wide] / usual) - 1)) if len(wide) else 0
    longest = wide[np.argsort(-steps[wide], kind="stable")][:EXAMPLES]
    examples = [
        f"row {i + 2}: {_length(steps[i] / 1e6)} after {_stamp(stamps[i])}" for i in longest
    ]
    return Finding("gaps", len(wide), f"{missing:,} bars missing" if missing else "", examples)


def _outliers(close: Numbers) -> Finding:
    note = f"robust z of log returns above {OUTLIER:g}"
    with np.errstate(divide="ignore", invalid="ignore"):
        returns = np.diff(np.log(close))
    finite = np.isfinite(returns)
    if not finite.any():
        return Finding("outliers", 0, note)
    middle = np.median(returns[finite])
    scale = ROBUST * np.median(abs(returns[finite] - middle))
    if scale == 0:
        return Finding(
            "outliers", 0, "more than half of the returns are alike: no scale to judge by"
        )
    z = np.where(finite, abs(returns - middle) / scale, 0.0)
    found = np.flatnonzero(z > OUTLIER)
    largest = found[np.argsort(-z[found], kind="stable")][:EXAMPLES]
    examples = [f"row {i + 2}: {np.expm1(returns[i]):+.2%} (z {z[i]:.0f})" for i in largest]
    return Finding("outliers", len(found), note, examples)


class _Histogram:
    """Counts of positive numbers by size, 32 bins to a doubling, so quantiles are within 2.2%.

    From 2^-64 to 2^64; what is smaller or larger counts in the outermost bins.
    """

    BINS, FROM, DOUBLINGS = 32, -64, 128

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
        lines, ns = events["line"].to_numpy(), events["ns"].to_numpy()
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


def _check_events(path: Path, block_bytes: int) -> Report:
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


ALWAYS = ("malformed", "duplicate", "out of order", "clock jump", "crossed quote", "zero price")


def _of_instrument(of: str, seen: _Seen) -> list[Finding]:
    long = LONG_PAUSE * seen.pauses.median()
    large = OUTLIER * ROBUST * seen.moves.median()
    return [
        Finding(
            f"gaps{of}",
            seen.pauses.above(long) if long else 0,
            f"pauses above {LONG_PAUSE:,.0f} x the median, {_length(long)}" if long else "",
            [f"line {line}: {_length(p)}" for p, line in seen.longest if long and p > long],
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


def _length(seconds: float) -> str:
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e6:.3g} us"
