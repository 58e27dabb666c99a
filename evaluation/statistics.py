"""What several runs say together."""

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats


def interquartile_mean(values: ArrayLike) -> float:
    """The mean of the middle half, robust to single seeds.

    Agarwal et al. (2021), "Deep Reinforcement Learning at the Edge of the Statistical Precipice".
    """
    return float(stats.trim_mean(np.asarray(values, float), 0.25, axis=None))


def interquartile_mean_interval(values: ArrayLike, seed: int = 0) -> tuple[float, float]:
    """A 95% percentile bootstrap interval of the interquartile mean, over runs.

    Args:
        values: one figure a run, shape (runs,).
        seed: of the resampling, 10,000 times.
    """
    found = stats.bootstrap(
        (np.asarray(values, float),),
        lambda sample, axis: stats.trim_mean(sample, 0.25, axis=axis),
        n_resamples=10_000,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)
