"""What an agent has to beat, on the same bars, fills and costs."""

import numpy as np
from numpy.typing import NDArray

from evaluation.backtest import backtest
from evaluation.measures import Backtest
from market.table import MarketTable

LOOKBACK = 24  # bars that momentum and mean reversion look back on


def all_of(table: MarketTable) -> dict[str, Backtest]:
    """The baselines of a report, by name."""
    return {
        "flat": flat(table),
        "buy and hold": buy_and_hold(table),
        "short and hold": short_and_hold(table),
        f"momentum {LOOKBACK}": momentum(table),
        f"mean reversion {LOOKBACK}": mean_reversion(table),
        "perfect foresight": perfect_foresight(table),
    }


def flat(table: MarketTable) -> Backtest:
    """Never trades."""
    return backtest(table, np.zeros(len(table) - 1, np.int8))


def buy_and_hold(table: MarketTable) -> Backtest:
    """Buys at the first bar, paying for it, and holds."""
    return backtest(table, np.ones(len(table) - 1, np.int8))


def short_and_hold(table: MarketTable) -> Backtest:
    """Sells short at the first bar, paying for it and for borrowing, and holds."""
    return backtest(table, np.full(len(table) - 1, -1, np.int8))


def momentum(table: MarketTable, bars: int = LOOKBACK) -> Backtest:
    """Long after a rise over some bars, short after a fall; flat until there is a past."""
    close = table.close
    positions = np.zeros(len(table) - 1, np.int8)
    if len(table) > bars + 1:
        positions[bars:] = np.sign(close[bars:-1] - close[: -bars - 1])
    return backtest(table, positions)


def mean_reversion(table: MarketTable, bars: int = LOOKBACK) -> Backtest:
    """Short above the mean of the last closes, long below; flat until there is a past."""
    sums = np.concatenate([[0.0], np.cumsum(table.close)])
    mean = (sums[bars:] - sums[:-bars]) / bars  # ends at bar bars - 1, bars, ...
    positions = np.zeros(len(table) - 1, np.int8)
    if len(table) > bars:
        positions[bars - 1 :] = -np.sign(table.close[bars - 1 : -1] - mean[:-1])
    return backtest(table, positions)


def random_returns(
    table: MarketTable, positions: NDArray[np.int8], draws: int = 1000, seed: int = 0
) -> NDArray[np.float64]:
    """Net returns of random policies that trade as much as an agent does.

    Each draw is a Markov chain with the frequencies at which the agent went from position to position,
    so that turnover, exposure and holding times are the agent's on average, and timing is luck.

    Args:
        table: the market.
        positions: of the agent, shape (bars - 1,).
        draws: how many.
        seed: of the draws.

    Returns:
        Shape (draws,).
    """
    rng = np.random.default_rng(seed)
    place = positions.astype(np.int64) + 1
    counts = np.zeros((3, 3))
    np.add.at(counts, (np.concatenate([[1], place[:-1]]), place), 1.0)
    unknown = counts.sum(axis=1) == 0  # at most the last bar has it, or none
    counts[unknown, unknown] = 1.0
    levels = np.cumsum(counts / counts.sum(axis=1, keepdims=True), axis=1)[:, :2]
    chains = np.empty((len(place), draws), np.int8)
    now = np.ones(draws, np.int64)
    for step in range(len(place)):
        now = (rng.random((draws, 1), np.float32) > levels[now]).sum(axis=1)
        chains[step] = now - 1
    runs = (backtest(table, chain) for chain in np.ascontiguousarray(chains.T))
    return np.array([run.equity[-1] / run.equity[0] - 1 for run in runs])


def perfect_foresight(table: MarketTable) -> Backtest:
    """The best positions of all, in hindsight and net of costs: the ceiling, by dynamic programming.

    Positions are those that the table's scheme of actions can reach, from flat. Rewards add up, under
    sizing "equity" as growth of the logarithm, so the best sum is the best account.
    """
    outcomes = table.outcomes()
    held = outcomes.held.tolist()
    net = outcomes.net.tolist()
    worth = [0.0, 0.0, 0.0]  # of each position coming in, from here to the end
    best: list[list[int]] = []
    for moves, gains in zip(reversed(held), reversed(net), strict=True):
        ahead = []
        chosen = []
        for to, gain in zip(moves, gains, strict=True):
            values = [g + worth[p + 1] for g, p in zip(gain, to, strict=True)]
            top = max(values)
            ahead.append(top)
            chosen.append(to[values.index(top)])
        worth = ahead
        best.append(chosen)
    position = 0
    positions = []
    for row in reversed(best):
        position = row[position + 1]
        positions.append(position)
    return backtest(table, np.array(positions, np.int8))
