"""Bars as arrays: the one table that simulator, Gymnasium environment and backtest walk along."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from market.accounting import (
    EPISODE_BARS,
    MarketSettings,
    bar_terms,
    cost,
    earned,
    fill_prices,
    growth,
    liquidation_cost,
    next_position,
    risk_penalty,
)
from market.bars import Bars, BarsError
from market.calendar import Calendar
from market.features import FeaturePipeline
from market.terms import AnyTerms, EquityTerms, Sizing, Terms, sized, times_cost

MAX_BARS = 2**31 // 27  # times 3 positions, 3 actions, 3 endings: what 31 bits can count
POSITIONS = (-1, 0, 1)  # short, flat, long; also the actions, whose index is action + 1


class Outcomes(NamedTuple):
    """What every action does out of every position: shape (bars - 1, position + 1, action index)."""

    held: NDArray[np.int8]  # the position that the action leads to
    net: NDArray[np.float64]  # earned less costs: the reward before penalties, in its sizing's unit
    penalty: NDArray[np.float64]  # risk penalty, likewise
    closing: NDArray[np.float64]  # what liquidation at the next close takes off the reward


@dataclass(frozen=True)
class MarketTable:
    """Row t is what an agent may know at the close of bar t, and what holding on to t+1 will earn."""

    name: str  # the bars it was made from
    settings: MarketSettings  # costs, fills and ends that `terms` were computed with
    time: NDArray[np.datetime64]  # close of each bar, UTC, shape (bars,)
    close: NDArray[np.float64]  # prices, shape (bars,), float64
    features: NDArray[np.float32]  # shape (bars, features), float32
    # Earnings and costs of each step, each of shape (bars - 1,), float64; in price units, or as the
    # settings' sizing has it.
    terms: AnyTerms
    fill_price: NDArray[np.float64]  # of each step, shape (bars - 1,), float64
    calendar: Calendar  # of the whole data set that the bars are of; ratios are annualised by it
    # Bars whose costs include a spread of their own, above zero, as quoted at the close; shape
    # (bars,).
    quoted: NDArray[np.bool_]

    @classmethod
    def of(cls, bars: Bars, features: FeaturePipeline, settings: MarketSettings) -> "MarketTable":
        """Tabulates bars, leaving out the first rows, without a past for features or a quote for costs.

        Raises `BarsError` where fewer than two bars would be left.
        """
        values, start = features.transform(bars)
        half = None
        if settings.half_spread is None and "bid" in bars.table.columns:
            half = (bars.column("ask") - bars.column("bid")) / 2
            quoted = int(np.argmax(np.isfinite(half)))
            if not np.isfinite(half[quoted]):
                raise BarsError(
                    f"{bars.name}: no bid and ask are known in these bars, but are in others of the same "
                    "source; set market.half_spread, or begin the bars later"
                )
            values = values[max(quoted - start, 0) :]
            start = max(quoted, start)
        if len(values) < 2:
            raise BarsError(f"{bars.name}: {len(bars)} bars; at least {start + 2} are needed")
        open, close = (bars.column(name)[start:] for name in ("open", "close"))
        return cls(
            name=bars.name,
            settings=settings,
            time=bars.table["time"].dt.replace_time_zone(None).to_numpy()[start:],
            close=close,
            features=values,
            terms=bar_terms(open, close, settings, None if half is None else half[start:]),
            fill_price=fill_prices(open, close, settings.fill),
            calendar=bars.calendar,
            quoted=np.zeros(len(close), np.bool_) if half is None else half[start:] > 0,
        )

    def last(self, bars: int) -> "MarketTable":
        """The same market over its last bars alone. Raises `BarsError` where there are fewer."""
        if bars > len(self):
            raise BarsError(
                f"{self.name}: {len(self):,} usable bars, but {bars:,} are asked for; features need a "
                "longer past than there is"
            )
        start = len(self) - bars
        return replace(
            self,
            time=self.time[start:],
            close=self.close[start:],
            features=self.features[start:],
            terms=type(self.terms)(*(term[start:] for term in self.terms)),
            fill_price=self.fill_price[start:],
            quoted=self.quoted[start:],
        )

    def at_costs(self, multiple: float) -> "MarketTable":
        """The same market with the costs of trading and borrowing multiplied by a factor."""
        return replace(self, terms=times_cost(self.terms, multiple))

    def sized(self, sizing: Sizing) -> "MarketTable":
        """The same market, traded in one unit, under another sizing.

        Raises `ValueError` where it is not traded in one unit.
        """
        if self.settings.sizing != "unit":
            raise ValueError(
                f"{self.name}: is sized by {self.settings.sizing}; only a table of one unit can be sized "
                "anew"
            )
        assert isinstance(self.terms, Terms)
        return replace(
            self,
            settings=self.settings.model_copy(update={"sizing": sizing}),
            terms=sized(self.terms, self.fill_price, sizing),
        )

    def __len__(self) -> int:
        """Number of bars; one more than the number of steps."""
        return len(self.features)

    @property
    def episode_bars(self) -> int:
        """Bars after which an episode is truncated: as set, else as many as there are, to a limit."""
        return self.settings.episode_bars or min(EPISODE_BARS, len(self) - 1)

    @property
    def state_size(self) -> int:
        """Length of a state: the features, the position coming in, a bias of one."""
        return int(self.features.shape[1]) + 2

    def states(
        self, bar: NDArray[np.integer], position: NDArray[np.integer]
    ) -> NDArray[np.float32]:
        """States `[features..., position, 1.0]` of shape (n, state_size) for n bars and positions."""
        columns = (self.features[bar], position[:, None], np.ones((len(bar), 1)))
        return np.concatenate(columns, axis=1, dtype=np.float32)

    def outcomes(self) -> Outcomes:
        """The outcome of every action out of every position at every step."""
        terms = type(self.terms)(*(term[:, None, None] for term in self.terms))
        previous = np.array(POSITIONS)[:, None]
        action = np.array(POSITIONS)
        held = next_position(previous, action + 0 * previous, self.settings.scheme)
        net = earned(terms, previous, held) - cost(terms, previous, held)
        reward = growth(terms, net)
        closing = liquidation_cost(terms, held, previous)
        if isinstance(terms, EquityTerms):
            closing = reward - growth(terms, net - closing)
        columns = (reward, risk_penalty(terms, previous, held, self.settings), closing)
        shape = net.shape
        return Outcomes(
            np.broadcast_to(held, shape).astype(np.int8),
            *(np.broadcast_to(column, shape) for column in columns),
        )

    def require_episode(self) -> None:
        """Refuses bars too few for one episode, or too many for a simulated transition's code.

        Raises `BarsError`: names both lengths and the setting.
        """
        if len(self) > MAX_BARS:
            raise BarsError(f"{self.name}: {len(self):,} bars; training takes at most {MAX_BARS:,}")
        needed = self.episode_bars + 1
        if len(self) < needed:
            raise BarsError(
                f"{self.name}: {len(self)} usable bars, but an episode needs {needed}; bring more bars "
                f"or set market.episode_bars to at most {len(self) - 1}"
            )
