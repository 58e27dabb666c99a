"""A policy over bars: positions, then net returns under the timing contract.

A policy is a *choice*: for every bar, the position it would take out of each position coming in.
Q-values of all three are computed in one batch; what remains of time is an integer recursion.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from evaluation.measures import measures_of
from market.accounting import cost, earned, liquidation_cost, next_position
from market.table import POSITIONS, MarketTable


@dataclass(frozen=True)
class Backtest:
    """What holding `positions` earned; one unit of the instrument, equity funded with its first price.

    Attributes:
        table: the market.
        positions: held over each step, shape (bars - 1,).
        costs: paid in each step, price units.
        net: earned less costs in each step, price units.
        equity: at each bar, price units, shape (bars,); the first is the first price.
        ruined_at: the step in which equity fell to the floor, so that the rest of the time was spent
            flat; None where it never did.
    """

    table: MarketTable
    positions: NDArray[np.int8]
    costs: NDArray[np.float64]
    net: NDArray[np.float64]
    equity: NDArray[np.float64]
    ruined_at: int | None

    @property
    def ruined(self) -> bool:
        """Whether equity fell to the floor."""
        return self.ruined_at is not None

    @property
    def returns(self) -> NDArray[np.float64]:
        """Net of costs, as a share of the equity before each step, shape (bars - 1,)."""
        return self.net / np.maximum(self.equity[:-1], 1e-12)

    @cached_property
    def measures(self) -> dict[str, float]:
        """The figures of a run by name; see `measures_of`."""
        return measures_of(self)


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
    position = np.repeat(np.array(POSITIONS), steps)
    values = q_values(table.states(np.tile(np.arange(steps), 3), position))
    if not np.isfinite(values).all():
        raise FloatingPointError(
            f"{table.name}: a Q-value is not finite; the network cannot be judged"
        )
    action = values.argmax(axis=1) - 1
    held = next_position(position, action, table.settings.scheme)
    return np.ascontiguousarray(held.reshape(3, steps).T, np.int8)


def follow(choice: NDArray[np.int8]) -> NDArray[np.int8]:
    """The positions that a choice leads to, from flat; shape (bars - 1,)."""
    positions = []
    position = 0
    for row in choice.tolist():
        position = row[position + 1]
        positions.append(position)
    return np.array(positions, np.int8)


def delayed(positions: NDArray[np.int8], bars: int = 1) -> NDArray[np.int8]:
    """The same positions, each taken so many bars later; flat until then."""
    return np.concatenate([np.zeros(bars, np.int8), positions])[: len(positions)]


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
    ruined_at = int(ruined[0]) if len(ruined) else None
    return Backtest(table, held.astype(np.int8), paid, net, equity, ruined_at)
