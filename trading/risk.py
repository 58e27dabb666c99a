"""The risk engine: what may be sent, when a desk must stop. Pure functions of an account and its limits.

It fails closed: what is not known is not allowed. There are three states. ACTIVE: orders pass within the
limits. REDUCING: the desk goes flat; orders that bring the position nearer to zero pass, and none through
it. HALTED: nothing is sent, and what is held is held. Down is automatic, up is by hand.

Limits on size, notional, rate, age, volatility and collar bound what adds to a position. An order that
only reduces one passes them all: a limit must never keep a position open.
"""

from datetime import UTC, datetime
from math import ceil, inf, isfinite
from typing import Annotated, Literal, NamedTuple

from pydantic import Field

from durable.settings import Settings
from trading.account import DUST, Account, RiskState
from trading.orders import Order

SEVERITY: dict[RiskState, int] = {"ACTIVE": 0, "REDUCING": 1, "HALTED": 2}
SECOND = 10**9
HOUR = 3600.0  # s
STALE_INTERVALS = 3  # bars of silence after which a price is stale, by default
LEAST_STALE = 60.0  # s, however short the bars
STALE_WITHOUT_INTERVAL = 7200.0  # s, for bars by trades or by volume
ORDERS_A_MINUTE = 30
LEVERAGE = 10.0  # of the money that the account was funded with: the default limit on notional
WIDEST_COLLAR = 0.5  # share of the last price, where the collar is `auto`
VOLATILE_AN_HOUR = 0.05  # deviation of log returns an hour above which no exposure is added

Auto = Literal["auto"]
Positive = Annotated[float, Field(gt=0)]


class Limits(Settings):
    """What an order, a position and a day may be. `none` turns a limit off.

    A limit that is `auto` follows the instrument: its price, and the length of its bars.
    """

    max_order_quantity: Positive | Auto | None = Field(
        "auto", description="of an order that adds, units; auto: twice the quantity traded"
    )
    max_order_notional: Positive | Auto | None = Field(
        "auto", description="of such an order, quote currency; auto: 20 times the account's funding"
    )
    max_position: Positive | Auto | None = Field(
        "auto",
        description="held long or short, units; auto: the quantity traded, none where positions are "
        "resized",
    )
    max_notional: Positive | Auto | None = Field(
        "auto",
        description="of the position, long or short, quote currency; auto: 10 times the account's "
        "funding",
    )
    max_orders_per_minute: Annotated[int, Field(ge=1)] | Auto | None = Field(
        "auto",
        description="orders in any 60 s; auto: 30, and one a bar more where positions are resized",
    )
    price_collar: Positive | Auto | None = Field(
        "auto",
        description="a price farther from the last one, as a share of it, is not believed; auto: 12 "
        "deviations of the last bars' returns, from 15% to 50%; 20% a day until those are known",
    )
    collar_bars: int = Field(
        3,
        ge=2,
        description="bars in a row outside the collar and within it of each other that are believed",
    )
    min_volatility: float | None = Field(
        0.0, ge=0, description="below it no exposure is added: deviation of log returns a bar"
    )
    max_volatility: Positive | Auto | None = Field(
        "auto", description="above it, likewise; auto: 5% an hour, and never below 5%"
    )
    volatility_bars: int = Field(
        20, ge=1, description="bars that volatility is taken of; until then no exposure is added"
    )
    stale_seconds: Positive | Auto | None = Field(
        "auto",
        description="silence of the market after which nothing is decided on and no exposure added, "
        "s; auto: three intervals of the bar, at least 60",
    )
    clock_skew: float | None = Field(
        5.0,
        gt=0,
        description="a clock behind a bar, or behind itself, by so much reduces; an event ahead of "
        "the clock by so much is rejected, s",
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

    def resolved(self, quantity: float | None, interval: float | None) -> "Limits":
        """These limits where what is `auto` is a number, but for the notional and the collar.

        Those two follow the account and its last prices; see `most_notional` and `PriceCollar`.

        Args:
            quantity: of a position of 1, units; None where it depends on the price, so that only
                notionals are limited by default, and an order a bar is usual.
            interval: length of a bar, s; None where bars have none.
        """
        hours = max((interval or HOUR) / HOUR, 1.0)
        stale = STALE_WITHOUT_INTERVAL
        if interval is not None:
            stale = max(STALE_INTERVALS * interval, LEAST_STALE)
        often = 0.0 if quantity is not None or interval is None else 60 / interval
        numbers = {
            "max_order_quantity": None if quantity is None else 2 * quantity,
            "max_position": quantity,
            "max_orders_per_minute": ORDERS_A_MINUTE + ceil(often),
            "max_volatility": VOLATILE_AN_HOUR * hours**0.5,
            "stale_seconds": stale,
        }
        changed = {name: value for name, value in numbers.items() if getattr(self, name) == "auto"}
        return self.model_copy(update=changed)


class Breach(NamedTuple):
    """A limit that was met, and the state that it asks for."""

    state: RiskState
    reason: str


class Denial(NamedTuple):
    """Why an order may not be sent."""

    limit: str  # name of the setting or of the rule
    reason: str


def breach(account: Account, limits: Limits) -> Breach | None:  # noqa: PLR0911  # a limit a line
    """The worst limit that the account itself has met; None where there is none."""
    if limits.max_rejects is not None and account.rejects >= limits.max_rejects:
        return Breach("HALTED", f"{account.rejects} orders rejected in a row")
    if account.liquidated:
        return Breach("HALTED", "the venue closed the position and the account")
    if limits.max_faults is not None and account.faults.count(True) >= limits.max_faults:
        return Breach(
            "REDUCING", f"{sum(account.faults)} of the last {len(account.faults)} decisions failed"
        )
    if account.cash is None:
        return None
    equity = account.equity
    if not isfinite(equity):
        return Breach("HALTED", f"equity is {equity}")
    if limits.max_drawdown is not None and equity <= (1 - limits.max_drawdown) * account.peak:
        lost = 1 - equity / account.peak if account.peak > 0 else inf
        return Breach("REDUCING", f"equity is {lost:.1%} below its highest, {_at(account)}")
    if (
        limits.max_daily_loss is not None
        and equity <= (1 - limits.max_daily_loss) * account.day_equity
    ):
        lost = 1 - equity / account.day_equity if account.day_equity > 0 else inf
        return Breach("REDUCING", f"equity lost {lost:.1%} since the day began, {_at(account)}")
    return None


def _at(account: Account) -> str:
    """The time of the bar at hand, as a reason states it."""
    return f"{datetime.fromtimestamp(account.marked // SECOND, UTC):%Y-%m-%d %H:%M} UTC"


def denial(  # noqa: PLR0911  # a rule a line
    order: Order, account: Account, limits: Limits, now: int
) -> Denial | None:
    """Why an order may not be sent under limits that are resolved; None where it may.

    The order is whole: a venue's own largest size comes later.
    """
    if account.state == "HALTED":
        return Denial("HALTED", f"HALTED: {account.reason}")
    if not (0 < order.quantity < inf and 0 < order.price < inf):
        return Denial("order", f"{order.quantity} at {order.price} is no order")
    if account.working is not None:
        return Denial("working order", f"order {account.working.order.id} has not ended")
    if order.id in account.ended:
        return Denial("order id", f"order {order.id} was sent before")
    position = account.position
    after = position + order.signed
    if reduces(position, after):
        return None
    if order.reduce_only:
        reason = f"it is to reduce a position of {position:g}, but would make it {after:g}"
        return Denial("reduce only", reason)
    if account.state == "REDUCING":
        return Denial("REDUCING", f"REDUCING: {account.reason}")
    return _past_limits(order, account, limits, now) or _past_exposure(
        after, order.price, account, limits
    )


def reduces(position: float, after: float) -> bool:
    """Whether a position becomes one that is nearer to zero, and not on its other side."""
    return abs(after) < abs(position) and after * position >= -DUST * DUST


def most_notional(limit: float | str | None, account: Account, orders: int = 1) -> float | None:
    """A limit on notional in quote currency, `auto` a multiple of the funding; None where there is none.

    A limit on orders, of which one may turn a position over, is `orders=2` times that on positions.
    """
    if isinstance(limit, str):
        return None if account.funded is None else orders * LEVERAGE * account.funded
    return limit


def _past_limits(  # a limit a line
    order: Order, account: Account, limits: Limits, now: int
) -> Denial | None:
    quantity = limits.max_order_quantity
    if isinstance(quantity, float) and order.quantity > quantity + DUST:
        reason = f"{order.quantity:g} units are above max_order_quantity, {quantity:g}"
        return Denial("max_order_quantity", reason)
    notional = order.quantity * order.price
    most = most_notional(limits.max_order_notional, account, orders=2)
    if most is not None and notional > most:
        reason = f"a notional of {notional:g} is above max_order_notional, {most:g}"
        return Denial("max_order_notional", reason)
    if isinstance(limits.max_orders_per_minute, int):
        recent = sum(time > now - 60 * SECOND for time in account.order_times)
        if recent >= limits.max_orders_per_minute:
            reason = f"{recent} orders were sent in the last 60 s"
            return Denial("max_orders_per_minute", reason)
    width = WIDEST_COLLAR if limits.price_collar == "auto" else limits.price_collar
    if width is not None and account.anchored and not abs(order.price / account.price - 1) <= width:
        reason = f"{order.price:g} is more than {width:.0%} from the last price, {account.price:g}"
        return Denial("price_collar", reason)
    if isinstance(limits.stale_seconds, float):
        age = (now - account.price_time) / SECOND
        if not age <= limits.stale_seconds:
            return Denial("stale_seconds", f"the last price is {age:.0f} s old")
    return None


def _past_exposure(after: float, price: float, account: Account, limits: Limits) -> Denial | None:
    most = limits.max_position
    if isinstance(most, float) and abs(after) > most + DUST:
        return Denial("max_position", f"a position of {after:g} is past max_position, {most:g}")
    notional = abs(after) * price
    dearest = most_notional(limits.max_notional, account)
    if dearest is not None and notional > dearest:
        reason = f"a position worth {notional:g} is past max_notional, {dearest:g}"
        return Denial("max_notional", reason)
    return _past_volatility(account, limits)


def _past_volatility(account: Account, limits: Limits) -> Denial | None:
    low = limits.min_volatility
    high = limits.max_volatility if isinstance(limits.max_volatility, float) else None
    if low is None and high is None:
        return None
    volatility = account.volatility
    if volatility is None:
        reason = f"volatility is not known before {limits.volatility_bars} bars"
        return Denial("volatility_bars", reason)
    if volatility < (low or 0.0):
        reason = f"volatility is {volatility:.3g} a bar, below min_volatility, {low:g}"
        return Denial("min_volatility", reason)
    if high is not None and volatility > high:
        reason = f"volatility is {volatility:.3g} a bar, above max_volatility, {high:g}"
        return Denial("max_volatility", reason)
    return None
