"""Tables and positions to measure."""

import numpy as np

from market.accounting import MarketSettings
from market.bars import Bars
from market.features import FeaturePipeline
from market.table import MarketTable


def table_of(bars: Bars, **market: object) -> MarketTable:
    return MarketTable.of(bars, FeaturePipeline.fit(bars), MarketSettings(**market))


def positions_of(count: int, seed: int, stay: float = 0.9) -> np.ndarray:
    rng = np.random.default_rng(seed)
    drawn, change = rng.integers(-1, 2, count), rng.random(count) > stay
    change[0] = True
    return drawn[np.maximum.accumulate(np.where(change, np.arange(count), 0))].astype(np.int8)
