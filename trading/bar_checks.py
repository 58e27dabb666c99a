"""Which bars a desk believes, and which it decides on.

A close far from the last one is not believed: one bad print marks nothing and sells nothing. But a price
that stays away is real. From the second bar in a row outside the collar, the limits on losses count it
(`Account.last_price`); once `collar_bars` of them in a row lie within the collar of each other, the new
level is believed, and the desk is REDUCING.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from math import inf
from typing import Any, NamedTuple

from trading.account import Account
from trading.risk import SECOND, WIDEST_COLLAR, Limits

DAY = 86_400.0  # s
COLLAR_A_DAY = 0.2  # share by which a price may move in a day while volatility is not known
COLLAR_DEVIATIONS = 12.0  # of the last returns, by which a price may move once those are known
NARROWEST = 0.15  # half an hour of bitcoin or ether has moved by that, with nothing before it


class OffMarket(NamedTuple):
    """A close outside the collar."""

    reason: str
    level: int  # bars in a row outside the collar, this one included, within it of each other
    moved: float  # from the last believed price, as a share of it


class PriceCollar:
    """How far a close may be from the last one that was believed."""

    def __init__(self, account: Account, limits: Limits, interval: float | None) -> None:
        """Looks at an account without changing it; bars are `interval` s long, None: of no length."""
        self.account = account
        self.limits = limits
        self.interval = interval
        limit = limits.price_collar
        self._surely = inf if limit is None else NARROWEST if isinstance(limit, str) else limit

    def width(self, elapsed: float) -> float | None:
        """By how much of the last price the one `elapsed` s later may differ; None: by any amount.

        By default this is a number of deviations of the last returns, or a share a day until those
        are known; both grow with the square root of time, as a random walk does.
        """
        limit = self.limits.price_collar
        if not isinstance(limit, str):
            return limit
        volatility = self.account.volatility
        if volatility is None:
            width = COLLAR_A_DAY * (max(elapsed, 0.0) / DAY) ** 0.5
        else:
            bars = 1.0 if self.interval is None else max(elapsed / self.interval, 1.0)
            width = COLLAR_DEVIATIONS * volatility * bars**0.5
        return float(min(max(width, NARROWEST), WIDEST_COLLAR))

    def off_market(self, bar: Mapping[str, Any]) -> OffMarket | None:
        """What is wrong with the close of a bar; None where it can follow the last one."""
        account = self.account
        close = bar.get("close")
        if not account.anchored or not isinstance(close, float) or not 0 < close < inf:
            return None
        moved: float = close / account.price - 1
        if -self._surely <= moved <= self._surely:  # at nearly every bar
            return None
        width = self.width((bar["time"] - account.price_time) / SECOND)
        if width is None or abs(moved) <= width:
            return None
        reason = f"{close:g} is more than {width:.0%} from the last price, {account.price:g}"
        return OffMarket(reason, self._level(close), moved)

    def doubts(self, bar: Mapping[str, Any]) -> bool:
        """Whether nothing has confirmed a bar's price yet, so that it may be the feed's fault."""
        return self.account.off_market == 0 and self.off_market(bar) is not None

    def _level(self, close: float) -> int:
        width = self.width(self.interval or 0.0)
        if not self.account.off_market or width is None:
            return 1
        near = abs(close / self.account.off_price - 1) <= width
        return self.account.level + 1 if near else 1


def silence(bar: Mapping[str, Any], now: int, limits: Limits) -> float | None:
    """For how long a market has said nothing that a bar could be decided on, s; None where it has.

    A bar is no ground for a decision where the last event before its close is older than `stale_seconds`
    (of resolved limits), nor where the bar itself is, by the clock: `now`, ns since 1970.
    """
    limit = limits.stale_seconds
    if not isinstance(limit, float):
        return None
    closed: int = bar["time"]
    event: int = bar.get("last_event", closed)
    silent = (closed - event) / SECOND
    age = (now - closed) / SECOND
    return max(silent, age) if silent > limit or age > limit else None


def silence_sentence(bar: Mapping[str, Any], silent: float, interval: float | None) -> str:
    """Why a bar is no ground for a decision: for `silent` s the market said nothing, or the feed."""
    closed: int = bar["time"]
    event: int = bar.get("last_event", closed)
    if event >= closed - (interval or 0) * SECOND:
        return f"bars arrive {silent:.0f} s late, that of {utc(closed)} among them"
    return f"no event for {silent:.0f} s after {utc(event)}"


def utc(ns: int) -> str:
    """A time as sentences state it."""
    return f"{datetime.fromtimestamp(ns // SECOND, UTC):%Y-%m-%d %H:%M:%S} UTC"
