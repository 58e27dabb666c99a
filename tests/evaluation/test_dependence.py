"""Long-run variance against theory, and what it does to ratios, intervals and differences."""

from collections.abc import Callable

import numpy as np
import pytest

from benchmarks.coverage import LAWS, study
from evaluation.dependence import long_run_variance, sharpe_influence
from evaluation.statistics import (
    Estimate,
    Moments,
    deflated_sharpe,
    interquartile_mean,
    minimum_track_record,
    probabilistic_sharpe,
    sharpe_difference,
    sharpe_estimate,
)


def path(coefficient: float, bars: int = 200_000, seed: int = 1) -> np.ndarray:
    made = np.random.default_rng(seed).standard_normal(bars)
    for bar in range(1, bars):
        made[bar] += coefficient * made[bar - 1]
    return made


@pytest.mark.parametrize("coefficient", [0.0, 0.3, -0.3, 0.8, 0.95])
def test_long_run_variance_of_an_autoregression(coefficient: float) -> None:
    """Of x = a x' + e it is 1 / (1 - a)², the variance of e being 1."""
    expected = 1 / (1 - coefficient) ** 2
    assert long_run_variance(path(coefficient)) == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("weights", [(1.0, 0.5), (1.0, 0.6, 0.4, 0.2), (1.0, -0.4)])
def test_long_run_variance_of_a_moving_average(weights: tuple[float, ...]) -> None:
    """Of a sum of weighted noises it is the squared sum of the weights; no autoregression fits it."""
    series = np.convolve(path(0), weights, "valid")
    assert long_run_variance(series) == pytest.approx(sum(weights) ** 2, rel=0.05)


def test_long_run_variance_sees_what_begins_late() -> None:
    """A dependence on the third bar before, and two coefficients: 1 / (1 - sum)² and (1 + 0.5)²."""
    late = np.convolve(path(0), (1, 0, 0, 0.5), "valid")
    assert long_run_variance(late) == pytest.approx(1.5**2, rel=0.05)
    twice = path(0)
    for bar in range(2, len(twice)):
        twice[bar] += 0.5 * twice[bar - 1] + 0.3 * twice[bar - 2]
    assert long_run_variance(twice) == pytest.approx(25, rel=0.05)


def test_long_run_variance_is_that_of_the_fitted_autoregression() -> None:
    """The equations of Yule and Walker, solved outright for every order; the best criterion wins."""
    series = np.random.default_rng(4).standard_t(5, 400).cumsum()[::3] / 3
    x = series - series.mean()
    count = len(x)
    assert count == 134  # whose largest order is 21
    c = np.array([x[lag:] @ x[: count - lag] / count for lag in range(22)])
    found = {}
    for order in range(22):
        lags = abs(np.subtract.outer(np.arange(order), np.arange(order)))
        coefficients = np.linalg.solve(c[lags], c[1 : order + 1]) if order else np.zeros(0)
        variance = c[0] - coefficients @ c[1 : order + 1]
        criterion = np.log(variance) + (count + order) / (count - order - 2)
        total = min(coefficients.sum(), 0.97)
        found[criterion] = variance * count / (count - order) / (1 - total) ** 2
    assert long_run_variance(series) == pytest.approx(found[min(found)], rel=1e-9)


def test_an_autocorrelation_of_one_is_capped() -> None:
    """Of a random walk with steps of variance 1 it has no bound; 1 / 0.03² is the most that is said."""
    walk = path(0, 3000).cumsum()
    assert 0.5 / 0.03**2 < long_run_variance(walk) < 2 / 0.03**2  # the step's variance is overrated
    assert 0 < long_run_variance(np.tile([1.0, -1.0], 50)) < 0.02


@pytest.mark.parametrize(
    "series",
    [
        np.zeros(100),
        np.full(100, 0.1),
        np.array([1.0]),
        np.array([1.0, 2.0]),
        np.array([1.0, 2.0, 1.0]),
        np.array([]),
    ],
)
def test_long_run_variance_of_what_is_short_or_constant(series: np.ndarray) -> None:
    expected = series.var() if len(series) else 0.0
    assert long_run_variance(series) == pytest.approx(expected, abs=1e-20)


def test_the_influence_has_the_variance_of_the_classical_formula() -> None:
    returns = np.random.default_rng(3).gamma(2, 0.01, 500) - 0.015
    moments = Moments.of(returns)
    sharpe = returns.mean() / returns.std()
    classical = 1 - moments.skew * sharpe + (moments.kurtosis - 1) / 4 * sharpe**2
    influence = sharpe_influence(returns)
    assert influence.var() == pytest.approx(classical, rel=1e-12)
    assert influence.mean() == pytest.approx(0, abs=1e-12)
    assert moments.dependence == long_run_variance(influence) / influence.var()
    plain = moments._replace(dependence=1.0)
    assert sharpe_estimate(plain).deviation == pytest.approx((classical / 499) ** 0.5, rel=1e-3)


def test_dependence_is_one_of_independent_returns_and_nine_of_slow_ones() -> None:
    """(1 + a) / (1 - a) at a ratio of zero."""
    for coefficient, expected in ((0.0, 1.0), (0.3, 13 / 7), (-0.3, 7 / 13), (0.8, 9.0)):
        returns = 0.01 * path(coefficient, 50_000)
        found = Moments.of(returns).dependence
        assert found == pytest.approx(expected, rel=0.07)


@pytest.mark.parametrize(
    "ratio",
    [probabilistic_sharpe, lambda m: deflated_sharpe(m, 10, 1e-4), lambda m: m.dependence],
)
def test_autocorrelated_returns_say_less(ratio: Callable[[Moments], float]) -> None:
    together = Moments.of(path(0.8, 2000) + 0.1)
    apart = together._replace(dependence=1.0)
    assert together.dependence > 5
    assert abs(ratio(together) - ratio(apart)) > 0.01
    assert minimum_track_record(together) == pytest.approx(
        1 + together.dependence * (minimum_track_record(apart) - 1)
    )


def test_moments_that_were_stored_without_dependence_mean_what_they_meant() -> None:
    assert Moments(0.05, 400, -0.5, 5.0) == Moments(0.05, 400, -0.5, 5.0, 1.0)
    alone = probabilistic_sharpe(Moments(0.05, 401, 0.0, 3.0))
    assert alone == pytest.approx(0.8411, abs=1e-4)  # of 0.05 * 20 / (1 + 0.05² / 2)^½ = 0.99938


def test_the_probability_and_the_interval_say_the_same() -> None:
    returns = path(0.3, 1500) + 0.04
    moments = Moments.of(returns)
    low, high = sharpe_estimate(moments).interval(0.9)
    assert probabilistic_sharpe(moments, low) == pytest.approx(0.95)
    assert probabilistic_sharpe(moments, high) == pytest.approx(0.05)
    assert (low + high) / 2 == pytest.approx(moments.sharpe)
    alone = sharpe_difference(returns[:, None], np.zeros(1500))
    assert alone.interval(0.9) == pytest.approx((low, high), rel=2e-3)


@pytest.mark.parametrize(
    "returns",
    [
        np.zeros(200),
        np.full(200, 0.01),
        np.array([0.01, -0.01]),
        np.array([0.5]),
        np.array([]),
        np.tile([1.0, -1.0], 100),
        np.concatenate([np.zeros(199), [0.02]]),
        np.concatenate([np.zeros(100), np.full(100, 1e-9)]),
    ],
)
def test_degenerate_returns_give_nan_and_no_crash(returns: np.ndarray) -> None:
    moments = Moments.of(returns)
    estimate = sharpe_estimate(moments)
    probability = probabilistic_sharpe(moments)
    assert np.isnan(probability) == (not estimate.deviation > 0)
    assert np.isnan(moments.sharpe) == np.isnan(moments.dependence)
    assert np.isnan(moments.sharpe) == np.isnan(estimate.interval()[0])
    deflated_sharpe(moments, 5, 0.1)
    minimum_track_record(moments)
    found = sharpe_difference(np.stack([returns, returns], axis=1), np.zeros(len(returns)))
    assert np.isnan(found.value) == (np.isnan(moments.sharpe) and returns.any())


def test_a_variance_of_nothing_is_undefined() -> None:
    assert np.isnan(probabilistic_sharpe(Moments(0.1, 100, 0.0, 3.0, 0.0)))
    assert np.isnan(probabilistic_sharpe(Moments(2.0, 100, 1.0, 2.0 - 1e-9)))


def test_what_never_trades_has_a_ratio_of_zero_in_a_difference() -> None:
    hold = path(0, 500) + 0.1
    flat = np.zeros((500, 3))
    found = sharpe_difference(flat, hold)
    assert found.value == pytest.approx(-Moments.of(hold).sharpe)
    assert found.deviation == pytest.approx(sharpe_estimate(Moments.of(hold)).deviation, rel=1e-2)
    assert sharpe_difference(flat, np.zeros(500)) == Estimate(0.0, 0.0)
    assert np.isnan(sharpe_difference(np.full((500, 2), 0.1), hold).value)


def test_what_is_shared_with_the_benchmark_makes_no_difference_uncertain() -> None:
    hold = path(0.3, 2000)
    same = sharpe_difference(np.stack([hold, hold, hold], axis=1), hold)
    assert same.value == pytest.approx(0, abs=1e-12)
    assert same.deviation == pytest.approx(0, abs=1e-9)


def test_seeds_and_time_are_both_in_the_spread() -> None:
    shared = path(0, 4000)
    own = np.random.default_rng(2).standard_normal((4000, 5))
    flat = np.zeros(4000)
    alike = sharpe_difference(shared[:, None] + 1e-3 * own, flat)
    assert alike.deviation == pytest.approx(1 / 4000**0.5, rel=0.1)
    assert alike.freedom > 1e3
    skills = np.array([-0.4, -0.2, 0, 0.2, 0.4])
    apart = sharpe_difference(shared[:, None] + 0.1 * own + skills, flat)
    assert apart.deviation == pytest.approx((skills.var(ddof=1) / 5) ** 0.5, rel=0.1)
    assert apart.freedom == pytest.approx(2, abs=0.1)  # three seeds in the middle
    independent = sharpe_difference(own, flat)
    assert independent.deviation < 0.75 / 4000**0.5  # not taken for seeds that differ
    ratios = [Moments.of(each).sharpe for each in own.T]
    assert independent.value == pytest.approx(interquartile_mean(ratios))


@pytest.mark.parametrize("seeds", [2, 5])
def test_what_time_alone_makes_of_seeds_is_taken_off_their_spread(seeds: int) -> None:
    """DerSimonian and Laird: squares around the mean sum to (n - 1) between + (1 - 1/n) sum within.

    Every seed has the variance of one alone within it, and the second term is what is left of it once
    their mean is taken off.
    """
    bars = 400
    returns = np.random.default_rng(4).standard_normal((bars, seeds)) + np.linspace(0, 0.5, seeds)
    found = sharpe_difference(returns, np.zeros(bars))
    ratios = np.array([each.mean() / each.std(ddof=1) for each in returns.T])
    influences = np.array([sharpe_influence(each) for each in returns.T])
    mean = influences.mean(axis=0)
    within = sum(long_run_variance(each - mean) for each in influences) / (bars - 1)
    between = (((ratios - ratios.mean()) ** 2).sum() - within) / (seeds - 1) / seeds
    time = long_run_variance(mean) / (bars - 1)
    assert between > 0
    assert found.deviation == pytest.approx((time + between) ** 0.5, rel=1e-9)


def test_bounds_are_of_the_distribution() -> None:
    assert Estimate(1.0, 2.0).lower_bound(0.95) == pytest.approx(1 - 2 * 1.644854)
    assert Estimate(1.0, 2.0, 2.0).lower_bound(0.95) == pytest.approx(1 - 2 * 2.919986)
    assert Estimate(1.0, 2.0).interval(0.9) == pytest.approx((1 - 3.289707, 1 + 3.289707))


@pytest.mark.parametrize("name", LAWS)
def test_false_rate_and_coverage_by_law(name: str) -> None:
    """The study with 200 markets, as far as they can tell: three standard errors of a share."""
    shares = study(LAWS[name], paths=200, bars=1500, bootstrapped=0, seed=5)
    assert abs(shares["false"] - 0.05) < 0.018  # of 1,400 paths
    assert abs(shares["covered at 0"] - 0.9) < 0.025
    for key in ("covered at 0.05", "difference covered"):
        assert abs(shares[key] - 0.9) < 0.064, key
    if name == "AR(0.8)":
        assert shares["before: false"] > 0.2
