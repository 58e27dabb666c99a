"""What is checked before a desk decides anything.

Is this the market that the model was trained on, and can a position be opened within the limits at all?
"""

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from durable.settings import BadSettings
from models.manifest import TrainedMarket
from trading.account import DUST, Account
from trading.feed import Row
from trading.risk import Limits, most_notional
from trading.settings import TradingSettings
from trading.sizing import Sizing
from trading.startup import Model, market_of

PRICE_SCALE = 10.0  # times the range of training within which a price is of the same scale
Prices = NDArray[np.float64]


class MarketFacts(NamedTuple):
    """What is known of the market that is to be traded; None where it is not known yet."""

    instrument: str | None
    interval: float | None  # of a bar, s; None also where bars have none
    calendar: str | None
    closes: Prices | None
    by_time: bool = True  # whether bars end by the clock, not by trades or by volume


def differences(trained: TrainedMarket, facts: MarketFacts) -> list[str]:
    """In what a market differs from the one of training, each in a sentence; nothing where it does not.

    Instruments are the same where their names are, but for case, punctuation and a bar's length at the
    end: `btcusd_30m` is `BTC-USD`. Prices are of the same scale within ten times the range of training.
    """
    found = []
    if facts.instrument is not None and _plain(facts.instrument) != _plain(trained.instrument):
        found.append(f"instrument {facts.instrument}, trained on {trained.instrument}")
    if not facts.by_time and trained.interval is not None:
        found.append(f"bars by trades or volume, trained on bars of {trained.interval:g} s")
    elif facts.interval is not None and facts.interval != trained.interval:
        was = "none" if trained.interval is None else f"{trained.interval:g} s"
        found.append(f"bars of {facts.interval:g} s, trained on bars of {was}")
    if None not in (facts.calendar, trained.calendar) and facts.calendar != trained.calendar:
        found.append(f"calendar {facts.calendar}, trained on {trained.calendar}")
    if facts.closes is not None and len(facts.closes):
        typical = float(np.median(facts.closes))
        if not trained.lowest / PRICE_SCALE <= typical <= trained.highest * PRICE_SCALE:
            was = f"{trained.lowest:g} to {trained.highest:g}"
            found.append(f"prices around {typical:g}, trained on {was}")
    return found


def _plain(name: str) -> str:
    without_length = re.sub(r"[_-]?\d+\s*(s|m|min|h|d)$", "", name.lower())
    return re.sub(r"[\W_]", "", without_length) or name


class Blocked(NamedTuple):
    """Prices at which no position can be opened."""

    reason: str  # of the limit that is in the way most often
    prices: NDArray[np.bool_]  # shape (prices,): where any is in the way


def blocked(
    closes: Prices,
    sizes: Prices,
    limits: Limits,
    account: Account,
    venue_max_quantity: float | None,
) -> Blocked | None:
    """What keeps a desk from opening a position of 1, of `sizes` units at each close; None: nothing.

    Limits are resolved; those on notional may follow the funding of the account.
    """
    units = {
        "limits.max_position": limits.max_position,
        "limits.max_order_quantity": limits.max_order_quantity,
        "execution.venue_max_quantity": venue_max_quantity,
    }
    notionals = {
        "limits.max_order_notional": most_notional(limits.max_order_notional, account, orders=2),
        "limits.max_notional": most_notional(limits.max_notional, account),
    }
    found: list[Blocked] = []
    for name, most in units.items():
        if isinstance(most, float) and (past := sizes > most + DUST).any():
            reason = f"a position is {sizes.max():,.10g} units, and {name} allows {most:,.10g}"
            found.append(Blocked(reason, past))
    costs = sizes * closes
    for name, most in notionals.items():
        if most is not None and (past := costs > most).any():
            dearest = f"a position of {sizes.max():,.10g} costs up to {costs.max():,.10g}"
            found.append(Blocked(f"{dearest}, and {name} allows {most:,.10g}", past))
    if not found:
        return None
    tightest = max(found, key=lambda each: int(each.prices.sum()))
    anywhere = np.logical_or.reduce([each.prices for each in found])
    return tightest._replace(prices=anywhere)


class Preflight:
    """Whether this market is the model's, and can be traded within the limits.

    Recorded bars are looked at whole, others as soon as their first price is known.
    """

    def __init__(
        self,
        settings: TradingSettings,
        model: Model,
        facts: MarketFacts,
        say: Callable[[str], None],
        continued: bool = False,
        funded: float | None = None,
    ) -> None:
        """Looks at what is known so far.

        A desk that is `continued` from its journal may have a position that must be closed: there,
        limits that would refuse every order that opens one are only said. `funded` is what its
        account began with, quote currency; None where that is still to come. Raises `BadSettings`
        where it is another market and that is not accepted, or no position can be opened.
        """
        self.settings = settings
        self.model = model
        self.facts = facts
        self._say = say
        self._continued = continued
        self._funded = funded
        self._trained = model.bundle.manifest.origin.market
        if self._trained is None:
            say(
                f"{model.name} v{model.version}: its bundle does not say which market it was trained on, "
                "so that could not be checked"
            )
        self._look(facts)

    def watched(self, rows: Iterator[Row | None]) -> Iterator[Row | None]:
        """The rows; the first price is looked at, as above, where prices were not known before."""
        unknown = self.facts.closes is None
        for row in rows:
            if unknown and row is not None:
                unknown = False
                closes = np.array([row["close"]])
                self._look(MarketFacts(row.get("instrument"), None, None, closes))
            yield row

    def _look(self, facts: MarketFacts) -> None:
        self._require_same(facts)
        if facts.closes is not None and len(facts.closes):
            self._require_affordable(facts.closes)

    def _require_same(self, facts: MarketFacts) -> None:
        if self._trained is None:
            return
        found = differences(self._trained, facts)
        if not found:
            return
        model = f"{self.model.name} v{self.model.version}"
        sentence = f"{model}: another market than in training: {'; '.join(found)}"
        if not self.settings.accept_other_market:
            raise BadSettings(
                f"{sentence}; --accept-other-market trades it all the same, and --instrument says what "
                "these bars are of"
            )
        self._say(f"{sentence}; accepted")

    def _require_affordable(self, closes: Prices) -> None:
        market = market_of(self.settings, self.model.bundle)
        funded = self._funded or self.settings.trade.funding(market, float(closes[0]))
        account = Account(funded=funded)
        sizing = Sizing(market, self.settings.trade, account)
        limits = self.settings.limits.resolved(sizing.units, self.facts.interval)
        largest = self.settings.execution.venue_max_quantity
        found = blocked(closes, sizing.sizes(closes), limits, account, largest)
        if found is None:
            return
        if found.prices.all() and not self._continued:
            raise BadSettings(
                f"{found.reason}: every order would be refused; raise that limit, or lower "
                "--trade.quantity"
            )
        first = int(np.argmax(found.prices))
        self._say(
            f"{found.reason}: orders that open one are refused at {found.prices.sum():,} of "
            f"{len(closes):,} bars, first at bar {first + 1:,}"
        )
