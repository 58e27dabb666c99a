"""Ratios against published numbers and a library, resampling and tests against what is known."""

from itertools import combinations

import numpy as np
import pytest
from arch.bootstrap import SPA
from scipy import stats
from skfolio.measures import deflated_sharpe_ratio, probabilistic_sharpe_ratio

from evaluation.statistics import (
    Moments,
    backtest_overfitting,
    block_length,
    deflated_sharpe,
    expected_best_sharpe,
    interquartile_mean,
    interquartile_mean_interval,
    minimum_track_record,
    probabilistic_sharpe,
    resample,
    superior_ability,
)


def noise(*shape: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.01, shape)


def test_the_published_deflated_sharpe_ratio() -> None:
    """Bailey and Lopez de Prado (2014), the numerical example of section 4."""
    moments = Moments(sharpe=2.5 / 250**0.5, bars=1250, skew=-3, kurtosis=10)
    assert expected_best_sharpe(100, 0.5 / 250) == pytest.approx(0.1132, abs=5e-5)
    assert deflated_sharpe(moments, 100, 0.5 / 250) == pytest.approx(0.9004, abs=5e-5)


def test_ratios_are_those_of_skfolio() -> None:
    returns = stats.skewnorm.rvs(-4, 0.002, 0.02, 800, random_state=3)
    moments = Moments.of(returns)
    trials = np.array([0.02, 0.05, -0.03, 0.08, 0.01])
    for benchmark in (0.0, 0.05):
        theirs = probabilistic_sharpe_ratio(returns, benchmark)
        assert probabilistic_sharpe(moments, benchmark) == pytest.approx(theirs, abs=2e-3)
    theirs = deflated_sharpe_ratio(returns, trials)
    ours = deflated_sharpe(moments, len(trials), float(trials.var(ddof=1)))
    assert ours == pytest.approx(theirs, abs=5e-3)


def test_the_minimum_track_record_is_where_the_probability_is_enough() -> None:
    moments = Moments(0.05, 400, -0.5, 5.0)
    bars = minimum_track_record(moments)
    at = probabilistic_sharpe(moments._replace(bars=round(bars)))
    assert at == pytest.approx(0.95, abs=1e-4)
    assert np.isnan(minimum_track_record(moments._replace(sharpe=-0.01)))


def test_moments_of_what_never_varies_are_undefined() -> None:
    for returns in (np.zeros(50), np.full(50, 0.1), np.array([0.1, 0.2])):
        moments = Moments.of(returns)
        assert np.isnan(moments.sharpe)
        assert np.isnan(probabilistic_sharpe(moments))
        assert np.isnan(deflated_sharpe(moments, 5, 0.1))
        assert np.isnan(minimum_track_record(moments))


def test_moments_by_hand() -> None:
    """1, 2, 6: mean 3, deviations -2, -1, 3, whose squares add up to 14 and cubes to 18."""
    moments = Moments.of(np.array([1.0, 2.0, 6.0]))
    assert moments.sharpe == pytest.approx(3 / 7**0.5)  # 14 over n - 1
    assert moments.bars == 3
    assert moments.skew == pytest.approx(6 / (14 / 3) ** 1.5)
    assert moments.kurtosis == pytest.approx((16 + 1 + 81) / 3 / (14 / 3) ** 2)


def test_returns_that_vary_by_rounding_alone_do_not_vary() -> None:
    assert np.isnan(Moments.of(0.1 + np.array([0, 1e-15, 0, 1e-15])).sharpe)
    assert np.isfinite(Moments.of(0.1 + np.array([0, 1e-12, 0, 1e-12])).sharpe)
    assert np.isnan(Moments.of(np.array([0, 1e-25, 0, 1e-25])).sharpe)
    assert np.isfinite(Moments.of(np.array([0, 1e-23, 0, 1e-23])).sharpe)


def test_one_trial_has_nothing_to_deflate() -> None:
    moments = Moments(0.05, 1000, 0.0, 3.0)
    assert deflated_sharpe(moments, 1, 0.0) == probabilistic_sharpe(moments)
    by_trials = [deflated_sharpe(moments, n, 0.001) for n in (2, 10, 50, 1000)]
    assert by_trials == sorted(by_trials, reverse=True)


def test_resampling_spreads_as_theory_says() -> None:
    returns = noise(2000)
    drawn = resample(returns, draws=600)
    np.testing.assert_allclose(np.log1p(drawn.final).std(), 0.01 * 2000**0.5, rtol=0.15)
    assert drawn.block <= 5
    whole = np.prod(1 + returns) - 1
    assert drawn.final.min() < whole < drawn.final.max()
    assert drawn.paths.shape == (600, len(drawn.marks))
    np.testing.assert_allclose(drawn.paths[:, -1] - 1, drawn.final)
    np.testing.assert_array_equal(drawn.final, resample(returns, draws=600).final)


def test_blocks_are_longer_where_returns_hang_together() -> None:
    shocks = noise(3000, 1)[:, 0]
    slow = np.convolve(shocks, np.ones(30), "valid")[:, None]
    assert block_length(slow) > 5 * block_length(shocks[:, None])
    assert block_length(np.zeros((100, 2))) == 1
    assert block_length(slow[:9]) == 1  # too few to say
    assert block_length(slow[:60]) == 12  # a fifth


def test_what_never_trades_stays_where_it_is_in_every_draw() -> None:
    drawn = resample(np.zeros(300), draws=20)
    assert (drawn.final == 0).all()
    assert (drawn.drawdown == 0).all()


def test_a_drawdown_counts_from_what_the_account_began_with() -> None:
    """A path that only falls lost from its first bar on: it has no peak of its own above 1.0."""
    falling = resample(np.full((50, 1), -0.01), draws=5)
    np.testing.assert_allclose(falling.drawdown, 1 - 0.99**50)
    np.testing.assert_allclose(falling.final, 0.99**50 - 1)
    rising = resample(np.full((50, 1), 0.01), draws=5)
    assert (rising.drawdown == 0).all()
    rng = np.random.default_rng(2)
    returns = rng.normal(-0.002, 0.01, (80, 1))
    drawn = resample(returns, draws=200, points=80)
    equity = np.concatenate([np.ones((200, 1)), drawn.paths], axis=1)
    expected = (1 - equity / np.maximum.accumulate(equity, axis=1)).max(axis=1)
    np.testing.assert_allclose(drawn.drawdown, expected)
    assert (drawn.paths.max(axis=1) < 1).any()


def test_superior_ability() -> None:
    """One real edge among nineteen that have none is seen; without it nothing is."""
    returns = noise(1500, 20)
    flat = np.zeros(1500)
    assert superior_ability(returns, flat) > 0.1
    returns[:, 7] += 0.002
    assert superior_ability(returns, flat) < 0.01
    assert superior_ability(np.zeros((100, 3)), np.zeros(100)) == 1
    again = superior_ability(returns[:, :7], flat, draws=1000, seed=0)
    assert (
        superior_ability(returns[:, :7], flat)
        == again
        != superior_ability(returns[:, :7], flat, seed=1)
    )
    block = block_length(returns)
    theirs = SPA(-flat, -returns, block_size=block, reps=1000, seed=np.random.default_rng(5))
    theirs.compute()
    assert superior_ability(returns, flat, seed=5) == theirs.pvalues["consistent"]


@pytest.mark.parametrize("ratio", [-0.5, -0.1, -0.02, -1e-4])
@pytest.mark.parametrize("trials", [1, 4])
def test_trials_that_are_no_better_in_the_sample_have_a_p_value_of_one(
    ratio: float, trials: int
) -> None:
    """Hansen's statistic is at least zero; with `arch` alone a hopeless trial had p = 0.48."""
    market = noise(600, trials + 1, seed=8)
    market = (market - market.mean(axis=0)) / market.std(axis=0)
    benchmark = 0.01 * market[:, 0]
    worse = benchmark[:, None] + 0.01 * (market[:, 1:] + ratio)
    assert superior_ability(worse, benchmark) == 1
    hopeless = np.zeros(600)
    assert superior_ability(np.hstack([worse, hopeless[:, None] - 0.01]), benchmark) == 1


def test_a_hopeless_trial_beside_a_good_one_changes_little() -> None:
    returns = noise(800, 2, seed=2)
    returns[:, 0] += 0.001
    returns[:, 1] -= 0.01
    flat = np.zeros(800)
    alone = superior_ability(returns[:, :1], flat)
    assert 0 < alone < 0.1
    theirs = SPA(-flat, -returns, block_size=block_length(returns), reps=1000, seed=0)
    assert superior_ability(returns, flat) == pytest.approx(alone, abs=0.02)
    theirs.compute()
    assert superior_ability(returns, flat) == pytest.approx(theirs.pvalues["consistent"], abs=0.02)


def test_superior_ability_says_no_as_often_as_it_should() -> None:
    values = [superior_ability(noise(250, 5, seed=s), np.zeros(250), draws=200) for s in range(60)]
    assert np.mean(np.array(values) < 0.1) <= 0.2


def overfitting(returns: np.ndarray, parts: int) -> float:
    """The definition, written out."""
    blocks, trials = np.array_split(returns, parts), returns.shape[1]
    below = []
    for half in combinations(range(parts), parts // 2):
        inside = np.concatenate([blocks[i] for i in half])
        outside = np.concatenate([blocks[i] for i in range(parts) if i not in half])
        best = (inside.mean(axis=0) / inside.std(axis=0)).argmax()
        ratios = outside.mean(axis=0) / outside.std(axis=0)
        below.append((ratios <= ratios[best]).sum() / (trials + 1) <= 0.5)
    return float(np.mean(below))


@pytest.mark.parametrize("trials", [2, 5, 6])
def test_overfitting_is_the_share_of_divisions(trials: int) -> None:
    returns = noise(400, trials, seed=4)
    assert backtest_overfitting(returns, parts=4) == overfitting(returns, 4)
    assert backtest_overfitting(returns) == overfitting(returns, 10)
    sizes = np.geomspace(0.01, 100, trials)  # which change no Sharpe ratio
    assert backtest_overfitting(returns * sizes) == overfitting(returns, 10)


def test_overfitting_is_none_of_skill_and_half_of_noise() -> None:
    returns = noise(400, 6, seed=4)
    returns[:, 2] += 0.01
    assert backtest_overfitting(returns) == 0
    assert np.isnan(backtest_overfitting(returns[:, :1]))
    on_noise = [backtest_overfitting(noise(300, 10, seed=s)) for s in range(40)]
    assert 0.35 < np.mean(on_noise) < 0.65


def test_the_interval_is_stratified_by_window() -> None:
    """Windows that differ from one another do not make seeds uncertain."""
    windows = np.tile([0.5, -0.5, 0.1, 0.0], (5, 1)) + noise(5, 4) / 100
    low, high = interquartile_mean_interval(windows)
    assert high - low < 0.01


def test_interquartile_mean_leaves_a_quarter_out_at_either_end() -> None:
    assert interquartile_mean([100, 2, 3, 4, 5, 6, 7, -100]) == pytest.approx(4.5)
    assert interquartile_mean([1, 5, 3]) == pytest.approx(3)  # of three nothing is left out


def test_the_interval_covers_as_often_as_it_says() -> None:
    """Of 20 normal values about 0, 95% of intervals hold 0, as far as 200 tries and n = 20 can tell."""
    rng = np.random.default_rng(1)
    held = []
    for _ in range(200):
        low, high = interquartile_mean_interval(rng.normal(size=20))
        held.append(low <= 0 <= high)
    assert 0.86 <= np.mean(held) <= 0.99


def test_a_seed_decides_the_interval() -> None:
    values = [0.1, 0.5, -0.2, 0.9, 0.3]
    assert interquartile_mean_interval(values, 3) == interquartile_mean_interval(values, 3)
