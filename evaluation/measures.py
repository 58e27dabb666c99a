"""What a backtest leaves, and its figures, all net of costs unless they say otherwise.

A ratio without a denominator (no trade, no loss, no variation) is not a number: NaN, shown as a dash,
never zero or infinite.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import isnan

import numpy as np
from numpy.typing import NDArray

from market.accounting import carried, cost, earned, growth, money
from market.table import MarketTable
from market.terms import times_cost

NAN = float("nan")
# Measures that are compared, and how each is written.
COMPARED = {
    "net_return_close": "{:+.1%}",
    "net_return_next_open": "{:+.1%}",
    "sharpe": "{:+.2f}",
    "max_drawdown": "{:.1%}",
    "position_changes": "{:.2%}",
    "cost": "{:.1%}",
}


@dataclass(frozen=True)
class Backtest:
    """What holding `positions` made of an account.

    The account is funded with what the full size costs at the start: the first price for one unit, else
    1, which is N or all there is.
    """

    table: MarketTable  # the market
    positions: NDArray[np.int8]  # held over each step, shape (bars - 1,)
    # The same as really held after each fill, which differs where a band has left a position to
    # drift: units, shares of N, or shares of the account.
    exposures: NDArray[np.float64]
    # At each fill, likewise. A liquidation is counted in the step after it.
    traded: NDArray[np.float64]
    costs: NDArray[np.float64]  # paid in each step, in the account's unit
    # Earned less costs in each step, in the account's unit: the change of equity.
    net: NDArray[np.float64]
    equity: NDArray[np.float64]  # at each bar, in the account's unit, shape (bars,)
    # The step in which equity fell to the floor, so that the rest of the time was spent flat; None
    # where it never did.
    ruined_at: int | None

    @property
    def ruined(self) -> bool:
        """Whether equity fell to the floor."""
        return self.ruined_at is not None

    @property
    def returns(self) -> NDArray[np.float64]:
        """Net of costs, as a share of the equity before each step, shape (bars - 1,)."""
        return self.net / np.maximum(self.equity[:-1], 1e-12)

    def returns_from(self, starts: Sequence[int]) -> NDArray[np.float64]:
        """Net returns of the stretches that begin at these steps, each until the next one begins.

        Shares of what the full size was worth at a stretch's start: of its first price, of N, or of the
        account.
        """
        rows = np.asarray(starts)
        earnings = np.add.reduceat(self.net, rows)
        equity_sized = self.table.settings.sizing == "equity"
        worth = self.equity[rows] if equity_sized else self.table.terms.price[rows]
        return np.asarray(earnings / worth)

    @cached_property
    def measures(self) -> dict[str, float]:
        """The figures of a run by name; see `measures_of`."""
        return measures_of(self)


def measures_of(run: Backtest) -> dict[str, float]:
    """What a backtest comes to.

    Returns:
        net_return, gross_return, cost: changes of equity, and all costs, as shares of the equity at the
            start, which is the first price where one unit is traded.
        sharpe, sortino: of the returns on equity, annualised by the calendar of the whole data set; of an
            account that was ruined NaN. Deviations are the sample's (n - 1); Sortino's is the root
            mean square of the returns below zero.
        max_drawdown: largest fall of equity from a peak, as a share of it. drawdown_bars: the longest
            time from a peak until equity was there again, or the data ended.
        calmar: net return a year (in proportion to time) over max_drawdown.
        trades: times that a position was taken. position_changes: share of bars with a change.
        turnover: traded a bar: units, shares of N, or shares of the account, rebalancing included.
            exposure: share of bars with a position.
        hit_rate: share of trades that made money. profit_factor: what those made over what the others
            lost. holding_bars: mean length of a trade.
        action_entropy: of the three positions' frequencies, bits.
        break_even: times the costs at which nothing would be left, gross earnings over costs (where
            equity compounds, found by iteration); NaN where there is nothing to break even with, or the
            account was ruined.
        ruined: 1 where equity fell to the floor, else 0.
    """
    returns = run.returns
    first = float(run.equity[0])
    bars_per_year = run.table.calendar.bars_per_year
    fall = 1 - run.equity / np.maximum.accumulate(run.equity)
    deepest = float(fall.max())
    net_return = float(run.equity[-1] / first - 1)
    total_cost = float(run.costs.sum())
    gross = float((run.net + run.costs).sum())
    changed = np.diff(run.positions.astype(int), prepend=0) != 0
    profits, lengths = _trades(run)
    losses = -float(profits[profits < 0].sum())
    downside = float(np.sqrt(np.mean(np.minimum(returns, 0) ** 2)))
    mean = float(returns.mean()) if not run.ruined else NAN
    year = np.sqrt(bars_per_year)
    return {
        "net_return": net_return,
        "gross_return": gross / first,
        "cost": total_cost / first,
        "sharpe": _ratio(mean, _deviation(returns)) * year,
        "sortino": _ratio(mean, downside) * year,
        "max_drawdown": deepest,
        "drawdown_bars": float(_longest(fall > 0)),
        "calmar": _ratio(NAN if run.ruined else net_return, deepest) * bars_per_year / len(returns),
        "trades": float(len(profits)),
        "position_changes": float(np.mean(changed)),
        "turnover": float(run.traded.mean()),
        "exposure": float(np.mean(run.positions != 0)),
        "hit_rate": _ratio(float((profits > 0).sum()), float(len(profits))),
        "profit_factor": _ratio(float(profits[profits > 0].sum()), losses),
        "holding_bars": _ratio(float(lengths.sum()), float(len(lengths))),
        "action_entropy": _entropy(run.positions),
        "break_even": _break_even(run, gross, total_cost),
        "ruined": float(run.ruined),
    }


def trade_profits(run: Backtest) -> NDArray[np.float64]:
    """What each trade made, in the account's unit, in their order; together the change of equity.

    A trade lasts from taking a position to giving it up, or to the end of the data. A step in which a
    position is turned belongs to both: earnings until the fill and half of the cost to the old one.
    """
    return _trades(run)[0]


def _trades(run: Backtest) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    held = run.positions.astype(np.int64)
    previous = np.concatenate([[0], held[:-1]])
    opens = (held != 0) & (held != previous)
    count = int(opens.sum())
    number = np.cumsum(opens)  # of the trade in each step, from 1; 0 before any
    before = np.concatenate([[0], number[:-1]])  # of the one that comes in
    closes = (previous != 0) & (held != previous)
    live = np.arange(len(held)) <= (len(held) if run.ruined_at is None else run.ruined_at)
    units = closes.astype(float) + opens
    share = np.divide(closes, units, out=np.zeros(len(units)), where=units > 0)
    terms = run.table.terms
    before_fill = np.concatenate([[0.0], run.exposures[:-1]])
    turning = money(terms, run.equity[:-1], terms.entry_cost * run.traded)
    kept = money(terms, run.equity[:-1], carried(terms, before_fill))
    old = live * (kept * (held != previous) - share * turning)
    old = np.where(closes & ~opens, run.net, old)  # what a ruin leaves uncounted included
    new = run.net - old
    profits = np.bincount(before, old, count + 1) + np.bincount(
        np.where(held != 0, number, 0), new, count + 1
    )
    lengths = np.bincount(np.where(held != 0, number, 0), minlength=count + 1)
    return profits[1:], lengths[1:].astype(np.float64)


def _break_even(run: Backtest, gross: float, total_cost: float) -> float:
    """Times the costs at which the same positions would leave nothing."""
    if run.ruined or gross <= 0 or total_cost <= 0:
        return NAN
    if run.table.settings.sizing != "equity":  # costs are in proportion
        return gross / total_cost
    before = np.concatenate([[0.0], run.exposures[:-1]])

    def log_growth(multiple: float) -> float:
        terms = times_cost(run.table.terms, multiple)
        net = earned(terms, before, run.exposures) - cost(terms, before, run.exposures)
        return float(growth(terms, net).sum())

    # Growth falls almost in a line with the costs: secants close in within a few steps.
    (low, above) = (0.0, log_growth(0.0))
    (high, below) = (1.0, log_growth(1.0))
    if above <= 0:
        return NAN
    for _ in range(50):
        if abs(below) < 1e-12 or below == above:
            break
        low, high, above = high, high - below * (high - low) / (below - above), below
        below = log_growth(high)
    return high


def _deviation(returns: NDArray[np.float64]) -> float:
    """Of the sample; zero where differences are those of rounding."""
    if len(returns) < 2:
        return 0.0
    deviation = float(returns.std(ddof=1))
    return deviation if deviation > 1e-12 * max(float(abs(returns).max()), 1e-12) else 0.0


def _ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator > 0 else NAN


def _longest(under: NDArray[np.bool_]) -> int:
    """Length of the longest run of true values."""
    ends = np.flatnonzero(np.diff(np.concatenate([[False], under, [False]]).astype(int)))
    return int((ends[1::2] - ends[::2]).max(initial=0))


def _entropy(positions: NDArray[np.int8]) -> float:
    shares = np.bincount(positions + 1, minlength=3) / len(positions)
    shares = shares[shares > 0]
    return float(abs(-(shares * np.log2(shares)).sum()))


def cells(measures: Mapping[str, float]) -> list[str]:
    """The measures that are compared, as text."""
    return [
        "-" if isnan(measures[name]) else form.format(measures[name])
        for name, form in COMPARED.items()
    ]
