"""A policy over bars: positions, then net returns under the timing contract.

A policy is a *choice*: for every bar, the position it would take out of each position coming in.
Q-values of all three are computed in one batch; what remains of time is an integer recursion.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from market.accounting import cost, earned, liquidation_cost, next_position
from market.table import POSITIONS, MarketTable

SECONDS_A_YEAR = 365.25 * 24 * 3600


@dataclass(frozen=True)
class Backtest:
    """What holding `positions` earned; one unit of the instrument, equity funded with its first price.

    Attributes:
        table: the market.
        positions: held over each step, shape (bars - 1,).
        costs: paid in each step, price units.
        net: earned less costs in each step, price units.
        equity: at each bar, price units, shape (bars,); the first is the first price.
        ruined: whether equity fell to the floor, so that the rest of the time was spent flat.
    """

    table: MarketTable
    positions: NDArray[np.int8]
    costs: NDArray[np.float64]
    net: NDArray[np.float64]
    equity: NDArray[np.float64]
    ruined: bool

    @property
    def measures(self) -> dict[str, float]:
        """The figures of a run, all net of costs.

        net_return: change of equity, as a share of the first price. sharpe: of the per-bar returns on
        equity, annualised by the number of bars that the data really has a year. max_drawdown: largest
        fall from a peak of equity, as a share of it. position_changes: share of bars with a change.
        turnover: units traded a bar. exposure: share of bars with a position. cost: all costs, as a
        share of the first price. ruined: 1 where equity fell to the floor, else 0.
        """
        returns = self.net / np.maximum(self.equity[:-1], 1e-12)
        span = (self.table.time[-1] - self.table.time[0]) / np.timedelta64(1, "s")
        bars_a_year = len(returns) * SECONDS_A_YEAR / span
        deviation = returns.std()
        peak = np.maximum.accumulate(self.equity)
        traded = abs(np.diff(self.positions.astype(int), prepend=0))
        first = self.equity[0]
        return {
            "net_return": float(self.equity[-1] / first - 1),
            "sharpe": float(returns.mean() / deviation * np.sqrt(bars_a_year))
            if deviation
            else 0.0,
            "max_drawdown": float(np.max(1 - self.equity / peak)),
            "position_changes": float(np.mean(traded > 0)),
            "turnover": float(traded.mean()),
            "exposure": float(np.mean(self.positions != 0)),
            "cost": float(self.costs.sum() / first),
            "ruined": float(self.ruined),
        }


def greedy_choice(
    q_values: Callable[[NDArray[np.float32]], NDArray[np.float32]], table: MarketTable
) -> NDArray[np.int8]:
    """The greedy policy of a Q-function.

    Args:
        q_values: from states (n, state_size) to Q-values (n, 3).
        table: the market.

    Returns:
        Positions of shape (bars - 1, 3); column p is for position p - 1 coming in.

    Raises:
        FloatingPointError: a Q-value is not finite.
    """
    steps = len(table) - 1
    choice = np.empty((steps, 3), np.int8)
    for position in POSITIONS:
        values = q_values(table.states(np.arange(steps), np.full(steps, position)))
        if not np.isfinite(values).all():
            raise FloatingPointError(
                f"{table.name}: a Q-value is not finite; the network cannot be judged"
            )
        action = values.argmax(axis=1).astype(np.int8) - 1
        choice[:, position + 1] = next_position(position, action, table.settings.scheme)
    return choice


def follow(choice: NDArray[np.int8]) -> NDArray[np.int8]:
    """The positions that a choice leads to, from flat; shape (bars - 1,)."""
    positions = []
    position = 0
    for row in choice.tolist():
        position = row[position + 1]
        positions.append(position)
    return np.array(positions, np.int8)


def backtest(table: MarketTable, positions: NDArray[np.int8]) -> Backtest:
    """Accounts for positions held over the steps of a table.

    From ruin on (equity at or below the floor) the account is flat: the position is liquidated and
    nothing is traded any more. The last position is not liquidated: the data end, the market does not.
    """
    held = positions.astype(np.int64)
    previous = np.concatenate([[0], held[:-1]])
    paid = cost(table.terms, previous, held)
    net = earned(table.terms, previous, held) - paid
    first = table.terms.price[0]
    ruined = np.flatnonzero(first + np.cumsum(net) <= table.settings.equity_floor * first)
    if len(ruined):
        end = ruined[0]
        closing = liquidation_cost(table.terms, held)[end]
        held[end + 1 :] = net[end + 1 :] = paid[end + 1 :] = 0
        net[end] -= closing
        paid[end] += closing
    equity = first + np.concatenate([[0.0], np.cumsum(net)])
    return Backtest(table, held.astype(np.int8), paid, net, equity, ruined=bool(len(ruined)))
