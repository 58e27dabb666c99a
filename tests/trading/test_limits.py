"""Limits bound what adds to a position, and never keep one open; prices that stay are believed."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from market.accounting import MarketSettings
from tests.support.desks import OFF
from tests.support.lines import replay
from tests.support.wishes import QUIET, Wish, bars, desk_of, feed
from trading.account import Account
from trading.bar_checks import PriceCollar
from trading.execution import ExecutionSettings
from trading.journal import records
from trading.orders import Ended, Filled, Order, Report, Unreachable
from trading.risk import Limits
from trading.sizing import DeskSettings
from trading.venues.simulated import SimulatedVenue


def told(folder: Path, kind: str) -> list[dict[str, Any]]:
    return [each for each in records(folder / "journal.jsonl") if each["type"] == kind]


# --- an order that only reduces --------------------------------------------------------------

STRICT = {
    "max_order_quantity": 0.1,
    "max_order_notional": 1.0,
    "max_position": 0.1,
    "max_notional": 1.0,
    "max_orders_per_minute": 1,
    "stale_seconds": 1.0,
    "max_volatility": 1e-9,
    "price_collar": 1e-9,
}


@pytest.mark.parametrize("name", STRICT)
@pytest.mark.parametrize("held", [1, -1])
def test_no_limit_refuses_or_cuts_an_order_that_reduces(
    tmp_path: Path, name: str, held: int
) -> None:
    wish = Wish(held)
    desk = desk_of(tmp_path, QUIET, wish)
    closes = [100 + 0.1 * n for n in range(8)]
    feed(desk, bars(closes[:5]))
    assert desk.account.position == held
    strict = QUIET.model_copy(update={name: STRICT[name]})
    desk.limits = desk.execution.limits = strict
    wish.wanted = 0
    feed(desk, bars(closes[5:6], start=5))
    assert desk.account.position == 0
    assert not desk.account.refusals


@pytest.mark.parametrize("state", ["ACTIVE", "REDUCING"])
def test_a_position_is_closed_at_stop_whatever_the_rate_of_orders(
    tmp_path: Path, state: Any
) -> None:
    desk = desk_of(tmp_path, QUIET.model_copy(update={"max_orders_per_minute": 1}), Wish(1))
    feed(desk, bars([100.0] * 3))
    assert desk.account.position == 1
    desk.downgrade(state, "a drill", desk.account.time)
    desk.stop("the market ended", flatten=True)
    assert desk.account.position == 0


def test_hourly_faults_in_the_scheme_order_go_flat_at_once(tmp_path: Path) -> None:
    """Three faults in three hours: the flatten of REDUCING passes, however old the price is."""
    limits = Limits(volatility_bars=2)
    desk = desk_of(tmp_path, limits, Wish(1), "order", interval=3600.0)
    feed(desk, bars([100.0, 100.1, 100.2, 100.1, 100.2], 3600.0))
    assert desk.account.position == 1
    broken = [row | {"high": 0.0} for row in bars([100.0] * 3, 3600.0, start=5)]
    feed(desk, broken)
    assert desk.account.state == "REDUCING"
    assert desk.account.position == 0


def test_daily_bars_are_fresh_for_days(tmp_path: Path) -> None:
    """Freshness follows the bar: positions are opened and closed on daily bars by default."""
    wish = Wish(1)
    limits = Limits(volatility_bars=2)
    desk = desk_of(tmp_path, limits, wish, interval=86_400.0)
    assert desk.limits.stale_seconds == 3 * 86_400
    feed(desk, bars([100.0, 101.0, 100.5, 101.5], 86_400.0))
    assert desk.account.position == 1
    wish.wanted = 0
    feed(desk, bars([101.0], 86_400.0, start=4))
    assert desk.account.position == 0


@pytest.mark.parametrize(
    "interval, stale",
    [(1.0, 60.0), (20.0, 60.0), (60.0, 180.0), (3600.0, 10_800.0), (None, 7200.0)],
)
def test_freshness_is_three_intervals_and_at_least_a_minute(
    interval: float | None, stale: float
) -> None:
    assert Limits().resolved(1.0, interval).stale_seconds == stale
    assert Limits(stale_seconds=5.0).resolved(1.0, interval).stale_seconds == 5
    assert Limits(stale_seconds=None).resolved(1.0, interval).stale_seconds is None


class Later(SimulatedVenue):
    """Takes at most 0.3 units an order, and fills it when it is next asked."""

    def submit(self, order: Order) -> None:
        assert order.quantity <= 0.3
        self._reports[order.id] = Report([], None)
        self.waiting = order

    def poll(self) -> list[Any]:
        order = getattr(self, "waiting", None)
        if order is not None and len(self._reports) > getattr(self, "filled", 0):
            self.filled = len(self._reports)
            self._hold(order.signed, self._close, 0.0)
            fill = Filled(order.id, f"{order.id}-1", order.side, order.quantity, self._close, 0.0)
            self._events += [fill, Ended(order.id, "filled", order.quantity)]
        return super().poll()


@pytest.mark.parametrize("venue", [SimulatedVenue, Later])
def test_past_the_venues_largest_size_a_position_is_closed_in_parts_within_the_bar(
    tmp_path: Path, venue: type[SimulatedVenue]
) -> None:
    wish = Wish(1)
    desk = desk_of(tmp_path, QUIET, wish)
    feed(desk, bars([100.0] * 4))
    assert desk.account.position == 1
    desk.ledger.journal.close()
    limits = QUIET.model_copy(update={"max_orders_per_minute": 1, "max_order_quantity": 0.2})
    parts = ExecutionSettings(venue_max_quantity=0.3)
    made = venue(MarketSettings(), desk.account)
    again = desk_of(tmp_path, limits, wish, venue=made, execution=parts)
    wish.wanted = 0
    feed(again, bars([100.0], start=4))
    for _ in range(4):
        again.on_idle()
    assert again.account.position == 0
    sizes = [each["size"] for each in told(tmp_path, "order") if each["status"] == "sent"]
    assert sizes[1:] == pytest.approx([0.3, 0.3, 0.3, 0.1])


def test_a_turn_past_the_venues_largest_size_goes_flat_in_parts_and_no_further(
    tmp_path: Path,
) -> None:
    wish = Wish(1)
    desk = desk_of(tmp_path, QUIET, wish)
    feed(desk, bars([100.0] * 4))
    desk.ledger.journal.close()
    parts = ExecutionSettings(venue_max_quantity=0.3)
    made = SimulatedVenue(MarketSettings(), desk.account)
    again = desk_of(tmp_path, QUIET, wish, venue=made, execution=parts)
    wish.wanted = -1
    feed(again, bars([100.0], start=4))
    for _ in range(4):
        again.on_idle()
    assert again.account.position == 0
    sent = [each for each in told(tmp_path, "order") if each["status"] == "sent"][1:]
    assert [each["side"] for each in sent] == ["sell"] * 4
    assert [each["size"] for each in sent] == pytest.approx([0.3, 0.3, 0.3, 0.1])


def test_parts_end_where_a_person_kills_the_desk(tmp_path: Path) -> None:
    wish = Wish(1)
    desk = desk_of(tmp_path, QUIET, wish)
    feed(desk, bars([100.0] * 4))
    desk.ledger.journal.close()
    made = Later(MarketSettings(), desk.account)
    again = desk_of(
        tmp_path, QUIET, wish, venue=made, execution=ExecutionSettings(venue_max_quantity=0.3)
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(made, "poll", list)
        wish.wanted = 0
        feed(again, bars([100.0], start=4))
        again.kill("a drill")
    for _ in range(4):
        again.on_idle()
    sent = [each for each in told(tmp_path, "order") if each["status"] == "sent"]
    assert len(sent) == 2
    assert again.account.position == pytest.approx(0.7)


def test_a_position_is_not_opened_past_the_venues_largest_size(tmp_path: Path) -> None:
    parts = ExecutionSettings(venue_max_quantity=0.3)
    desk = desk_of(tmp_path, QUIET, Wish(1), execution=parts)
    feed(desk, bars([100.0] * 4))
    assert desk.account.position == 0
    assert set(desk.account.refusals) == {"venue_max_quantity"}


# --- prices outside the collar ---------------------------------------------------------------

COLLAR = OFF.model_copy(update={"price_collar": 0.2, "volatility_bars": 3})


@pytest.mark.parametrize("factor", [10.0, 1.5, 0.6, 0.01])
@pytest.mark.parametrize("held", [1, -1])
def test_one_bad_print_sells_nothing(tmp_path: Path, factor: float, held: int) -> None:
    limits = COLLAR.model_copy(update={"max_drawdown": 0.05, "max_daily_loss": 0.05})
    desk = desk_of(tmp_path, limits, Wish(held))
    feed(desk, bars([100.0] * 5))
    orders = desk.account.orders
    desk.on_bar(bars([100.0 * factor], start=5)[0])  # the feed's fault, not the venue's
    assert (desk.account.position, desk.account.orders) == (held, orders)
    assert desk.account.equity == pytest.approx(100.0)
    feed(desk, bars([100.0, 100.0], start=6))
    assert (desk.account.position, desk.account.state) == (held, "ACTIVE")


@pytest.mark.parametrize("scheme", ["target", "order"])
def test_a_crash_counts_for_the_limits_from_its_second_bar(tmp_path: Path, scheme: str) -> None:
    limits = COLLAR.model_copy(update={"max_drawdown": 0.3})
    desk = desk_of(tmp_path, limits, Wish(1), scheme)
    feed(desk, bars([100.0] * 5 + [60.0]))
    assert (desk.account.position, desk.account.state) == (1, "ACTIVE")
    feed(desk, bars([58.0], start=6))
    assert desk.account.equity == pytest.approx(58.0)
    assert desk.account.state == "REDUCING"
    assert "42.0% below its highest" in desk.account.reason
    assert desk.account.position == 0
    assert told(tmp_path, "fill")[-1]["price"] == 58


@pytest.mark.parametrize("jump", [0.61, 0.5, 2.34, 1.3])
def test_a_level_that_holds_is_believed_and_on_record(tmp_path: Path, jump: float) -> None:
    """A fall, a split that was not adjusted for, a rise: no later bar is refused for it."""
    desk = desk_of(tmp_path, COLLAR, Wish(0))
    feed(desk, bars([100.0] * 5 + [100.0 * jump * (1 + 0.01 * n) for n in range(20)]))
    assert desk.account.unbelieved == 2
    assert desk.account.state == "REDUCING"
    assert "has held there for 3 bars" in desk.account.reason
    assert f"{jump * 1.02 - 1:+.0%}" in desk.account.reason
    assert desk.account.price == pytest.approx(100 * jump * 1.19)


def test_prints_that_contradict_each_other_are_not_a_level(tmp_path: Path) -> None:
    desk = desk_of(tmp_path, COLLAR, Wish(0))
    feed(desk, bars([100.0] * 5 + [300.0, 30.0] * 4))
    assert desk.account.unbelieved == 8
    assert desk.account.price == 100


def test_the_collar_follows_volatility_and_the_length_of_the_bar() -> None:
    def width(interval: float, returns: float | None, elapsed: float, **limits: Any) -> Any:
        account = Account(volatility_bars=4)
        if returns is not None:
            account.log_squares.extend([returns**2] * 4)
        return PriceCollar(account, Limits(**limits), interval).width(elapsed)

    assert width(86_400, None, 86_400) == pytest.approx(0.2)  # a day's, as long as nothing is known
    assert width(60, None, 60) == 0.15
    assert width(7 * 86_400, None, 7 * 86_400) == 0.5
    assert width(3600, 0.02, 3600) == pytest.approx(0.24)  # 12 deviations
    assert width(3600, 0.02, 4 * 3600) == pytest.approx(0.48)  # over four bars
    assert width(3600, 0.001, 3600) == 0.15
    assert width(3600, 0.1, 3600) == 0.5
    assert width(3600, 0.01, 3600, price_collar=0.3) == 0.3
    assert width(3600, 0.01, 3600, price_collar=None) is None


def test_bad_prints_with_bars_that_tell_nothing_in_between_are_not_in_a_row(tmp_path: Path) -> None:
    limits = COLLAR.model_copy(update={"max_drawdown": 0.05})
    desk = desk_of(tmp_path, limits, Wish(1))
    feed(desk, bars([100.0] * 5))
    desk.on_bar(bars([10.0], start=5)[0])
    desk.on_bar(bars([100.0], start=6)[0] | {"close": math.nan})
    assert desk.account.position == 0  # no price, action 0
    desk.on_bar(bars([10.0], start=7)[0])
    assert (desk.account.state, desk.account.off_market) == ("ACTIVE", 1)


def test_the_third_bad_print_sells_nothing_at_its_own_price(tmp_path: Path) -> None:
    """Three failed decisions reduce; but not at a price that nobody has confirmed."""
    limits = COLLAR.model_copy(update={"max_faults": 3})
    desk = desk_of(tmp_path, limits, Wish(1))
    closes = [100.0] * 5
    for _ in range(3):
        closes += [1000.0, 100.0]
    rows = bars(closes)
    for row in rows[:-1]:
        if not desk.collar.doubts(row):
            desk.venue.on_bar(row)
        desk.on_bar(row)
    assert desk.account.state == "REDUCING"
    assert desk.account.position == 1
    feed(desk, rows[-1:])
    assert desk.account.position == 0
    assert told(tmp_path, "fill")[-1]["price"] == 100


def test_unbelieved_bars_are_not_taken_twice_after_a_restart(tmp_path: Path) -> None:
    desk = desk_of(tmp_path, COLLAR, Wish(0))
    rows = bars([100.0] * 5 + [60.0, 60.0])
    feed(desk, rows)
    assert (desk.account.unbelieved, desk.account.seen) == (2, rows[-1]["time"])
    desk.ledger.journal.close()
    again = desk_of(tmp_path, COLLAR, Wish(0))
    assert again.account.seen == rows[-1]["time"]
    assert again.account.price_time == rows[4]["time"]


class Away(SimulatedVenue):
    """Cannot be reached at times."""

    away = False

    def poll(self) -> list[Any]:
        if self.away:
            raise Unreachable
        return super().poll()

    def submit(self, order: Order) -> None:
        if self.away:
            raise Unreachable
        super().submit(order)


def test_what_could_not_be_sent_is_not_sent_after_another_decision(tmp_path: Path) -> None:
    wish = Wish(1)
    venue = Away(MarketSettings())
    desk = desk_of(tmp_path, QUIET, wish, venue=venue)
    feed(desk, bars([100.0]))
    venue.away = True
    feed(desk, bars([100.0], start=1))
    assert desk.account.position == 0
    venue.away = False
    wish.wanted = 0
    feed(desk, bars([100.0], start=2))
    for _ in range(3):
        desk.on_idle()
    assert (desk.account.position, desk.account.orders) == (0, 0)


class Mute(SimulatedVenue):
    """Tells what happened, but not what it holds."""

    mute = True

    def position(self) -> float:
        if self.mute:
            raise Unreachable
        return super().position()


def test_nothing_is_sent_while_the_venue_does_not_say_what_it_holds(tmp_path: Path) -> None:
    venue = Mute(MarketSettings())
    desk = desk_of(tmp_path, QUIET, Wish(1), venue=venue)
    feed(desk, bars([100.0] * 3))
    assert (desk.account.orders, desk.account.refusals) == (0, {})
    venue.mute = False
    feed(desk, bars([100.0], start=3))
    assert desk.account.position == 1


def test_orders_of_a_sized_desk_carry_their_position_into_the_journal(tmp_path: Path) -> None:
    for sizing, full in (("notional", 100.0), ("equity", 1.0), ("unit", None)):
        folder = tmp_path / sizing
        market = MarketSettings.model_validate({"sizing": sizing})
        desk = desk_of(folder, QUIET, Wish(-1), market=market)
        feed(desk, bars([100.0, 100.0, 110.0]))
        sent = [each for each in told(folder, "order") if each["status"] == "sent"]
        carried = {(each.get("position"), each.get("full")) for each in sent}
        assert carried == {(None, None) if full is None else (-1.0, full)}
        assert desk.sizing.held == -1


@pytest.mark.parametrize("fill", ["close", "next_open"])
def test_a_stop_closes_the_position_in_as_many_parts_as_it_takes(tmp_path: Path, fill: Any) -> None:
    market = MarketSettings(fill=fill)
    desk = desk_of(tmp_path, QUIET, Wish(1), market=market)
    feed(desk, bars([100.0] * 4))
    assert desk.account.position == 1
    desk.execution.settings = ExecutionSettings(venue_max_quantity=0.3)
    desk.stop("the market ended", flatten=True)
    assert desk.account.position == 0


# --- what limits mean ------------------------------------------------------------------------


@pytest.mark.parametrize("price", [1e-5, 1.1, 150_000.0, 3e7])
@pytest.mark.parametrize("quantity", [1.0, 250.0, 0.01])
def test_defaults_mean_the_same_at_every_price(
    tmp_path: Path, price: float, quantity: float
) -> None:
    wish = Wish(1)
    limits = Limits(volatility_bars=2)
    trade = DeskSettings(quantity=quantity)
    desk = desk_of(tmp_path, limits, wish, interval=60.0, settings=trade)
    rng = np.random.default_rng(1)
    closes = (price * (1 + rng.normal(0, 0.001, 30))).tolist()
    feed(desk, bars(closes[:20]))
    assert desk.account.position == quantity
    wish.wanted = -1
    feed(desk, bars(closes[20:], start=20))
    assert desk.account.position == -quantity
    assert set(desk.account.refusals) == {"volatility_bars"}
    assert math.isclose(desk.account.funded or 0, quantity * closes[1], rel_tol=1e-12)


def test_refusals_are_counted_by_limit(tmp_path: Path) -> None:
    limits = QUIET.model_copy(update={"max_notional": 100.5})
    wish = Wish(1)
    desk = desk_of(tmp_path, limits, wish)
    feed(desk, bars([100.0, 101.0, 102.0, 103.0]))
    desk.limits = desk.execution.limits = QUIET.model_copy(update={"max_orders_per_minute": 0})
    feed(desk, bars([100.0, 101.0], start=4))
    assert desk.account.refusals == {"max_notional": 3, "max_orders_per_minute": 2}
    account = Account()
    replay(account, records(tmp_path / "journal.jsonl"))
    assert account.refusals == desk.account.refusals
