"""Markets on which training, backtest and desk must agree."""

from typing import Any

import numpy as np

from evaluation.backtest import follow, greedy_choice
from market.accounting import MarketSettings
from market.bars import Bars
from market.features import FeaturePipeline
from market.source import bars_from
from market.table import MarketTable
from models.bundle import Bundle
from tests.support.bars import bars_of
from tests.support.desks import bundle_for

BARS = 250


NAMES = ("price_change", "log_price")


MARKETS: dict[str, dict[str, Any]] = {
    "quotes": {"fee_rate": 0.0005, "slippage": 0.01},
    "btcusd_30m": {"fee_rate": 0.001, "half_spread": 0.5, "borrow_rate": 1e-5},
    "synthetic:ou?theta=0.05&sigma=0.01&seed=3&bars=300": {"fee_rate": 0.003},
}


def quoted_bars() -> Bars:
    """Bars that open away from the last close, and know bid and ask."""
    rng = np.random.default_rng(9)
    close = 100 * np.exp(np.cumsum(rng.normal(0, 0.01, BARS)))
    open = np.append(close[:1], close[:-1]) * (1 + rng.normal(0, 0.002, BARS))
    table = bars_of(open, close).table
    spread = rng.random(BARS) * 0.05
    return Bars.of("quotes", table.with_columns(bid=close - spread, ask=close + spread))


def bars_named(name: str) -> Bars:
    if name == "quotes":
        return quoted_bars()
    bars = bars_from(name)
    return Bars(bars.name, bars.table[:BARS])


def lively(bars: Bars, settings: MarketSettings) -> tuple[Bundle, MarketTable]:
    """The first network of random weights that there is something to agree on with, and its market."""
    for seed in range(200):
        bundle = bundle_for(bars, NAMES, settings.scheme, seed=seed)
        pipeline = FeaturePipeline.from_schema(bundle.manifest.origin.features)
        table = MarketTable.of(bars, pipeline, settings)
        positions = follow(greedy_choice(bundle.q_values, table))
        if len(np.unique(positions)) == 3 and (np.diff(positions) != 0).sum() > 10:
            return bundle, table
    raise AssertionError("no network trades enough")
