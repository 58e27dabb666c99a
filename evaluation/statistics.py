"""How much of a result is luck: ratios corrected for length, shape and trials, resampling, snooping.

Sharpe ratios here are a bar's, not annualised, unless they say so.
"""

from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Returns = NDArray[np.float64]
EULER = float(np.euler_gamma)
NAN = float("nan")


class Moments(NamedTuple):
    """What the ratios below need to know of returns."""

    sharpe: float  # mean over deviation, a bar; NaN where returns never vary
    bars: int
    skew: float
    kurtosis: float  # of a normal distribution 3

    @classmethod
    def of(cls, returns: Returns) -> "Moments":
        """The moments of returns, shape (bars,)."""
        if len(returns) < 3 or np.ptp(returns) <= 1e-12 * max(abs(returns).max(), 1e-12):
            return cls(NAN, len(returns), NAN, NAN)
        sharpe = float(returns.mean() / returns.std(ddof=1))
        skew, kurtosis = stats.skew(returns), stats.kurtosis(returns, fisher=False)
        return cls(sharpe, len(returns), float(skew), float(kurtosis))


def probabilistic_sharpe(moments: Moments, benchmark: float = 0.0) -> float:
    """The probability that the true Sharpe ratio is above a benchmark.

    Bailey and López de Prado (2012), "The Sharpe Ratio Efficient Frontier", equation 11, with the
    estimate's standard deviation at the observed ratio.
    """
    deviation = _sharpe_variance(moments) ** 0.5
    return float(
        stats.norm.cdf((moments.sharpe - benchmark) * (moments.bars - 1) ** 0.5 / deviation)
    )


def expected_best_sharpe(trials: int, variance: float) -> float:
    """The Sharpe ratio that the best of so many trials without any skill is expected to show.

    Bailey and López de Prado (2014), "The Deflated Sharpe Ratio", equation 1; of one trial zero.
    """
    if trials < 2:
        return 0.0
    share = 1 / trials
    normal = stats.norm.ppf
    best = (1 - EULER) * normal(1 - share) + EULER * normal(1 - share / np.e)
    return float(variance**0.5 * best)


def deflated_sharpe(moments: Moments, trials: int, variance: float) -> float:
    """The probability that the true Sharpe ratio is above zero, given that it is the best of trials.

    Bailey and López de Prado (2014), equation 2.

    Args:
        moments: of the returns.
        trials: how many configurations were tried.
        variance: of their Sharpe ratios, a bar.
    """
    return probabilistic_sharpe(moments, expected_best_sharpe(trials, variance))


def minimum_track_record(moments: Moments, benchmark: float = 0.0, level: float = 0.95) -> float:
    """Bars after which a Sharpe ratio such as this is above the benchmark at a level of confidence.

    Bailey and López de Prado (2012), equation 13; NaN where it is not above at all.
    """
    above = moments.sharpe - benchmark
    if not above > 0:
        return NAN
    return float(1 + _sharpe_variance(moments) * (stats.norm.ppf(level) / above) ** 2)


def _sharpe_variance(moments: Moments) -> float:
    """Times bars - 1: of the estimate of a Sharpe ratio, for returns that are not normal."""
    sharpe = moments.sharpe
    return 1 - moments.skew * sharpe + (moments.kurtosis - 1) / 4 * sharpe**2


class Resampled(NamedTuple):
    """What stationary bootstraps of several series over the same bars gave, in draws."""

    sharpe: NDArray[np.float64]  # (draws, series), a bar
    final: NDArray[np.float64]  # (draws,), net return of the first series
    drawdown: NDArray[np.float64]  # (draws,), of the first series
    paths: NDArray[np.float64]  # (draws, points), equity of the first series, at `marks`
    marks: NDArray[np.intp]  # bars of `paths`, shape (points,)
    block: int  # mean length of a block, bars


def resample(returns: Returns, draws: int = 2000, seed: int = 0, points: int = 120) -> Resampled:
    """Resamples series together, in blocks of random length, so that what depends on time stays.

    Politis and Romano (1994), "The Stationary Bootstrap"; the mean length of a block by Politis and
    White (2004) with the correction of 2009, the largest over the series (`arch`).

    Args:
        returns: of shape (bars, series).
        draws: how many.
        seed: of the draws.
        points: how many bars of a path are kept.
    """
    from arch.bootstrap import StationaryBootstrap

    bars = len(returns)
    block = block_length(returns)
    bootstrap = StationaryBootstrap(block, np.arange(bars), seed=np.random.default_rng(seed))
    marks = np.unique(np.linspace(0, bars - 1, min(points, bars)).astype(np.intp))
    sharpe = np.empty((draws, returns.shape[1]))
    final, drawdown, paths = np.empty(draws), np.empty(draws), np.empty((draws, len(marks)))
    with np.errstate(divide="ignore", invalid="ignore"):
        for draw, ((rows,), _) in enumerate(bootstrap.bootstrap(draws)):
            drawn = returns[rows]
            sharpe[draw] = drawn.mean(axis=0) / drawn.std(axis=0, ddof=1)
            equity = np.cumprod(1 + drawn[:, 0])
            peak = np.maximum(np.maximum.accumulate(equity), 1.0)
            final[draw], drawdown[draw] = equity[-1] - 1, (1 - equity / peak).max()
            paths[draw] = equity[marks]
    sharpe[~np.isfinite(sharpe)] = 0.0  # of what never trades
    return Resampled(sharpe, final, drawdown, paths, marks, block)


def block_length(returns: Returns) -> int:
    """Mean block length of the stationary bootstrap, bars; at least one, at most a fifth of them."""
    from arch.bootstrap import optimal_block_length

    moving = returns[:, np.ptp(returns, axis=0) > 0]
    if not moving.shape[1] or len(returns) < 10:
        return 1
    found = float(optimal_block_length(moving)["stationary"].max())
    return round(min(max(found, 1.0), len(returns) / 5)) if np.isfinite(found) else 1


def superior_ability(
    returns: Returns, benchmark: Returns, draws: int = 1000, seed: int = 0
) -> float:
    """The p-value of: none of these trials is better than the benchmark.

    Hansen (2005), "A Test for Superior Predictive Ability", the consistent version. His statistic is
    the best trial's mean less the benchmark's, but at least zero; where no trial is better it is zero,
    which every draw reaches, and the p-value is 1. `arch`, which draws, leaves "at least zero" out: a
    hopeless trial is not recentred, its draws are compared with its own mean, and half are above. Nor
    does it divide means by their deviations: what varies most weighs most.

    Args:
        returns: of all trials, shape (bars, trials).
        benchmark: shape (bars,).
        draws: of the bootstrap.
        seed: of the draws.
    """
    from arch.bootstrap import SPA

    better = returns - benchmark[:, None]
    moving = np.ptp(better, axis=0) > 0
    if not (better[:, moving].mean(axis=0) > 0).any():
        return 1.0
    trials = returns[:, moving]
    block = block_length(trials - benchmark[:, None])
    test = SPA(-benchmark, -trials, block_size=block, reps=draws, seed=np.random.default_rng(seed))
    test.compute()
    return float(test.pvalues["consistent"])


def backtest_overfitting(returns: Returns, parts: int = 10) -> float:
    """The share of divisions in which the best trial of one half is below the median in the other.

    Bailey, Borwein, López de Prado and Zhu (2017), "The Probability of Backtest Overfitting": all ways
    to choose half of the parts, best by Sharpe ratio. On noise it is 0.5 on average, but wide.

    Args:
        returns: of all trials, shape (bars, trials); at least two.
        parts: that time is divided into, an even number.
    """
    if returns.shape[1] < 2 or len(returns) < 2 * parts:
        return NAN
    blocks = np.array_split(returns, parts)
    sums = np.array([block.sum(axis=0) for block in blocks])
    squares = np.array([(block**2).sum(axis=0) for block in blocks])
    counts = np.array([len(block) for block in blocks])

    def sharpe(chosen: list[int]) -> NDArray[np.float64]:
        count = counts[chosen].sum()
        mean = sums[chosen].sum(axis=0) / count
        variance = np.maximum(squares[chosen].sum(axis=0) / count - mean**2, 0)
        ratio: NDArray[np.float64] = np.zeros_like(mean)
        np.divide(mean, variance**0.5, out=ratio, where=variance > 0)
        return ratio

    below = []
    for half in combinations(range(parts), parts // 2):
        rest = [part for part in range(parts) if part not in half]
        best = sharpe(list(half)).argmax()
        out = sharpe(rest)
        rank = stats.rankdata(out)[best] / (len(out) + 1)
        below.append(rank <= 0.5)
    return float(np.mean(below))


def interquartile_mean(values: ArrayLike) -> float:
    """The mean of the middle half, robust to single seeds.

    Agarwal et al. (2021), "Deep Reinforcement Learning at the Edge of the Statistical Precipice".
    """
    return float(stats.trim_mean(np.asarray(values, float), 0.25, axis=None))


def interquartile_mean_interval(values: ArrayLike, seed: int = 0) -> tuple[float, float]:
    """A 95% percentile bootstrap interval of the interquartile mean, over runs.

    Args:
        values: one figure a run, shape (runs,), or (runs, windows): then runs are drawn anew within each
            window, which is the stratified bootstrap of Agarwal et al. (2021).
        seed: of the resampling, 10,000 times.
    """
    columns = np.asarray(values, float)
    columns = columns.reshape(len(columns), -1)
    runs, strata = columns.shape
    drawn = np.random.default_rng(seed).integers(runs, size=(10_000, runs, strata))
    resampled = np.take_along_axis(columns[None], drawn, axis=1).reshape(10_000, -1)
    low, high = np.quantile(stats.trim_mean(resampled, 0.25, axis=1), [0.025, 0.975])
    return float(low), float(high)


def seeds_over_time(sharpe: NDArray[np.float64], seed: int = 0) -> NDArray[np.float64]:
    """The interquartile mean over seeds that are drawn anew in every draw of `resample`.

    So what depends on the stretch of time and what depends on the seed are both in the spread.

    Args:
        sharpe: of shape (draws, seeds).
        seed: of the draws.
    """
    draws, seeds = sharpe.shape
    chosen = np.random.default_rng(seed).integers(seeds, size=(draws, seeds))
    drawn = np.take_along_axis(sharpe, chosen, axis=1)
    return np.asarray(stats.trim_mean(drawn, 0.25, axis=1), np.float64)
