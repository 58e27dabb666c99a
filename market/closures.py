"""Where a data set has no bars: holes inside sessions, as opposed to times when the market is closed.

What is expected is inferred from the data set's own weeks. A time of the week should have a bar where
most of the four weeks before have one there, and most of the four weeks after: what a market gives up
or takes on for good, such as an hour at a shift of the clock, is expected on neither side of the
change. It should have one, too, between the first and the last bar of a day where most days of that
week have one. Of fewer than three weeks, days stand for weeks; of a single day all between its first
and last bar is expected.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from market.calendar import DAY, HOUR, SATURDAY, WEEK, Calendar, Seconds, slots_of

NEIGHBOURS = 4  # weeks on either side that say what is expected
FEWEST_WEEKS = 3
FEWEST_DAYS = 3
EDGE_SECONDS = (
    HOUR  # what is missing at a session's edge is a late open or early close from here on
)
FINEST = 60.0  # seconds of a slot
KINDS = ("hole", "overnight", "weekend", "whole sessions", "short session", "seldom traded")
HOLE, OVERNIGHT, WEEKEND, WHOLE, SHORT, SELDOM = range(len(KINDS))

Slots = NDArray[np.bool_]


class Gaps(NamedTuple):
    """Where bars are farther apart than they usually are; arrays have an entry for each gap."""

    after: NDArray[np.int64]  # index of the bar before it
    # Index into `KINDS`. A `hole` lies inside a session; `overnight` is any closure of less than a
    # day, a pause at noon too; `whole sessions` are holidays, or days that are lost; a `short
    # session` has a late open or an early close, of an hour or more; `seldom traded` is a time that
    # has a bar in fewer than half of the weeks.
    kind: NDArray[np.int64]
    bars: NDArray[np.int64]  # missing in a hole, a short session or whole sessions

    def of(self, kind: int) -> NDArray[np.int64]:
        """Which of them are of a kind, the longest first."""
        found = np.flatnonzero(self.kind == kind)
        return found[np.argsort(-self.bars[found], kind="stable")]


def gaps_of(seconds: Seconds, calendar: Calendar) -> Gaps:
    """Finds and sorts the gaps between bars.

    `seconds` are closes since 1970, strictly ascending, shape (bars,). Where the bars' calendar is 24/7,
    every gap is a hole; irregular bars have none.
    """
    interval = calendar.interval
    steps = np.diff(seconds)
    wide = calendar.kind != "irregular"
    after = np.flatnonzero(steps > 1.5 * interval) if wide else np.array([], np.int64)
    bars = np.round(steps[after] / (interval or 1.0)).astype(np.int64) - 1
    kind = np.full(len(after), HOLE)
    if calendar.kind != "sessions" or not len(after):
        return Gaps(after, kind, bars)
    expected = _Expected(seconds, calendar)
    between, missing, closed, unbroken = expected.counts(after)
    long = steps[after] >= DAY
    shut = unbroken & (missing == 0) & (between > 0)
    kind[shut] = np.where(long[shut], WEEKEND, np.where(closed[shut] > 0, OVERNIGHT, SELDOM))
    bars[shut] = 0
    partly = ~shut & ((missing < between) | long | ~unbroken)
    for place in np.flatnonzero(partly).tolist():
        kind[place], bars[place] = _sorted(expected, int(after[place]), bool(long[place]))
    return Gaps(after, kind, bars)


def _sorted(expected: "_Expected", i: int, long: bool) -> tuple[int, int]:
    """Kind and bars of the gap after bar i, of which a part should have bars."""
    flags = expected.between(i)
    if long and expected.is_weekend(i):
        return WEEKEND, 0
    a_day = DAY / expected.slot
    sessions = list[int]()
    edges = list[int]()
    for start, stop in _runs(flags):
        at_edge = (start == 0) != (stop == len(flags))
        (edges if at_edge and stop - start < a_day else sessions).append(stop - start)
    cut = [edge for edge in edges if edge > 1 and edge * expected.slot >= EDGE_SECONDS]
    if sessions and long:
        return WHOLE, expected.bars(sum(sessions))
    if sessions:  # all of a gap of less than a day: it has no closure
        return HOLE, expected.bars(sum(sessions) + sum(edges))
    if len(cut) == 1:
        return SHORT, expected.bars(cut[0])
    if edges:
        return HOLE, expected.bars(sum(edges))
    return (WEEKEND if long else OVERNIGHT), 0


def _runs(flags: Slots) -> Iterator[tuple[int, int]]:
    """From (inclusive) to (exclusive) of each run of true values."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(np.int8)))
    return zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)


class _Expected:
    """Which slots should have a bar: a row a week (or a day) that has any bar, a column a slot of it.

    Attributes:
        slot: length, seconds.
    """

    def __init__(self, seconds: Seconds, calendar: Calendar) -> None:
        self.interval = calendar.interval
        self.slot = max(self.interval, FINEST)
        if WEEK % self.slot:
            self.slot = DAY if self.interval > HOUR else HOUR
        self._number, shift = slots_of(seconds, self.interval, calendar.phase, self.slot)
        self._a_week = round(WEEK / self.slot)
        a_day = max(round(DAY / self.slot), 1)
        self._weekday = self._number // a_day % 7
        weeks = len(np.unique(self._number // self._a_week))
        self.weekly = weeks >= FEWEST_WEEKS or a_day == 1
        self._columns = self._a_week if self.weekly else a_day
        period, self._column = np.divmod(self._number, self._columns)
        self._period, self._row = np.unique(period, return_inverse=True)
        present = np.zeros((len(self._period), self._columns), np.bool_)
        present[self._row, self._column] = True
        unknown = np.zeros((2, self._columns), np.bool_)  # before the first bar, after the last
        unknown[0, : self._column[0]] = unknown[1, self._column[-1] + 1 :] = True
        self._before, self._after, sides = _majorities(present, unknown)
        self._expected = self._before & self._after
        usual, few, inside = _in_day(present.reshape(len(present), -1, a_day))
        self._expected &= (sides > 0) | inside
        if self.weekly:
            self._expected &= (sides == 2) | usual | few
            self._expected |= usual & inside & ~few
        self._place = self._row * self._columns + self._column
        self._counted = np.concatenate([[0], np.cumsum(self._expected)])
        middle = (np.arange(self._a_week) + 0.5) * self.slot + shift
        shut = np.ones(self._a_week, np.bool_)
        for start, end in calendar.open:
            shut &= ~((start <= middle) & (middle < end) | (middle < end - WEEK))
        self._shut = np.concatenate([[0], np.cumsum(shut)])

    def counts(
        self, i: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], Slots]:
        """Of gaps after bars i: slots between, those that should have a bar, those that are never open.

        The last array says where the second is right: no whole period lies in the gap.
        """
        begin = self._number[i] + 1
        end = self._number[i + 1]
        between = np.maximum(end - begin, 0)
        first = self._place[i] + 1
        last = self._place[i + 1]
        missing = self._counted[np.maximum(first, last)] - self._counted[first]
        weeks, rest = np.divmod(np.stack([begin, np.maximum(begin, end)]), self._a_week)
        shut = weeks * self._shut[-1] + self._shut[rest]
        periods = self._period[self._row]
        return between, missing, shut[1] - shut[0], periods[i + 1] - periods[i] <= 1

    def between(self, i: int) -> Slots:
        """Which slots between bar i and the next should have a bar."""
        row = int(self._row[i])
        other = int(self._row[i + 1])
        start = int(self._column[i]) + 1
        stop = int(self._column[i + 1])
        if row == other:
            return self._expected[row, start:stop]
        empty = int(self._period[other] - self._period[row]) - 1
        lost = np.tile(self._after[row] & self._before[other], empty)
        return np.concatenate([self._expected[row, start:], lost, self._expected[other, :stop]])

    def is_weekend(self, i: int) -> bool:
        """Whether the gap after bar i holds a Saturday, where days stand for weeks and none has bars."""
        if self.weekly or (self._weekday == SATURDAY).any():
            return False
        return bool(self._weekday[i + 1] < self._weekday[i])

    def bars(self, slots: int) -> int:
        """How many bars a number of slots holds."""
        return round(slots * self.slot / self.interval)


def _in_day(present: Slots) -> tuple[Slots, Slots, Slots]:
    """What days say of their slots, by whether there is a bar, (periods, days of one, slots of a day).

    Returns:
        Whether at least half of a period's days have a bar at that time, shape (periods, slots of one);
        whether it has fewer than three days, shape (periods, 1); and whether a slot lies between the
        first and the last bar of its day, shape (periods, slots of one).
    """
    days = present.any(axis=2).sum(axis=1)[:, None]
    usual = 2 * present.sum(axis=1) >= days
    begun = np.logical_or.accumulate(present, axis=2)
    goes_on = np.logical_or.accumulate(present[..., ::-1], axis=2)[..., ::-1]
    inside = (begun & goes_on).reshape(len(present), -1)
    return np.tile(usual, (1, present.shape[1])), days < FEWEST_DAYS, inside


def _majorities(present: Slots, unknown: Slots) -> tuple[Slots, Slots, NDArray[np.int8]]:
    """Whether most periods before, and after, have a slot.

    Args:
        present: whether there is a bar, shape (periods, slots).
        unknown: slots of the first period and of the last that nothing is known of, shape (2, slots).

    Returns:
        Whether at least half of the known neighbours before have a slot (also where none is known), the
        same of those after, and on how many sides any is known; all of shape (periods, slots).
    """
    rows = len(present)
    sums = np.concatenate([np.zeros_like(present[:1], np.int32), np.cumsum(present, 0, np.int32)])
    before = np.empty_like(present)
    after = np.empty_like(present)
    sides = np.zeros(present.shape, np.int8)
    for row in range(rows):
        start = max(row - NEIGHBOURS, 0)
        stop = min(row + 1 + NEIGHBOURS, rows)
        first = unknown[0] if start == 0 and row else 0
        last = unknown[1] if stop == rows and row + 1 < rows else 0
        known_before = row - start - first
        known_after = stop - row - 1 - last
        before[row] = 2 * (sums[row] - sums[start]) >= known_before
        after[row] = 2 * (sums[stop] - sums[row + 1]) >= known_after
        sides[row] += np.asarray(known_before > 0, np.int8)
        sides[row] += np.asarray(known_after > 0, np.int8)
    return before, after, sides
