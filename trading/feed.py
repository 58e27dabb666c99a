"""Bars for a desk: recorded, out of an event log, or from standard input as things happen.

A row is a dictionary: time (of the close, ns since 1970), open, high, low, close, volume, and what was
quoted. None means that time passed without a bar, so that the desk can look around.
"""

import os
import select
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl

from market.bars import Bars
from market.event_bars import BarBuilder, Every
from market.event_files import event_blocks, text_block
from market.event_forms import JsonLines
from market.event_order import EventOrder
from market.events import EventsError

Row = dict[str, Any]
TICK = 0.25  # s between looks around
READ = 1 << 16  # bytes


def recorded(bars: Bars) -> list[Row]:
    """Rows of bars that are known already."""
    return _rows(bars.table)


def logged(path: Path, every: str, instrument: str | None) -> Iterator[Row]:
    """Rows out of an event log, the very bars that `qdesk data convert` makes of it.

    Raises:
        EventsError: the log cannot be read, or is of several instruments and none was named.
    """
    one = _Instrument(every, instrument)
    order = EventOrder()
    for block in event_blocks([path]):
        for name, events in order.next(block):
            yield from one.rows(name, events)
    for name, events in order.end():
        yield from one.rows(name, events)
    yield from one.end()


def arriving(
    file: int, every: str, instrument: str | None, rejected: Callable[[str], None]
) -> Iterator[Row | None]:
    """Rows out of lines of JSON as they arrive; a bar is whole with the first event after it.

    Args:
        file: to read.
        every: when a bar ends.
        instrument: the only one.
        rejected: told why a line was passed over.
    """
    one, form, latest, line, rest = _Instrument(every, instrument), JsonLines(), 0, 1, b""
    while True:
        if not select.select([file], [], [], TICK)[0]:
            yield None
            continue
        read = os.read(file, READ)
        text, _, rest = (rest + read).rpartition(b"\n")
        if not read:
            text, rest = rest, b""
        if text:
            count = text.count(b"\n") + 1
            block = text_block(Path("standard input"), form, text + b"\n", line, count)
            line += count
            for bad in block.rejected:
                rejected(f"line {bad.line}: {bad.reason}")
            events = block.events
            late = events["ns"] < events["ns"].cum_max().clip(lower_bound=latest)
            for number in events["line"].filter(late):
                rejected(f"line {number}: out of order")
            events = events.filter(~late)
            for (name,), part in events.group_by("instrument", maintain_order=True):
                latest = max(latest, int(part["ns"][-1]))
                yield from one.rows(str(name), part)
        if not read:
            yield from one.end()
            return


def paced(rows: Iterator[Row | None], pace: str) -> Iterator[Row | None]:
    """Rows at a pace: `max`, `live` or a multiple such as `60x`; None four times a second in between."""
    if pace == "max":
        yield from rows
        return
    multiple = 1.0 if pace == "live" else float(pace.removesuffix("x"))
    began, first = time.monotonic(), None
    for row in rows:
        if row is None:
            continue
        first = row["time"] if first is None else first
        due = began + (row["time"] - first) / 1e9 / multiple
        while (left := due - time.monotonic()) > 0:
            time.sleep(min(left, TICK))
            yield None
        yield row


class _Instrument:
    """The bars of the one instrument that is traded."""

    def __init__(self, every: str, name: str | None) -> None:
        self.builder, self.name = BarBuilder(Every.parse(every)), name
        self.seen: str | None = None

    def rows(self, name: str, events: pl.DataFrame) -> Iterator[Row]:
        if self.name is not None and name != self.name:
            return
        if self.seen not in (None, name):
            raise EventsError(
                f"the log is of {self.seen} and {name}; name the one to trade with --instrument"
            )
        self.seen = name
        for bars in self.builder.add(events):
            yield from map(_known, _rows(bars))

    def end(self) -> Iterator[Row]:
        for bars in self.builder.end():
            yield from map(_known, _rows(bars))


def _known(row: Row) -> Row:
    """A row without what was never quoted."""
    return {name: value for name, value in row.items() if value is not None}


def _rows(table: pl.DataFrame) -> list[Row]:
    return table.with_columns(time=pl.col("time").dt.epoch("us") * 1000).to_dicts()
