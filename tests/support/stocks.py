"""A made stock that grew for twenty years."""

import numpy as np

from market.accounting import MarketSettings
from market.bars import Bars
from market.features import FeaturePipeline, FeatureSettings
from market.table import MarketTable

FEE_RATE = 0.001


STOCK_DAYS = 5000


STOCK_YEARS = 20


def tabulated(bars: Bars, fee_rate: float = FEE_RATE) -> MarketTable:
    """Bars traded in one unit."""
    features = FeaturePipeline.fit(bars, FeatureSettings())
    return MarketTable.of(bars, features, MarketSettings(fee_rate=fee_rate, half_spread=0.0))


def grown_stock() -> MarketTable:
    """A made stock: from 1.8 to 40 in twenty years of days, of which the last tenth makes 38%."""
    import polars as pl

    rows = np.arange(STOCK_DAYS)
    knots = [0, STOCK_DAYS * 9 // 10, STOCK_DAYS - 1]
    noise = np.cumsum(np.random.default_rng(10).normal(0, 0.01, STOCK_DAYS))
    bridge = noise - np.interp(rows, knots, noise[knots])
    price = np.exp(np.interp(rows, knots, np.log([1.8, 40 / 1.38, 40])) + bridge)
    day = np.timedelta64(86_400 * 365 * STOCK_YEARS // STOCK_DAYS, "s")
    time = np.datetime64("2005-01-01", "us") + rows * day
    columns = dict.fromkeys(("open", "high", "low", "close"), price)
    bars = Bars.of("made stock", pl.DataFrame({"time": time, **columns, "volume": price * 0 + 1}))
    return tabulated(bars, fee_rate=0.0005)
