"""Bars of markets that close: sessions of an exchange, in its own clock, daylight saving included."""

from collections.abc import Container
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl
from numpy.typing import NDArray

from market.bars import Bars

Times = NDArray[np.datetime64]


def session_times(
    first: str,
    days: int,
    every: int = 1,
    *,
    opens: str = "09:30",
    minutes: int = 390,
    zone: str = "America/New_York",
    holidays: Container[str] = (),
    short: Container[str] = (),
    weekdays: Container[int] = range(5),
) -> Times:
    """Closes of the bars of so many sessions, UTC.

    Args:
        first: day of the first session.
        days: sessions.
        every: minutes of a bar.
        opens: when a session begins, by the exchange's clock.
        minutes: that a session lasts.
        zone: of the exchange.
        holidays: days without a session.
        short: days whose session lasts 210 minutes.
        weekdays: with sessions, from Monday, 0, on.
    """
    hour, minute = map(int, opens.split(":"))
    day, closes = date.fromisoformat(first), list[np.datetime64]()
    done = 0
    while done < days:
        if day.weekday() in weekdays and str(day) not in holidays:
            local = datetime(day.year, day.month, day.day, hour, minute, tzinfo=ZoneInfo(zone))
            start = np.datetime64(local.astimezone(ZoneInfo("UTC")).replace(tzinfo=None), "us")
            lasts = 210 if str(day) in short else minutes
            closes += [start + np.timedelta64(m, "m") for m in range(every, lasts + 1, every)]
            done += 1
        day += timedelta(days=1)
    return np.array(closes)


def bars_at(times: Times, seed: int = 0, sigma: float = 0.001, name: str = "sessions") -> Bars:
    """A random walk with bars at given times."""
    x = np.cumsum(np.random.default_rng(seed).normal(0, sigma, len(times)))
    close = 100 * np.exp(x)
    open = np.concatenate([close[:1], close[:-1]])
    prices = {"open": open, "high": np.maximum(open, close), "low": np.minimum(open, close)}
    table = pl.DataFrame({"time": times, **prices, "close": close, "volume": np.ones(len(times))})
    return Bars.of(name, table)
