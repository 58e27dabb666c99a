"""Bars: what is accepted, what is refused and how it is named, splits and hashes."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from market.bars import COLUMNS, Bars, BarsError, SplitSettings, load_bars, sample_names
from market.synthetic import RandomWalk

HEADER = "time,open,high,low,close,volume\n"
ROW = "2020-01-01T00:{:02d}:00Z,10,12,9,11,5\n"
GOOD = HEADER + "".join(ROW.format(minute) for minute in range(4))


def write(folder: Path, text: str, name: str = "bars.csv") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_csv_and_parquet_hold_the_same_bars(tmp_path: Path) -> None:
    from_csv = load_bars(write(tmp_path, GOOD))
    from_csv.table.write_parquet(tmp_path / "bars.parquet")
    from_parquet = load_bars(tmp_path / "bars.parquet")
    assert from_csv.name == "bars"
    assert from_csv.table.equals(from_parquet.table)
    assert from_csv.content_hash == from_parquet.content_hash


@pytest.mark.parametrize(
    "written",
    [
        "2020-01-01T00:00:00Z",
        "2020-01-01T02:00:00+02:00",
        "2020-01-01T00:00:00.000000",
        "2020-01-01 00:00:00",
        "2020-01-01 00:00",
        "2020-01-01T00:00Z",
        "2020-01-01",
        "2020-01-01T01:00:00+01",
        "2020-01-01T05:30:00+0530",
    ],
)
def test_iso_8601_times_are_read_as_utc(tmp_path: Path, written: str) -> None:
    bars = load_bars(
        write(tmp_path, HEADER + ROW.format(0).replace("2020-01-01T00:00:00Z", written))
    )
    assert bars.table["time"][0] == datetime(2020, 1, 1, tzinfo=UTC)


def test_parquet_timestamps_with_a_zone_are_converted(tmp_path: Path) -> None:
    table = load_bars(write(tmp_path, GOOD)).table
    table.with_columns(pl.col("time").dt.convert_time_zone("Asia/Tokyo")).write_parquet(
        tmp_path / "tokyo.parquet"
    )
    assert load_bars(tmp_path / "tokyo.parquet").table.equals(table)


BAD_ROWS = {
    "NaN price": (",11,5\n", ",NaN,5\n", "row 1: close is .*; it must be a finite number"),
    "text price": (
        ",11,5\n",
        ",eleven,5\n",
        "row 1: close is 'eleven'; it must be a finite number",
    ),
    "no price": (",11,5\n", ",,5\n", "row 1: close is missing"),
    "infinite volume": (",11,5\n", ",11,inf\n", "row 1: volume is inf"),
    "negative volume": (",11,5\n", ",11,-5\n", "row 1: volume is -5.0; it must be zero or more"),
    "zero price": (",9,11,5\n", ",0,11,5\n", "row 1: low is 0.0; it must be above zero"),
    "negative price": (",9,11,5\n", ",-1,11,5\n", "row 1: low is -1.0; it must be above zero"),
    "high < low": (",12,9,", ",8,9,", "row 1: high is 8.0; it must be at or above the low"),
    "high < close": (",12,9,", ",10.5,9,", "row 1: high is 10.5; it must be at or above open"),
    "low > open": (",12,9,", ",12,10.5,", "row 1: low is 10.5; it must be at or below open"),
    "bad time": ("00:00:00Z", "noon", "row 1: time is '2020-01-01Tnoon'; it must be an ISO-8601"),
    "duplicate time": (
        "00:01:00Z",
        "00:00:00Z",
        "row 2: time 2020-01-01T00:00:00.* is the same as",
    ),
    "unsorted time": ("00:02:00Z", "00:00:30Z", "row 3: time 2020-01-01T00:00:30.* is before"),
}


@pytest.mark.parametrize("old, new, message", BAD_ROWS.values(), ids=BAD_ROWS)
def test_a_bad_row_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = write(tmp_path, GOOD.replace(old, new, 1))
    with pytest.raises(BarsError, match=f"^{path} {message}"):
        load_bars(path)


def test_a_name_with_wildcards_is_that_file_alone(tmp_path: Path) -> None:
    one = load_bars(write(tmp_path, GOOD, "bars1.csv"))
    other = load_bars(write(tmp_path, GOOD.replace(",11,", ",10.5,"), "bars[1].csv"))
    assert one.content_hash != other.content_hash
    for bars in (one, other):
        bars.table.write_parquet(tmp_path / f"{bars.name}.parquet")
        assert load_bars(tmp_path / f"{bars.name}.parquet").content_hash == bars.content_hash


def test_columns_of_other_types(tmp_path: Path) -> None:
    table = load_bars(write(tmp_path, GOOD)).table
    path = tmp_path / "typed.parquet"

    def load(changed: pl.DataFrame) -> Bars:
        changed.write_parquet(path)
        return load_bars(path)

    assert load(table.with_columns(pl.col("close").cast(pl.Int32))).table.equals(table)
    assert load(table.with_columns(pl.col("time").dt.cast_time_unit("ns"))).table.equals(table)
    assert load(table.head(1).with_columns(pl.col("time").dt.date())).table.equals(table.head(1))
    for bad in (
        pl.col("close").cast(pl.String).cast(pl.Categorical),
        pl.col("close") > 1,
        pl.concat_list("close").alias("close"),
        pl.struct("close").alias("close"),
        pl.col("time").alias("close"),
    ):
        with pytest.raises(BarsError, match=r"column close is .*; it must hold numbers"):
            load(table.with_columns(bad))
    far = pl.lit(2**60).cast(pl.Datetime("ms")).dt.replace_time_zone("UTC").alias("time")
    with pytest.raises(
        BarsError, match=r"row 1: time is .* it must be an ISO-8601 time within 7,000 years"
    ):
        load(table.with_columns(far))


def test_files_that_hold_no_bars_are_named(tmp_path: Path) -> None:
    cases = {
        tmp_path / "none.csv": "no such file, nor one of the samples",
        write(tmp_path, "", "empty.csv"): "the file is empty",
        write(tmp_path, HEADER, "rows.csv"): "no rows",
        write(tmp_path, "not parquet", "bad.parquet"): "cannot be read as parquet",
        write(tmp_path, GOOD, "bars.txt"): "must end in .parquet or .csv",
        write(tmp_path, GOOD.replace("close", "last"), "column.csv"): "column close is missing",
        tmp_path: "not a file",
        tmp_path / ("long" * 100): r"cannot be opened \(File name too long\)",
    }
    for path, message in cases.items():
        with pytest.raises(BarsError, match=message) as caught:
            load_bars(path)
        assert str(path) in str(caught.value)
    numbers = pl.DataFrame({name: [1.0, 2.0] for name in COLUMNS})
    with pytest.raises(BarsError, match="column time is Float64"):
        Bars.of("numbers", numbers)


def test_content_hash_sees_every_value(walk: Bars) -> None:
    for column in ("open", "close", "volume"):
        nudged = walk.table.with_columns(
            pl.col(column) * (1 + 1e-15 * (pl.int_range(pl.len()) == 9))
        )
        if column == "volume":
            nudged = walk.table.with_columns(pl.col(column) + (pl.int_range(pl.len()) == 9))
        assert Bars("other name", nudged).content_hash != walk.content_hash
    assert Bars("other name", walk.table).content_hash == walk.content_hash


@given(
    count=st.integers(40, 400),
    train=st.floats(0.3, 0.7),
    validation=st.floats(0.1, 0.3),
    gap=st.integers(0, 10),
)
def test_split_keeps_order_and_purges_the_gap(
    count: int, train: float, validation: float, gap: int
) -> None:
    bars = RandomWalk().bars(count, seed=1)
    try:
        parts = bars.split(train, validation, 1 - train - validation, gap)
    except BarsError as error:
        assert "leave" in str(error)
        return
    joined = pl.concat([part.table for part in parts])
    assert joined["time"].is_sorted()
    assert len(joined) == count - 2 * gap
    for before, after in pairwise(parts):
        distance = after.table["time"][0] - before.table["time"][-1]
        assert distance == timedelta(minutes=gap + 1)


def test_split_refuses_too_few_bars_and_wrong_shares(walk: Bars) -> None:
    with pytest.raises(BarsError, match=r"walk_s7/validation: .* leave 0"):
        walk.split(gap=600)
    with pytest.raises(ValueError, match=r"train \+ validation \+ test is 0.9 and must be 1"):
        SplitSettings(train=0.5)


def test_samples_are_what_their_page_says() -> None:
    page = (Path(__file__).parents[2] / "market/samples/README.md").read_text()
    assert sample_names() == ["btcusd_30m", "ethusd_30m", "eurusd_1h"]
    for name in sample_names():
        bars = load_bars(name)
        assert bars.content_hash in page
        assert f"{len(bars):,}" in page
        distance = bars.table["time"].diff().drop_nulls()
        assert f"{int((distance > distance.min()).sum())} gaps" in page
