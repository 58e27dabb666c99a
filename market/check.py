"""What is to be known about data before it is trusted: `qdesk data check`."""

from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from market.bars import NUMBERS, PRICES, Bars, BarsError, path_of, read_table
from market.check_events import check_events
from market.event_files import BLOCK_BYTES
from market.events import time_of
from market.findings import EXAMPLES, OUTLIER, ROBUST, Finding, Report, length
from market.source import SYNTHETIC, bars_from
from market.times import parsed_times

Numbers = NDArray[np.float64]


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
    steps = np.diff(known.to_numpy())
    lengths, counts = np.unique(steps[steps > 0], return_counts=True)
    usual = float(lengths[counts.argmax()]) if len(lengths) else 0.0
    if usual and 2 * counts.max() >= counts.sum():
        report.contents["interval"] = f"{usual / 1e6:g} s"
    else:  # bars by trades or by volume
        report.contents["interval"], usual = "none is usual", 0.0
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
    examples = [f"row {i + 2}: {length(steps[i] / 1e6)} after {_stamp(stamps[i])}" for i in longest]
    return Finding("gaps", len(wide), f"bars missing: {missing:,}" if missing else "", examples)


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
