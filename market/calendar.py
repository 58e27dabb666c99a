"""How many bars a market has a year, told from the times of the bars themselves."""

from typing import Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

DAY, WEEK, YEAR = 86_400.0, 7 * 86_400.0, 365.25 * 86_400.0  # seconds
UNITS = (("day", DAY), ("hour", 3600.0), ("minute", 60.0), ("second", 1.0))


class Calendar(NamedTuple):
    """What ratios are annualised by.

    Attributes:
        kind: `24/7`; `sessions`, with times of the week that never have a bar; `irregular`, without an
            interval that at least half of the bars keep.
        interval: most frequent distance of two bars, seconds.
        bars_a_year: by the interval where the market never closes and bars are seldom missing, else as
            counted in the data, in whole weeks where there are any.
    """

    kind: Literal["24/7", "sessions", "irregular"]
    interval: float
    bars_a_year: float

    @classmethod
    def of(cls, time: NDArray[np.datetime64]) -> Self:
        """The calendar of bars.

        Args:
            time: close of each bar, ascending, shape (bars,) with at least two.
        """
        seconds = time.astype("datetime64[us]").astype(np.int64) / 1e6
        distances, counts = np.unique(np.diff(seconds), return_counts=True)
        interval = float(distances[counts.argmax()])
        span = float(seconds[-1] - seconds[0])
        steps = len(seconds) - 1
        weeks = span // WEEK
        counted = steps / span * YEAR
        if weeks:
            within = np.searchsorted(seconds, seconds[0] + weeks * WEEK, side="right") - 1
            counted = float(within / (weeks * WEEK) * YEAR)
        if counts.max() < steps / 2 or interval >= WEEK:
            return cls("irregular", interval, counted)
        if weeks:  # hours of the week, or days of it, that ever have a bar
            slot = DAY if interval > 3600 else 3600.0
            seen = len(np.unique(((seconds - 1e-6) % WEEK) // slot))
            open_share = seen * slot / WEEK
        else:
            open_share = steps * interval / span
        if open_share >= 0.95:
            full = YEAR / interval  # unless many bars are missing, as where nothing was traded
            return cls("24/7", interval, full if counted >= 0.95 * full else counted)
        return cls("sessions", interval, counted)

    def __str__(self) -> str:
        unit, length = next((each for each in UNITS if self.interval >= each[1]), ("second", 1.0))
        number = self.interval / length
        every = unit if number == 1 else f"{number:g} {unit}s"
        if self.kind == "irregular":
            return f"irregular bars, {self.bars_a_year:,.0f} a year as counted"
        whole = abs(self.bars_a_year * self.interval / YEAR - 1) < 1e-9
        how = "" if whole else " as counted"
        return f"{self.kind}, a bar every {every}, {self.bars_a_year:,.0f} a year{how}"
