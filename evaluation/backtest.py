"""A policy over bars: positions, then net returns under the timing contract.

A policy is a *choice*: for every bar, the position it would take out of each position coming in.
Q-values of all three are computed in one batch; what remains of time is an integer recursion.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evaluation.errors import NotFinite
from evaluation.measures import Backtest
from market.accounting import (
    advanced,
    cost,
    drifted,
    earned,
    floor_of,
    growth,
    liquidation_cost,
    money,
    next_position,
    traded,
    wiped_out,
)
from market.table import POSITIONS, MarketTable


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
        NotFinite: a Q-value is not finite.
    """

    def actions(states: NDArray[np.float32]) -> NDArray[Any]:
        values = q_values(states)
        if not np.isfinite(values).all():
            raise NotFinite(f"{table.name}: a Q-value is not finite; the network cannot be judged")
        return values.argmax(axis=1)

    return choice_of(actions, table)


def choice_of(
    actions: Callable[[NDArray[np.float32]], NDArray[Any]], table: MarketTable
) -> NDArray[np.int8]:
    """The choice of a policy that gives indices of actions (n,) for states (n, state_size).

    Shaped as that of `greedy_choice`.
    """
    steps = len(table) - 1
    position = np.repeat(np.array(POSITIONS), steps)
    action = actions(table.states(np.tile(np.arange(steps), 3), position)) - 1
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
    """The same positions, each taken some bars later; flat until then."""
    return np.concatenate([np.zeros(bars, np.int8), positions])[: len(positions)]


def backtest(
    table: MarketTable, positions: NDArray[np.int8], band: float | None = None
) -> Backtest:
    """Accounts for positions held over the steps of a table.

    From ruin on (equity at or below the floor) the account is flat: the position is liquidated and
    nothing is traded any more. The last position is not liquidated: the data end, the market does not.

    Args:
        table: the market.
        positions: wanted over each step, shape (bars - 1,).
        band: a position that stays the same is left to drift with the price while it is within this
            share of its size; none: it is set anew at every fill, as rewards in training have it.
    """
    held = positions.astype(np.int64)
    exposures = held if band is None else within_band(table, held, band)
    previous = np.concatenate([[0], exposures[:-1]])
    terms = table.terms
    paid = cost(terms, previous, exposures)
    net = earned(terms, previous, exposures) - paid
    changed = traded(terms, previous, exposures)
    first = float(terms.price[0])
    equity = _equity(table, net)
    ruined = np.flatnonzero(
        (equity[1:] <= floor_of(table.settings) * first) | wiped_out(terms, net)
    )
    if len(ruined):
        end = ruined[0]
        closing = liquidation_cost(terms, exposures, previous)[end]
        changed[end + 1 :] = 0
        changed[end + 1 : end + 2] = abs(exposures[end])
        exposures = np.where(np.arange(len(held)) <= end, exposures, 0)
        held[end + 1 :] = net[end + 1 :] = paid[end + 1 :] = 0
        net[end] -= closing
        paid[end] += closing
        equity = _equity(table, net)
    return Backtest(
        table,
        held.astype(np.int8),
        exposures.astype(np.float64),
        changed.astype(np.float64),
        money(terms, equity[:-1], paid),
        np.diff(equity) if table.settings.sizing == "equity" else net,
        equity,
        int(ruined[0]) if len(ruined) else None,
    )


def within_band(
    table: MarketTable, positions: NDArray[np.integer], band: float
) -> NDArray[np.float64]:
    """What is held where a position that stays the same is left alone within a band around its size.

    The state of training knows nothing of such drift: a band is for a desk and its backtest.

    Args:
        table: the market.
        positions: wanted over each step, shape (bars - 1,).
        band: in shares of the position's size.

    Returns:
        Exposures after each fill, shape (bars - 1,).

    Raises:
        ValueError: the band is negative or not finite.
    """
    if not 0 <= band < np.inf:
        raise ValueError(f"the band is {band}; it must be a share of at least 0, such as 0.05")
    kind = type(table.terms)
    held = []
    now = 0.0
    before = 0
    for row, wanted in zip(zip(*table.terms, strict=True), positions.tolist(), strict=True):
        share = float(drifted(kind(*row), now))
        stays = wanted == before and abs(share - wanted) <= band * abs(wanted)
        now = share if stays else float(wanted)
        before = wanted
        held.append(now)
    return np.array(held)


def _equity(table: MarketTable, net: NDArray[np.float64]) -> NDArray[np.float64]:
    """Equity at each bar."""
    terms = table.terms
    rewards = np.concatenate([[0.0], np.cumsum(growth(terms, net))])
    return np.asarray(advanced(terms, terms.price[0], rewards))
