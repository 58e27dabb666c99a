"""What is to be known about data before it is trusted: `qdesk data check`."""

from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from market.bars import NUMBERS, PRICES, Bars, BarsError, carried_note, path_of, read_table
from market.calendar import DAY, WEEK, Calendar
from market.closures import HOLE, OVERNIGHT, SELDOM, SHORT, WEEKEND, WHOLE, gaps_of
from market.events.check import check_events
from market.events.files import BLOCK_BYTES
from market.events.schema import time_of
from market.findings import EXAMPLES, OUTLIER, ROBUST, Finding, Report, length
from market.source import SYNTHETIC, bars_from
from market.times import parsed_times

Numbers = NDArray[np.float64]
Rows = NDArray[np.int64]
NEARBY = 50
MOST_NEARBY = 1440  # returns around one that it is judged by
FEWEST = 30  # returns over closures that have a scale of their own
# What a report calls each kind of gap, and what it counts of it.
GAPS = {
    HOLE: ("gaps", "bars missing"),
    OVERNIGHT: ("closed: less than a day", "nights, and pauses within a day"),
    WEEKEND: ("closed: a day or more", "weekends"),
    WHOLE: ("whole sessions missing", "holidays, or days that are lost; bars missing"),
    SHORT: ("short sessions", "a late open or an early close; bars missing"),
    SELDOM: ("seldom traded", "at times that have no bar in most weeks"),
}


def check(source: str, block_bytes: int = BLOCK_BYTES) -> Report:
    """Reports on bars (a sample's name, or a file) or on an event log.

    Raises:
        BarsError: the file cannot be read at all.
        EventsError: the same of an event log.
    """
    if source.startswith(SYNTHETIC):
        return _check_bars(source, bars_from(source).table)
    path = path_of(source)
    suffixes = {suffix for suffix in path.suffixes if suffix not in {".gz", ".zst"}}
    log = bool(suffixes & {".jsonl", ".ndjson"}) or path.suffix in {".gz", ".zst"}
    if log or {"type", "instrument"} <= _columns(path):
        return check_events(path, block_bytes)
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
    # Rows in the order of time, each time once: what is out of order or double is counted by itself.
    readable = np.flatnonzero(stamps.is_not_null())
    ordered = readable[np.unique(known.to_numpy(), return_index=True)[1]]
    at = stamps.forward_fill().backward_fill().fill_null(0).to_numpy()
    calendar = _calendar(at[ordered])
    usual = f"{calendar.interval:g} s" if calendar.kind != "irregular" else "none is usual"
    report.contents |= {"interval": usual, "calendar": str(calendar)}
    report.findings = [
        _rows("unreadable", unread),
        _rows(
            "zero or negative prices",
            numbers.select(pl.any_horizontal(pl.col(PRICES) <= 0)).to_series(),
        ),
        _rows("duplicate times", stamps.is_duplicated() & ~stamps.is_first_distinct()),
        _rows("out of order", (stamps < stamps.cum_max().shift(1)).fill_null(value=False)),
        *_gaps(ordered, at, calendar),
        _outliers(at, numbers["close"].to_numpy(), calendar),
    ]
    if {"bid", "ask"} <= numeric:
        bid, ask = (table[name].cast(pl.Float64, strict=False) for name in ("bid", "ask"))
        report.findings += [_rows("crossed quotes", bid > ask), _rows("locked quotes", bid == ask)]
    if table.schema.get("carried") in (pl.Boolean, pl.String):
        carried = table["carried"].cast(pl.String) == "true"
        many = carried_note("these bars", float(carried.sum() / len(carried)))
        note = many or "no trades; the price before"
        report.findings.append(_rows("carried bars", carried, note))
    return report


def _calendar(stamps: Rows) -> Calendar:
    """The calendar of bars; those of a week or more have no closures, but may have holes."""
    found = Calendar.of(stamps.astype("datetime64[us]"))
    steps = np.diff(stamps) / 1e6
    usual = len(steps) > 0 and 2 * np.sum(steps == found.interval) >= len(steps)
    return found._replace(kind="24/7") if usual and found.interval >= WEEK else found


def _rows(name: str, where: pl.Series, note: str = "") -> Finding:
    rows = where.fill_null(value=False).arg_true()
    return Finding(name, len(rows), note, [f"row {row + 1}" for row in rows[:EXAMPLES]])


def _stamp(microseconds: object) -> str:
    return time_of(int(str(microseconds)) * 1000)


def _gaps(ordered: Rows, stamps: Rows, calendar: Calendar) -> list[Finding]:
    """Holes, then closures of each kind that there are, then bars off the grid."""
    seconds = stamps[ordered] / 1e6
    gaps = gaps_of(seconds, calendar)
    findings = []
    for kind, (name, what) in GAPS.items():
        places = gaps.of(kind)
        if not len(places) and kind != HOLE:
            continue
        missing = int(gaps.bars[places].sum())
        about = f"{what}: {missing:,}" if missing else "" if kind == HOLE else what
        examples = [
            f"row {ordered[i + 1] + 1}: {length(seconds[i + 1] - seconds[i])} after "
            f"{_stamp(stamps[ordered[i]])}"
            for i in gaps.after[places[:EXAMPLES]]
        ]
        findings.append(Finding(name, len(places), about, examples, fault=kind == HOLE))
    if calendar.kind != "irregular" and (off := calendar.off_grid(seconds)).any():
        grid = f"most closes are {calendar.phase:g} s past a multiple of {calendar.interval:g} s"
        rows = [
            f"row {ordered[i] + 1}: {_stamp(stamps[ordered[i]])}"
            for i in np.flatnonzero(off)[:EXAMPLES]
        ]
        findings.append(Finding("off the grid", int(off.sum()), grid, rows))
    return findings


def _outliers(stamps: Rows, close: Numbers, calendar: Calendar) -> Finding:
    """Returns that are far from the whole and from those around them.

    As rule Q4 of Barndorff-Nielsen, Hansen, Lunde and Shephard (2009), "Realized kernels in practice:
    Trades and quotes", judges a price by the 50 around it and by 10 deviations: volatility comes in
    clusters and by the hour, so that a scale of all bars flags every lively afternoon. Here the largest
    of three scales counts: of all returns, of the 50 around, and of a day's around. Returns of zero, as
    of a price that moves in ticks, count in none. Returns over closures are judged among themselves;
    where they are few, each by the root of the bars that the closure would hold.
    """
    note = (
        f"robust z of log returns above {OUTLIER:g}, by all of them, by the {NEARBY} around and by a "
        "day's around; returns over closures among themselves"
    )
    interval = calendar.interval if calendar.kind != "irregular" else 0.0
    bars: Numbers = np.ones(len(close) - 1)
    if interval:
        bars = np.diff(stamps) / (1e6 * interval)
    with np.errstate(divide="ignore", invalid="ignore"):
        returns = np.diff(np.log(close))
        moves = returns / np.sqrt(np.maximum(bars.round(), 1))
    known = np.isfinite(moves)
    if not known.any():
        return Finding("outliers", 0, note)
    moved = np.flatnonzero(known & (returns != 0))
    size = abs(moves[moved] - np.median(moves[known]))
    if not len(size) or not np.median(size):
        return Finding("outliers", 0, "no return differs from the others: no scale to judge by")
    z = np.zeros(len(close) - 1)
    across = bars[moved] > 1.5
    apart = [across, ~across] if across.sum() >= FEWEST else [np.ones(len(size), np.bool_)]
    for group in apart:
        z[moved[group]] = _z(size[group], int(DAY / interval) if interval else 0)
    found = np.flatnonzero(z > OUTLIER)
    largest = found[np.argsort(-z[found], kind="stable")][:EXAMPLES]
    examples = [f"row {i + 2}: {np.expm1(returns[i]):+.2%} (z {z[i]:.0f})" for i in largest]
    return Finding("outliers", len(found), note, examples)


def _z(size: Numbers, a_day: int) -> Numbers:
    """Robust z of returns by all of them; zero where one is usual among those around it."""
    scale = ROBUST * float(np.median(size)) if len(size) else 0.0
    z = size / scale if scale else np.zeros(len(size))
    for count in sorted({NEARBY, min(a_day, MOST_NEARBY)}):
        far = np.flatnonzero(z > OUTLIER)
        if NEARBY <= count <= len(size) and len(far):
            z[far[size[far] <= OUTLIER * ROBUST * _medians_around(size, far, count)]] = 0.0
    return z


def _medians_around(values: Numbers, at: Rows, count: int) -> Numbers:
    """The rolling median around each of some places, shape of `at`."""
    windows = np.lib.stride_tricks.sliding_window_view(values, count)
    starts = np.clip(at - count // 2, 0, len(windows) - 1)
    parts = np.array_split(starts, max(len(starts) * count // 2**22, 1))
    return np.concatenate([np.median(windows[part], axis=1) for part in parts])
