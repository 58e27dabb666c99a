"""What arrives live: outages, clocks that are wrong, several instruments, trades that are sent again."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from market.events.convert import convert
from market.events.order import REMEMBERED
from market.events.schema import EventsError
from market.synthetic import RandomWalk
from tests.support.desks import OFF, bundle_for, desk_at
from trading.desk import Desk
from trading.feed import Rejections, Row, arriving
from trading.journal import records
from trading.risk import Limits
from trading.venues.simulated import SimulatedVenue

SECOND = 10**9
NOW = 1_700_000_040 * SECOND  # a whole minute
Event = dict[str, Any]
LIMITS = Limits(volatility_bars=2, max_daily_loss=None, max_drawdown=None)


def trade(ns: int, price: float = 100.0, instrument: str = "A", **more: Any) -> Event:
    known = {"time": ns, "type": "trade", "instrument": instrument, "price": price, "size": 1.0}
    return known | more


class Live:
    """A feed whose batches arrive at given times, and a desk that always wants to be long or short."""

    def __init__(
        self, folder: Path, limits: Limits = LIMITS, instrument: str | None = None
    ) -> None:
        self.now = NOW
        self.folder = folder
        self.said: list[str] = []
        self.alarms: list[str] = []
        self.rejections = Rejections(self.said.append)
        self.read, self.write = os.pipe()
        skew = round((limits.clock_skew or 0) * SECOND)
        self.rows = arriving(
            self.read,
            "1m",
            instrument,
            self.rejections,
            lambda: self.now + skew,
            self.alarms.append,
        )
        self.seen: list[Row] = []
        self.wanted = 1
        bundle = bundle_for(RandomWalk(sigma=0.001).bars(60, seed=3))
        self.desk: Desk = desk_at(
            folder, bundle, limits=limits, q_values=self.choose, clock=lambda: self.now,
            interval=60.0, say=self.said.append,
        )  # fmt: skip

    def choose(self, _: NDArray[np.float32]) -> NDArray[np.float32]:
        self.wanted = -self.wanted  # turns at every decision
        return np.array([0, 0, 1] if self.wanted > 0 else [1, 0, 0], np.float32)

    def arrive(self, events: Sequence[Event], now: int) -> None:
        """One batch, worked on at a time."""
        self.now = now
        os.write(self.write, b"".join(json.dumps(each).encode() + b"\n" for each in events))
        self._until_idle()

    def end(self) -> None:
        os.close(self.write)
        for row in self.rows:
            self._take(row)
        os.close(self.read)
        self.desk.ledger.journal.close()

    def _until_idle(self) -> None:
        for row in self.rows:
            self._take(row)
            if row is None:
                return

    def _take(self, row: Row | None) -> None:
        if row is None:
            self.desk.on_idle()
            return
        self.seen.append(row)
        venue = self.desk.venue
        assert isinstance(venue, SimulatedVenue)
        venue.on_bar(row)
        self.desk.on_bar(row)

    def told(self, kind: str) -> list[dict[str, Any]]:
        return [each for each in records(self.folder / "journal.jsonl") if each["type"] == kind]


def minutes(live: Live, count: int, start: int, price: float = 100.0) -> int:
    """Trades every ten seconds, each arriving as it happens; returns when the next one is due."""
    rng = np.random.default_rng(4)
    for ns in range(start, start + count * 60 * SECOND, 10 * SECOND):
        live.arrive([trade(ns, price + rng.normal(0, 0.01))], ns + SECOND // 10)
    return start + count * 60 * SECOND


def test_an_outage_is_one_gap_and_nothing_is_decided_before_the_market_is_back(
    tmp_path: Path,
) -> None:
    live = Live(tmp_path)
    stopped = minutes(live, 10, NOW)
    decided = live.desk.account.decisions
    back = stopped + 3 * 3600 * SECOND
    live.arrive([trade(back, 105.0)], back)
    assert live.desk.account.decisions == decided
    assert live.desk.account.gaps == 1
    assert len(live.seen) == 10  # not the 180 minutes in between
    minutes(live, 3, back + 10 * SECOND, 105.0)
    late = [each for each in live.told("fill") if each["time"] > stopped]
    assert late
    assert all(abs(each["price"] - 105) < 0.1 for each in late)
    assert live.desk.account.gaps == 1
    live.end()


@pytest.mark.parametrize("silent", [70, 130, 170])
def test_after_a_short_silence_only_the_newest_bar_is_decided_on(
    tmp_path: Path, silent: int
) -> None:
    """Bars that fall due at one instant are one occasion, at the price of the last of them."""
    live = Live(tmp_path)
    stopped = minutes(live, 5, NOW)
    decided = live.desk.account.decisions
    back = stopped + silent * SECOND
    live.arrive([trade(back, 101.0)], back + SECOND)
    assert live.desk.account.decisions == decided + 1
    minutes(live, 1, back + 10 * SECOND, 101.0)
    minutes(live, 1, back + 70 * SECOND, 101.0)
    times = [each["time"] for each in live.told("decision")]
    assert len(times) == len(set(times))
    assert len(live.seen) > live.desk.account.decisions + 1  # carried bars are seen, not decided on
    live.end()


def test_a_backlog_that_arrives_at_once_is_decided_on_once(tmp_path: Path) -> None:
    live = Live(tmp_path)
    stopped = minutes(live, 5, NOW)
    decided = live.desk.account.decisions
    backlog = [trade(ns) for ns in range(stopped, stopped + 7200 * SECOND, 20 * SECOND)]
    live.arrive(backlog, stopped + 7200 * SECOND)
    assert live.desk.account.decisions == decided + 1
    assert live.told("decision")[-1]["time"] == stopped + 7200 * SECOND
    live.end()


def test_a_bar_that_is_old_when_it_is_made_is_no_ground_for_a_decision(tmp_path: Path) -> None:
    live = Live(tmp_path)
    hour = 3600 * SECOND
    for ns in range(NOW, NOW + 600 * SECOND, 10 * SECOND):
        live.arrive([trade(ns)], ns + hour)
    assert len(live.seen) == 9
    assert not live.told("decision")
    assert live.desk.account.gaps == 1
    live.end()


def test_stale_seconds_can_be_set_and_turned_off(tmp_path: Path) -> None:
    hour = 3600 * SECOND
    for stale, decisions in ((7200.0, 8), (None, 8), (600.0, 0)):
        limits = LIMITS.model_copy(update={"stale_seconds": stale})
        folder = tmp_path / str(stale)
        folder.mkdir()
        live = Live(folder, limits)
        for ns in range(NOW, NOW + 600 * SECOND, 10 * SECOND):
            live.arrive([trade(ns)], ns + hour)
        assert len(live.told("decision")) == decisions
        live.end()


@pytest.mark.parametrize("ahead", [6, 86_400])
def test_an_event_ahead_of_the_clock_is_rejected_and_those_after_it_are_not(
    tmp_path: Path, ahead: int
) -> None:
    live = Live(tmp_path)
    stopped = minutes(live, 5, NOW)
    live.arrive([trade(stopped + ahead * SECOND)], stopped)
    minutes(live, 5, stopped)
    assert live.rejections.by_fault == {"clock jump": 1}
    assert any(f"{ahead - 5:.1f} s ahead of the clock" in each for each in live.said)
    assert len(live.seen) == 9
    assert live.desk.account.state == "ACTIVE"
    live.end()


def test_live_and_file_reject_the_same_event_ahead(tmp_path: Path) -> None:
    live = Live(tmp_path)
    times = list(range(NOW, NOW + 600 * SECOND, 10 * SECOND))
    events = [trade(ns) for ns in times]
    ahead = trade(NOW + 86_400 * SECOND)
    for place, event in enumerate([*events[:30], ahead, *events[30:]]):
        live.arrive([event], times[min(place, len(times) - 1)] + SECOND)
    live.end()
    log = tmp_path / "log.jsonl"
    log.write_text("".join(json.dumps(e) + "\n" for e in [*events[:30], ahead, *events[30:]]))
    found = convert([log], "1m", tmp_path / "bars.parquet", max_rejected=1.0)
    assert found.rejected == live.rejections.by_fault == {"clock jump": 1}
    closes = pl.read_parquet(tmp_path / "bars.parquet")["close"].to_list()
    assert [row["close"] for row in live.seen] == closes[: len(live.seen)]


@pytest.mark.parametrize("ahead", [0.3, 4.0])
def test_another_instrument_with_a_clock_ahead_puts_nothing_out_of_order(
    tmp_path: Path, ahead: float
) -> None:
    live = Live(tmp_path, instrument="A")
    for ns in range(NOW, NOW + 600 * SECOND, 10 * SECOND):
        live.arrive([trade(ns + int(ahead * SECOND), 7.0, "B")], ns)
        live.arrive([trade(ns)], ns)
    assert live.rejections.by_fault == {}
    assert len(live.seen) == 9
    assert {row["close"] for row in live.seen} == {100.0}
    live.end()


@pytest.mark.parametrize("later", [0, 1, 30])
def test_trades_sent_again_under_their_ids_count_once(tmp_path: Path, later: int) -> None:
    """With new times, as after a reconnect; in a live feed and in a file alike."""
    first = [trade(NOW + n * SECOND, id=f"t{n}") for n in range(50)]
    again = [each | {"time": NOW + (50 + later + n) * SECOND} for n, each in enumerate(first[-20:])]
    rest = [trade(NOW + (200 + n) * SECOND, id=f"t{200 + n}") for n in range(60)]
    live = Live(tmp_path)
    for batch in (first, again, rest):
        live.arrive(batch, int(batch[-1]["time"]))
    assert live.rejections.by_fault == {"duplicate": 20}
    assert sum(row["volume"] for row in live.seen) == 50 + 40  # the rest of the last minute is open
    live.end()
    log = tmp_path / "log.jsonl"
    log.write_text("".join(json.dumps(each) + "\n" for each in [*first, *again, *rest]))
    for block in (200, 1000, 16 << 20):
        found = convert([log], "1m", tmp_path / "b.parquet", max_rejected=1.0, block_bytes=block)
        assert found.rejected == {"duplicate": 20}
        assert pl.read_parquet(tmp_path / "b.parquet")["volume"].sum() == 110


@pytest.mark.parametrize("distance, rejected", [(REMEMBERED, 1), (REMEMBERED + 1, 0)])
def test_ids_are_remembered_for_so_many_trades_however_a_log_is_divided(
    tmp_path: Path, distance: int, rejected: int
) -> None:
    log = tmp_path / "log.csv"
    ids = [f"i{n}" for n in range(distance)] + ["i0"]
    lines = [f"{NOW + n * 10**6},trade,A,{name},100,1" for n, name in enumerate(ids)]
    log.write_text("time,type,instrument,id,price,size\n" + "\n".join(lines) + "\n")
    for block in (1 << 18, 16 << 20):
        found = convert([log], "1m", tmp_path / "b.parquet", block_bytes=block)
        assert found.rejected.total() == rejected


def test_a_feed_of_which_every_event_is_rejected_for_a_minute_raises_an_alarm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Printed and in the journal, once a minute; a quiet instrument beside a lively one is none."""
    seconds = [0.0]
    monkeypatch.setattr("trading.feed.time.monotonic", lambda: seconds[0])
    live = Live(tmp_path, instrument="A")
    live.arrive([trade(NOW)], NOW)
    for second in range(1, 131):
        seconds[0] += 1
        live.arrive([trade(NOW - SECOND)], NOW + second * SECOND)
    assert len(live.alarms) == 2
    assert live.alarms[0] == "no good event of A for 60 s, but 60 rejected"
    live.desk.note(live.alarms[0])
    assert live.told("feed")[0]["reason"] == live.alarms[0]
    live.alarms.clear()
    live.arrive([trade(NOW + 200 * SECOND)], NOW + 200 * SECOND)
    for second in range(201, 400):
        seconds[0] += 1
        live.arrive([trade(NOW + second * SECOND, 7.0, "B")], NOW + second * SECOND)
    assert live.alarms == []
    live.end()


def test_a_feed_without_the_instrument_that_was_asked_for_raises_an_alarm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = [0.0]
    monkeypatch.setattr("trading.feed.time.monotonic", lambda: seconds[0])
    live = Live(tmp_path, instrument="BTC-USD")
    for second in range(70):
        seconds[0] += 1
        live.arrive([trade(NOW + second * SECOND, 7.0, "BTCUSD")], NOW + second * SECOND)
    assert live.alarms == ["no good event of BTC-USD for 60 s, but 61 of other instruments"]
    live.end()


def test_a_line_without_an_end_is_refused_at_the_limit_of_files(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("trading.feed.LONGEST_LINE", 5000)
    read, write = os.pipe()
    os.write(write, b"a" * 6000)
    with pytest.raises(EventsError, match="standard input line 1: longer than 64 MiB"):
        list(arriving(read, "1m", None, Rejections(print), lambda: NOW))
    os.close(write)
    os.close(read)


def test_the_last_bar_of_a_live_feed_counts_only_once_it_has_closed(tmp_path: Path) -> None:
    live = Live(tmp_path, OFF.model_copy(update={"clock_skew": 5.0}))
    live.arrive([trade(NOW), trade(NOW + 70 * SECOND)], NOW + 71 * SECOND)
    live.end()
    assert [row["time"] for row in live.seen] == [NOW + 60 * SECOND]
    assert live.desk.account.state == "ACTIVE"
    assert not live.desk.account.working


@pytest.mark.parametrize("chunk", [1, 7, 10_000])
def test_silences_are_the_same_however_a_feed_is_cut(tmp_path: Path, chunk: int) -> None:
    """Bars of a silence come with the bar that ends it; what was heard before it is still known then."""
    times = [*range(0, 600, 10), *range(1800, 2400, 10), *range(3900, 4500, 10)]
    lines = [json.dumps(trade(NOW + second * SECOND)).encode() + b"\n" for second in times]
    read, write = os.pipe()
    rejections = Rejections(print)
    found: list[Row] = []
    rows = arriving(read, "1m", None, rejections)
    for start in range(0, len(lines), chunk):
        os.write(write, b"".join(lines[start : start + chunk]))
        for row in rows:
            if row is None:
                break
            found.append(row)
    os.close(write)
    found += [row for row in rows if row is not None]
    os.close(read)
    silence = [round((row["time"] - row["last_event"]) / SECOND) for row in found]
    starts = (0, 1800, 3900)
    traded = {NOW // SECOND + start + 60 * n for start in starts for n in range(1, 11)}
    for row, seconds in zip(found, silence, strict=True):
        if row["time"] // SECOND in traded:
            assert seconds == 10
        else:  # carried through 20 and 25 minutes
            ended = NOW // SECOND + (590 if row["time"] <= NOW + 1800 * SECOND else 2390)
            assert row["last_event"] == ended * SECOND
    assert len(found) == 30 + 20 + 25


def test_carried_bars_at_the_end_of_a_live_feed_are_not_decided_on(tmp_path: Path) -> None:
    live = Live(tmp_path)
    stopped = minutes(live, 5, NOW)
    back = stopped + 1200 * SECOND
    live.arrive([trade(back, 103.0), trade(back + SECOND, 103.0)], back + SECOND)
    decided = live.desk.account.decisions
    live.now = back + 120 * SECOND
    live.end()
    assert live.desk.account.decisions <= decided + 1
    late = [each["price"] for each in live.told("fill") if each["time"] > stopped]
    assert all(price == 103 for price in late)
    assert live.desk.account.gaps <= 1
