"""Bars for a desk: recorded, out of an event log, or from standard input as things happen.

A row is a dictionary: time (of the close, ns since 1970), open, high, low, close, volume, what was
quoted, and `last_event`, when the market was last heard of by then. None means that time passed without a
bar, so that the desk can look around.
"""

import os
import select
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from market.bars import CARRIED, Bars
from market.events.aggregate import BarBuilder, Every
from market.events.files import LONGEST_LINE, Block, Rejected, event_blocks, text_block
from market.events.formats import JsonLines
from market.events.order import EventOrder
from market.events.schema import EventsError

Row = dict[str, Any]
TICK = 0.25  # s between looks around
READ = 1 << 20  # bytes
BATCH = 4 << 20  # bytes, at most, between two looks around
ALARM_SECONDS = 60.0  # without an event of the instrument that is good, before the user is warned
SPOKEN = 20  # rejected lines that are named one by one


@dataclass
class Rejections:
    """What became of events that were not traded on."""

    say: Callable[[str], None]  # takes a sentence for the user
    by_fault: Counter[str] = field(default_factory=Counter)  # events by what was wrong

    def take(self, rejected: Iterable[Rejected]) -> None:
        """Counts rejected lines, and names the first ones."""
        for bad in rejected:
            self.by_fault[bad.fault] += 1
            count = self.by_fault.total()
            if count <= SPOKEN:
                self.say(f"passed over: line {bad.line}: {bad.reason}")
            if count == SPOKEN:
                self.say("further lines that are passed over are counted, not named")


def recorded(bars: Bars) -> list[Row]:
    """Rows of bars that are known already.

    The last event before a carried bar is taken to be the close of the last one that was not carried.
    """
    table = bars.table
    if CARRIED not in table.columns:
        return _rows(table)
    heard = pl.when(~pl.col(CARRIED)).then("time").forward_fill().fill_null(pl.first("time"))
    return _rows(table.select(pl.exclude(CARRIED), last_event=_ns(heard)))


def logged(path: Path, every: str, instrument: str | None, rejections: Rejections) -> Iterator[Row]:
    """Rows out of an event log, the very bars that `qdesk data convert` makes of it.

    Raises:
        EventsError: the log cannot be read, or is of several instruments and none was named.
    """
    rows = _with_pauses(event_blocks([path]), _Instrument(every, instrument), rejections)
    return (row for row in rows if row is not None)


def arriving(
    file: int,
    every: str,
    instrument: str | None,
    rejections: Rejections,
    latest: Callable[[], int] | None = None,
    alarm: Callable[[str], None] = lambda _: None,
) -> Iterator[Row | None]:
    """Rows out of lines of JSON as they arrive; a bar is whole with the first event after it.

    Live, `latest` gives the latest time that an event may have now, ns; of rows that arrive
    together all but the last are `superseded` then, and `alarm` is called when for a minute there
    were events, but none to trade on. Raises `EventsError` where a line is too long, or events are
    of several instruments and none was named.
    """
    one = _Instrument(every, instrument)
    blocks = _arriving_blocks(file)
    if latest is None:
        yield from _with_pauses(blocks, one, rejections)
        return
    order = EventOrder(latest)
    watch = _Watch(one, order, alarm)
    for block in blocks:
        if block is not None:
            yield from _newest_last(list(_through(block, order, one, rejections)))
            watch.look(block)
        yield None
    yield from _newest_last([row for row in one.end() if row["time"] <= latest()])  # whole by now


def _newest_last(rows: list[Row]) -> list[Row]:
    """Rows that are here at once; all but the last are superseded."""
    for row, _ in pairwise(rows):
        row["superseded"] = True
    return rows


def paced(rows: Iterator[Row | None], pace: str) -> Iterator[Row | None]:
    """Rows at a pace: `max`, `live` or a multiple such as `60x`; None four times a second in between."""
    if pace == "max":
        yield from rows
        return
    multiple = 1.0 if pace == "live" else float(pace.removesuffix("x"))
    began = time.monotonic()
    first = None
    for row in rows:
        if row is None:
            continue
        first = row["time"] if first is None else first
        due = began + (row["time"] - first) / 1e9 / multiple
        while (left := due - time.monotonic()) > 0:
            time.sleep(min(left, TICK))
            yield None
        yield row


def _arriving_blocks(file: int) -> Iterator[Block | None]:
    """Whole lines as they arrive, all that are there at once; None where nothing came for a while."""
    form = JsonLines()
    line = 1
    rest = bytearray()
    while True:
        if not select.select([file], [], [], TICK)[0]:
            yield None
            continue
        data, ended = _read_what_is_there(file)
        head, newline, tail = data.rpartition(b"\n")
        text = b""
        if newline:
            text = bytes(rest) + head + newline
            rest.clear()
        rest += tail
        if ended and len(rest) <= LONGEST_LINE:
            text += rest
        if text:
            count = text.count(b"\n") + (not text.endswith(b"\n"))
            yield text_block(Path("standard input"), form, text, line, count)
            line += count
        if len(rest) > LONGEST_LINE:
            raise EventsError(
                f"standard input line {line}: longer than 64 MiB; is this an event log?"
            )
        if ended:
            return


def _read_what_is_there(file: int) -> tuple[bytes, bool]:
    """What can be read without waiting, up to `BATCH`, and whether the file has ended."""
    parts: list[bytes] = []
    size = 0
    while size < BATCH:
        part = os.read(file, READ)
        if not part:
            return b"".join(parts), True
        parts.append(part)
        size += len(part)
        if not select.select([file], [], [], 0)[0]:
            break
    return b"".join(parts), False


def _through(
    block: Block, order: EventOrder, one: "_Instrument", rejections: Rejections
) -> Iterator[Row]:
    """The rows that a block's events finish."""
    rejections.take(block.rejected)
    parts = list(order.next(block))
    rejections.take(order.rejected)
    order.rejected.clear()
    for name, events in parts:
        yield from one.rows(name, events)


def _with_pauses(
    blocks: Iterator[Block | None], one: "_Instrument", rejections: Rejections
) -> Iterator[Row | None]:
    """Rows of blocks under the rules of a file, None where nothing comes."""
    order = EventOrder()
    for block in blocks:
        if block is not None:
            yield from _through(block, order, one, rejections)
        yield None
    for name, events in order.end():
        yield from one.rows(name, events)
    rejections.take(order.rejected)
    yield from one.end()


class _Watch:
    """Raises an alarm where events come, but for a minute none that could be traded on."""

    def __init__(self, one: "_Instrument", order: EventOrder, alarm: Callable[[str], None]) -> None:
        self.one = one
        self.order = order
        self.alarm = alarm
        self._counted = one.count
        self._since = time.monotonic()
        self._passed_over: Counter[str] = Counter()

    def look(self, block: Block) -> None:
        """Takes notice of a block that was worked on."""
        now = time.monotonic()
        rejected = sum(self.order.rejected_of.values())
        mine = self.order.rejected_of[self.one.name or self.one.seen or ""]
        self.order.rejected_of.clear()
        if self.one.count > self._counted:
            self._counted = self.one.count
            self._since = now
            self._passed_over.clear()
            return
        known = self.one.name is not None or self.one.seen is not None
        self._passed_over["rejected"] += mine if known else rejected
        if block.events.is_empty():
            self._passed_over["unreadable"] += len(block.rejected)
        elif self.one.seen is None:
            self._passed_over["of other instruments"] += block.events.height - rejected
        if now - self._since < ALARM_SECONDS or not self._passed_over.total():
            return
        counts = [f"{count:,} {what}" for what, count in self._passed_over.items() if count]
        of = f" of {self.one.name}" if self.one.name else ""
        self.alarm(f"no good event{of} for {now - self._since:.0f} s, but {', '.join(counts)}")
        self._since = now
        self._passed_over.clear()


class _Instrument:
    """The bars of the one instrument that is traded."""

    def __init__(self, every: str, name: str | None) -> None:
        self.every = Every.parse(every)
        self.builder = BarBuilder(self.every)
        self.name = name  # as asked for
        self.seen: str | None = None  # as events have it
        self.count = 0  # of its events so far
        # Last event before the bar that is open, and last of all, ns: what came before a silence is asked
        # for once the bars of the silence are made, with the bar that ends it.
        self._heard = np.array([], np.int64)

    def rows(self, name: str, events: pl.DataFrame) -> Iterator[Row]:
        if self.name is not None and name != self.name:
            return
        if self.seen not in (None, name):
            raise EventsError(
                f"the log is of {self.seen} and {name}; name the one to trade with --instrument"
            )
        if events.is_empty():
            return
        self.seen = name
        self.count += events.height
        heard = np.concatenate([self._heard, events["ns"].to_numpy()])
        for bars in self.builder.add(events):
            yield from self._known(bars, heard)
        opened = heard[-1]
        if self.every.by == "time":
            opened -= opened % int(self.every.amount)
        before = max(int(np.searchsorted(heard, opened)) - 1, 0)
        self._heard = heard[[before, -1]]

    def end(self) -> Iterator[Row]:
        for bars in self.builder.end():
            yield from self._known(bars, self._heard)

    def _known(self, bars: pl.DataFrame, heard: NDArray[np.int64]) -> Iterator[Row]:
        """Rows without what was never quoted, and with the time of the last event before each close."""
        side: Literal["left", "right"] = "left" if self.every.by == "time" else "right"
        for row in _rows(bars):
            place = int(np.searchsorted(heard, row["time"], side)) - 1
            row["last_event"] = int(heard[max(place, 0)])
            row["instrument"] = self.seen
            yield {name: value for name, value in row.items() if value is not None}


def _rows(table: pl.DataFrame) -> list[Row]:
    return table.with_columns(time=_ns(pl.col("time"))).to_dicts()


def _ns(times: pl.Expr) -> pl.Expr:
    return times.dt.epoch("us") * 1000
