"""Where an account of one unit misleads, and what the same positions are as shares of an account.

An account of one unit is funded with its first price. After the price has multiplied, the unit is many
times the account, or a small part of it: returns, drawdowns and ruin are then those of the leverage, and
not of the policy.
"""

import numpy as np
from numpy.typing import NDArray

from evaluation import baselines
from evaluation.backtest import backtest
from evaluation.measures import Backtest
from market.table import MarketTable

MOST = 1.5  # highest close over the lowest, up to which one unit is about the same size throughout


def price_range(table: MarketTable) -> float:
    """The highest close as a multiple of the lowest."""
    return float(table.close.max() / table.close.min())


def unit_misleads(table: MarketTable) -> bool:
    """Whether one unit is traded over bars whose price changes by more than half."""
    return table.settings.sizing == "unit" and price_range(table) > MOST


def equity_sized(table: MarketTable, positions: NDArray[np.int8]) -> dict[str, Backtest]:
    """The same positions, shape (bars - 1,), and the baselines, as shares of an account.

    The table is of the market traded in one unit.
    """
    anew = table.sized("equity")
    return {"agent": backtest(anew, positions), **baselines.all_of(anew)}
