"""What an event is: every rule, the order in time, and bad lines by their numbers."""

import json
import math
import re
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from market.bars import load_bars
from market.events.convert import convert
from market.events.files import event_blocks
from market.events.schema import KINDS, EventsError
from tests.support.event_logs import SECOND, WHOLE, quote, rejected, run, trade, written
from tests.support.synthetic_events import START_NS


def test_integer_times_by_magnitude(tmp_path: Path) -> None:
    base = START_NS
    events = [trade(0, n) for n in range(1, 5)]
    for event, time in zip(
        events,
        [base // 10**6, base // 1000 + 10**6, base + 2 * SECOND, "2020-01-01T00:00:03"],
        strict=True,
    ):
        event["time"] = time
    result = convert([written(tmp_path / "log.jsonl", events)], "1s", tmp_path / "out.csv")
    assert result.units == {"ms", "us", "ns", "ISO-8601"}
    assert load_bars(tmp_path / "out.csv").table["close"].to_list() == [1, 2, 3, 4]


BAD = {
    "not JSON": ('{"time":1', "malformed", "not JSON: Expecting ',' delimiter at character 10"),
    "two objects": (json.dumps(trade(1)) * 2, "malformed", "not JSON"),
    "a list": ("[1]", "malformed", "not a JSON object"),
    "no time": (json.dumps(trade(1) | {"time": None}), "missing field", "time is missing"),
    "seconds": (json.dumps(trade(1) | {"time": 1577836800}), "bad value", "time is 1577836800; it must"),
    "a word for a time": (json.dumps(trade(1) | {"time": "noon"}), "bad value", "time is noon"),
    "a fractional time": (json.dumps(trade(1) | {"time": 1577836800000.5}), "bad value", "time is"),
    "too early": (json.dumps(trade(1) | {"time": "1000-01-01T00:00Z"}), "bad value", "time is 1000"),
    "too late": (json.dumps(trade(1) | {"time": "9999-12-31"}), "bad value", "9999-12-31; .* 2262"),
    "beyond floats": (json.dumps(trade(1)).replace("100.0", "1e400"), "bad value", "price is Infinity"),
    "a far time": (json.dumps(trade(1) | {"time": 10**13}), "bad value", "time is 10000000000000"),
    "no type": (json.dumps(trade(1) | {"type": None}), "missing field", "type is missing"),
    "unknown type": (json.dumps(trade(1) | {"type": "tick"}), "unknown type", "type is tick; it must"),
    "no instrument": (json.dumps(trade(1) | {"instrument": ""}), "missing field", "instrument is"),
    "no price": (json.dumps(trade(1) | {"price": None}), "missing field", "a trade needs price"),
    "NaN": (json.dumps(trade(1) | {"price": math.nan}), "bad value", "price is NaN; it must be a finite"),
    "infinite": (json.dumps(trade(1) | {"size": math.inf}), "bad value", "size is Infinity"),
    "text for a price": (json.dumps(trade(1) | {"price": "7"}), "bad value", 'price is "7"; it must be'),
    "true for a size": (json.dumps(trade(1) | {"size": True}), "bad value", "size is true; it must be"),
    "price zero": (json.dumps(trade(1) | {"price": 0}), "zero price", "price is 0.0; it must be"),
    "negative size": (json.dumps(trade(1) | {"size": -1}), "bad value", "size is -1.0"),
    "a side": (json.dumps(trade(1, side="B")), "bad value", "side is B; it must be buy or sell"),
    "half a quote": (json.dumps(quote(1, 9, 11) | {"ask": None}), "missing field", "a quote needs ask"),
    "crossed": (json.dumps(quote(1, 11, 9)), "crossed quote", "bid 11.0 is above ask 9.0"),
    "negative bid size": (json.dumps(quote(1, 9, 11, bid_size=-1)), "bad value", "bid_size is -1.0"),
    "not UTF-8": ('{"note":"\udce9"}', "wrong encoding", "not UTF-8 text: .* at byte 10"),
    "no levels": (json.dumps(trade(1) | {"type": "book"}), "missing field", "a book needs levels"),
}  # fmt: skip


LEVELS = {
    "text": "9", "words": [["9", 1, 11, 1]],
    "none": [], "null": [None], "three wide": [[9, 1, 11]], "flat": [9, 1, 11, 1],
    "no best": [[None, None, 11, 1]], "price without size": [[9, 1, 11, 1], [8, None, None, None]],
    "negative": [[9, -1, 11, 1]], "zero": [[0, 1, 11, 1]],
    "bids rise": [[9, 1, 11, 1], [9.5, 1, 12, 1]], "asks fall": [[9, 1, 11, 1], [8, 1, 10, 1]],
}  # fmt: skip


@pytest.mark.parametrize("line, fault, reason", BAD.values(), ids=BAD)
def test_a_bad_line_is_named_and_the_others_kept(
    tmp_path: Path, line: str, fault: str, reason: str
) -> None:
    log, out = tmp_path / "log.jsonl", tmp_path / "out.csv"
    lines = [json.dumps(trade(0, 10)), line, json.dumps(trade(SECOND, 11))]
    log.write_bytes("\n".join(lines).encode(errors="surrogateescape"))
    result = convert([log], "1s", out, max_rejected=0.5)
    assert load_bars(out).table["close"].to_list() == [10, 11]
    assert result.rejected == Counter([fault])
    said = json.loads((tmp_path / "out.csv.rejected.jsonl").read_text())
    assert (said["file"], said["line"], said["fault"]) == (str(log), 2, fault)
    assert re.search(reason, said["reason"]), said["reason"]
    assert said["content"] == line.encode(errors="surrogateescape").decode(
        errors="backslashreplace"
    )


@pytest.mark.parametrize("levels", LEVELS.values(), ids=LEVELS)
def test_levels_that_are_no_book(tmp_path: Path, levels: object) -> None:
    book = {"time": START_NS + 1, "type": "book", "instrument": "X", "levels": levels}
    good = book | {"levels": [[9, 1, 11, 3], [8, 2, None, None]]}
    events = [trade(0), book, good, trade(5)]
    result = convert(
        [written(tmp_path / "log.jsonl", events)], "1s", tmp_path / "out.parquet", max_rejected=0.5
    )
    assert result.rejected.total() == 1
    assert rejected(tmp_path / "out.parquet.rejected.jsonl")[0][0] == 2
    assert pl.read_parquet(tmp_path / "out.parquet")["depth_imbalance"].to_list() == [0.0]


def test_order_in_time(tmp_path: Path) -> None:
    late, ahead, copy = trade(5, 1), trade(10**6 * SECOND, 2), trade(100, 10)
    later = [trade(200 + n, 12) for n in range(20)]
    events = [trade(100, 10), copy, trade(101, 11), late, ahead, *later]
    bars = run(tmp_path, events)
    assert rejected(tmp_path / "out.parquet.rejected.jsonl") == [
        (2, "duplicate"),
        (4, "out of order"),
        (5, "clock jump"),
    ]
    assert bars.select("open", "high", "low", "trades").row(0) == (10, 12, 10, 22)


def test_equal_events_with_ids_are_kept_and_order_is_by_instrument(tmp_path: Path) -> None:
    events = [trade(10, id="a"), trade(10, id="b"), trade(3, instrument="Y"), trade(11)]
    assert run(tmp_path, events, instrument="X")["trades"].to_list() == [3]
    assert not (tmp_path / "out.parquet.rejected.jsonl").exists()


def test_csv_lines_are_named(tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    lines = ["time,type,instrument,price,size,note", f"{START_NS},trade,X,10,1,a"]
    lines += [
        f"{START_NS + 1},trade,X,ten,1,a",
        f"{START_NS + 1},trade,X,10,1,a,b",
        "",
        f'{START_NS},tra"de,X,1,1,',
    ]
    lines += [
        ",,,,,",
        f"{START_NS + 2},trade,X,11,1,{chr(0xDCE9)}",
        f"{START_NS + SECOND},trade,X,12,1,",
    ]
    log.write_bytes("\n".join(lines).encode(errors="surrogateescape"))
    for size in (10, WHOLE):
        result = convert([log], "1s", tmp_path / "out.csv", max_rejected=1, block_bytes=size)
        assert (result.lines, result.blank) == (8, 1)
        assert rejected(tmp_path / "out.csv.rejected.jsonl") == [
            (3, "bad value"), (4, "malformed"), (6, "malformed"), (7, "malformed"), (8, "wrong encoding"),
        ]  # fmt: skip
        assert load_bars(tmp_path / "out.csv").table["close"].to_list() == [10, 12]


def test_blocks_count_every_line(tmp_path: Path) -> None:
    log = written(tmp_path / "log.jsonl", [trade(n) for n in range(100)])
    blocks = list(event_blocks([log], block_bytes=1000))
    assert len(blocks) > 5
    assert sum(block.lines for block in blocks) == 100
    assert pl.concat(block.events for block in blocks)["line"].to_list() == list(range(1, 101))
    assert {"trade", "quote", "book", "order", "fill", "decision"} < set(KINDS)


@pytest.mark.parametrize(
    "column, wanted",
    [
        (pl.Series("price", [[1.0]]), r"price is List\(Float64\); it must hold numbers"),
        (pl.Series("size", [True]), "size is Boolean; it must hold numbers"),
        (pl.Series("instrument", [["X"]]), r"instrument is List\(String\); it must hold text"),
        (pl.Series("side", [b"x"]), "side is Binary; it must hold text"),
        (
            pl.Series("time", [timedelta(1)]),
            r"time is Duration.*; it must hold timestamps, integers",
        ),
        (
            pl.Series("levels", [[{"bid": 1.0}]]),
            "levels is List.*; it must hold lists of lists of numbers",
        ),
    ],
)
def test_parquet_columns_that_cannot_hold_events(
    tmp_path: Path, column: pl.Series, wanted: str
) -> None:
    rows = pl.DataFrame([trade(0)]).with_columns(column)
    rows.write_parquet(tmp_path / "log.parquet")
    with pytest.raises(EventsError, match=f"log.parquet: column {wanted}"):
        convert([tmp_path / "log.parquet"], "1s", tmp_path / "out.csv")


def test_rows_of_parquet_are_named(tmp_path: Path) -> None:
    times = [
        datetime(2020, 1, 1, tzinfo=UTC),
        datetime(9999, 12, 31, tzinfo=UTC),
        datetime(2020, 1, 2, tzinfo=UTC),
    ]
    rows = pl.DataFrame(
        {"time": times, "type": "trade", "instrument": "X", "price": [1.0, 2.0, 3.0], "size": 1}
    )
    rows = rows.with_columns(levels=pl.Series([None, None, "[[1,"]))
    rows.write_parquet(tmp_path / "log.parquet")
    convert([tmp_path / "log.parquet"], "1d", tmp_path / "out.csv", max_rejected=1)
    assert rejected(tmp_path / "out.csv.rejected.jsonl") == [(2, "bad value"), (3, "bad value")]
    assert load_bars(tmp_path / "out.csv").table["close"].to_list() == [1.0]
