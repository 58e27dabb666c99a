"""How many bars a market has a year and when it is open, inferred from the times of the bars.

A calendar is learned from a whole data set and travels with it (`Bars.calendar`), so that every stretch
that is cut from the set is annualised alike.
"""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

HOUR = 3600.0
DAY = 86_400.0
WEEK = 7 * 86_400.0  # seconds
YEAR = 365.25 * DAY
MONDAY = 4 * DAY  # 1970 began on a Thursday
UNITS = (("day", DAY), ("hour", HOUR), ("minute", 60.0), ("second", 1.0))
SATURDAY = 5  # days after Monday
FINE = 900.0  # seconds; opening hours are known to the quarter of an hour, or to the bar
SELDOM = 0.2  # of the bars of a usual time of the week: a time with fewer counts as closed
SHIFTED = 0.1  # share of the bars that a second grid, an hour off, must have to be one of its own

Seconds = NDArray[np.float64]


class Calendar(NamedTuple):
    """What ratios are annualised by, and when there are bars.

    Of **less than a week** nothing is claimed that was not seen: every weekday is taken to have the bars
    that the days seen had (their median number in 24 hours, or all bars where less is known), Saturday
    and Sunday to have none unless a bar was seen on a Saturday. One session of 390 minutes is 390 bars
    on five days of the week; three days without a pause are 24 hours on five days, not 24/7.
    """

    # `24/7`; `sessions`, with times of the week that never have a bar; `irregular`, without an
    # interval that at least half of the bars keep.
    kind: Literal["24/7", "sessions", "irregular"]
    interval: float  # most frequent distance of two bars, seconds; 0 of a single bar
    # By the interval where the market never closes and bars are seldom missing, else as counted in
    # the data, in whole weeks where there are any.
    bars_per_year: float
    # Seconds since 1970 of the grid that most bars' closes lie on, modulo the interval.
    phase: float = 0.0
    # Stretches of the week that have bars, seconds since Monday 00:00 UTC, from (inclusive) to
    # (exclusive), daylight saving included; an end past the week's lies in the next week.
    open: tuple[tuple[float, float], ...] = ((0.0, WEEK),)
    seen: float = WEEK  # seconds from the first bar that it was inferred from to the last

    @classmethod
    def of(cls, time: NDArray[np.datetime64]) -> Self:
        """The calendar of bars by their closes, ascending, shape (bars,); one bar tells nothing."""
        seconds = time.astype("datetime64[us]").astype(np.int64) / 1e6
        if len(seconds) < 2:
            return cls("irregular", 0.0, 0.0, seen=0.0)
        distances, counts = np.unique(np.diff(seconds), return_counts=True)
        interval = float(distances[counts.argmax()])
        span = float(seconds[-1] - seconds[0])
        steps = len(seconds) - 1
        weeks = span // WEEK
        phase = _phase(seconds, interval)
        if counts.max() < steps / 2 or interval >= WEEK:
            return cls("irregular", interval, _counted(seconds), phase, seen=span)
        if not weeks:
            return cls(*_of_days(seconds, interval), phase, _open(seconds, interval, phase), span)
        # Hours of the week, or days of it, that ever have a bar.
        slot = DAY if interval > HOUR else HOUR
        open_share = len(np.unique(((seconds - 1e-6) % WEEK) // slot)) * slot / WEEK
        counted = _counted(seconds)
        full = YEAR / interval
        if open_share >= 0.95:
            # Unless many bars are missing, as where nothing was traded.
            a_year = full if counted >= 0.95 * full else counted
            return cls("24/7", interval, a_year, phase, seen=span)
        return cls("sessions", interval, counted, phase, _open(seconds, interval, phase), span)

    @classmethod
    def always(cls, interval: float) -> Self:
        """That of a market that never closes, known beforehand; with a bar's length in seconds."""
        return cls("24/7", interval, YEAR / interval)

    @classmethod
    def from_json(cls, known: Mapping[str, Any]) -> Self:
        """What `as_json` gave."""
        return cls(**{**known, "open": tuple((start, end) for start, end in known["open"])})

    def as_json(self) -> dict[str, Any]:
        """All of it as JSON has it."""
        return {**self._asdict(), "open": [list(stretch) for stretch in self.open]}

    def off_grid(self, seconds: Seconds) -> NDArray[np.bool_]:
        """Which closes are no whole number of intervals from the grid, shape (bars,).

        Bars longer than an hour may lie on two grids, since daylight saving moves them by an hour.
        """
        away = (seconds - self.phase) % self.interval
        off = np.minimum(away, self.interval - away) > 1e-6 * self.interval
        if self.interval > HOUR:
            for shift in (HOUR, self.interval - HOUR):
                shifted = abs(away - shift) < 1e-6 * self.interval
                if shifted.mean() >= SHIFTED:
                    off &= ~shifted
        return off

    def __str__(self) -> str:
        unit, length = next((each for each in UNITS if self.interval >= each[1]), ("second", 1.0))
        number = self.interval / length
        every = unit if number == 1 else f"{number:g} {unit}s"
        if self.kind == "irregular":
            return f"irregular bars, {self.bars_per_year:,.0f} a year as counted"
        whole = abs(self.bars_per_year * self.interval / YEAR - 1) < 1e-9
        how = "" if whole else " as counted"
        how += "" if self.seen >= WEEK else " in less than a week"
        return f"{self.kind}, a bar every {every}, {self.bars_per_year:,.0f} a year{how}"


def slots_of(
    seconds: Seconds, interval: float, phase: float, slot: float
) -> tuple[NDArray[np.int64], float]:
    """Which slot since Monday, 5 January 1970, each bar lies in, by its middle.

    `seconds` are closes since 1970, shape (bars,); a slot lasts `slot` seconds. Where that is the bars'
    own interval, slots begin where bars do. Also says how long after midnight a Monday's
    first one begins.
    """
    shift = phase % slot if slot == interval else 0.0
    return np.floor((seconds - interval / 2 - MONDAY - shift) / slot).astype(np.int64), shift


def _counted(seconds: Seconds) -> float:
    """Bars a year, by those of whole weeks where there are any."""
    span = float(seconds[-1] - seconds[0])
    weeks = span // WEEK
    if not weeks:
        return (len(seconds) - 1) / span * YEAR
    within = np.searchsorted(seconds, seconds[0] + weeks * WEEK, side="right") - 1
    return float(within / (weeks * WEEK) * YEAR)


def _of_days(seconds: Seconds, interval: float) -> tuple[Literal["24/7", "sessions"], float, float]:
    """Kind, interval and bars a year where less than a week is known."""
    a_day_before = np.searchsorted(seconds, seconds - DAY, side="right")
    a_day = float((np.arange(len(seconds)) + 1 - a_day_before).max())
    days = 7 if _saturday_seen(seconds, interval) else 5
    whole = a_day * interval >= 0.95 * DAY
    a_day = DAY / interval if whole else a_day
    kind: Literal["24/7", "sessions"] = "24/7" if whole and days == 7 else "sessions"
    return kind, interval, a_day * days / 7 * YEAR / DAY


def _saturday_seen(seconds: Seconds, interval: float) -> bool:
    weekday = (seconds - interval / 2 - MONDAY) % WEEK // DAY
    return bool((weekday == SATURDAY).any())


def _phase(seconds: Seconds, interval: float) -> float:
    phases, counts = np.unique((seconds % interval).round(6), return_counts=True)
    return float(phases[counts.argmax()])


def _open(seconds: Seconds, interval: float, phase: float) -> tuple[tuple[float, float], ...]:
    """Stretches of the week that have bars more than seldom."""
    slot = FINE
    if interval > FINE:
        slot = interval if WEEK % interval == 0 else DAY
    number, shift = slots_of(seconds, interval, phase, slot)
    in_week = round(WEEK / slot)
    if seconds[-1] - seconds[0] < WEEK:  # any day seen stands for every day
        in_day = max(round(DAY / slot), 1)
        known = np.unique(number % in_day)
        days = range(7 if _saturday_seen(seconds, interval) else SATURDAY)
        number = np.concatenate([known + day * in_day for day in days])
    bars = np.bincount(number % in_week, minlength=in_week)
    is_open = bars >= max(SELDOM * float(np.median(bars[bars > 0])), 1)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], is_open, [False]]).astype(int)))
    return tuple(
        (float(start * slot + shift), float(end * slot + shift))
        for start, end in zip(edges[::2], edges[1::2], strict=True)
    )
