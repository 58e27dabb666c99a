"""What may be sent: limits at their very edge, and orders that reduce."""

from typing import Any

import pytest

from market.accounting import MarketSettings
from tests.desks import OFF
from trading.book import Book
from trading.orders import Ended, Filled, Order
from trading.risk import refusal
from trading.venue import SimulatedVenue

SECOND = 10**9
START = 1_600_000_000 * SECOND


def book_of(position: float = 0.0, price: float = 100.0) -> Book:
    book = Book()
    book.apply({"type": "funding", "time": START, "cash": 1000.0})
    bar = {"type": "bar", "time": START, "closed": START, "close": price, "log_return": 0.0}
    book.apply(bar)
    if position:
        side = "buy" if position > 0 else "sell"
        order(book, "first", side, abs(position), START)
        fill(book, "first", side, abs(position), price, START)
    return book


def order(book: Book, name: str, side: str, size: float, time: int) -> None:
    sent = {"side": side, "size": size, "price": 100.0, "reduce_only": False, "id": name}
    book.apply({"type": "order", "time": time, "status": "sent", "order": name, **sent})


def fill(book: Book, name: str, side: str, size: float, price: float, time: int) -> None:
    known = {"id": f"{name}-1", "order": name, "side": side, "size": size}
    book.apply({"type": "fill", "time": time, "price": price, "cost": 0.0, **known})
    book.apply({"type": "order", "time": time, "status": "filled", "order": name})


def wanted(side: Any, quantity: float, time: int, reduce_only: bool = False) -> Order:
    return Order(f"wanted-{time}", side, quantity, reduce_only, 100.0, time)


@pytest.mark.parametrize("sent", [1, 2, 3, 4])
def test_as_many_orders_go_out_in_a_minute_as_the_limit_says_and_none_more(sent: int) -> None:
    """A limit of 3: the fourth waits until the first is 60 s old, to the nanosecond."""
    limits = OFF.model_copy(update={"max_orders_per_minute": 3})
    book = book_of()
    for number in range(sent):
        time = START + number * SECOND
        order(book, f"each-{number}", "buy", 0.1, time)
        fill(book, f"each-{number}", "buy", 0.1, 100.0, time)
    # Those that were sent after `now - 60 s` count; the oldest three of four leave in turn.
    for now, recent in (
        (START + sent * SECOND, sent),
        (START + 60 * SECOND - 1, sent),
        (START + 60 * SECOND, sent - 1),
        (START + 61 * SECOND - 1, sent - 1),
        (START + 61 * SECOND, max(sent - 2, 0)),
    ):
        said = refusal(wanted("buy", 0.1, now), book, limits, now)
        assert (said is not None) == (recent >= 3), (now - START, said)
        if said is not None:
            assert (said.limit, f"{recent} orders" in said.reason) == (
                "max_orders_per_minute",
                True,
            )


@pytest.mark.parametrize("held, side", [(0.5, "sell"), (-0.5, "buy")])
def test_an_order_that_would_turn_the_position_does_not_reduce(held: float, side: Any) -> None:
    """Even where what comes out is nearer to zero than what is held."""
    book, now = book_of(held), START + SECOND
    for quantity in (0.1, 0.5):
        assert refusal(wanted(side, quantity, now, reduce_only=True), book, OFF, now) is None
    for quantity in (0.5001, 0.8, 1.0, 1.2):
        said = refusal(wanted(side, quantity, now, reduce_only=True), book, OFF, now)
        assert said is not None
        assert f"reduce a position of {held:g}" in said.reason
        assert refusal(wanted(side, quantity, now), book, OFF, now) is None  # it may be a turn
    other = "buy" if side == "sell" else "sell"
    assert refusal(wanted(other, 0.1, now, reduce_only=True), book, OFF, now) is not None
    risk = {"type": "risk", "time": now, "state": "REDUCING", "reason": "a drill"}
    book.apply(risk)
    assert refusal(wanted(side, 0.5, now), book, OFF, now) is None
    for quantity in (0.5001, 0.8, 1.2):
        said = refusal(wanted(side, quantity, now), book, OFF, now)
        assert said == ("REDUCING", "REDUCING: a drill")


@pytest.mark.parametrize("held, side", [(0.5, "sell"), (-0.5, "buy")])
@pytest.mark.parametrize("fill_at", ["close", "next_open"])
def test_the_simulated_venue_rejects_a_reducing_order_that_would_turn_the_position(
    held: float, side: Any, fill_at: Any
) -> None:
    bar = {"time": START, "open": 100.0, "close": 100.0}
    for quantity, left in ((0.2, held * 0.6), (0.5, 0.0), (0.8, held), (1.2, held)):
        venue = SimulatedVenue(MarketSettings(fill=fill_at), book_of(held))
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
