"""Orders, what becomes of them, and what a venue is: the one protocol that every market answers to.

Quantities are units of the instrument, prices and costs its quote currency, times nanoseconds since 1970.
"""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, Protocol

Ending = Literal["filled", "canceled", "rejected", "expired", "lost"]
Side = Literal["buy", "sell"]


class Order(NamedTuple):
    """A market order.

    Where full sizes depend on the price of the fill (`market.sizing` notional or equity), `position` is
    what is wanted. A venue that knows the account sizes the order there; `quantity` is what it comes to
    at `price`, for venues that take units.
    """

    id: str  # ours, and always the same for the same decision: a venue takes an id once
    side: Side
    quantity: float  # above zero
    reduce_only: bool  # it may bring a position nearer to zero, never through it
    price: float  # the last one known, which limits are reckoned at
    time: int  # when it was decided
    position: float | None = None  # in full sizes
    full: float = 1.0  # the full size: an amount of money, or a share of the account

    @property
    def signed(self) -> float:
        """Its quantity, below zero where it sells."""
        return self.quantity if self.side == "buy" else -self.quantity


class Filled(NamedTuple):
    """A part of an order was executed. The same fill may be reported twice; `fill` identifies it."""

    order: str
    fill: str
    side: Side
    quantity: float
    price: float
    cost: float  # fees and what else the venue takes, at least zero


class Ended(NamedTuple):
    """An order will not be executed any further."""

    order: str
    status: Ending
    filled: float  # all of it that was executed; fills of that sum may still be under way
    reason: str = ""


class Charged(NamedTuple):
    """The venue took money: borrow or funding. `charge` tells it from others."""

    charge: str
    amount: float
    reason: str


class Liquidated(NamedTuple):
    """The venue closed the account's position by itself, and will take no more orders."""

    fill: str
    quantity: float  # signed: what was bought or, below zero, sold
    price: float
    cost: float


Event = Filled | Ended | Charged | Liquidated


class Report(NamedTuple):
    """What a venue knows of one order."""

    fills: list[Filled]
    ended: Ended | None  # None while it works


class Unreachable(Exception):
    """The venue did not answer. What was sent may have arrived or not."""


class Venue(Protocol):
    """Where orders go."""

    def submit(self, order: Order) -> None:
        """Sends an order, unless it knows its id; raises `Unreachable`: it may have arrived or not."""

    def on_bar(self, bar: Mapping[str, Any]) -> None:
        """The next bar, before the desk sees it: what moves a simulated market on; others know better."""

    def fund(self, cash: float) -> None:
        """What the account begins with, quote currency; a simulated venue pays it in."""

    def end_of_data(self) -> None:
        """The market data end here: what works is filled at the last price, where that can be had."""

    def cancel(self, order_id: str) -> None:
        """Asks for an order's end, which comes as an event; raises `Unreachable`."""

    def poll(self) -> list[Event]:
        """What happened since the last call, in any order; raises `Unreachable`."""

    def report(self, order_id: str) -> Report | None:
        """All of one order, None where it never arrived; raises `Unreachable`."""

    def position(self) -> float:
        """Units held, below zero where short; raises `Unreachable`."""
