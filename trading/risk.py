"""The risk engine: what may be sent, and when a desk must stop. Pure functions of a book and its limits.

It fails closed: what is not known is not allowed. There are three states. ACTIVE: orders pass within the
limits. REDUCING: the desk goes flat; orders that bring the position nearer to zero pass, and none through
it. HALTED: nothing is sent, and what is held is held. Down is automatic, up is by hand.
"""

from math import inf, isfinite
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from trading.book import DUST, Book, RiskState
from trading.orders import Order

SEVERITY: dict[RiskState, int] = {"ACTIVE": 0, "REDUCING": 1, "HALTED": 2}
SECOND = 10**9


class Limits(BaseModel):
    """What an order, a position and a day may be. `none` turns a limit off."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    max_order_quantity: float | None = Field(
        2.0, gt=0, description="of an order, units; orders that reduce are sent in parts"
    )
    max_order_notional: float | None = Field(
        100_000.0, gt=0, description="of an order, quote currency; as above"
    )
    max_position: float | None = Field(1.0, gt=0, description="held long or short, units")
    max_notional: float | None = Field(
        100_000.0, gt=0, description="of the position, long or short, quote currency"
    )
    max_orders_per_minute: int | None = Field(30, ge=1, description="orders in any 60 s")
    price_collar: float | None = Field(
        0.2,
        gt=0,
        description="a price is refused that is farther from the last one, as a share of it",
    )
    min_volatility: float | None = Field(
        0.0, ge=0, description="below it no exposure is added: deviation of log returns a bar"
    )
    max_volatility: float | None = Field(0.05, gt=0, description="above it, likewise")
    volatility_bars: int = Field(
        20, ge=1, description="bars that volatility is taken of; until then no exposure is added"
    )
    stale_seconds: float | None = Field(
        7200.0, gt=0, description="age of the last good price at which nothing is sent any more, s"
    )
    clock_skew: float | None = Field(
        5.0, gt=0, description="a clock behind a bar, or behind itself, by so much reduces, s"
    )
    max_daily_loss: float | None = Field(
        0.1, gt=0, description="of the equity with which the day (UTC) began; at it, reduce"
    )
    max_drawdown: float | None = Field(
        0.25, gt=0, description="from the highest equity, as a share of it; at it, reduce"
    )
    max_rejects: int | None = Field(3, ge=1, description="orders rejected in a row; at it, halt")
    max_faults: int | None = Field(
        3, ge=1, description="decisions that failed, of the last fault_memory; at it, reduce"
    )
    fault_memory: int = Field(20, ge=1, description="decisions that failures are counted in")
    position_tolerance: float = Field(
        1e-6,
        ge=0,
        description="by which venue and desk may disagree on the position, units; else halt",
    )


class Breach(NamedTuple):
    """A limit that was met, and the state that it asks for."""

    state: RiskState
    reason: str


def breach(book: Book, limits: Limits) -> Breach | None:  # noqa: PLR0911  # a limit a line
    """The worst limit that the account itself has met; None where there is none."""
    if limits.max_rejects is not None and book.rejects >= limits.max_rejects:
        return Breach("HALTED", f"{book.rejects} orders rejected in a row")
    if book.liquidated:
        return Breach("HALTED", "the venue closed the position and the account")
    if limits.max_faults is not None and sum(book.faults) >= limits.max_faults:
        return Breach(
            "REDUCING", f"{sum(book.faults)} of the last {len(book.faults)} decisions failed"
        )
    if book.cash is None:
        return None
    equity = book.equity
    if not isfinite(equity):
        return Breach("HALTED", f"equity is {equity}")
    if limits.max_drawdown is not None and equity <= (1 - limits.max_drawdown) * book.peak:
        lost = 1 - equity / book.peak if book.peak > 0 else inf
        return Breach("REDUCING", f"equity is {lost:.1%} below its highest")
    if (
        limits.max_daily_loss is not None
        and equity <= (1 - limits.max_daily_loss) * book.day_equity
    ):
        lost = 1 - equity / book.day_equity if book.day_equity > 0 else inf
        return Breach("REDUCING", f"equity lost {lost:.1%} today")
    return None


def refusal(  # noqa: PLR0911  # a rule a line
    order: Order, book: Book, limits: Limits, now: int
) -> str | None:
    """Why an order may not be sent; None where it may.

    Args:
        order: what is to be sent.
        book: as it is now.
        limits: what is allowed.
        now: ns since 1970.
    """
    if book.state == "HALTED":
        return f"HALTED: {book.reason}"
    if not (0 < order.quantity < inf and 0 < order.price < inf):
        return f"{order.quantity} at {order.price} is no order"
    if book.working is not None:
        return f"order {book.working.order.id} has not ended"
    if order.id in book.ended:
        return f"order {order.id} was sent before"
    position, after = book.position, book.position + order.signed
    reduces = abs(after) <= abs(position) + DUST and after * position >= -DUST * DUST
    if order.reduce_only and not (reduces and abs(after) < abs(position)):
        return f"it is to reduce a position of {position:g}, but would make it {after:g}"
    if book.state == "REDUCING" and not reduces:
        return f"REDUCING: {book.reason}"
    return _past_limits(order, book, limits, now) or (
        None if reduces else _past_exposure(after, order.price, book, limits)
    )


def sendable(quantity: float, price: float, limits: Limits) -> float:
    """As much of an order that reduces as one order may be, units."""
    if limits.max_order_quantity is not None:
        quantity = min(quantity, limits.max_order_quantity)
    if limits.max_order_notional is not None:
        quantity = min(quantity, limits.max_order_notional / price * (1 - 1e-12))
    return quantity


def off_market(price: float, book: Book, limits: Limits) -> str | None:
    """Why a price cannot follow the last one; None where it can."""
    if limits.price_collar is None or not book.anchored:
        return None
    if abs(price / book.price - 1) <= limits.price_collar:
        return None
    return f"{price:g} is more than {limits.price_collar:.0%} from the last price, {book.price:g}"


def _past_limits(order: Order, book: Book, limits: Limits, now: int) -> str | None:
    if limits.max_order_quantity is not None and order.quantity > limits.max_order_quantity:
        return (
            f"{order.quantity:g} units are above max_order_quantity, {limits.max_order_quantity:g}"
        )
    notional = order.quantity * order.price
    if limits.max_order_notional is not None and notional > limits.max_order_notional:
        return (
            f"a notional of {notional:g} is above max_order_notional, {limits.max_order_notional:g}"
        )
    if limits.max_orders_per_minute is not None:
        recent = sum(time > now - 60 * SECOND for time in book.order_times)
        if recent >= limits.max_orders_per_minute:
            return f"{recent} orders were sent in the last 60 s"
    if limits.stale_seconds is not None:
        age = (now - book.price_time) / SECOND
        if not age <= limits.stale_seconds:
            return f"the last price is {age:.0f} s old"
    return off_market(order.price, book, limits)


def _past_exposure(after: float, price: float, book: Book, limits: Limits) -> str | None:
    if limits.max_position is not None and abs(after) > limits.max_position + DUST:
        return f"a position of {after:g} is past max_position, {limits.max_position:g}"
    notional = abs(after) * price
    if limits.max_notional is not None and notional > limits.max_notional:
        return f"a position worth {notional:g} is past max_notional, {limits.max_notional:g}"
    low, high = limits.min_volatility, limits.max_volatility
    if low is None and high is None:
        return None
    volatility = book.volatility
    if volatility is None:
        return f"volatility is not known before {limits.volatility_bars} bars"
    if not (low or 0.0) <= volatility <= (inf if high is None else high):
        band = f"[{low or 0:g}, {inf if high is None else high:g}]"
        return f"volatility is {volatility:.3g} a bar, outside {band}"
    return None
