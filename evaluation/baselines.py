"""What an agent has to beat, on the same bars, fills and costs."""

import numpy as np

from evaluation.backtest import Backtest, backtest
from market.table import MarketTable


def flat(table: MarketTable) -> Backtest:
    """Never trades."""
    return backtest(table, np.zeros(len(table) - 1, np.int8))


def buy_and_hold(table: MarketTable) -> Backtest:
    """Buys at the first bar, paying for it, and holds."""
    return backtest(table, np.ones(len(table) - 1, np.int8))
