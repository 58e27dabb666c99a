"""Synthetic markets: their law, and that the best policy is the best."""

import numpy as np
import pytest

from evaluation.backtest import backtest, follow
from market.accounting import MarketSettings
from market.features import FeaturePipeline, FeatureSettings
from market.synthetic import OrnsteinUhlenbeck, RandomWalk
from market.table import MarketTable


def test_random_walk_is_a_martingale_and_repeats_by_seed() -> None:
    bars = RandomWalk(sigma=0.01).bars(200_000, seed=1)
    close = bars.table["close"].to_numpy()
    change = close[1:] / close[:-1] - 1
    assert abs(change.mean()) < 3 * 0.01 / np.sqrt(len(change))
    assert change.std() == pytest.approx(0.01, rel=0.02)
    assert RandomWalk().bars(50, 1).content_hash == RandomWalk().bars(50, 1).content_hash
    assert RandomWalk().bars(50, 1).content_hash != RandomWalk().bars(50, 2).content_hash


def test_mean_reverting_has_the_stationary_law_it_claims() -> None:
    x = np.log(OrnsteinUhlenbeck().bars(200_000, seed=1).table["close"].to_numpy() / 100)
    assert x.std() == pytest.approx(0.01 / np.sqrt(1 - 0.95**2), rel=0.05)
    assert np.corrcoef(x[1:], x[:-1])[0, 1] == pytest.approx(0.95, abs=0.01)


def test_without_cost_the_best_policy_is_the_sign_of_the_drift() -> None:
    close = 100 * np.exp(np.array([-0.05, -0.01, 0.01, 0.05]))
    choice = OrnsteinUhlenbeck().best_choice(close, fee_rate=0.0, gamma=0.99)
    np.testing.assert_array_equal(choice, [[1, 1, 1], [1, 1, 1], [-1, -1, -1], [-1, -1, -1]])


def test_with_cost_the_best_policy_waits_and_beats_every_threshold() -> None:
    market, fee_rate = OrnsteinUhlenbeck(), 0.01
    bars = market.bars(50_000, seed=5)
    features = FeaturePipeline.fit(bars, FeatureSettings(names=("log_price",)))
    table = MarketTable.of(bars, features, MarketSettings(fee_rate=fee_rate))
    close = table.terms.price
    best = market.best_choice(close, fee_rate, gamma=0.99)
    earned = backtest(table, follow(best)).net.sum()
    x = np.log(close / 100)
    assert (best[abs(x) < 0.001] == np.array([-1, 0, 1])).all()  # near the mean: stay as you are
    for threshold in np.linspace(0.0, 0.06, 13):
        wanted = np.where(abs(x) > threshold, -np.sign(x), np.nan)
        stay = np.broadcast_to(np.array([-1, 0, 1]), (len(x), 3))
        rule = np.where(np.isnan(wanted)[:, None], stay, wanted[:, None]).astype(np.int8)
        # Hysteresis with the right threshold is all but optimal here; 1% is the noise of the path.
        assert backtest(table, follow(rule)).net.sum() <= earned * 1.01
