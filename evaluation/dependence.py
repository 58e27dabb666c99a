"""The long-run variance: how far the mean of autocorrelated returns is from the true one.

The mean of n autocorrelated values varies as if there were fewer of them, or more. Its variance is their
long-run variance, the sum of the autocovariances of all lags, over n; for independent values that sum is
their variance.
"""

import numpy as np
from numpy.typing import NDArray

Series = NDArray[np.float64]
PERSISTENCE = 0.97  # largest sum of coefficients: nearer to one, noise is multiplied without bound


def long_run_variance(series: Series) -> float:
    """The long-run variance of a series, by an autoregression that is fitted to it.

    The variance of what the autoregression leaves over, divided by the square of one less the sum of its
    coefficients: Berk (1974), "Consistent Autoregressive Spectral Estimates", and as a general method
    den Haan and Levin (1997), "A Practitioner's Guide to Robust Covariance Matrix Estimation". The order
    is chosen by the criterion of Hurvich and Tsai (1989), the fit is Yule and Walker's.

    Andrews and Monahan's (1992) way, a first-order autoregression and a kernel whose bandwidth follows
    from another, does as well on returns that are such an autoregression and worse on all others: it
    misses a dependence that begins at the third bar, and overrates that of a moving average.

    Args:
        series: of shape (bars,).

    Returns:
        Zero of what never varies.
    """
    count = len(series)
    most = min(int(10 * np.log10(max(count, 1))), count // 5)
    centred = series - series.mean() if count else series
    covariances = np.array([centred[lag:] @ centred[: count - lag] for lag in range(most + 1)])
    covariances /= max(count, 1)
    variance, coefficients = _autoregression(covariances, count)
    persistence = min(float(coefficients.sum()), PERSISTENCE)
    unbiased = count / max(count - len(coefficients), 1)
    return float(variance * unbiased / (1 - persistence) ** 2)


def sharpe_influence(returns: Series) -> Series:
    """What each bar contributes to the error of an estimated Sharpe ratio, shape (bars,).

    The delta method on mean and variance: with z the standardised return and S the ratio,
    z - S/2 (z² - 1). Its mean is zero. Its variance over the bars is that of the estimate for
    independent returns, 1 - skew S + (kurtosis - 1)/4 S²; its long-run variance over the bars is that
    of the estimate for returns that depend on one another. Lo (2002), "The Statistics of Sharpe
    Ratios"; Ledoit and Wolf (2008), "Robust Performance Hypothesis Testing with the Sharpe Ratio".

    Args:
        returns: of shape (bars,), which vary.
    """
    deviation = returns.std()
    z = (returns - returns.mean()) / deviation
    sharpe = returns.mean() / deviation
    return np.asarray(z - sharpe / 2 * (z**2 - 1), np.float64)


def varies(returns: Series) -> bool:
    """Whether there are at least three returns that differ by more than rounding."""
    return len(returns) > 2 and bool(np.ptp(returns) > 1e-12 * max(abs(returns).max(), 1e-12))


def _autoregression(covariances: Series, count: int) -> tuple[float, Series]:
    """The variance of its errors and the coefficients of the best order, by Levinson's recursion.

    Args:
        covariances: of a series, of all lags from zero to the largest order.
        count: of the series' values.
    """
    variance = float(covariances[0])
    coefficients = np.zeros(0)
    best = (variance, coefficients)
    lowest = np.inf
    for order in range(len(covariances)):
        if order:
            explained = float(coefficients @ covariances[order - 1 : 0 : -1])
            reflection = (float(covariances[order]) - explained) / variance
            coefficients = np.append(coefficients - reflection * coefficients[::-1], reflection)
            variance *= 1 - reflection**2
        if not variance > 1e-12 * covariances[0]:
            break  # nothing is left to explain
        criterion = np.log(variance) + (count + order) / max(count - order - 2, 1)
        if criterion < lowest:
            best = (variance, coefficients)
            lowest = criterion
    return best
