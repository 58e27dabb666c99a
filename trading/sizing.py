"""From a position to units: how many a desk holds under the sizing that its model was trained with."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from durable.settings import Settings
from market.accounting import MarketSettings, unit_cost
from market.rebalance import rebalance
from trading.account import Account


class DeskSettings(Settings):
    """What a desk trades."""

    quantity: float = Field(
        1.0,
        gt=0,
        description="of a position of 1: units of the instrument, or under sizing equity a share of the "
        "account",
    )
    notional: float | None = Field(
        None,
        gt=0,
        description="of a position of 1 under sizing notional, quote currency; none: what the account "
        "begins with",
    )
    cash: float | None = Field(
        None,
        gt=0,
        description="the account begins with, quote currency; none: the notional, or what the quantity "
        "costs at first",
    )
    band: float | None = Field(
        None,
        ge=0,
        description="share of its size by which a position that stays may drift with the price before it "
        "is set anew; none: set anew at every bar, as in training",
    )

    def funding(self, market: MarketSettings, price: float) -> float:
        """What the account begins with where the first price is known, quote currency."""
        if self.cash is not None:
            return self.cash
        if market.sizing == "notional":
            return self.notional or price
        return price if market.sizing == "equity" else self.quantity * price


class Wanted(NamedTuple):
    """A position to be taken."""

    units: float  # at the last price, below zero where short
    position: float | None  # in full sizes, where an order is sized at its fill; else None
    full: float  # the full size then


class Sizing:
    """Translates between positions of a policy and units of an account."""

    def __init__(self, market: MarketSettings, settings: DeskSettings, account: Account) -> None:
        """Looks at an account without changing it."""
        self.market = market
        self.settings = settings
        self.account = account
        self.resizes = market.sizing != "unit"
        self._half = market.half_spread or 0.0  # of the spread, as set or as last quoted

    @property
    def units(self) -> float | None:
        """Units of a position of 1; None where they depend on the price."""
        return None if self.resizes else self.settings.quantity

    def sizes(self, prices: NDArray[np.float64]) -> NDArray[np.float64]:
        """Units of a position of 1 at prices, shape (prices,), the account being as it began."""
        if not self.resizes:
            return np.full(len(prices), self.settings.quantity)
        funded = self.account.funded or self.settings.funding(self.market, float(prices[0]))
        money = self.settings.quantity * funded
        if self.market.sizing == "notional":
            money = self.settings.notional or funded
        return np.asarray(money / prices)

    @property
    def held(self) -> float:
        """The position held, in full sizes, as the policy's state has it."""
        account = self.account
        if not self.resizes:
            return account.position / self.settings.quantity
        if account.position and not account.exposure:  # of a journal that a model of units began
            return 1.0 if account.position > 0 else -1.0
        return account.exposure

    def wanted(self, position: float, bar: Mapping[str, Any]) -> Wanted:
        """What holding a position, from -1 to 1, comes to now.

        The quotes of the bar are what a trade pays, unless the settings say otherwise.
        """
        account = self.account
        if not self.resizes:
            return Wanted(position * self.settings.quantity, None, 1.0)
        if not position or account.cash is None or not account.equity > 0:
            return Wanted(0.0, None, 1.0)
        if self.market.half_spread is None and bar.get("bid") is not None:
            self._half = (bar["ask"] - bar["bid"]) / 2
        price = account.last_price
        full = self.settings.quantity
        if self.market.sizing == "notional":
            full = self.settings.notional or account.funded or price
        each = unit_cost(price, self._half, self.market)
        sizing = self.market.sizing
        made = rebalance(sizing, position, account.position, account.equity, price, each, full)
        if self._stays(position, made.units):
            return Wanted(account.position, None, 1.0)
        return Wanted(made.units, position, full)

    def _stays(self, position: float, units: float) -> bool:
        """Whether a position that stays is within the band of its size."""
        band = self.settings.band
        if band is None or position != self.account.exposure:
            return False
        return abs(self.account.position - units) <= band * abs(units)
