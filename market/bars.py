"""The Bars table: what a market did, one row an interval, validated once on the way in.

Everything downstream may rely on what `Bars` promises: times strictly increasing and in UTC, each
the *close* of its bar; prices finite and above zero; high and low around open and close. What was
quoted at the close may stand beside them; it may be unknown in the first bars, never later.
"""

import hashlib
import stat
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field, model_validator

from durable.replacing import require_whole
from durable.settings import Settings
from market.calendar import Calendar
from market.times import parsed_times

SAMPLES = Path(__file__).parent / "samples"
PRICES = ("open", "high", "low", "close")
NUMBERS = (*PRICES, "volume")
COLUMNS = ("time", *NUMBERS)
QUOTES = ("bid", "ask", "bid_size", "ask_size", "depth_imbalance")  # kept where a table has them
CARRIED = "carried"  # kept where a table has it: bars in which nothing was traded
MOST_CARRIED = 0.2  # share of such bars above which training and judging say so


class BarsError(ValueError):
    """Bars that cannot be trusted. The message names the file, the row or column, and the remedy."""

    exit_code = 2


class SplitSettings(Settings):
    """How bars are divided by time into training, validation and test."""

    train: float = Field(0.6, gt=0, lt=1, description="share of the bars that training sees")
    validation: float = Field(0.2, gt=0, lt=1, description="share that chooses the checkpoint")
    test: float = Field(0.2, ge=0, lt=1, description="share that training never touches")
    gap: int = Field(48, ge=0, description="bars purged before validation and before test")

    @model_validator(mode="after")
    def _shares_fill_the_whole(self) -> Self:
        total = self.train + self.validation + self.test
        if abs(total - 1) > 1e-9:
            raise ValueError(f"train + validation + test is {total:g} and must be 1")
        return self


@dataclass(frozen=True)
class Bars:
    """Validated bars. Build one with `load_bars` or `Bars.of`; the constructor does not check."""

    name: str  # what to call them, such as `btcusd_30m`
    # Columns time (the bar's close, UTC), open, high, low, close (price units), volume, and those
    # of `QUOTES` that are known: null in the first bars at most. `carried`, where it is known, is
    # no part of what the bars are: it changes no hash.
    table: pl.DataFrame
    # The calendar of the data set that they were cut from; None where they are all of it.
    whole: Calendar | None = None

    @classmethod
    def of(cls, name: str, table: pl.DataFrame, calendar: Calendar | None = None) -> Self:
        """Checks a table with the columns of `COLUMNS` and wraps it.

        A calendar is passed where more is known of the market than these bars tell. Raises
        `BarsError`: names the first offending row, counted from 1.
        """
        return cls(name, _validated(name, table), calendar)

    def __len__(self) -> int:
        return self.table.height

    @cached_property
    def content_hash(self) -> str:
        """sha256 of times and numbers: the same bars hash alike whatever file they came from."""
        digest = hashlib.sha256()
        digest.update(self.table["time"].dt.epoch("us").to_numpy().astype("<i8").tobytes())
        for column in NUMBERS:
            digest.update(self.table[column].to_numpy().astype("<f8").tobytes())
        for column in QUOTES:
            if column in self.table.columns:
                digest.update(column.encode())
                digest.update(self.column(column).astype("<f8").tobytes())
        return digest.hexdigest()

    @cached_property
    def calendar(self) -> Calendar:
        """When the market has bars, inferred from the whole data set that these belong to."""
        if self.whole is not None:
            return self.whole
        return Calendar.of(self.table["time"].dt.replace_time_zone(None).to_numpy())

    @property
    def carried(self) -> float:
        """Share of the bars that are known to be carried: nothing was traded in them."""
        if CARRIED not in self.table.columns:
            return 0.0
        return float(self.table[CARRIED].sum() / len(self))

    def column(self, name: str) -> NDArray[np.float64]:
        """One column of numbers, shape (bars,); NaN where a quote is not known yet."""
        return self.table[name].to_numpy().astype(np.float64, copy=False)

    def between(self, start: int, stop: int, part: str) -> "Bars":
        """Rows start (inclusive) to stop (exclusive), named `<name>/<part>`."""
        return Bars(f"{self.name}/{part}", self.table.slice(start, stop - start), self.calendar)

    def split(
        self, train: float = 0.6, validation: float = 0.2, test: float = 0.2, gap: int = 48
    ) -> "Split":
        """Divides the bars by time.

        `gap` bars are dropped before validation and before test, so that no feature window and no
        held position of one part reaches into the next. Raises `BarsError` where a part would hold
        fewer than two bars.
        """
        shares = SplitSettings(train=train, validation=validation, test=test, gap=gap)
        first = round(len(self) * shares.train)
        second = round(len(self) * (shares.train + shares.validation))
        parts = Split(
            self.between(0, first, "train"),
            self.between(min(first + gap, second), second, "validation"),
            self.between(min(second + gap, len(self)), len(self), "test"),
        )
        for part, share in zip(parts, (train, validation, test), strict=True):
            if share > 0 and len(part) < 2:
                raise BarsError(
                    f"{part.name}: {len(self)} bars leave {len(part)} for this part after a gap of "
                    f"{gap}; it needs at least 2, so bring more bars or a smaller gap"
                )
        return parts


class Split(NamedTuple):
    """Three stretches of the same bars, in the order of time."""

    train: Bars
    validation: Bars
    test: Bars


def carried_note(name: str, share: float) -> str:
    """A sentence where more than `MOST_CARRIED` of the bars are carried, else nothing."""
    if share <= MOST_CARRIED:
        return ""
    return (
        f"{name}: nothing was traded in {share:.0%} of these bars, whose price is carried forward; make "
        "longer bars, or leave those out (`qdesk data convert --empty skip`)"
    )


def sample_names() -> list[str]:
    """The bars that ship with the project; `market/samples/README.md` tells their origin."""
    return sorted(path.stem for path in SAMPLES.glob("*.parquet"))


def load_bars(source: str | Path) -> Bars:
    """Reads bars by the name of a sample, or from a Parquet or CSV file.

    A file has the columns time, open, high, low, close, volume; those of `QUOTES` are kept where
    they are there, so is `carried`, and further columns are ignored. Times are the close of each
    bar: ISO-8601 text, or a Parquet timestamp; without an offset they are UTC. Raises `BarsError`
    where the file is missing, unreadable, lacks a column or holds a bad row. Rows are counted from
    1, a CSV's header not among them.
    """
    path = path_of(source)
    return Bars(path.stem, _validated(str(source), read_table(path)))


def path_of(source: str | Path) -> Path:
    """The file of a sample, or a file that is there and not empty; `BarsError` where it is not."""
    if str(source) in sample_names():
        return SAMPLES / f"{source}.parquet"
    path = Path(source)
    _require_content(path)
    return path


def _require_content(path: Path) -> None:
    """Refuses a path that is no file, or an empty one."""
    try:
        require_whole(path)
        status = path.stat()
    except FileNotFoundError:
        samples = ", ".join(sample_names())
        raise BarsError(
            f"bars {path}: no such file, nor one of the samples ({samples}), nor synthetic:ou?…"
        ) from None
    except OSError as error:
        raise BarsError(f"bars {path}: cannot be opened ({error.strerror})") from error
    if not stat.S_ISREG(status.st_mode):
        raise BarsError(f"bars {path}: not a file; give a .parquet or .csv file")
    if status.st_size == 0:
        raise BarsError(f"{path}: the file is empty; it must hold the columns {', '.join(COLUMNS)}")


def read_table(path: Path) -> pl.DataFrame:
    """A bars file as it is, unchecked; a CSV's columns are text."""
    try:
        if path.suffix == ".parquet":
            return pl.read_parquet(path, glob=False)
        if path.suffix == ".csv":  # as text: a value that is no number can then be named by its row
            return pl.read_csv(path, infer_schema=False, glob=False)
    except (pl.exceptions.PolarsError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise BarsError(f"{path}: cannot be read as {path.suffix[1:]}: {reason}") from error
    raise BarsError(f"{path}: the name must end in .parquet or .csv")


def _validated(source: str, raw: pl.DataFrame) -> pl.DataFrame:
    missing = [column for column in COLUMNS if column not in raw.columns]
    if missing:
        raise BarsError(
            f"{source}: column {', '.join(missing)} is missing; "
            f"bars need {', '.join(COLUMNS)} (found: {', '.join(raw.columns)})"
        )
    if raw.is_empty():
        raise BarsError(f"{source}: no rows; bars need at least one row under the header")
    times = _times(source, raw["time"])
    numbers = [_numbers(source, raw[column]) for column in NUMBERS]
    table = pl.DataFrame([times, *numbers])
    for column in NUMBERS:
        number = pl.col(column)
        _refuse(source, table, number.is_null() | ~number.is_finite(), column, "a finite number")
    for column in PRICES:
        _refuse(source, table, pl.col(column) <= 0, column, "above zero")
    _refuse(source, table, pl.col("volume") < 0, "volume", "zero or more")
    _refuse_times(source, table)
    table = table.with_columns(_quotes(source, raw) + _carried(raw))
    if "bid" in table.columns:
        _refuse(source, table, pl.col("ask") < pl.col("bid"), "ask", "at or above the bid")
    low = pl.col("low")
    high = pl.col("high")
    _refuse(source, table, high < low, "high", "at or above the low")
    _refuse(
        source,
        table,
        high < pl.max_horizontal("open", "close"),
        "high",
        "at or above open and close",
    )
    _refuse(
        source, table, low > pl.min_horizontal("open", "close"), "low", "at or below open and close"
    )
    return table


def _times(source: str, raw: pl.Series) -> pl.Series:
    if not (raw.dtype in (pl.Date, pl.String) or isinstance(raw.dtype, pl.Datetime)):
        raise BarsError(
            f"{source}: column time is {raw.dtype}; it must hold ISO-8601 text or timestamps"
        )
    times = parsed_times(raw)
    shown = raw if raw.dtype == pl.String else raw.to_physical()
    _refuse_values(source, shown, times.is_null(), "an ISO-8601 time within 7,000 years of 1970")
    return times


def _numbers(source: str, raw: pl.Series) -> pl.Series:
    if raw.dtype == pl.String:
        raw = raw.str.strip_chars()
    elif not raw.dtype.is_numeric():
        raise BarsError(f"{source}: column {raw.name} is {raw.dtype}; it must hold numbers")
    numbers = raw.cast(pl.Float64, strict=False)
    _refuse_values(source, raw, numbers.is_null(), "a finite number")
    return numbers


def _quotes(source: str, raw: pl.DataFrame) -> list[pl.Series]:
    """The columns of `QUOTES` that hold anything."""
    if ("bid" in raw.columns) != ("ask" in raw.columns):
        missing = "ask" if "bid" in raw.columns else "bid"
        raise BarsError(f"{source}: column {missing} is missing; bid and ask come together")
    columns = []
    for name in QUOTES:
        if name not in raw.columns:
            continue
        if raw[name].dtype not in (pl.String, pl.Null) and not raw[name].dtype.is_numeric():
            raise BarsError(f"{source}: column {name} is {raw[name].dtype}; it must hold numbers")
        written = raw[name].str.strip_chars() if raw[name].dtype == pl.String else raw[name]
        numbers = written.cast(pl.Float64, strict=False)
        unread = written.is_not_null() & ~numbers.is_finite().fill_null(value=False)
        _refuse_values(source, raw[name], unread, "a finite number")
        unknown = numbers.is_null()
        lost = unknown & (~unknown).cum_max()
        _refuse_values(source, raw[name], lost, "a finite number, as it was known before")
        least = {"bid": 5e-324, "ask": 5e-324, "depth_imbalance": -1.0}.get(name, 0.0)
        most = 1.0 if name == "depth_imbalance" else sys.float_info.max
        wanted = {"bid": "above zero", "ask": "above zero", "depth_imbalance": "from -1 to 1"}
        outside = (~numbers.is_between(least, most)).fill_null(value=False)
        _refuse_values(source, raw[name], outside, wanted.get(name, "zero or more"))
        if not unknown.all():
            columns.append(numbers)
    return columns


def _carried(raw: pl.DataFrame) -> list[pl.Series]:
    """Which bars are carried, where that is known of each; else the column is ignored."""
    if CARRIED not in raw.columns:
        return []
    carried = raw[CARRIED]
    if carried.dtype == pl.String:
        words = {"true": True, "false": False}
        carried = carried.str.strip_chars().str.to_lowercase()
        carried = carried.replace_strict(words, default=None, return_dtype=pl.Boolean)
    known = carried.dtype == pl.Boolean and not carried.null_count()
    return [carried.alias(CARRIED)] if known else []


def _refuse_values(source: str, values: pl.Series, bad: pl.Series, wanted: str) -> None:
    """Raises on the first bad value of one column."""
    rows = bad.arg_true()
    if len(rows):
        value = values[int(rows[0])]
        shown = "missing" if value is None else f"{value!r}"
        raise BarsError(
            f"{source} row {rows[0] + 1}: {values.name} is {shown}; it must be {wanted}"
        )


def _refuse(source: str, table: pl.DataFrame, bad: pl.Expr, column: str, wanted: str) -> None:
    _refuse_values(source, table[column], table.select(bad).to_series(), wanted)


def _refuse_times(source: str, table: pl.DataFrame) -> None:
    times = table["time"]
    backward = (times.diff().dt.total_microseconds() <= 0).fill_null(False).arg_true()
    if len(backward):
        row = int(backward[0])
        fault = "the same as" if times[row] == times[row - 1] else "before"
        raise BarsError(
            f"{source} row {row + 1}: time {times[row].isoformat()} is {fault} that of the row above; "
            "times must increase, one bar each"
        )
