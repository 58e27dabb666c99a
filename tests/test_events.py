"""Event logs: every rule, order, quarantine, and bars against a brute-force oracle."""

import gzip
import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from backports import zstd
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from market.bars import load_bars
from market.convert import convert
from market.event_files import event_blocks
from market.events import KINDS, EventsError
from market.synthetic_events import FAULTS, START_NS, write_event_log

Event = dict[str, Any]
SECOND = 10**9
WHOLE = 32 * 2**20


def written(path: Path, events: Sequence[Event]) -> Path:
    path.write_text("".join(json.dumps(event) + "\n" for event in events))
    return path


def trade(ns: int, price: float = 100.0, size: float = 1.0, **more: object) -> Event:
    return {
        "time": START_NS + ns,
        "type": "trade",
        "instrument": "X",
        "price": price,
        "size": size,
    } | more


def quote(ns: int, bid: float, ask: float, **more: object) -> Event:
    return {
        "time": START_NS + ns,
        "type": "quote",
        "instrument": "X",
        "bid": bid,
        "ask": ask,
    } | more


def rejected(path: Path) -> list[tuple[int, str]]:
    lines = map(json.loads, path.read_text().strip("\n").split("\n"))
    return [(line["line"], line["fault"]) for line in lines]


def run(tmp_path: Path, events: Sequence[Event], every: str = "1s", **more: Any) -> pl.DataFrame:
    out = tmp_path / "out.parquet"
    convert([written(tmp_path / "log.jsonl", events)], every, out, **{"max_rejected": 1, **more})
    return pl.read_parquet(out)


# --- bars against an oracle -------------------------------------------------------------------

PRICES = st.integers(90, 110).map(lambda n: n / 10)
SIZES = st.integers(1, 40).map(lambda n: n / 7)


@st.composite
def logs(draw: st.DrawFn) -> list[Event]:
    """Events in order, some at the same time; ids keep them apart."""
    ns, events = 0, []
    for place in range(draw(st.integers(1, 40))):
        ns += draw(st.sampled_from([0, 0, 1, 999, 10**6, SECOND // 3, SECOND, 7 * SECOND]))
        kind = draw(st.sampled_from(["trade", "trade", "trade", "quote", "book", "order"]))
        event: Event = {"time": START_NS + ns, "type": kind, "instrument": "X", "id": str(place)}
        if kind == "trade":
            event |= {"price": draw(PRICES), "size": draw(SIZES)}
        elif kind == "quote":
            event |= {"bid": draw(PRICES), "ask": 12.0}
            if draw(st.booleans()):
                event |= {"bid_size": draw(SIZES), "ask_size": draw(SIZES)}
        elif kind == "book":
            bid = draw(PRICES)
            event["levels"] = [
                [bid, draw(SIZES), 12.5, draw(SIZES)],
                [bid - 1, draw(SIZES), None, None],
            ]
        events.append(event)
    return events


def oracle(  # noqa: PLR0912, PLR0915 - it is to be read from top to bottom
    events: list[Event], every: tuple[str, float], empty: str
) -> list[Event]:
    """Bars one event at a time, by the sentences of docs/event-log.md."""
    by, amount = every
    bars: list[Event] = []
    now: Event = {}  # what is quoted
    bar: Event | None = None

    def stamp(ns: int) -> int:
        return (ns // int(amount) + 1) * int(amount) // 1000 if by == "time" else -(-ns // 1000)

    def depth(bid: float | None, ask: float | None) -> float | None:
        if bid is None or ask is None:
            return None
        return (bid - ask) / (bid + ask) if bid + ask else 0.0

    def close(bar: Event) -> None:
        if bar["trades"]:
            bar["vwap"] = min(max(bar.pop("notional") / bar["volume"], bar["low"]), bar["high"])
        bars.append(bar)

    def open_bar(time: int) -> Event:
        return {"time": time, "volume": 0.0, "notional": 0.0, "trades": 0, "quoted": dict(now)}

    for event in events:
        kind, ns = event["type"], event["time"]
        if kind == "order":
            continue
        if by == "time" and (bar is None or stamp(ns) > bar["time"]):
            if bar is not None:
                close(bar)
                while bars[-1]["time"] + int(amount) // 1000 < stamp(ns):
                    close(open_bar(bars[-1]["time"] + int(amount) // 1000))
            bar = open_bar(stamp(ns))
        if kind != "trade":
            if kind == "quote":
                now |= {
                    name: event[name]
                    for name in ("bid", "ask", "bid_size", "ask_size")
                    if name in event
                }
            else:
                (bid, bid_size, ask, ask_size), *_ = event["levels"]
                now |= {"bid": bid, "ask": ask, "bid_size": bid_size, "ask_size": ask_size}
                now["depth_bid"] = 0.0 + bid_size + event["levels"][1][1]
                now["depth_ask"] = ask_size
            if by == "time":
                bar["quoted"] = dict(now)  # type: ignore[index]
            continue
        if by != "time":
            full = bar is not None and bar["trades" if by == "trades" else "volume"] >= amount
            if bar is None or (full and stamp(ns) > bar["time"]):
                if bar is not None:
                    close(bar)
                bar = open_bar(stamp(ns))
        assert bar is not None
        price = event["price"]
        bar |= {
            "time": stamp(ns),
            "open": bar.get("open", price),
            "high": max(bar.get("high", price), price),
            "low": min(bar.get("low", price), price),
            "close": price,
            "volume": bar["volume"] + event["size"],
            "notional": bar["notional"] + price * event["size"],
            "trades": bar["trades"] + 1,
            "quoted": dict(now),
        }
    if bar is not None:
        close(bar)

    table: list[Event] = []
    known: list[Event] = []
    last = None
    for bar in bars:
        traded = bar["trades"] > 0
        if not traded and (last is None or empty == "skip" or by != "time"):
            continue
        if not traded:
            bar.update(dict.fromkeys(("open", "high", "low", "close", "vwap"), last))
        last = bar["close"]
        quoted = bar["quoted"]
        row = {
            name: bar[name]
            for name in ("time", "open", "high", "low", "close", "volume", "trades", "vwap")
        }
        row |= {name: quoted.get(name) for name in ("bid", "ask", "bid_size", "ask_size")}
        row["spread"] = None if row["bid"] is None else row["ask"] - row["bid"]
        row["carried"] = not traded
        table.append(row)
        known.append(quoted)
    books = any("depth_bid" in quoted for quoted in known)
    sides = ("depth_bid", "depth_ask") if books else ("bid_size", "ask_size")
    for row, quoted in zip(table, known, strict=True):
        row["depth_imbalance"] = depth(*(quoted.get(side) for side in sides))
    return table


@settings(max_examples=60)
@given(
    logs(),
    st.sampled_from([("time", SECOND), ("time", 5 * SECOND), ("trades", 3), ("volume", 4.5)]),
    st.sampled_from(["carry", "skip"]),
    st.integers(1, 3000),
)
def test_bars_equal_a_brute_force_oracle(
    tmp_path_factory: pytest.TempPathFactory,
    events: list[Event],
    every: tuple[str, float],
    empty: str,
    block_bytes: int,
) -> None:
    """Bit for bit, however the log is divided."""
    tmp_path = tmp_path_factory.mktemp("log")
    log, out = written(tmp_path / "log.jsonl", events), tmp_path / "out.parquet"
    by, amount = every
    text = f"{amount // SECOND}s" if by == "time" else f"{amount:g} {by}"
    expected = oracle(events, every, empty)
    if not expected:
        with pytest.raises(EventsError, match="there are no trades in these events"):
            convert([log], text, out, empty=empty, block_bytes=block_bytes)  # type: ignore[arg-type]
        return
    convert([log], text, out, empty=empty, block_bytes=block_bytes)  # type: ignore[arg-type]
    bars = pl.read_parquet(out).with_columns(pl.col("time").dt.epoch("us"))
    for name in expected[0]:
        values = [row[name] for row in expected]
        if name in bars.columns:
            assert bars[name].to_list() == values, name
        else:
            assert set(values) == {None}


@settings(max_examples=25)
@given(
    logs(),
    st.lists(st.integers(1, 2000), min_size=1, max_size=2),
    st.sampled_from(["1s", "2 trades"]),
)
def test_any_division_of_a_faulty_log_gives_the_same_bytes(
    tmp_path_factory: pytest.TempPathFactory, events: list[Event], sizes: list[int], every: str
) -> None:
    tmp_path = tmp_path_factory.mktemp("log")
    log, clean = tmp_path / "log.jsonl", [json.dumps(event) for event in events]
    faulty = [
        *clean[:3],
        "",
        '{"time":',
        *clean[1:],
        '{"time": 5}',
        "  ",
        clean[-1],
        *clean[-2:],
        "\udcff",
    ]
    log.write_bytes("\n".join(faulty).encode(errors="surrogateescape"))
    for suffix in ("parquet", "csv"):
        out = tmp_path / f"out.{suffix}"
        results, quarantine = [], []
        for size in [WHOLE, *sizes]:
            try:
                result = convert([log], every, out, max_rejected=1, block_bytes=size)
            except EventsError as error:
                assert "there are no trades" in str(error)
                results.append((str(error), b""))
            else:
                counts = sorted(result.events.items()), sorted(result.rejected.items())
                lines = (result.lines, result.blank, counts, sorted(result.units))
                results.append((str(lines), out.read_bytes()))
            quarantine.append((tmp_path / f"out.{suffix}.rejected.jsonl").read_bytes())
        assert len(set(results)) == len(set(quarantine)) == 1


def test_forms_of_a_log_give_the_same_bars(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    write_event_log(log, 3000, seed=3, mean_pause=0.1)
    table = pl.read_ndjson(log, infer_schema_length=None)
    table.write_parquet(tmp_path / "log.parquet")
    text = table.with_columns(
        pl.Series(
            "levels", [None if v is None else json.dumps(v) for v in table["levels"].to_list()]
        )
    )
    text.write_csv(tmp_path / "log.csv")
    iso = pl.from_epoch("time", time_unit="ns").dt.replace_time_zone("UTC")
    table.with_columns(iso).write_parquet(tmp_path / "stamps.parquet")
    text.with_columns(iso.dt.strftime("%Y-%m-%dT%H:%M:%S%.9fZ")).write_csv(tmp_path / "iso.csv")
    (tmp_path / "log.jsonl.gz").write_bytes(gzip.compress(log.read_bytes()))
    (tmp_path / "log.ndjson.zst").write_bytes(zstd.compress(log.read_bytes()))
    (tmp_path / "log.csv.zst").write_bytes(zstd.compress((tmp_path / "log.csv").read_bytes()))
    out = tmp_path / "out.parquet"
    bars = []
    for name in ("log.jsonl", "log.jsonl.gz", "log.ndjson.zst", "log.parquet", "stamps.parquet",
                 "log.csv", "log.csv.zst", "iso.csv"):  # fmt: skip
        result = convert([tmp_path / name], "1s", out, block_bytes=50_000)
        assert (result.lines, result.rejected.total()) == (3000, 0), name
        bars.append(out.read_bytes())
    assert len(set(bars)) == 1


def test_csv_and_parquet_hold_the_same_table(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    write_event_log(log, 5000, seed=4, mean_pause=0.05)
    for suffix in ("csv", "parquet"):
        convert([log], "1s", tmp_path / f"out.{suffix}")
    parquet = pl.read_parquet(tmp_path / "out.parquet")
    assert_frame_equal(
        pl.read_csv(
            tmp_path / "out.csv", try_parse_dates=True, infer_schema_length=None
        ).with_columns(pl.col("time").cast(pl.Datetime("us", "UTC"))),
        parquet,
        check_exact=True,
    )
    loaded = [load_bars(tmp_path / f"out.{suffix}") for suffix in ("csv", "parquet")]
    assert loaded[0].content_hash == loaded[1].content_hash
    assert "depth_imbalance" in loaded[0].table.columns


# --- bars by hand ----------------------------------------------------------------------------


def test_an_event_at_the_close_belongs_to_the_next_bar(tmp_path: Path) -> None:
    bars = run(tmp_path, [trade(0, 1), trade(SECOND - 1, 2), trade(SECOND, 3)])
    assert bars["close"].to_list() == [2.0, 3.0]
    assert bars["time"].dt.to_string("%H:%M:%S").to_list() == ["00:00:01", "00:00:02"]


def test_quotes_are_those_known_at_the_close(tmp_path: Path) -> None:
    events = [
        trade(0, 10),
        quote(SECOND // 2, 9, 11, bid_size=3, ask_size=1),
        quote(3 * SECOND, 8, 12),  # without sizes: the last that were told still stand
        trade(4 * SECOND, 10),
    ]
    bars = run(tmp_path, events)
    assert bars["bid"].to_list() == [9, 9, 9, 8, 8]
    assert bars["spread"].to_list() == [2, 2, 2, 4, 4]
    assert bars["depth_imbalance"].to_list() == [0.5] * 5
    assert bars["carried"].to_list() == [False, True, True, True, False]
    skipped = run(tmp_path, events, empty="skip")
    assert skipped["bid"].to_list() == [9, 8]


def test_bars_by_trades_and_volume(tmp_path: Path) -> None:
    events = [trade(n * 1000, 10 + n, 1 + n % 2) for n in range(5)]
    by_trades = run(tmp_path, events, "2 trades")
    assert by_trades["close"].to_list() == [11, 13, 14]
    assert by_trades["trades"].to_list() == [2, 2, 1]
    by_volume = run(tmp_path, events, "3volume")  # sizes 1 2 1 2 1
    assert by_volume["volume"].to_list() == [3, 3, 1]
    together = [trade(n, 10 + n) for n in range(4)]  # one microsecond cannot hold two closes
    assert run(tmp_path, together, "1 trades")["trades"].to_list() == [1, 3]  # 0 ns, then 1..3 ns


@pytest.mark.parametrize("every", ["1", "0s", "1.5s", "-1m", "1 month", "trades", "1e3 trades", ""])
def test_every_says_what_it_takes(every: str, tmp_path: Path) -> None:
    with pytest.raises(EventsError, match=r"--every is .*; it must be a time such as 1s"):
        run(tmp_path, [trade(0)], every)


def test_instruments_apart(tmp_path: Path) -> None:
    events = [trade(n * SECOND, 10 + n, instrument="A/B" if n % 2 else "C") for n in range(6)]
    log, out = written(tmp_path / "log.jsonl", events), tmp_path / "bars.csv"
    with pytest.raises(
        EventsError, match=r"of 2 instruments \(A/B, C\); choose one with --instrument"
    ):
        convert([log], "1s", out)
    assert not out.exists()
    convert([log], "1s", out, instrument="C", empty="skip")
    assert load_bars(out).table["close"].to_list() == [10, 12, 14]
    result = convert([log], "1s", tmp_path / "{instrument}.csv", empty="skip")
    assert [one.path.name for one in result.written] == ["A-B.csv", "C.csv"]
    assert load_bars(tmp_path / "A-B.csv").table["close"].to_list() == [11, 13, 15]
    with pytest.raises(EventsError, match="no trades of D in these events"):
        convert([log], "1s", out, instrument="D")


def test_several_files_are_one_log(tmp_path: Path) -> None:
    events = [trade(n * SECOND // 3, 10 + n, 1 / (n + 1)) for n in range(20)]
    whole = run(tmp_path, events)
    halves = [written(tmp_path / "a.jsonl", events[:7]), written(tmp_path / "b.jsonl", events[7:])]
    convert(halves, "1s", tmp_path / "out.parquet")
    assert_frame_equal(pl.read_parquet(tmp_path / "out.parquet"), whole, check_exact=True)


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


# --- what is refused -------------------------------------------------------------------------

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


def test_a_pause_is_no_clock_jump(tmp_path: Path) -> None:
    events = [trade(n) for n in range(10)] + [trade(3 * 86_400 * SECOND + n) for n in range(10)]
    bars = run(tmp_path, events, "1h")
    assert bars["trades"].sum() == 20
    assert len(bars) == 73


def test_one_percent_of_each_fault(tmp_path: Path) -> None:
    """Every bad line in quarantine, every good one in the bars, and the counts add up."""
    clean, faulty = tmp_path / "clean.jsonl", tmp_path / "faulty.jsonl"
    write_event_log(clean, 20_000, seed=5)
    faults = write_event_log(
        faulty, 20_000, seed=5, faults=dict.fromkeys(FAULTS, 0.01), truncated=True
    )
    assert {*FAULTS, "truncated"} == set(faults.values())
    convert([clean], "1s", tmp_path / "clean.parquet")
    result = convert([faulty], "1s", tmp_path / "faulty.parquet", max_rejected=0.1)
    assert (tmp_path / "faulty.parquet").read_bytes() == (tmp_path / "clean.parquet").read_bytes()
    assert result.rejected_path is not None
    found = rejected(result.rejected_path)
    named = {"not a number": "bad value", "negative price": "bad value", "truncated": "malformed"}
    assert found == [(line, named.get(fault, fault)) for line, fault in sorted(faults.items())]
    assert result.events.total() == 20_000
    assert result.lines == 20_000 + result.rejected.total() == 20_000 + len(faults)
    with pytest.raises(
        EventsError, match=r"of 2\d,\d{3} lines are bad \(8\.\d\d%; --max-rejected is"
    ):
        convert([faulty], "1s", tmp_path / "faulty.parquet")
    assert (tmp_path / "faulty.parquet").read_bytes() == (tmp_path / "clean.parquet").read_bytes()


def test_what_cannot_be_converted_leaves_everything_as_it_was(tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    log = written(tmp_path / "log.jsonl", [trade(0), trade(SECOND)])
    convert([log], "1s", out)
    before = out.read_bytes()
    cases: list[tuple[Path, bytes, str]] = [
        (
            tmp_path / "cut.jsonl.gz",
            gzip.compress(log.read_bytes())[:-9],
            "cannot be read to its end",
        ),
        (tmp_path / "no.jsonl.gz", b"no gzip", "cannot be read to its end"),
        (
            tmp_path / "cut.jsonl.zst",
            zstd.compress(log.read_bytes())[:-5],
            "cannot be read to its end",
        ),
        (tmp_path / "no.jsonl.zst", b"no zstd", "cannot be read to its end"),
        (tmp_path / "no.parquet", b"no parquet", "cannot be read as Parquet"),
        (tmp_path / "log.txt", b"", "the name must end in .jsonl, .ndjson or .csv"),
        (tmp_path / "head.csv", b"a,b\n1,2\n", "the header lacks time, type, instrument"),
        (tmp_path / "empty.jsonl", b"", "there are no trades"),
        (
            tmp_path / "hopeless.jsonl",
            b"no\n" * 20_000,
            r"20,000 of 20,000 lines are bad, where reading stopped \(100.00%",
        ),
    ]
    (tmp_path / "folder.csv").mkdir()
    for path, content, message in cases:
        path.write_bytes(content)
        with pytest.raises(EventsError, match=message):
            convert([path], "1s", out)
    wrongs: list[tuple[dict[str, Any], str]] = [
        ({"paths": [tmp_path / "none.jsonl"]}, "no such file"),
        ({"out": tmp_path / "out.xlsx"}, "the name must end in .parquet or .csv"),
        ({"out": tmp_path / "none" / "out.csv"}, "there is no folder"),
        ({"out": tmp_path / "folder.csv"}, "folder.csv is a folder"),
        ({"out": Path("/proc/out.csv")}, "cannot be written"),
        ({"out": tmp_path / f"{'x' * 300}.csv"}, "cannot be written|File name too long"),
        ({"paths": [tmp_path]}, "a folder; give the files in it"),
        ({"every": "200000d"}, "a bar may last at most 36,500d"),
        ({"max_rejected": 1.5}, "it must be a share from 0 to 1"),
        ({"paths": [out], "out": out}, "would overwrite the events"),
    ]
    for wrong, message in wrongs:
        usual: dict[str, Any] = {"paths": [log], "every": "1s", "out": out}
        with pytest.raises(EventsError, match=message):
            convert(**usual | wrong)
    far = written(tmp_path / "far.jsonl", [trade(0), trade(10**8 * SECOND)])
    with pytest.raises(
        EventsError, match=r"no trades between .* would be carried forward; .*--empty skip"
    ):
        convert([far], "1s", out)
    assert out.read_bytes() == before
    made = {path for path, *_ in cases} | {out, log, far, tmp_path / "out.parquet.rejected.jsonl"}
    made |= {tmp_path / "folder.csv"}
    assert set(tmp_path.iterdir()) <= made


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
    assert set(KINDS) == {"trade", "quote", "book", "order", "fill", "decision"}


# --- limits --------------------------------------------------------------------------------------


def test_gaps_are_filled_in_slices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events = [trade(n * n * SECOND, 10 + n) for n in range(12)] + [quote(200 * SECOND, 9, 11)]
    whole = run(tmp_path, events)
    monkeypatch.setattr("market.event_bars.SLICE", 3)
    assert_frame_equal(run(tmp_path, events), whole, check_exact=True)
    assert len(whole) == 201


def test_too_many_bad_lines_end_the_reading_and_never_in_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("market.convert.MOST_REJECTED", 50)
    log = tmp_path / "log.jsonl"
    write_event_log(log, 5000, seed=1, faults={"unknown type": 0.02})
    for size in (10_000, WHOLE):
        with pytest.raises(
            EventsError, match=r"lines are bad.* \(\d\.\d\d%; --max-rejected is 50.00%\)"
        ):
            convert([log], "1s", tmp_path / "out.csv", max_rejected=0.5, block_bytes=size)
    assert not (tmp_path / "out.csv").exists()


def test_no_event_log_is_known_by_its_first_lines_however_it_is_divided(tmp_path: Path) -> None:
    good = [json.dumps(trade(n)) for n in range(30_000)]
    for bad, hopeless in ((4900, False), (5100, True)):
        log = tmp_path / "log.jsonl"
        log.write_text("\n".join(["no"] * bad + good))
        for size in (100_000, WHOLE):
            if hopeless:
                with pytest.raises(EventsError, match="lines are bad, where reading stopped"):
                    convert([log], "1s", tmp_path / "out.csv", max_rejected=0.3, block_bytes=size)
            else:
                convert([log], "1s", tmp_path / "out.csv", max_rejected=0.3, block_bytes=size)


def test_inputs_are_never_overwritten_and_an_old_quarantine_outlives_a_failure(
    tmp_path: Path,
) -> None:
    log = tmp_path / "X.csv"
    log.write_text(
        f"time,type,instrument,price,size\n{START_NS},trade,X,1,1\n{START_NS},trade,X,no,1\n"
    )
    before = log.read_bytes()
    with pytest.raises(EventsError, match=r"X\.csv would overwrite the events"):
        convert([log], "1s", tmp_path / "{instrument}.csv", max_rejected=1)
    assert log.read_bytes() == before
    convert([log], "1s", tmp_path / "out.csv", max_rejected=1)
    quarantine = (tmp_path / "out.csv.rejected.jsonl").read_bytes()
    broken = tmp_path / "broken.jsonl.gz"
    broken.write_bytes(b"no gzip")
    for paths in ([tmp_path / "none.jsonl"], [log, tmp_path / "none.jsonl"], [broken]):
        with pytest.raises(EventsError, match=r"no such file|cannot be read to its end"):
            convert(paths, "1s", tmp_path / "out.csv")
    assert (tmp_path / "out.csv.rejected.jsonl").read_bytes() == quarantine


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
