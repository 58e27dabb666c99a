"""What each feature is: `KINDS`, by name.

There is one definition for both forms. A feature over a window is a function of the last few bars, which
the batch form applies to every window and the streaming form to the last; a recursive one is a step
from bar to bar, which both forms take in turn. So both give the same numbers.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Column = NDArray[np.float64]
Columns = dict[str, Column]  # "time" in microseconds since 1970, and columns of the bars
DAY = 86_400e6  # microseconds
MOST_BARS = 10_000


class Kind(NamedTuple):
    """One kind of feature."""

    meaning: str  # formula or source
    # From columns (and the number in the name) to values, one a bar, NaN where bars are missing;
    # or, of a recursive feature, from that number to a fresh step.
    of: Callable[..., Any]
    needs: tuple[str, ...] = ()  # columns beside those that all bars have
    # The smallest number that its name may end with; none where it has no number.
    bars: int | None = None
    # Bars that a value needs, beside that number; the step of a recursive one needs two.
    window: int = 1
    # Whether scaling takes the mean away too: levels, of which zero is no natural middle.
    centred: bool = False
    recursive: bool = False  # what `of` is
    # The last value alone, from the last close and the one `bars` before it, for features that are
    # no more than that: what trading asks for at every bar.
    last: Callable[[float, float], float] | None = None


def _rolling(values: Column, n: int, function: Callable[[Column], Column]) -> Column:
    """A function of every window of n values, in the row of its last."""
    result = np.full(len(values), np.nan)
    if len(values) >= n:
        # what a stream asks for is one window, for which a view of windows is dear
        windows = values[np.newaxis] if len(values) == n else sliding_window_view(values, n)
        result[n - 1 :] = function(windows)
    return result


def _ratio(above: Column, below: Column) -> Column:
    """Above / below, zero where there is nothing below."""
    return np.divide(above, below, out=np.where(np.isnan(below), np.nan, 0.0), where=below > 0)


def _last_change(close: float, then: float) -> float:
    return close / then - 1


def _last_log_return(close: float, then: float) -> float:
    return float(np.log(close / then))


def _change(columns: Columns, n: int = 1) -> Column:
    close = columns["close"]
    result = np.full(len(close), np.nan)
    result[n:] = close[n:] / close[:-n] - 1
    return result


def log_return(columns: Columns, n: int = 1) -> Column:
    """log(P_t / P_(t-n)) of every bar, NaN in the first n."""
    close = columns["close"]
    result = np.full(len(close), np.nan)
    result[n:] = np.log(close[n:] / close[:-n])
    return result


def _volatility(columns: Columns, n: int) -> Column:
    squares = log_return(columns) ** 2
    return _rolling(squares, n, lambda window: np.sqrt(window.mean(axis=-1)))


def _parkinson(columns: Columns, n: int) -> Column:
    squares = np.log(columns["high"] / columns["low"]) ** 2 / (4 * np.log(2))
    return _rolling(squares, n, lambda window: np.sqrt(window.mean(axis=-1)))


def _zscore(columns: Columns, n: int) -> Column:
    close = columns["close"]
    mean = _rolling(close, n, lambda window: window.mean(axis=-1))
    deviation = _rolling(close, n, lambda window: window.std(axis=-1))
    # windows of one price leave rounding where there is no deviation
    return _ratio(close - mean, np.where(deviation > 1e-12 * close, deviation, 0.0 * deviation))


def _volume_surprise(columns: Columns, n: int) -> Column:
    volume = columns["volume"]
    usual = np.full(len(volume), np.nan)
    usual[1:] = _rolling(volume, n, lambda window: window.mean(axis=-1))[:-1]
    return _ratio(volume - usual, volume + usual)


def _spread(columns: Columns) -> Column:
    bid = columns["bid"]
    ask = columns["ask"]
    return 2 * (ask - bid) / (ask + bid)


def _clock(function: Callable[[Column], Column], days: int) -> Callable[[Columns], Column]:
    def of(columns: Columns) -> Column:
        monday = 3 * DAY  # 1970 began on a Thursday
        since = (columns["time"] + monday) % (days * DAY)
        return function(2 * np.pi * since / (days * DAY))

    return of


class _EwmaVolatility:
    def __init__(self, n: int) -> None:
        self.n = n
        self.weight = 2 / (n + 1)
        self.seen = 0
        self.variance = 0.0

    def step(self, log_return: float) -> float:
        square = log_return * log_return
        self.variance += (square - self.variance) * (self.weight if self.seen else 1.0)
        self.seen += 1
        return self.variance**0.5 if self.seen >= self.n else float("nan")


class _Rsi:
    def __init__(self, n: int) -> None:
        self.n = n
        self.seen = 0
        self.gain = 0.0
        self.loss = 0.0

    def step(self, log_return: float) -> float:
        self.seen += 1
        weight = 1 / min(self.seen, self.n)  # a plain mean of the first n, as Wilder begins
        self.gain += (max(log_return, 0.0) - self.gain) * weight
        self.loss += (max(-log_return, 0.0) - self.loss) * weight
        if self.seen < self.n:
            return float("nan")
        total = self.gain + self.loss
        return (self.gain - self.loss) / total if total > 0 else 0.0


KINDS = {
    "price_change": Kind("P_t / P_(t-1) - 1", _change, window=2, last=_last_change),
    "log_price": Kind(
        "log P_t", lambda columns: np.log(columns["close"]), centred=True,
        last=lambda close, _: float(np.log(close)),
    ),
    "log_return": Kind("log(P_t / P_(t-n))", log_return, bars=1, last=_last_log_return),
    "momentum": Kind("P_t / P_(t-n) - 1", _change, bars=1, last=_last_change),
    "volatility": Kind(
        "realised: root mean square of the last n log returns", _volatility, bars=2, centred=True
    ),
    "ewma_volatility": Kind(
        "root of the exponentially weighted mean of squared log returns, weight 2 / (n + 1) on the "
        "last (RiskMetrics 1996)",
        _EwmaVolatility, bars=2, centred=True, recursive=True,
    ),
    "parkinson": Kind(
        "range: root of the mean of log(high / low)^2 / (4 log 2) over n bars (Parkinson 1980, "
        "The Extreme Value Method)",
        _parkinson, bars=1, window=0, centred=True,
    ),
    "rsi": Kind(
        "(gain - loss) / (gain + loss) of smoothed log returns, which is RSI / 50 - 1 (Wilder 1978)",
        _Rsi, bars=2, recursive=True,
    ),
    "zscore": Kind("(P_t - mean) / deviation of the last n closes", _zscore, bars=2, window=0),
    "volume_surprise": Kind(
        "(V_t - mean) / (V_t + mean), mean of the n volumes before", _volume_surprise, bars=1
    ),
    "spread": Kind("(ask - bid) / mid", _spread, needs=("bid", "ask"), centred=True),
    "depth_imbalance": Kind(
        "of the book at the close, -1 to 1",
        lambda columns: columns["depth_imbalance"], needs=("depth_imbalance",),
    ),
    "day_sine": Kind("of the time of day, UTC", _clock(np.sin, 1)),
    "day_cosine": Kind("of the time of day, UTC", _clock(np.cos, 1)),
    "week_sine": Kind("of the time of week, from Monday, UTC", _clock(np.sin, 7)),
    "week_cosine": Kind("of the time of week, from Monday, UTC", _clock(np.cos, 7)),
}  # fmt: skip


def feature_names() -> list[str]:
    """What a feature may be called; n stands for a number of bars."""
    return [name if kind.bars is None else f"{name}_n" for name, kind in KINDS.items()]


@dataclass(frozen=True)
class Feature:
    """One feature by its name."""

    name: str
    kind: Kind
    bars: int | None

    @classmethod
    def named(cls, name: str) -> Self:
        """`volatility_20`; a `ValueError` says what there is where there is none of this name."""
        match = re.fullmatch(r"([a-z_]+?)(?:_(\d+))?", name)
        kind = KINDS.get(match[1]) if match else None
        if match is None or kind is None or (kind.bars is None) != (match[2] is None):
            raise ValueError(f"{name} is no feature; there are {', '.join(feature_names())}")
        bars = int(match[2]) if match[2] else None
        if kind.bars is not None and bars is not None and not kind.bars <= bars <= MOST_BARS:
            raise ValueError(f"{name}: its number must be from {kind.bars} to {MOST_BARS:,}")
        return cls(name, kind, bars)

    @cached_property
    def rows(self) -> int:
        """Bars that the last value of a window, or a step, is made of."""
        return 2 if self.kind.recursive else self.kind.window + (self.bars or 0)

    @cached_property
    def arguments(self) -> tuple[int, ...]:
        """What its function takes beside the columns."""
        return () if self.bars is None else (self.bars,)
