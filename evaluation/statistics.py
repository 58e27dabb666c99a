"""How much of a result is luck: ratios corrected for length, shape and trials, resampling, snooping.

Sharpe ratios here are a bar's, not annualised, unless they say so.
"""

from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr, ndtri, stdtrit  # scipy.stats takes a second to import

from evaluation.dependence import long_run_variance, sharpe_influence, varies

Returns = NDArray[np.float64]
EULER = float(np.euler_gamma)
NAN = float("nan")


class Moments(NamedTuple):
    """What the ratios below need to know of returns."""

    sharpe: float  # mean over deviation, a bar; NaN where returns never vary
    bars: int
    skew: float
    kurtosis: float  # of a normal distribution 3
    # Variance of the ratio's estimate over what it would be were these returns independent.
    dependence: float = 1.0

    @classmethod
    def of(cls, returns: Returns) -> "Moments":
        """The moments of returns, shape (bars,)."""
        if not varies(returns):
            return cls(NAN, len(returns), NAN, NAN, NAN)
        sharpe = float(returns.mean() / returns.std(ddof=1))
        z = (returns - returns.mean()) / returns.std()
        skew = float(np.mean(z**3))
        kurtosis = float(np.mean(z**4))
        influence = sharpe_influence(returns)
        independent = float(influence.var())
        dependence = long_run_variance(influence) / independent if independent > 1e-12 else NAN
        return cls(sharpe, len(returns), skew, kurtosis, dependence)


class Estimate(NamedTuple):
    """A number that was estimated, and how far it is from the true one."""

    value: float
    deviation: float  # standard error
    freedom: float = float("inf")  # degrees of freedom of Student's distribution

    def lower_bound(self, level: float) -> float:
        """What the true number is above, at a level of confidence; NaN where undefined."""
        return float(self.value - stdtrit(self.freedom, level) * self.deviation)

    def interval(self, level: float = 0.9) -> tuple[float, float]:
        """What the true number is between, at a level of confidence; NaN where undefined."""
        low = self.lower_bound((1 + level) / 2)
        return low, 2 * self.value - low


def sharpe_estimate(moments: Moments) -> Estimate:
    """The Sharpe ratio of returns with its standard error; NaN where they never vary."""
    variance = _sharpe_variance(moments) / max(moments.bars - 1, 1)
    return Estimate(moments.sharpe, variance**0.5)


def sharpe_difference(returns: Returns, benchmark: Returns) -> Estimate:
    """The interquartile mean of the seeds' Sharpe ratios, less that of a benchmark.

    Two things make it uncertain. *The stretch of time*: the long-run variance of what each bar
    contributes, of the mean over seeds less the benchmark's, as Ledoit and Wolf (2008) have it for two
    series. *The seeds*: the variance of their ratios beyond what time alone makes of agents that do
    not trade alike (DerSimonian and Laird 1986), over their number. The distribution is Student's with
    the degrees of freedom of Satterthwaite (1946), the seeds of the middle half being all that count.

    Args:
        returns: of all seeds, shape (bars, seeds). What never trades has a ratio of zero here.
        benchmark: shape (bars,); zeros are holding nothing.

    Returns:
        NaN where one of them earns the same, but for zero, in every bar.
    """
    bars, seeds = returns.shape
    ratios, influences = _ratios(returns)
    (less,), (less_influence,) = _ratios(benchmark[:, None])
    value = interquartile_mean(ratios) - float(less)
    together = influences.mean(axis=0)
    count = max(bars - 1, 1)
    time = long_run_variance(together - less_influence) / count
    if seeds == 1:
        return Estimate(value, time**0.5)
    apart = [long_run_variance(each - together) / count for each in influences]
    spread = float(ratios.var(ddof=1)) - sum(apart) / (seeds - 1)
    between = max(spread, 0.0) / seeds
    middle = seeds - 2 * (seeds // 4)
    freedom = (middle - 1) * (1 + time / between) ** 2 if between > 0 else float("inf")
    return Estimate(value, (time + between) ** 0.5, freedom)


def _ratios(returns: Returns) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sharpe ratio of each column, shape (series,), and its influence, shape (series, bars)."""
    columns = returns.T
    ratios = np.zeros(len(columns))
    influences = np.zeros(columns.shape)
    for index, each in enumerate(columns):
        if varies(each):
            ratios[index] = each.mean() / each.std(ddof=1)
            influences[index] = sharpe_influence(each)
        elif each.any():
            ratios[index] = NAN
    return ratios, influences


def probabilistic_sharpe(moments: Moments, benchmark: float = 0.0) -> float:
    """The probability that the true Sharpe ratio is above a benchmark.

    Bailey and López de Prado (2012), "The Sharpe Ratio Efficient Frontier", equation 11, with the
    estimate's standard deviation at the observed ratio, and returns that may depend on one another:
    there it is the long-run deviation. NaN where that is zero or undefined.
    """
    estimate = sharpe_estimate(moments)
    if not estimate.deviation > 0:
        return NAN
    return float(ndtr((moments.sharpe - benchmark) / estimate.deviation))


def expected_best_sharpe(trials: int, variance: float) -> float:
    """The Sharpe ratio expected of the best of several trials without any skill.

    Bailey and López de Prado (2014), "The Deflated Sharpe Ratio", equation 1; of one trial zero.
    """
    if trials < 2:
        return 0.0
    share = 1 / trials
    best = (1 - EULER) * ndtri(1 - share) + EULER * ndtri(1 - share / np.e)
    return float(variance**0.5 * best)


def deflated_sharpe(moments: Moments, trials: int, variance: float) -> float:
    """The probability that the true Sharpe ratio is above zero, given that it is the best of trials.

    Bailey and López de Prado (2014), equation 2. The moments are of the returns, the variance of the
    trials' Sharpe ratios, a bar.
    """
    return probabilistic_sharpe(moments, expected_best_sharpe(trials, variance))


def minimum_track_record(moments: Moments, benchmark: float = 0.0, level: float = 0.95) -> float:
    """Bars after which a Sharpe ratio such as this is above the benchmark at a level of confidence.

    Bailey and López de Prado (2012), equation 13, with the long-run variance; NaN where it is not above
    at all.
    """
    above = moments.sharpe - benchmark
    if not above > 0:
        return NAN
    return float(1 + _sharpe_variance(moments) * (ndtri(level) / above) ** 2)


def _sharpe_variance(moments: Moments) -> float:
    """Times bars - 1: of the estimate of a Sharpe ratio, for returns that are not normal, or apart."""
    sharpe = moments.sharpe
    independent = 1 - moments.skew * sharpe + (moments.kurtosis - 1) / 4 * sharpe**2
    return max(independent * moments.dependence, 0.0)  # less than zero is rounding


class Resampled(NamedTuple):
    """What stationary bootstraps of a series gave, in draws."""

    final: NDArray[np.float64]  # (draws,), net return
    drawdown: NDArray[np.float64]  # (draws,)
    paths: NDArray[np.float64]  # (draws, points), equity, at `marks`
    marks: NDArray[np.intp]  # bars of `paths`, shape (points,)
    block: int  # mean length of a block, bars


def resample(returns: Returns, draws: int = 2000, seed: int = 0, points: int = 120) -> Resampled:
    """Resamples a series in blocks of random length, so that it stays autocorrelated within them.

    Politis and Romano (1994), "The Stationary Bootstrap"; the mean length of a block by Politis and
    White (2004) with the correction of 2009 (`arch`). Autocorrelation ends where blocks meet, so that
    draws spread too little where it is strong; Sharpe ratios go by long-run variance instead.

    Args:
        returns: of shape (bars,).
        draws: how many.
        seed: of the draws.
        points: how many bars of a path are kept.
    """
    from arch.bootstrap import StationaryBootstrap

    bars = len(returns)
    block = block_length(returns[:, None])
    bootstrap = StationaryBootstrap(block, returns, seed=np.random.default_rng(seed))
    marks = np.unique(np.linspace(0, bars - 1, min(points, bars)).astype(np.intp))
    final = np.empty(draws)
    drawdown = np.empty(draws)
    paths = np.empty((draws, len(marks)))
    for draw, ((drawn,), _) in enumerate(bootstrap.bootstrap(draws)):
        equity = np.cumprod(1 + drawn)
        peak = np.maximum(np.maximum.accumulate(equity), 1.0)
        final[draw] = equity[-1] - 1
        drawdown[draw] = (1 - equity / peak).max()
        paths[draw] = equity[marks]
    return Resampled(final, drawdown, paths, marks, block)


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
    from scipy.stats import rankdata

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
        rank = rankdata(out)[best] / (len(out) + 1)
        below.append(rank <= 0.5)
    return float(np.mean(below))


def interquartile_mean(values: ArrayLike) -> float:
    """The mean of the middle half, robust to single seeds.

    Agarwal et al. (2021), "Deep Reinforcement Learning at the Edge of the Statistical Precipice".
    """
    from scipy.stats import trim_mean

    return float(trim_mean(np.asarray(values, float), 0.25, axis=None))


def interquartile_mean_interval(values: ArrayLike, seed: int = 0) -> tuple[float, float]:
    """A 95% percentile bootstrap interval of the interquartile mean, over runs.

    Args:
        values: one figure a run, shape (runs,), or (runs, windows): then runs are drawn anew within each
            window, which is the stratified bootstrap of Agarwal et al. (2021).
        seed: of the resampling, 10,000 times.
    """
    from scipy.stats import trim_mean

    columns = np.asarray(values, float)
    columns = columns.reshape(len(columns), -1)
    runs, strata = columns.shape
    drawn = np.random.default_rng(seed).integers(runs, size=(10_000, runs, strata))
    resampled = np.take_along_axis(columns[None], drawn, axis=1).reshape(10_000, -1)
    low, high = np.quantile(trim_mean(resampled, 0.25, axis=1), [0.025, 0.975])
    return float(low), float(high)
