"""The data of a run: nothing learned from it knows validation or test."""

from pathlib import Path

import numpy as np
import polars as pl

from evaluation.backtest import backtest
from market.bars import load_bars
from training.data import TrainingData
from training.learn import better
from training.sources import load_settings


def test_what_is_fitted_does_not_see_validation_or_test(tmp_path: Path) -> None:
    bars = load_bars("eurusd_1h").table
    after = pl.int_range(pl.len()) >= round(0.6 * len(bars))
    prices = pl.col("open", "high", "low", "close")
    bars.with_columns(pl.when(after).then(prices * 1.5).otherwise(prices)).write_parquet(
        tmp_path / "other.parquet"
    )
    arguments = ["--features.names", "price_change,log_price", "--bars"]
    runs = []
    for source in ("eurusd_1h", str(tmp_path / "other.parquet")):
        (settings,) = load_settings([*arguments, source])
        runs.append(TrainingData.of(settings))
    one, other = runs
    assert one.features == other.features
    assert one.reward_scale == other.reward_scale
    np.testing.assert_array_equal(one.train.features, other.train.features)
    np.testing.assert_array_equal(one.train.terms.gain, other.train.terms.gain)
    changed = other.validation["close"].features
    assert not np.array_equal(one.validation["close"].features, changed)
    assert one.split.test.content_hash != other.split.test.content_hash


def test_rewards_are_of_order_one_in_learning_units() -> None:
    (settings,) = load_settings([])
    data = TrainingData.of(settings)
    scaled = data.reward_scale * (data.train.terms.carry + data.train.terms.gain)
    np.testing.assert_allclose(scaled.std(), 1)


def test_validation_is_tabulated_under_both_fills() -> None:
    (settings,) = load_settings(["--market.fill", "next_open"])
    data = TrainingData.of(settings)
    assert data.train.settings.fill == "next_open"
    for fill, table in data.validation.items():
        assert table.settings == settings.market.model_copy(update={"fill": fill})


def test_an_earlier_checkpoint_wins_a_tie() -> None:
    (settings,) = load_settings([])
    table = TrainingData.of(settings).validation["close"]
    still = backtest(table, np.zeros(len(table) - 1, np.int8))
    long = backtest(table, np.ones(len(table) - 1, np.int8))
    assert better(still, None)
    assert not better(still, still)
    assert better(long, still)
    assert not better(still, long)
