"""Bars made for a test."""

import numpy as np
import polars as pl
from numpy.typing import NDArray

from market.bars import Bars
from market.calendar import Calendar


def bars_of(open: NDArray[np.float64], close: NDArray[np.float64], name: str = "made") -> Bars:
    """Bars with given opens and closes, one a minute, of a market that never closes."""
    count = len(close)
    start = np.datetime64("2020-01-01T00:00", "us")
    table = pl.DataFrame(
        {
            "time": start + np.arange(count) * np.timedelta64(1, "m"),
            "open": open,
            "high": np.maximum(open, close),
            "low": np.minimum(open, close),
            "close": close,
            "volume": np.ones(count),
        }
    )
    return Bars.of(name, table, Calendar.always(60.0))
