"""Market tables of a few prices."""

from market.accounting import MarketSettings
from market.bars import Bars
from market.features import FeaturePipeline, FeatureSettings
from market.table import MarketTable


def table_of(bars: Bars, settings: MarketSettings) -> MarketTable:
    names = FeatureSettings(names=("price_change", "log_price"))
    return MarketTable.of(bars, FeaturePipeline.fit(bars, names), settings)
