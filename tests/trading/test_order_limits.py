"""What may be sent: limits at their very edge, and orders that reduce."""

from typing import Any

import pytest

from market.accounting import MarketSettings
from tests.support.desks import OFF
from tests.support.lines import take
from trading.account import Account
from trading.orders import Ended, Filled, Order
from trading.risk import breach, denial
from trading.venues.simulated import SimulatedVenue

SECOND = 10**9
START = 1_600_000_000 * SECOND


def account_of(position: float = 0.0, price: float = 100.0) -> Account:
    account = Account()
    take(account, {"type": "funding", "time": START, "cash": 1000.0})
    bar = {"type": "bar", "time": START, "closed": START, "close": price, "log_return": 0.0}
    take(account, bar)
    if position:
        side = "buy" if position > 0 else "sell"
        order(account, "first", side, abs(position), START)
        fill(account, "first", side, abs(position), price, START)
    return account


def order(account: Account, name: str, side: str, size: float, time: int) -> None:
    sent = {"side": side, "size": size, "price": 100.0, "reduce_only": False, "id": name}
    take(account, {"type": "order", "time": time, "status": "sent", "order": name, **sent})


def fill(account: Account, name: str, side: str, size: float, price: float, time: int) -> None:
    known = {"id": f"{name}-1", "order": name, "side": side, "size": size}
    take(account, {"type": "fill", "time": time, "price": price, "cost": 0.0, **known})
    take(account, {"type": "order", "time": time, "status": "filled", "order": name})


def wanted(side: Any, quantity: float, time: int, reduce_only: bool = False) -> Order:
    return Order(f"wanted-{time}", side, quantity, reduce_only, 100.0, time)


@pytest.mark.parametrize("sent", [1, 2, 3, 4])
def test_as_many_orders_go_out_in_a_minute_as_the_limit_says_and_none_more(sent: int) -> None:
    """A limit of 3: the fourth waits until the first is 60 s old, to the nanosecond."""
    limits = OFF.model_copy(update={"max_orders_per_minute": 3})
    account = account_of()
    for number in range(sent):
        time = START + number * SECOND
        order(account, f"each-{number}", "buy", 0.1, time)
        fill(account, f"each-{number}", "buy", 0.1, 100.0, time)
    # Those that were sent after `now - 60 s` count; the oldest three of four leave in turn.
    for now, recent in (
        (START + sent * SECOND, sent),
        (START + 60 * SECOND - 1, sent),
        (START + 60 * SECOND, sent - 1),
        (START + 61 * SECOND - 1, sent - 1),
        (START + 61 * SECOND, max(sent - 2, 0)),
    ):
        said = denial(wanted("buy", 0.1, now), account, limits, now)
        assert (said is not None) == (recent >= 3), (now - START, said)
        if said is not None:
            assert (said.limit, f"{recent} orders" in said.reason) == (
                "max_orders_per_minute",
                True,
            )


@pytest.mark.parametrize("held, side", [(0.5, "sell"), (-0.5, "buy")])
def test_an_order_that_would_turn_the_position_does_not_reduce(held: float, side: Any) -> None:
    """Even where what comes out is nearer to zero than what is held."""
    account, now = account_of(held), START + SECOND
    for quantity in (0.1, 0.5):
        assert denial(wanted(side, quantity, now, reduce_only=True), account, OFF, now) is None
    for quantity in (0.5001, 0.8, 1.0, 1.2):
        said = denial(wanted(side, quantity, now, reduce_only=True), account, OFF, now)
        assert said is not None
        assert f"reduce a position of {held:g}" in said.reason
        assert denial(wanted(side, quantity, now), account, OFF, now) is None  # it may be a turn
    other = "buy" if side == "sell" else "sell"
    assert denial(wanted(other, 0.1, now, reduce_only=True), account, OFF, now) is not None
    risk = {"type": "risk", "time": now, "state": "REDUCING", "reason": "a drill"}
    take(account, risk)
    assert denial(wanted(side, 0.5, now), account, OFF, now) is None
    for quantity in (0.5001, 0.8, 1.2):
        said = denial(wanted(side, quantity, now), account, OFF, now)
        assert said == ("REDUCING", "REDUCING: a drill")


@pytest.mark.parametrize("held, side", [(0.5, "sell"), (-0.5, "buy")])
@pytest.mark.parametrize("fill_at", ["close", "next_open"])
def test_the_simulated_venue_rejects_a_reducing_order_that_would_turn_the_position(
    held: float, side: Any, fill_at: Any
) -> None:
    bar = {"time": START, "open": 100.0, "close": 100.0}
    for quantity, left in ((0.2, held * 0.6), (0.5, 0.0), (0.8, held), (1.2, held)):
        venue = SimulatedVenue(MarketSettings(fill=fill_at), account_of(held))
        venue.on_bar(bar)
        venue.submit(wanted(side, quantity, START, reduce_only=True))
        venue.on_bar(bar | {"time": START + 60 * SECOND})
        assert venue.position() == pytest.approx(left)
        events = venue.poll()
        if left == held:
            (ended,) = events
            assert isinstance(ended, Ended)
            assert (ended.status, ended.reason) == ("rejected", "it does not reduce the position")
        else:
            assert isinstance(events[0], Filled)


def with_volatility(account: Account, volatility: float) -> Account:
    for _ in range(account.volatility_bars):
        account.log_squares.append(volatility**2)
    return account


@pytest.mark.parametrize(
    "limits, quantity, allowed",
    [
        ({"max_order_quantity": 0.75}, 0.75, True),
        ({"max_order_quantity": 0.75}, 0.7501, False),
        ({"max_order_notional": 75.0}, 0.75, True),
        ({"max_order_notional": 75.0}, 0.7501, False),
        ({"max_position": 1.25}, 0.75, True),  # 0.5 are held
        ({"max_position": 1.25}, 0.7501, False),
        ({"max_notional": 125.0}, 0.75, True),
        ({"max_notional": 125.0}, 0.7501, False),
        ({"min_volatility": 0.03125, "max_volatility": 0.03125}, 0.1, True),
        ({"min_volatility": 0.03126}, 0.1, False),
        ({"min_volatility": 0.03124}, 0.1, True),
        ({"max_volatility": 0.03124}, 0.1, False),
        ({"max_volatility": 0.03126}, 0.1, True),
    ],
)
@pytest.mark.parametrize("sign", [1, -1])
def test_what_adds_to_a_position_may_be_as_large_as_the_limit(
    limits: dict[str, float], quantity: float, allowed: bool, sign: int
) -> None:
    account, now = with_volatility(account_of(sign * 0.5), 0.03125), START + SECOND
    made = OFF.model_copy(update=limits)
    said = denial(wanted("buy" if sign > 0 else "sell", quantity, now), account, made, now)
    assert (said is None) == allowed, said


def test_before_volatility_is_known_nothing_is_added() -> None:
    account, now = account_of(), START + SECOND
    for limits in ({"min_volatility": 0.0}, {"max_volatility": 1.0}):
        said = denial(wanted("buy", 0.1, now), account, OFF.model_copy(update=limits), now)
        assert said == ("volatility_bars", "volatility is not known before 20 bars")
    assert denial(wanted("buy", 0.1, now), account, OFF, now) is None


@pytest.mark.parametrize("age, fresh", [(0, True), (60, True), (60 + 1e-9, False), (3600, False)])
def test_nothing_is_added_at_a_price_older_than_the_limit(age: float, fresh: bool) -> None:
    limits = OFF.model_copy(update={"stale_seconds": 60.0})
    now = START + round(age * SECOND)
    said = denial(wanted("buy", 0.1, now), account_of(), limits, now)
    assert (said is None) == fresh


@pytest.mark.parametrize(
    "price, near", [(125.0, True), (75.0, True), (125.1, False), (74.9, False)]
)
def test_nothing_is_added_at_a_price_past_the_collar(price: float, near: bool) -> None:
    account, limits = account_of(), OFF.model_copy(update={"price_collar": 0.25})
    order = wanted("buy", 0.1, START)._replace(price=price)
    assert (denial(order, account, limits, START) is None) == near
    account.anchored = False
    assert denial(order, account, limits, START) is None


def test_what_is_no_order_is_refused() -> None:
    account = account_of()
    good = wanted("buy", 0.1, START)
    assert denial(good, account, OFF, START) is None
    for name in ("quantity", "price"):
        for value in (0.0, -1.0, float("nan"), float("inf")):
            changed: Any = {name: value}
            said = denial(good._replace(**changed), account, OFF, START)
            assert said is not None
            assert said.reason.endswith("is no order")
    account.ended[good.id] = "filled"
    assert denial(good, account, OFF, START) == ("order id", f"order {good.id} was sent before")
    order(account, "works", "buy", 0.1, START)
    assert denial(good, account, OFF, START) == ("working order", "order works has not ended")
    take(account, {"type": "risk", "time": START, "state": "HALTED", "reason": "a drill"})
    assert denial(good, account, OFF, START) == ("HALTED", "HALTED: a drill")


@pytest.mark.parametrize(
    "limits, equity, state",
    [
        ({"max_drawdown": 0.25}, 750.0, "REDUCING"),
        ({"max_drawdown": 0.25}, 750.1, None),
        ({"max_daily_loss": 0.25}, 750.0, "REDUCING"),
        ({"max_daily_loss": 0.25}, 750.1, None),
        ({}, float("nan"), "HALTED"),
        ({}, float("inf"), "HALTED"),
        ({}, -5000.0, None),
    ],
)
def test_a_loss_is_too_large_once_it_is_at_its_limit(
    limits: dict[str, float], equity: float, state: str | None
) -> None:
    account = account_of()
    account.equity = equity
    found = breach(account, OFF.model_copy(update=limits))
    assert (found and found.state) == state


@pytest.mark.parametrize("began", [0.0, -0.5, -2000.0])
def test_what_began_the_day_with_nothing_has_lost_more_than_any_share(began: float) -> None:
    account = account_of()
    account.day_equity, account.equity = began, -5000.0
    found = breach(account, OFF.model_copy(update={"max_daily_loss": 0.25}))
    assert found is not None
    assert found.state == "REDUCING"
    assert "equity lost inf% since the day began" in found.reason


def test_rejects_and_faults_count_up_to_their_limits() -> None:
    limits = OFF.model_copy(update={"max_rejects": 3, "max_faults": 2})
    account = account_of()
    for rejects, state in ((2, None), (3, "HALTED"), (4, "HALTED")):
        account.rejects = rejects
        found = breach(account, limits)
        assert (found and found.state) == state
    account.rejects = 0
    for faults, state in (([True], None), ([True, False, True], "REDUCING")):
        account.faults.clear()
        account.faults.extend(faults)
        found = breach(account, limits)
        assert (found and found.state) == state
    account.faults.clear()
    account.liquidated = True
    assert breach(account, limits) == ("HALTED", "the venue closed the position and the account")
