"""Bars from events: against a brute-force oracle, and by hand."""

import json
import os
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from market.bars import Bars
from market.events.convert import convert
from market.events.schema import EventsError
from tests.support.event_logs import SECOND, Event, logs, quote, run, trade, written
from tests.support.synthetic_events import START_NS
from trading.feed import Rejections, arriving


def oracle(  # noqa: PLR0912, PLR0915 - it is to be read from top to bottom
    events: list[Event], every: tuple[str, float], empty: str, carried: int = 1800
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
                silent = (stamp(ns) - bar["time"]) * 1000 // int(amount) - 1
                for missing in range(silent if silent <= carried else 0):
                    close(open_bar(bar["time"] + (missing + 1) * int(amount) // 1000))
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
    st.sampled_from([1800, 3]),
    st.integers(1, 3000),
)
def test_bars_equal_a_brute_force_oracle(
    tmp_path_factory: pytest.TempPathFactory,
    events: list[Event],
    every: tuple[str, float],
    empty: str,
    carry_seconds: int,
    block_bytes: int,
) -> None:
    """Bit for bit, however the log is divided."""
    tmp_path = tmp_path_factory.mktemp("log")
    log, out = written(tmp_path / "log.jsonl", events), tmp_path / "out.parquet"
    by, amount = every
    text = f"{amount // SECOND}s" if by == "time" else f"{amount:g} {by}"
    expected = oracle(events, every, empty, max(int(carry_seconds * SECOND // amount), 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("market.events.aggregate.CARRY_SECONDS", carry_seconds)
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


def test_a_pause_is_no_clock_jump(tmp_path: Path) -> None:
    events = [trade(n) for n in range(10)] + [trade(3 * 86_400 * SECOND + n) for n in range(10)]
    bars = run(tmp_path, events, "1h")
    assert bars["trades"].sum() == 20
    assert len(bars) == 2  # three days of silence are a closure


def test_gaps_are_filled_in_slices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events = [trade(n * n * SECOND, 10 + n) for n in range(12)] + [quote(200 * SECOND, 9, 11)]
    whole = run(tmp_path, events)
    monkeypatch.setattr("market.events.aggregate.SLICE", 3)
    assert_frame_equal(run(tmp_path, events), whole, check_exact=True)
    assert len(whole) == 201


MINUTE, HOUR, DAY = 60 * SECOND, 3600 * SECOND, 86_400 * SECOND


def sessions(*stretches: tuple[int, int], every: int = 20 * SECOND) -> list[Event]:
    """Trades every so often in stretches of time, ns since the start of the log."""
    return [
        trade(ns, 100 + place % 7)
        for start, stop in stretches
        for place, ns in enumerate(range(start, stop, every))
    ]


def without(events: list[Event], start: int, stop: int) -> list[Event]:
    first = START_NS
    return [event for event in events if not start <= event["time"] - first < stop]


def live(events: list[Event], every: str) -> pl.DataFrame:
    """Bars of a desk that gets one line after the other."""
    read, write = os.pipe()
    with os.fdopen(read, "rb"), os.fdopen(write, "wb", buffering=0) as pipe:
        rows = arriving(read, every, None, Rejections(pytest.fail))
        found: list[dict[str, Any]] = []
        for event in events:
            pipe.write(json.dumps(event).encode() + b"\n")
        pipe.close()
        found = [row for row in rows if row is not None]
    table = pl.DataFrame(found, infer_schema_length=None)
    return table.with_columns(pl.from_epoch(pl.col("time") // 1000, time_unit="us"))


def test_three_sessions_have_no_bars_through_the_night(tmp_path: Path) -> None:
    """1,170 minutes in which there was trade; the 2,100 of the two nights are not carried."""
    opens = [day * DAY + 14 * HOUR + 30 * MINUTE for day in range(3)]
    bars = run(tmp_path, sessions(*((at, at + 390 * MINUTE) for at in opens)), "1m")
    assert len(bars) == 3 * 390
    assert bars["carried"].sum() == 0
    assert Bars.of("sessions", bars).calendar.bars_per_year == pytest.approx(390 * 5 / 7 * 365.25)


@pytest.mark.parametrize(
    "every, hole, carried",
    [
        ("1m", (12 * HOUR, 12 * HOUR + 5 * MINUTE), 5),
        ("1m", (12 * HOUR, 12 * HOUR + 30 * MINUTE), 30),
        ("1m", (12 * HOUR, 12 * HOUR + 31 * MINUTE), 0),
        ("1m", (11 * HOUR, 12 * HOUR), 0),  # a pause at noon
        ("20m", (12 * HOUR, 12 * HOUR + 20 * MINUTE), 1),
        ("20m", (12 * HOUR, 12 * HOUR + 40 * MINUTE), 0),
        ("1h", (12 * HOUR, 13 * HOUR), 1),
        ("1h", (11 * HOUR, 13 * HOUR), 0),
    ],
)
def test_a_short_silence_is_carried_and_a_closure_is_not(
    tmp_path: Path, every: str, hole: tuple[int, int], carried: int
) -> None:
    events = without(sessions((9 * HOUR, 16 * HOUR), (33 * HOUR, 40 * HOUR)), *hole)
    bars = run(tmp_path, events, every)
    assert bars["carried"].sum() == carried


@pytest.mark.parametrize("every, holiday", [("1d", 9), ("1d", 5), ("4h", 9), ("12h", 9)])
def test_weekends_and_holidays_are_not_carried(tmp_path: Path, every: str, holiday: int) -> None:
    days = [day for day in range(14) if day % 7 < 5 and day != holiday]
    events = sessions(*((d * DAY + 9 * HOUR, d * DAY + 17 * HOUR) for d in days), every=HOUR)
    bars = run(tmp_path, events, every)
    assert bars["carried"].sum() == 0
    assert len(bars) == len(days) * {"1d": 1, "4h": 3, "12h": 2}[every]


def test_quotes_keep_a_market_open_that_nobody_trades_in(tmp_path: Path) -> None:
    quotes = [quote(minute * MINUTE, 99, 101) for minute in range(1, 100)]
    bars = run(tmp_path, [trade(0), *quotes, trade(100 * MINUTE)], "1m")
    assert len(bars) == 101
    assert bars["carried"].sum() == 99


@pytest.mark.parametrize("every", ["1m", "20m", "1h"])
def test_a_desk_gets_the_bars_of_a_file_closures_left_out(tmp_path: Path, every: str) -> None:
    day = sessions((9 * HOUR, 16 * HOUR), every=90 * SECOND)
    next_day = sessions((33 * HOUR, 40 * HOUR), every=90 * SECOND)
    events = [*without(day, 12 * HOUR, 12 * HOUR + 25 * MINUTE), quote(20 * HOUR, 99, 101)]
    events += without(next_day, 35 * HOUR, 36 * HOUR)
    whole = run(tmp_path, events, every)
    for size in (300, 5000):
        assert_frame_equal(run(tmp_path, events, every, block_bytes=size), whole)
    names = ["open", "high", "low", "close", "volume", "trades", "carried"]
    found = live(events, every)
    assert_frame_equal(found.select(names), whole.select(names))
    assert found["time"].to_list() == whole["time"].dt.replace_time_zone(None).to_list()
