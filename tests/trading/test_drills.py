"""Fault drills: what a desk does when something breaks, as docs/trading.md says it."""

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from market.accounting import MarketSettings
from market.bars import Bars
from market.synthetic import RandomWalk
from tests.support.desks import bundle_for, desk_at, rows_of
from tests.support.lines import replay
from trading.account import Account
from trading.desk import Desk
from trading.execution import ExecutionSettings
from trading.journal import Journal, JournalLost, records
from trading.latch import KILL, STATE, Latch
from trading.orders import Ended, Filled, Order, Report
from trading.policy import PolicySettings
from trading.risk import Limits
from trading.venues.simulated import SimulatedVenue

LIMITS = Limits(volatility_bars=3, max_volatility=0.5)
Q = Callable[[NDArray[np.float32]], NDArray[np.float32]]


@pytest.fixture(scope="module")
def bars() -> Bars:
    return RandomWalk(sigma=0.001).bars(60, seed=3)


@pytest.fixture(scope="module")
def rows(bars: Bars) -> list[dict[str, Any]]:
    return rows_of(bars)


def long_only(_: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.array([0, 0, 1], np.float32)


def drill(
    folder: Path,
    bars: Bars,
    limits: Limits = LIMITS,
    q_values: Q = long_only,
    scheme: str = "target",
    **more: Any,
) -> Desk:
    return desk_at(
        folder, bundle_for(bars, scheme=scheme), limits=limits, q_values=q_values, **more
    )


def feed(desk: Desk, rows: list[dict[str, Any]]) -> None:
    for row in rows:
        if isinstance(desk.venue, SimulatedVenue) and math.isfinite(row["close"]):
            desk.venue.on_bar(row)
        desk.on_bar(row)


def told(folder: Path, kind: str) -> list[dict[str, Any]]:
    return [each for each in records(folder / "journal.jsonl") if each["type"] == kind]


def position(desk: Desk) -> float:
    return desk.account.position


# --- the market ------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme, held", [("target", 0.0), ("order", 1.0)])
def test_a_bar_that_is_no_number_is_action_zero(
    tmp_path: Path, bars: Bars, rows: list[dict[str, Any]], scheme: str, held: float
) -> None:
    """Flat in the scheme `target`, holding in `order`; the account is not marked by it, and goes on."""
    desk = drill(tmp_path, bars, scheme=scheme)
    feed(desk, rows[:10])
    assert position(desk) == 1
    equity = desk.account.equity
    feed(desk, [rows[10] | {"close": math.nan}])
    assert position(desk) == held
    assert desk.account.equity == pytest.approx(equity)
    last = told(tmp_path, "decision")[-1]
    assert (last["action"], last["state"]) == (0, None)
    assert "close is nan, which no good bar has" in last["fault"]
    feed(desk, rows[11:13])
    assert (position(desk), desk.account.state) == (1.0, "ACTIVE")


def test_three_bad_bars_of_twenty_open_the_breaker(
    tmp_path: Path, bars: Bars, rows: list[dict[str, Any]]
) -> None:
    desk = drill(tmp_path, bars)
    feed(desk, rows[:10])
    for row in rows[10:13]:
        feed(desk, [row | {"high": 0.0}])
    assert (desk.account.state, desk.account.reason) == (
        "REDUCING",
        "3 of the last 12 decisions failed",
    )
    feed(desk, rows[13:20])
    assert position(desk) == 0
    Latch(tmp_path).resume("the feed was mended")
    desk.on_idle()
    feed(desk, rows[20:22])
    assert (position(desk), desk.account.state) == (1.0, "ACTIVE")


def test_missing_bars_are_held_through_and_nothing_is_decided_on_a_stale_one(
    tmp_path: Path, bars: Bars, rows: list[dict[str, Any]]
) -> None:
    """The desk holds: a bar that comes an hour late is no ground for a decision."""
    now = [rows[9]["time"]]
    wish = [2]

    def wanted(_: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.eye(3, dtype=np.float32)[wish[0]]

    desk = drill(
        tmp_path, bars, LIMITS.model_copy(update={"stale_seconds": 600.0}), wanted,
        clock=lambda: now[0],
    )  # fmt: skip
    for row in rows[:10]:
        now[0] = row["time"]
        feed(desk, [row])
    now[0] += 3600 * 10**9
    desk.on_idle()
    assert position(desk) == 1
    wish[0] = 1
    feed(desk, [rows[10]])  # it comes an hour late
    assert position(desk) == 1
    assert told(tmp_path, "decision")[-1]["time"] < now[0]
    (gap,) = told(tmp_path, "gap")
    assert gap["reason"] == "bars arrive 3540 s late, that of 2020-01-01 00:10:00 UTC among them"


def test_a_price_ten_times_as_high_is_not_believed(
    tmp_path: Path, bars: Bars, rows: list[dict[str, Any]]
) -> None:
    """One wrong bar sells nothing and marks nothing; three in a row open the breaker."""
    desk = drill(tmp_path, bars)
    feed(desk, rows[:10])
    equity = desk.account.equity
    wrong = [
        row | {name: row[name] * 10 for name in ("open", "high", "low", "close")}
        for row in rows[10:13]
    ]
    desk.on_bar(wrong[0])
    assert desk.account.equity == pytest.approx(equity)
    assert position(desk) == 1
    assert "is more than 15% from the last price" in told(tmp_path, "decision")[-1]["fault"]
    for row in wrong[1:]:
        desk.on_bar(row)
    assert desk.account.state == "REDUCING"
    feed(desk, rows[13:16])
    assert position(desk) == 0


# --- the venue -------------------------------------------------------------------------------


class Refusing(SimulatedVenue):
    """Rejects everything."""

    def submit(self, order: Order) -> None:
        self._reports[order.id] = Report([], None)
        self._end(Ended(order.id, "rejected", 0.0, "not today"))


class Slow(SimulatedVenue):
    """Fills three bars late, and tells it three times."""

    waiting: list[Any]

    def on_bar(self, bar: Any) -> None:
        super().on_bar(bar)
        self.waiting = getattr(self, "waiting", [])
        self.waiting = [(left - 1, order) for left, order in self.waiting]
        for left, order in list(self.waiting):
            if left == 0:
                self._execute(order, self._close)
                fill = next(each for each in self._events if isinstance(each, Filled))
                self._events = [fill, *self._events, fill]
                self.waiting = []

    def submit(self, order: Order) -> None:
        self._reports[order.id] = Report([], None)
        self.waiting.append((3, order))

    def cancel(self, order_id: str) -> None:
        pass  # too late, it says nothing


def test_a_venue_that_rejects_all_halts_after_three(
    tmp_path: Path, bars: Bars, rows: list[dict[str, Any]]
) -> None:
    desk = drill(tmp_path, bars, venue=Refusing(MarketSettings()))
    feed(desk, rows[:20])
    assert (desk.account.state, desk.account.reason) == ("HALTED", "3 orders rejected in a row")
    assert desk.account.orders == 3
    assert position(desk) == 0
    assert json.loads((tmp_path / STATE).read_text())["state"] == "HALTED"


def test_fills_that_come_late_and_three_times_count_once(
    tmp_path: Path, bars: Bars, rows: list[dict[str, Any]]
) -> None:
    """No second order goes out while the first one works, however late it is."""
    venue = Slow(MarketSettings())
    patient = ExecutionSettings(order_timeout=30.0)
    desk = drill(tmp_path, bars, venue=venue, execution=patient)
    feed(desk, rows[:12])
    assert position(desk) == 1 == venue.position()
    assert len(told(tmp_path, "fill")) == 1
    assert [each["status"] for each in told(tmp_path, "order")].count("sent") == 1
    assert desk.account.state == "ACTIVE"


def test_a_position_that_is_not_ours_halts(
    tmp_path: Path, bars: Bars, rows: list[dict[str, Any]]
) -> None:
    venue = SimulatedVenue(MarketSettings())
    desk = drill(tmp_path, bars, venue=venue)
    feed(desk, rows[:10])
    venue._position += 2.5  # somebody trades on the same account
    feed(desk, rows[10:12])
    assert (desk.account.state, desk.account.reason) == (
        "HALTED",
        "the venue holds 3.5, the desk 1",
    )


# --- the desk itself -------------------------------------------------------------------------


def test_a_policy_that_always_raises_never_trades(
    tmp_path: Path, bars: Bars, rows: list[dict[str, Any]]
) -> None:
    def broken(_: NDArray[np.float32]) -> NDArray[np.float32]:
        raise ZeroDivisionError("half a network")

    desk = drill(tmp_path, bars, q_values=broken)
    feed(desk, rows)
    assert desk.account.orders == 0
    assert desk.account.state == "REDUCING"
    faults = {each.get("fault") for each in told(tmp_path, "decision")}
    assert faults == {"ZeroDivisionError: half a network"}


@pytest.mark.parametrize(
    "values, reason",
    [
        ([0, math.nan, 1], "Q-values are [0.0, nan, 1.0]"),
        ([0, math.inf, 1], "Q-values are [0.0, inf, 1.0]"),
        ([0, 1], "Q-values have the shape (2,), not (3,)"),
        ([0, 1e9, 1], "a Q-value is past 1000: [0.0, 1000000000.0, 1.0]"),
    ],
)
def test_q_values_that_cannot_be_are_not_acted_on(
    tmp_path: Path, bars: Bars, rows: list[dict[str, Any]], values: list[float], reason: str
) -> None:
    desk = drill(
        tmp_path, bars, q_values=lambda _: np.array(values, np.float32),
        policy=PolicySettings(max_q_value=1000.0),
    )  # fmt: skip
    feed(desk, rows[:4])
    assert told(tmp_path, "decision")[0]["fault"] == reason
    assert desk.account.orders == 0


def test_a_clock_that_goes_back_reduces(
    tmp_path: Path, bars: Bars, rows: list[dict[str, Any]]
) -> None:
    now = [0]
    desk = drill(tmp_path, bars, clock=lambda: now[0])
    for row in rows[:10]:
        now[0] = row["time"]
        feed(desk, [row])
    assert position(desk) == 1
    now[0] = rows[9]["time"] - 600 * 10**9
    feed(desk, rows[10:12])
    assert desk.account.state == "REDUCING"
    assert desk.account.reason == "the clock went back by 600.0 s"
    assert position(desk) == 0
    times = [each["time"] for each in records(tmp_path / "journal.jsonl")]
    assert times == sorted(times)


@pytest.mark.parametrize(
    "limit, falls, reason",
    [
        (
            {"max_drawdown": 0.05, "max_daily_loss": None},
            0.98,
            "equity is 5.9% below its highest, 2020-01-01 00:12 UTC",
        ),
        (
            {"max_daily_loss": 0.03},
            0.98,
            "equity lost 4.0% since the day began, 2020-01-01 00:11 UTC",
        ),
    ],
)
def test_a_loss_that_is_too_large_goes_flat_and_stays(
    tmp_path: Path, bars: Bars, rows: list[dict[str, Any]], limit: Any, falls: float, reason: str
) -> None:
    desk = drill(tmp_path, bars, LIMITS.model_copy(update=limit))
    feed(desk, rows[:10])
    price = rows[9]["close"]
    for row in rows[10:16]:
        open, price = price, price * falls
        feed(desk, [row | {"open": open, "high": open, "low": price, "close": price}])
    assert (desk.account.state, desk.account.reason) == ("REDUCING", reason)
    assert position(desk) == 0
    desk.ledger.journal.close()
    again = drill(tmp_path, bars, LIMITS.model_copy(update=limit))  # a restart stays where it was
    assert (again.account.state, again.account.reason) == ("REDUCING", reason)


def test_a_disk_that_is_full_ends_everything_before_the_next_order(
    tmp_path: Path, bars: Bars, rows: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = drill(tmp_path, bars)
    feed(desk, rows[:3])
    assert desk.account.orders == 0  # volatility is not known yet
    write = os.write

    def full(file: int, data: bytes) -> int:
        if b'"sent"' in data:
            write(file, data[:40])
            raise OSError(28, "No space left on device")
        return write(file, data)

    monkeypatch.setattr("trading.journal.os.write", full)
    with pytest.raises(JournalLost, match=r"journal.jsonl: No space left on device"):
        feed(desk, rows[3:])
    venue = desk.venue
    assert isinstance(venue, SimulatedVenue)
    assert venue.position() == 0 == len(venue._reports)
    with pytest.raises(JournalLost):  # nor ever again
        desk.on_idle()
    monkeypatch.undo()
    desk.ledger.journal.close()
    again = Journal(tmp_path / "journal.jsonl")
    assert again.torn is not None
    again.close()
    account = Account(LIMITS.volatility_bars, LIMITS.fault_memory)
    replay(account, records(tmp_path / "journal.jsonl"))
    assert (account.position, account.working) == (0.0, None)


def test_the_kill_switch_and_back(tmp_path: Path, bars: Bars, rows: list[dict[str, Any]]) -> None:
    desk = drill(tmp_path, bars)
    feed(desk, rows[:10])
    (tmp_path / KILL).touch()  # as good as `qdesk kill`
    desk.on_idle()
    assert (desk.account.state, desk.account.reason) == ("HALTED", "kill switch: no reason given")
    feed(desk, rows[10:20])
    assert position(desk) == 1  # it holds
    desk.ledger.journal.close()
    again = drill(tmp_path, bars)
    assert again.account.state == "HALTED"
    (tmp_path / KILL).unlink()  # is not enough
    again.on_idle()
    assert again.account.state == "HALTED"
    Latch(tmp_path).resume("all clear")
    again.on_idle()
    assert (again.account.state, again.account.reason) == ("ACTIVE", "all clear")
    (tmp_path / STATE).write_text("{")
    again.ledger.journal.close()
    third = drill(tmp_path, bars)
    assert third.account.state == "HALTED"
    assert "cannot be read" in third.account.reason


def test_a_kill_in_the_same_instant_as_the_latch_is_seen(
    tmp_path: Path, bars: Bars, rows: list[dict[str, Any]]
) -> None:
    """A folder's time has steps of milliseconds: the switch is looked for by name as well."""
    desk = drill(tmp_path, bars)
    feed(desk, rows[:10])
    folder = tmp_path.stat()
    (tmp_path / KILL).touch()
    os.utime(tmp_path, ns=(folder.st_atime_ns, folder.st_mtime_ns))
    desk.on_idle()
    assert desk.account.state == "HALTED"


def test_a_resume_before_a_kill_does_not_undo_it(
    tmp_path: Path, bars: Bars, rows: list[dict[str, Any]]
) -> None:
    """Set free and killed again while no process ran; then somebody takes the switch away by hand."""
    latch = Latch(tmp_path)
    latch.resume("yesterday")
    latch.kill("today")
    desk = drill(tmp_path, bars)
    assert desk.account.state == "HALTED"
    (tmp_path / KILL).unlink()
    desk.on_idle()
    feed(desk, rows[:10])
    assert (desk.account.state, desk.account.orders) == ("HALTED", 0)
