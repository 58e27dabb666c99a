"""Synthetic markets: their law, and that the best policy is the best."""

import itertools
import re
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from evaluation.backtest import backtest, follow
from market.accounting import MarketSettings
from market.bars import Bars, BarsError
from market.features import FeaturePipeline, FeatureSettings
from market.source import bars_from
from market.synthetic import MARKETS, OrnsteinUhlenbeck, RandomWalk, RegimeSwitching
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


# --- drift and regimes ---


def value_of(choice: NDArray[np.int8], bars: Bars, fee_rate: float) -> float:
    """What following a choice earned, as a share of the price at each bar."""
    pipeline = FeaturePipeline.fit(bars, FeatureSettings(names=("log_price",)))
    table = MarketTable.of(bars, pipeline, MarketSettings(fee_rate=fee_rate))
    run = backtest(table, follow(choice[: len(table) - 1]))
    return float((run.net / table.terms.price).sum())


def test_a_drift_is_held_where_it_pays_for_the_trade() -> None:
    close = np.full(5, 100.0)
    stay = np.tile([-1, 0, 1], (5, 1))
    for drift in (0.001, -0.001):
        market = RandomWalk(drift=drift)
        # discounted without end, the drift is worth about 0.001 / (1 - 0.98 * 1.001) = 0.052 a unit
        np.testing.assert_array_equal(
            market.best_choice(close, 0.04, 0.98), np.full((5, 3), np.sign(drift))
        )
        np.testing.assert_array_equal(market.best_choice(close, 0.06, 0.98)[:, 1], np.zeros(5))
    np.testing.assert_array_equal(RandomWalk().best_choice(close, 0.001, 0.99), stay)
    with pytest.raises(ValueError, match=r"still grows by a factor of 1\.01 a bar"):
        RandomWalk(drift=0.02).best_choice(close, 0.0, 0.99)


def test_a_walk_grows_by_its_drift() -> None:
    close = RandomWalk(drift=0.0005, sigma=0.01).bars(200_000, seed=2).table["close"].to_numpy()
    change = close[1:] / close[:-1] - 1
    assert change.mean() == pytest.approx(np.expm1(0.0005), abs=3 * 0.01 / np.sqrt(len(change)))


def test_regimes_last_and_beliefs_are_calibrated() -> None:
    market = RegimeSwitching(drift=0.004, switch=0.02)
    close = market.bars(200_000, seed=3).table["close"].to_numpy()
    returns, beliefs = np.diff(np.log(close)), market.beliefs(close)[:-1]
    # the mean return given the belief is what the belief says it is
    for low, high in ((0.0, 0.2), (0.2, 0.5), (0.5, 0.8), (0.8, 1.0)):
        chosen = (beliefs >= low) & (beliefs < high)
        expected = market.drift * (2 * beliefs[chosen] - 1) - market.sigma**2 / 2
        error = 4 * market.sigma / np.sqrt(chosen.sum())
        assert chosen.sum() > 5000
        assert returns[chosen].mean() == pytest.approx(expected.mean(), abs=error)


def test_beliefs_against_bayes_by_enumeration() -> None:
    """Every sequence of hidden regimes, weighted by its prior and its likelihood."""
    market = RegimeSwitching(drift=0.01, switch=0.1, sigma=0.02)
    close = 100 * np.exp(np.cumsum([0.0, 0.02, -0.03, 0.01, 0.015, -0.001]))
    returns = np.diff(np.log(close))
    total = rising = 0.0
    for regimes in itertools.product((1, -1), repeat=len(returns) + 1):
        weight = 0.5
        for before, after in itertools.pairwise(regimes):
            weight *= market.switch if before != after else 1 - market.switch
        for regime, log_return in zip(regimes, returns, strict=False):
            z = (log_return - regime * market.drift + market.sigma**2 / 2) / market.sigma
            weight *= np.exp(-z * z / 2)
        total += weight
        rising += weight * (regimes[-1] == 1)
    assert market.beliefs(close)[-1] == pytest.approx(rising / total, rel=1e-9)


def test_the_best_policy_of_regimes_beats_every_threshold_of_belief() -> None:
    market, fee_rate, gamma = RegimeSwitching(drift=0.004, switch=0.01), 0.004, 0.997
    bars = market.bars(100_000, seed=6)
    close = bars.table["close"].to_numpy()
    earned = value_of(market.best_choice(close, fee_rate, gamma, points=101), bars, fee_rate)
    beliefs = market.beliefs(close)
    assert earned > 0
    for threshold in (0.5, 0.6, 0.7, 0.8, 0.9, 0.97):
        wanted = np.where(beliefs > threshold, 1, np.where(beliefs < 1 - threshold, -1, 2))
        stay = np.tile([-1, 0, 1], (len(close), 1))
        rule = np.where(wanted[:, None] == 2, stay, wanted[:, None]).astype(np.int8)
        assert value_of(rule, bars, fee_rate) <= earned * 1.01


@pytest.mark.parametrize("law", MARKETS.values())
def test_best_choices_are_blind_to_the_future(law: type[Any]) -> None:
    market = law()
    close = market.bars(300, seed=1).table["close"].to_numpy()
    changed = close.copy()
    changed[201:] *= 1.3
    before, after = (market.best_choice(prices, 0.002, 0.98) for prices in (close, changed))
    np.testing.assert_array_equal(before[:201], after[:201])


def test_specifications() -> None:
    bars = bars_from("synthetic:ou?theta=0.1&sigma=0.02&seed=3&bars=500")
    assert bars.content_hash == OrnsteinUhlenbeck(0.1, 0.02).bars(500, seed=3).content_hash
    assert bars.name == "synthetic_ou_s3"
    assert len(bars_from("synthetic:walk")) == 20_000
    assert len(bars_from("synthetic:regime?bars=77")) == 77
    assert bars_from("btcusd_30m").name == "btcusd_30m"


@pytest.mark.parametrize(
    "specification, reason",
    [
        ("", "nothing is no market; there are ou, walk, regime"),
        ("uo?theta=1", "uo is no market"),
        ("ou?drift=1", "drift is no parameter; there are theta, sigma, seed, bars"),
        ("ou?theta=0", "theta is '0'; it must be from 1e-06 to 1"),
        ("ou?sigma=much", "sigma is 'much'; it must be from"),
        ("ou?sigma=nan", "sigma is 'nan'; it must be from"),
        ("walk?seed=1.5", "seed is '1.5'; it must be from"),
        ("walk?bars=1", "bars is '1'; it must be from 2"),
        ("walk?drift=0.1", "its prices outgrow numbers (walk_s1 row"),
        ("regime?switch=", "switch is ''; it must be from"),
    ],
)
def test_specifications_that_are_none(specification: str, reason: str) -> None:
    with pytest.raises(BarsError, match=f"^bars synthetic:.*: {re.escape(reason)}"):
        bars_from(f"synthetic:{specification}")
