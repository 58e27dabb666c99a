"""Which good events came in order, and once. The others are faults of a clock, or copies.

Per instrument, in the order of the lines:

- a *clock jump* is an event later than most of the `FOLLOWING` events after it: its clock ran ahead.
  Live, where nothing can wait for what follows, it is one that is ahead of the clock;
- an event *out of order* is earlier than one before it (clock jumps aside);
- a *duplicate* equals an earlier event in every field, time and `id` included; or it is a trade whose
  `id` is among those of the last `REMEMBERED` trades, whatever its time: a feed sends trades again when
  its line was broken.

Only the lines decide, never where a file happens to be divided: the last `FOLLOWING` events of each
instrument wait for those that come after.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import polars as pl
from numpy.typing import NDArray

from market.events.files import EVENTS, Block, Rejected
from market.events.schema import TRADE, time_of

FOLLOWING = 15
REMEMBERED = 100_000  # ids of trades, for each instrument
SAME = [name for name in EVENTS.names() if name not in {"line", "instrument"}]
HELD = pl.Schema({**EVENTS, "file": pl.String(), "content": pl.String()})
REASONS = {
    "clock jump": "time is {}, later than most of the events after it",
    "out of order": "time is {}, before an earlier line's {}",
    "duplicate": "equal in every field to an earlier event of {}; an id keeps such events apart",
}
AHEAD = "time is {}, {:.1f} s ahead of the clock"
SENT_AGAIN = "a trade with the id {} came before; trades that are sent again count once"


@dataclass
class _Instrument:
    """What the order of an instrument's next events depends on."""

    held: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=HELD))
    latest: int = -(2**63)  # time of the last event in order
    at_latest: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=EVENTS))
    ids: NDArray[np.uint64] = field(default_factory=lambda: np.array([], np.uint64))  # hashes


class EventOrder:
    """Lets events through in order and once; feed it blocks, then `end` it.

    Args:
        latest: the latest time that is possible now, ns since 1970, where events arrive live; then none
            waits for others.

    Attributes:
        rejected: the others, so far.
        rejected_of: how many of them are of each instrument.
    """

    def __init__(self, latest: Callable[[], int] | None = None) -> None:
        self.rejected: list[Rejected] = []
        self.rejected_of: Counter[str] = Counter()
        self._latest = latest
        self._following = FOLLOWING if latest is None else 0
        self._instruments: dict[str, _Instrument] = {}

    def next(self, block: Block) -> Iterator[tuple[str, pl.DataFrame]]:
        """Instruments, and the events of each that are now known to be in order."""
        passed = []
        wanted: list[int] = []
        decided = []
        for name, events in _by_instrument(self._possible(block)):
            instrument = self._instruments.setdefault(name, _Instrument())
            known = instrument.held.height
            waiting = pl.concat([instrument.held.select(EVENTS.names()), events])
            count = max(waiting.height - self._following, 0)
            faulty, in_order = self._pass(instrument, waiting, count)
            passed.append((name, in_order))
            wanted += waiting["line"][max(count, known) :].to_list()  # to be held
            lines = [waiting["line"][row] for row, *_ in faulty]
            wanted += [line for (row, *_), line in zip(faulty, lines, strict=True) if row >= known]
            decided.append((instrument, waiting, count, faulty, lines))
            self.rejected_of[name] += len(faulty)
        contents = block.contents(wanted)
        for instrument, waiting, count, faulty, lines in decided:
            held = instrument.held
            for (row, fault, reason), line in zip(faulty, lines, strict=True):
                known = row < held.height
                file = held["file"][row] if known else block.file
                content = held["content"][row] if known else contents[line]
                self.rejected.append(Rejected(file, line, fault, reason, content))
            fresh = waiting[max(count, held.height) :]
            texts = [contents[line] for line in fresh["line"]]
            fresh = fresh.with_columns(
                file=pl.lit(block.file), content=pl.Series(texts, dtype=pl.String)
            )
            instrument.held = pl.concat([held[count:], fresh])
        yield from passed

    def _possible(self, block: Block) -> pl.DataFrame:
        """The events of a block that are not ahead of the clock."""
        events = block.events
        if self._latest is None or events.is_empty():
            return events
        latest = self._latest()
        ahead = events.filter(pl.col("ns") > latest)
        if ahead.is_empty():
            return events
        contents = block.contents(ahead["line"].to_list())
        for line, ns, name in ahead.select("line", "ns", "instrument").iter_rows():
            reason = AHEAD.format(time_of(ns), (ns - latest) / 1e9)
            self.rejected_of[name] += 1
            self.rejected.append(Rejected(block.file, line, "clock jump", reason, contents[line]))
        return events.filter(pl.col("ns") <= latest)

    def end(self) -> Iterator[tuple[str, pl.DataFrame]]:
        """The events that were waiting for others to follow."""
        for name, instrument in self._instruments.items():
            held = instrument.held
            faulty, passed = self._pass(instrument, held.select(EVENTS.names()), held.height)
            for row, fault, reason in faulty:
                file, line, content = held.select("file", "line", "content").row(row)
                self.rejected.append(Rejected(file, line, fault, reason, content))
            yield name, passed

    @staticmethod
    def _pass(
        instrument: _Instrument, events: pl.DataFrame, count: int
    ) -> tuple[list[tuple[int, str, str]], pl.DataFrame]:
        """Decides on the first `count` events: those at fault (row, fault, reason), and the others."""
        if count == 0:
            return [], events.clear()
        ns = events["ns"].to_numpy()
        faulty: list[tuple[int, str, str]] = []
        in_order = events[:count]
        rows = np.arange(count)
        latest = ns[count - 1]
        if ns[0] < instrument.latest or (ns[1:] < ns[:-1]).any():
            jump, latest_before = _clock(ns, count, instrument.latest)
            late = ns[:count] < latest_before[:-1]
            for row in np.flatnonzero(jump | late):
                fault = "out of order" if late[row] else "clock jump"
                times = time_of(int(ns[row])), time_of(int(latest_before[row])) if late[row] else ""
                faulty.append((int(row), fault, REASONS[fault].format(*times)))
            rows = np.flatnonzero(~(jump | late))
            in_order = in_order[rows]
            latest = latest_before[-1]
        copies = _copies(instrument, in_order)
        again = np.setdiff1d(_sent_again(instrument, in_order), copies)
        if len(copies) or len(again):
            for copy in copies:
                reason = REASONS["duplicate"].format(time_of(int(in_order["ns"][int(copy)])))
                faulty.append((int(rows[copy]), "duplicate", reason))
            for repeat in again:
                reason = SENT_AGAIN.format(in_order["id"][int(repeat)])
                faulty.append((int(rows[repeat]), "duplicate", reason))
            kept = np.setdiff1d(np.arange(len(rows)), np.append(copies, again))
            in_order = in_order[kept]
        if latest > instrument.latest:
            instrument.at_latest = instrument.at_latest.clear()
            instrument.latest = int(latest)
        instrument.at_latest.extend(in_order.filter(pl.col("ns") == instrument.latest))
        return faulty, in_order


def _by_instrument(events: pl.DataFrame) -> Iterator[tuple[str, pl.DataFrame]]:
    if events.is_empty():
        return
    first = events["instrument"][0]
    if (events["instrument"] == first).all():
        yield first, events
    else:
        for part in events.partition_by("instrument", maintain_order=True):
            yield part["instrument"][0], part


def _clock(
    ns: NDArray[np.int64], count: int, latest: int
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Which of the first `count` times jump ahead; the latest in order before each, and after all."""
    earlier = np.zeros(count, np.int8)
    for step in range(1, FOLLOWING + 1):
        following = ns[step : step + count]
        earlier[: len(following)] += following < ns[: len(following)]
    jump = earlier * 2 > FOLLOWING
    latest_before = np.empty(count + 1, np.int64)
    latest_before[0] = latest
    latest_before[1:] = np.where(jump, latest, ns[:count])
    return jump, np.maximum.accumulate(latest_before)


def _sent_again(instrument: _Instrument, events: pl.DataFrame) -> NDArray[np.int64]:
    """Rows of trades whose id is one of the `REMEMBERED` before; remembers theirs."""
    named = (events["kind"] == TRADE) & events["id"].is_not_null()
    rows = named.arg_true().to_numpy().astype(np.int64)
    if not len(rows):
        return rows
    fresh = events["id"].filter(named).hash().to_numpy()
    before = len(instrument.ids)
    ids = np.concatenate([instrument.ids, fresh])
    instrument.ids = ids[-REMEMBERED:]
    if pl.Series(ids).n_unique() == len(ids):
        return rows[:0]
    order = np.argsort(ids, kind="stable")
    same = ids[order[1:]] == ids[order[:-1]]
    place = order[1:][same]
    earlier = order[:-1][same]
    near = (place - earlier <= REMEMBERED) & (place >= before)
    again: NDArray[np.int64] = rows[np.sort(place[near]) - before]
    return again


def _copies(instrument: _Instrument, events: pl.DataFrame) -> NDArray[np.int64]:
    """Rows of events that equal one before them; equal times are needed, and those stand together."""
    if events.is_empty():
        return np.array([], np.int64)
    before = instrument.at_latest
    ns = np.concatenate([before["ns"].to_numpy(), events["ns"].to_numpy()])
    same = ns[1:] == ns[:-1]
    if not same.any():
        return np.array([], np.int64)
    rows = np.flatnonzero(np.append(same, False) | np.append(False, same))
    first = pl.concat([before, events])[rows].select(pl.struct(SAME).is_first_distinct())
    copies: NDArray[np.int64] = rows[~first.to_series().to_numpy()] - before.height
    return copies
