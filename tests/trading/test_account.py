"""The account: what each record of a journal does to account, orders and state."""

import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.support.lines import replay, take
from trading.account import DAY, Account
from trading.journal import Journal
from trading.ledger import Ledger
from trading.records import Bar, Decided, Fill, Funding, Gap, record_of

MINUTE = 60 * 10**9
NOON = 19_000 * DAY + DAY // 2


def bar(close: float, time: int, before: float | None = None) -> dict[str, Any]:
    change = 0.0 if before is None else math.log(close / before)
    return {"type": "bar", "time": time, "closed": time, "close": close, "log_return": change}


def sent(name: str, side: str, size: float, time: int) -> dict[str, Any]:
    order = {"order": name, "side": side, "size": size, "price": 100.0, "reduce_only": False}
    return {"type": "order", "status": "sent", "time": time, **order}


def fill(name: str, side: str, size: float, price: float, cost: float = 0.0) -> dict[str, Any]:
    known = {"id": f"{name}-1", "order": name, "side": side, "size": size}
    return {"type": "fill", "time": NOON, "price": price, "cost": cost, **known}


def ended(name: str, status: str) -> dict[str, Any]:
    return {"type": "order", "status": status, "time": NOON, "order": name}


def funded(cash: float = 1000.0, price: float = 100.0, **more: Any) -> Account:
    account = Account(**more)
    take(account, bar(price, NOON))
    take(account, {"type": "funding", "time": NOON, "cash": cash})
    return account


def test_a_book_begins_with_nothing() -> None:
    account = Account()
    assert (account.volatility_bars, account.memory) == (20, 20)
    assert (account.position, account.cash, account.funded, account.peak, account.day) == (
        0,
        None,
        None,
        0,
        0,
    )
    assert math.isnan(account.price)
    assert math.isnan(account.equity)
    assert (account.orders, account.rejects, account.changes, account.latched, account.bars) == (
        0,
        0,
        0,
        0,
        0,
    )
    assert (account.seen, account.marked, account.time, account.price_time, account.changed) == (
        0,
        0,
        0,
        0,
        0,
    )
    assert (
        account.off_market,
        account.level,
        account.unbelieved,
        account.gaps,
        account.decisions,
    ) == (0,) * 5
    assert (account.exposure, account.highest, account.drawdown, account.silent) == (0, 0, 0, False)
    assert (account.state, account.liquidated, account.anchored, account.working) == (
        "ACTIVE",
        False,
        False,
        None,
    )
    assert (account.log_squares.maxlen, account.faults.maxlen) == (20, 20)
    assert DAY == 24 * 3600 * 10**9


@pytest.mark.parametrize("side, sign", [("buy", 1), ("sell", -1)])
def test_an_account_by_hand(side: str, sign: int) -> None:
    account = funded()
    assert (account.funded, account.equity, account.peak, account.day_equity) == (
        1000,
        1000,
        1000,
        1000,
    )
    take(account, sent("a", side, 2.0, NOON))
    take(account, fill("a", side, 2.0, 101.0, cost=0.5))
    assert account.position == 2 * sign
    assert account.cash == pytest.approx(1000 - 202 * sign - 0.5)
    assert account.equity == pytest.approx(1000 - 2 * sign - 0.5)  # at the last price, 100
    take(account, {"type": "charge", "time": NOON, "id": "c", "amount": 3.0})
    assert account.equity == pytest.approx(997 - 2 * sign - 0.5)
    assert account.fills == {"a-1", "c"}
    take(account, bar(110.0, NOON + MINUTE, before=100.0))
    assert account.equity == pytest.approx(997 + 18 * sign - 0.5)
    assert account.peak == pytest.approx(max(1000, account.equity))
    assert (account.price, account.price_time, account.bars) == (110.0, NOON + MINUTE, 2)
    take(account, {"type": "bar", "time": NOON + 2 * MINUTE, "refused": "no good", "seen": {}})
    assert (account.price, account.bars, account.time) == (110.0, 2, NOON + 2 * MINUTE)


def test_what_is_left_of_a_position_by_rounding_is_nothing() -> None:
    account = funded()
    take(account, fill("a", "buy", 0.3, 100.0))
    take(account, fill("b", "sell", 0.1, 100.0))
    take(account, fill("c", "sell", 0.2, 100.0))
    assert account.position == 0
    take(account, fill("d", "buy", 1e-8, 100.0))
    assert account.position == 1e-8


def test_a_day_begins_with_the_equity_at_midnight_and_only_there() -> None:
    """The bar that closes at midnight ends the day before, and what it is worth then begins the next."""
    account = funded()
    take(account, fill("a", "buy", 1.0, 100.0))
    midnight = 19_001 * DAY
    take(account, bar(120.0, NOON + MINUTE, before=100.0))
    take(account, bar(130.0, midnight - 1, before=120.0))
    assert (account.day, account.day_equity) == (19_000, 1000)
    take(account, bar(140.0, midnight, before=130.0))
    assert (account.day, account.day_equity) == (19_000, 1000)
    for number, price in enumerate((90.0, 200.0), start=1):
        take(account, bar(price, midnight + number * MINUTE, before=100.0))
        assert (account.day, account.day_equity) == (19_001, 1040)
    take(account, bar(100.0, midnight + 2 * DAY, before=200.0))
    assert (account.day, account.day_equity) == (19_002, 1100)


def test_volatility_is_the_root_mean_square_of_the_last_returns_once_there_are_enough() -> None:
    account = funded(volatility_bars=2)
    closes = [100.0, 110.0, 99.0, 99.0]
    expected = [None, math.log(1.1) ** 2 + math.log(0.9) ** 2, math.log(0.9) ** 2]
    for number, (before, close) in enumerate(pairwise(closes)):
        take(account, bar(close, NOON + number * MINUTE, before))
        squares = expected[number]
        found = account.volatility
        assert found == (None if squares is None else pytest.approx((squares / 2) ** 0.5))
    assert Account(volatility_bars=1).volatility is None


def test_orders_come_and_go() -> None:
    account = funded()
    take(account, sent("a", "sell", 2.0, NOON))
    working = account.working
    assert working is not None
    assert (working.order.signed, working.order.price, working.order.time) == (-2.0, 100.0, NOON)
    assert (working.filled, working.unsure, working.canceled_at) == (0.0, False, None)
    take(account, {"type": "order", "status": "refused", "time": NOON, "order": "b"})
    assert account.working is working
    assert account.ended == {}
    take(account, ended("a", "unsure"))
    assert working.unsure
    take(account, ended("a", "cancel") | {"time": NOON + 5})
    assert working.canceled_at == NOON + 5
    take(account, ended("a", "not canceled"))
    assert working.canceled_at is None
    for other in ("A", "b"):  # before and after it by name
        take(account, fill(other, "sell", 0.5, 100.0))
    assert working.filled == 0
    take(account, fill("a", "sell", 0.5, 100.0))
    take(account, fill("a", "sell", 0.25, 100.0) | {"id": "a-2"})
    assert working.filled == 0.75
    take(account, ended("a", "canceled"))
    assert account.working is None
    assert (account.ended, account.orders, account.rejects) == ({"a": "canceled"}, 1, 0)


def test_rejects_are_counted_in_a_row() -> None:
    account = funded()
    for number, status in enumerate(("rejected", "rejected", "expired", "rejected")):
        take(account, sent(f"o{number}", "buy", 1.0, NOON))
        take(account, ended(f"o{number}", status))
    assert account.rejects == 3
    take(account, fill("x", "buy", 1.0, 100.0))
    assert account.rejects == 0


def test_times_of_orders_are_kept_for_a_minute() -> None:
    account = funded()
    for time in (0, 1, MINUTE - 1, MINUTE, MINUTE + 1):
        take(account, sent(f"o{time}", "buy", 1.0, NOON + time))
    assert list(account.order_times) == [NOON + MINUTE - 1, NOON + MINUTE, NOON + MINUTE + 1]
    assert account.orders == 5


def test_a_fill_of_no_order_is_a_liquidation() -> None:
    account = funded()
    take(account, fill("a", "buy", 1.0, 100.0))
    assert not account.liquidated
    take(account, fill("a", "sell", 1.0, 100.0) | {"order": None, "id": "liquidation"})
    assert account.liquidated


def test_faults_are_those_of_the_last_decisions() -> None:
    account = Account(memory=3)
    for odd in ({"fault": "x"}, {}, {"fault": "y"}, {}):
        take(account, {"type": "decision", "time": NOON, **odd})
    assert list(account.faults) == [False, True, False]
    assert account.decisions == 4


def test_a_person_who_sets_a_desk_free_forgives_what_led_there() -> None:
    account = funded()
    take(account, fill("a", "buy", 1.0, 100.0))
    take(account, bar(150.0, NOON + MINUTE, before=100.0))
    take(account, bar(90.0, NOON + 2 * MINUTE, before=150.0))
    take(account, {"type": "decision", "time": NOON, "fault": "x"})
    take(account, sent("b", "buy", 1.0, NOON))
    take(account, ended("b", "rejected"))
    assert (account.peak, account.anchored) == (1050.0, True)
    far = {"off_market": 500.0, "level": 1, "closed": NOON + 2 * MINUTE + 1}
    take(account, {"type": "bar", "time": NOON, "refused": "outside the collar", **far})
    assert (account.off_market, account.level) == (1, 1)
    risk = {"type": "risk", "time": NOON, "state": "REDUCING", "reason": "a loss"}
    take(account, risk)
    assert (account.state, account.reason, account.changes, account.latched) == (
        "REDUCING",
        "a loss",
        1,
        0,
    )
    assert (account.rejects, len(account.faults), account.anchored) == (1, 1, True)
    take(account, risk | {"state": "ACTIVE", "reason": "checked", "latched": 77})
    assert (account.state, account.reason, account.changes, account.latched) == (
        "ACTIVE",
        "checked",
        2,
        77,
    )
    assert (account.rejects, len(account.faults), account.anchored) == (0, 0, False)
    assert (account.off_market, account.level) == (0, 0)
    assert (account.peak, account.day_equity) == (990.0, 990.0)
    take(account, bar(91.0, NOON + 3 * MINUTE, before=90.0))
    assert account.anchored


def test_what_sells_more_than_there_is_leaves_no_exposure() -> None:
    """An order in units: what it leaves is not known in full sizes before the next decision."""
    account = funded()
    take(account, sent("a", "buy", 1.0, NOON) | {"position": 1.0})
    take(account, fill("a", "buy", 1.0, 100.0))
    take(account, ended("a", "filled"))
    assert account.exposure == 1
    take(account, sent("b", "sell", 3.0, NOON))
    take(account, fill("b", "sell", 3.0, 100.0))
    assert (account.position, account.exposure) == (-2, 0)


def test_an_order_that_ended_before_sending_it_failed_was_not_rejected() -> None:
    """A venue that tells the end while an order is sent, and then does not answer."""
    account = funded()
    take(account, sent("a", "buy", 1.0, NOON))
    take(account, ended("a", "filled"))
    take(account, ended("a", "unsure"))
    assert account.rejects == 0


def test_dust_is_no_position_and_no_exposure() -> None:
    account = funded()
    take(account, sent("a", "buy", 1.0, NOON) | {"position": 1.0})
    take(account, fill("a", "buy", 1.0, 100.0))
    take(account, ended("a", "filled"))
    take(account, sent("b", "sell", 1.0, NOON))
    take(account, fill("b", "sell", 1 - 5e-10, 100.0))
    assert (account.position, account.exposure) == (0, 0)


def test_orders_of_the_last_minute_are_remembered() -> None:
    account = funded()
    for number, at in enumerate((0.0, 59.9, 60.0, 119.8)):
        take(account, sent(f"o{number}", "buy", 1.0, NOON + round(at * 1e9)))
    assert [(time - NOON) / 1e9 for time in account.order_times] == [59.9, 60.0, 119.8]
    take(account, sent("late", "buy", 1.0, NOON + 119_999_999_999))
    assert len(account.order_times) == 3


def test_an_account_that_is_funded_at_midnight_begins_with_the_day_that_ends() -> None:
    account = Account()
    take(account, bar(100.0, 19_000 * DAY))
    take(account, {"type": "funding", "time": 19_000 * DAY, "cash": 1000.0})
    assert account.day == 18_999


def test_a_silence_lasts_until_the_next_decision() -> None:
    account = funded()
    for count in (1, 2):
        take(account, {"type": "gap", "time": NOON, "since": NOON, "reason": "no event"})
        assert (account.gaps, account.silent) == (count, True)
        take(account, {"type": "decision", "time": NOON})
        assert (account.gaps, account.silent) == (count, False)


def test_before_it_is_funded_an_account_is_worth_nothing_known() -> None:
    account = Account()
    take(account, bar(100.0, NOON))
    take(account, fill("a", "buy", 1.0, 100.0))
    take(account, {"type": "charge", "time": NOON, "id": "c", "amount": 3.0})
    assert account.cash is None
    assert math.isnan(account.equity)
    assert (account.position, account.peak, account.day) == (1.0, 0.0, 0)
    take(account, {"type": "something else", "time": NOON + 7})
    assert account.time == NOON + 7


def test_a_journal_is_taken_in_record_by_record() -> None:
    told = [
        bar(100.0, NOON),
        {"type": "funding", "time": NOON, "cash": 500.0},
        fill("a", "buy", 1.0, 90.0),
    ]
    account = Account()
    replay(account, told)
    assert (account.cash, account.position, account.equity) == (410.0, 1.0, 510.0)


def test_the_largest_fall_of_the_whole_life_outlives_a_resume() -> None:
    """From the highest equity since the funding; a price that is not believed raises no high."""
    account = funded(cash=100.0)
    take(account, fill("a", "buy", 1.0, 100.0))
    for number, price in enumerate((120.0, 90.0, 108.0), start=1):
        take(account, bar(price, NOON + number * MINUTE, before=100.0))
    assert account.highest == 120
    assert account.drawdown == pytest.approx(0.25)
    take(account, {"type": "risk", "time": NOON, "state": "ACTIVE", "reason": "checked"})
    assert (account.highest, account.peak) == (120, 108)
    assert account.drawdown == pytest.approx(0.25)
    wild = {"type": "bar", "time": NOON, "refused": "far off", "off_market": 900.0, "level": 1}
    for number in (4, 5):
        take(account, wild | {"closed": NOON + number * MINUTE})
    assert (account.equity, account.highest) == (900, 120)
    for number, price in enumerate((108.0, 130.0, 65.0), start=6):
        take(account, bar(price, NOON + number * MINUTE, before=100.0))
    assert account.highest == 130
    assert account.drawdown == pytest.approx(0.5)


def sized(name: str, side: str, size: float, position: float) -> dict[str, Any]:
    return sent(name, side, size, NOON) | {"position": position, "full": 100.0}


def test_exposure_follows_orders_that_carry_a_position_and_those_that_only_reduce() -> None:
    account = funded()
    take(account, sized("a", "buy", 2.0, 1.0))
    take(account, fill("a", "buy", 2.0, 50.0))
    assert account.exposure == 0  # until the order has ended
    take(account, ended("a", "filled"))
    assert account.exposure == 1
    take(account, sized("b", "sell", 4.0, -1.0))
    take(account, fill("b", "sell", 1.0, 50.0))
    take(account, ended("b", "canceled"))  # a quarter of the way
    assert (account.position, account.exposure) == (1, 0.5)
    take(account, sent("c", "sell", 0.4, NOON))  # in units: a part of closing it
    take(account, fill("c", "sell", 0.4, 50.0))
    assert account.exposure == pytest.approx(0.3)
    take(account, ended("c", "filled"))
    assert account.exposure == pytest.approx(0.3)
    take(account, sent("d", "sell", 0.6, NOON))
    take(account, fill("d", "sell", 0.6, 50.0))
    assert (account.position, account.exposure) == (0, 0)
    take(account, ended("d", "filled"))
    take(account, sized("e", "sell", 2.0, -1.0))
    take(account, fill("e", "sell", 2.0, 50.0))
    take(account, ended("e", "filled"))
    take(account, fill("gone", "buy", 2.0, 50.0) | {"order": None})
    assert (account.exposure, account.liquidated) == (0, True)


# --- records, as they are written and read ------------------------------------------------------


def test_an_account_that_is_funded_a_moment_after_midnight_begins_with_the_new_day() -> None:
    account = Account()
    take(account, bar(100.0, 19_000 * DAY + 1))
    take(account, {"type": "funding", "time": 19_000 * DAY + 1, "cash": 1000.0})
    assert account.day == 19_000


def test_features_outside_their_range_are_counted_by_name() -> None:
    account = Account()
    for names in (["log_price"], [], ["log_price", "volatility_20"]):
        take(account, {"type": "decision", "time": NOON, "outside": names})
    assert account.outside == {"log_price": 2, "volatility_20": 1}


def test_a_field_that_is_not_written_has_its_default() -> None:
    """So `level` of a price far off that is near no other, and `full` of an order in full sizes."""
    account = funded()
    for _ in range(2):
        far = {"off_market": 500.0, "closed": NOON + MINUTE}
        take(account, {"type": "bar", "time": NOON, "refused": "outside the collar", **far})
    assert (account.off_market, account.level) == (2, 0)
    assert account.marked == NOON + MINUTE
    take(account, sent("a", "buy", 1.0, NOON) | {"position": 1.0})
    assert account.working is not None
    assert account.working.order.full == 1.0


def test_a_line_has_what_differs_from_the_default_and_all_that_must_be_said(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    ledger = Ledger(journal, Account(), "X")
    ledger.record(Fill(time=5, id="f", order=None, side="buy", size=1.0, price=2.0, cost=0.0))
    ledger.record(Gap(time=3, id="g", since=1, reason="no event"))  # a clock that went back
    ledger.flush()
    lines = [json.loads(line) for line in journal.path.read_text().splitlines()]
    journal.close()
    fill = {"id": "f", "order": None, "side": "buy", "size": 1.0, "price": 2.0, "cost": 0.0}
    common = {"time": 5, "instrument": "X"}
    assert [{n: v for n, v in line.items() if n != "crc"} for line in lines] == [
        {"type": "fill", **common, **fill},
        {"type": "gap", **common, "id": "g", "since": 1, "reason": "no event"},
    ]


@pytest.mark.parametrize("patient", [True, False])
def test_bars_and_decisions_alone_may_wait_for_later_records(tmp_path: Path, patient: bool) -> None:
    journal = Journal(tmp_path / "journal.jsonl", together=9)
    ledger = Ledger(journal, Account(), "X")
    ledger.record(Bar(time=1, closed=1, close=100.0))
    ledger.record(
        Decided(time=1, action=0, target=0.0, position=0.0, equity=0.0, state=None, q_values=None)
    )
    if not patient:
        ledger.record(Funding(time=1, cash=5.0))
    ledger.flush(awaited=False)
    assert len(journal.path.read_bytes().splitlines()) == (0 if patient else 3)
    journal.close()


@pytest.mark.parametrize(
    "line",
    [
        {"type": "bar", "time": 1, "closed": 1},
        {"type": "order", "time": 1, "id": "o", "order": "o", "status": "sent", "side": "buy"},
        {"type": "fill", "time": 1, "id": "f", "order": "o", "side": "up", "size": 1.0},
        {"type": "risk", "time": 1, "state": "CALM", "reason": "none"},
        {"type": "funding", "time": 1, "cash": "much"},
        {"type": "decision", "time": 1.5},
    ],
)
def test_what_no_desk_writes_is_no_record(line: dict[str, Any]) -> None:
    with pytest.raises((ValueError, msgspec.ValidationError)):
        record_of(line).apply(Account())


@pytest.mark.parametrize(
    "line",
    [
        {"type": "bar", "refused": "no good", "seen": {"close": "x"}, "id": "refused-0", "time": 7},
        {"type": "bar", "refused": "no good", "seen": {}, "closed": None, "time": 7},
        {"type": "stop", "reason": "the end", "position": 1, "time": 7},
        {"type": "risk", "state": "REDUCING", "reason": "x", "time": 7},
        {"type": "session", "quantity": 1, "gamma": None, "torn": None, "time": 7, "unknown": [1]},
    ],
)
def test_lines_of_every_version_before_are_read(line: dict[str, Any]) -> None:
    """Some lacked what is written now; whole numbers stand for others; more may be said."""
    account = Account()
    record_of(line).apply(account)
    assert account.time == 7
