"""Bars from events: by time, by number of trades, or by volume.

A bar by time holds the events of [close - every, close), aligned to 1970-01-01 UTC, and is stamped by
its close. A bar by trades or volume ends with the trade that completes it and is stamped by that
trade's time; trades of one microsecond stay together, so that no two bars share a stamp.

A bar by time in which nothing happened, neither trade nor quote nor book, carries the price before where
the silence is short: at most half an hour, or one bar where bars are longer than that, and never more
than four hours. A longer silence is a closure (a night, a weekend, a pause at noon), and has no bars. How
long a silence was is known with the event that ends it, which is also when its bars are due: files and
live feeds give the same bars.

Sums are taken strictly in the order of events, across the feeds as within them: how the events were
divided changes no bit of any bar.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from market.events.schema import BOOK, TRADE, EventsError

Empty = Literal["carry", "skip"]
Numbers = NDArray[np.float64]
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
LONGEST = 36_500 * 86_400
SLICE = 2**17  # bars that are filled in at once, since gaps may make many of few
CARRY_SECONDS = 1800  # of silence that are carried at most,
CARRY_ONE_SECONDS = 4 * 3600  # or one bar where bars are longer than that, up to so long
QUOTED = ("bid", "ask", "bid_size", "ask_size", "depth_bid", "depth_ask")
TRADED = ("open", "high", "low", "close", "volume", "notional")


@dataclass(frozen=True)
class Every:
    """When a bar ends."""

    by: Literal["time", "trades", "volume"]  # what is counted
    amount: float  # nanoseconds, trades, or units of size
    text: str  # as it was written

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads `30s`, `1m`, `4h`, `1d`, `500 trades` or `12.5 volume`.

        Raises `EventsError` where it is none of these.
        """
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([smhd]|trades|volume)\s*", text)
        amount = float(match[1]) if match else 0.0
        whole = match is not None and (match[2] == "volume" or amount.is_integer())
        if match is not None and match[2] in SECONDS and amount * SECONDS[match[2]] > LONGEST:
            raise EventsError(f"--every is {text!r}; a bar may last at most 36,500d")
        if match is None or amount <= 0 or not whole:
            raise EventsError(
                f"--every is {text!r}; it must be a time such as 1s, 30m, 4h or 1d, a number such as "
                "'500 trades', or an amount such as '12.5 volume'"
            )
        if match[2] in SECONDS:
            return cls("time", amount * SECONDS[match[2]] * 10**9, text)
        return cls("trades" if match[2] == "trades" else "volume", amount, text)

    @property
    def carried(self) -> int:
        """Silent bars in a row that carry the price before; more of them are a closure."""
        seconds = self.amount / 1e9
        if self.by != "time" or seconds > CARRY_ONE_SECONDS:
            return 0
        return max(int(CARRY_SECONDS // seconds), 1)


class _Rows(NamedTuple):
    """Bars in the making, row by row; numbers are NaN where nothing was traded or quoted."""

    id: NDArray[np.int64]
    stamp: NDArray[np.int64]  # microseconds since 1970: the close of the bar
    trades: NDArray[np.int64]
    traded: Numbers  # (rows, 6), columns of TRADED
    quoted: Numbers  # (rows, 6), columns of QUOTED, as known at the close

    def part(self, rows: slice | NDArray[np.integer] | NDArray[np.bool_]) -> "_Rows":
        return _Rows._make(column[rows] for column in self)

    def after(self, others: "_Rows") -> "_Rows":
        return _Rows._make(np.concatenate(pair) for pair in zip(others, self, strict=True))


class BarBuilder:
    """The bars of one instrument, from its events in order.

    `empty` says whether a bar by time without trades carries the last price forward, unless it is one of
    a closure, or is left out.
    """

    def __init__(self, every: Every, empty: Empty = "carry") -> None:
        self.every = every
        self.carries = empty == "carry" and every.by == "time"
        self._open: _Rows | None = None  # the bar that more events may belong to, one row
        self._last: _Rows | None = None  # the last finished bar, one row, price carried
        self._quoted = np.full(len(QUOTED), np.nan)
        self._counted = (0, 0.0, 0)  # of bars by trades or volume: its id, how full, last stamp

    def add(self, events: pl.DataFrame) -> Iterator[pl.DataFrame]:
        """Takes events in and yields the bars that they finished."""
        events = events.select("ns", "kind", "price", "size", *QUOTED)
        if (events["kind"] > BOOK).any():
            events = events.filter(pl.col("kind") <= BOOK)
        rows = self._rows(events) if events.height else None
        if rows is not None:
            self._open = rows.part(slice(-1, None))
            yield from self._tables(rows.part(slice(0, -1)))

    def end(self) -> Iterator[pl.DataFrame]:
        """The last bar, which may not have been full, and empty ones before it."""
        rows = self._open
        self._open = None
        if rows is not None:
            yield from self._tables(rows)

    def _rows(self, events: pl.DataFrame) -> _Rows | None:
        """The open bar and those that the events belong to."""
        kind = events["kind"].to_numpy()
        trade = kind == TRADE
        by_time = self.every.by == "time"
        chosen = np.arange(len(kind)) if by_time else np.flatnonzero(trade)
        if not len(chosen):
            self._quotes(events, kind, chosen)
            return self._open
        ns = events["ns"].to_numpy()
        trades = events.select("price", "size").filter(pl.Series(trade))
        price, size = (trades[name].to_numpy() for name in ("price", "size"))
        ids = self._ids(ns if by_time else ns[chosen], size)
        first = np.append(True, ids[1:] != ids[:-1])
        row = np.cumsum(first) - 1
        row = row[trade] if by_time else row
        starts = np.flatnonzero(first)
        ends = chosen[np.append(starts[1:], len(ids)) - 1]
        rows = _Rows(
            id=ids[starts],
            stamp=self._stamps(ids[starts], ns[ends]),
            trades=np.zeros(len(starts), np.int64),
            traded=np.full((len(starts), len(TRADED)), np.nan),
            quoted=self._quotes(events, kind, ends),
        )
        if self._open is not None and self._open.id[0] == rows.id[0]:
            rows.traded[0] = self._open.traded[0]
            rows.trades[0] = self._open.trades[0]
        elif self._open is not None:
            rows = rows.after(self._open)
            row = row + 1
        _trade(rows, row, price, size)
        return rows

    def _quotes(
        self, events: pl.DataFrame, kind: NDArray[np.uint8], at: NDArray[np.integer]
    ) -> Numbers:
        """The quotes in force at some of the events, shape (len(at), 6); the last is kept."""
        sized = (events["bid_size"].is_not_null() & events["ask_size"].is_not_null()).to_numpy()
        told = [kind != TRADE, (kind != TRADE) & sized, kind == BOOK]  # prices, sizes, depth
        places = [np.flatnonzero(by) for by in told]
        at = np.append(at, len(kind) - 1)
        quoted = np.tile(self._quoted, (len(at), 1))
        for column, name in enumerate(QUOTED):
            place = places[column // 2]
            last = np.searchsorted(place, at, side="right") - 1
            known = last >= 0
            quoted[known, column] = events[name].gather(place[last[known]]).to_numpy()
        self._quoted = quoted[-1].copy()
        return quoted[:-1]

    def _ids(self, ns: NDArray[np.int64], size: Numbers) -> NDArray[np.int64]:
        if self.every.by == "time":
            return ns // int(self.every.amount)
        ids = []
        bar, full, last = self._counted
        weights = [1.0] * len(size) if self.every.by == "trades" else size.tolist()
        for stamp, weight in zip((-(-ns // 1000)).tolist(), weights, strict=True):
            if full >= self.every.amount and stamp > last:
                bar = bar + 1
                full = 0.0
            full += weight
            last = stamp
            ids.append(bar)
        self._counted = bar, full, last
        return np.array(ids, np.int64)

    def _stamps(self, ids: NDArray[np.int64], ns: NDArray[np.int64]) -> NDArray[np.int64]:
        if self.every.by == "time":
            return (ids + 1) * (int(self.every.amount) // 1000)
        return -(-ns // 1000)

    def _tables(self, rows: _Rows) -> Iterator[pl.DataFrame]:
        """Finished rows as tables, empty bars put in or left out."""
        if self.carries:
            yield from map(_table, self._carried(rows))
        else:
            yield _table(rows.part(rows.trades > 0))

    def _carried(self, rows: _Rows) -> Iterator[_Rows]:
        """Every bar from the last finished one on, those without trades at the price before."""
        if self._last is not None:
            missing_from = int(self._last.id[0]) + 1
            rows = rows.after(self._last)
        elif (rows.trades > 0).any():  # bars begin with the first trade
            rows = rows.part(slice(int(np.argmax(rows.trades > 0)), None))
            missing_from = int(rows.id[0])
        else:
            return
        priced = np.maximum.accumulate(np.where(rows.trades > 0, np.arange(len(rows.id)), 0))
        for ids in self._kept(rows.id, missing_from):
            place = np.searchsorted(rows.id, ids, side="right") - 1
            happened = (rows.id[place] == ids) & (rows.trades[place] > 0)
            close = rows.traded[priced[place], TRADED.index("close"), None]
            still = np.concatenate([np.repeat(close, 4, axis=1), np.zeros((len(ids), 2))], axis=1)
            filled = _Rows(
                id=ids,
                stamp=self._stamps(ids, ids),
                trades=np.where(happened, rows.trades[place], 0),
                traded=np.where(happened[:, None], rows.traded[place], still),
                quoted=rows.quoted[place],
            )
            self._last = filled.part(slice(-1, None))._replace(trades=np.ones(1, np.int64))
            yield filled

    def _kept(self, known: NDArray[np.int64], start: int) -> Iterator[NDArray[np.int64]]:
        """Ids from `start` to the last known one, less those of closures, in slices."""
        silent = np.diff(known) - 1
        closures = np.flatnonzero(silent > self.every.carried)
        starts = np.append(start, known[closures + 1])
        stops = np.append(known[closures], known[-1]) + 1
        open_for = stops - starts
        before = np.cumsum(open_for) - open_for  # ids of the stretches before each
        for first in range(0, int(open_for.sum()), SLICE):
            count = np.arange(first, min(first + SLICE, int(open_for.sum())))
            stretch = np.searchsorted(before, count, side="right") - 1
            yield starts[stretch] + count - before[stretch]


def _table(rows: _Rows) -> pl.DataFrame:
    traded = dict(zip(TRADED, rows.traded.T, strict=True))
    notional = traded.pop("notional")
    volume = traded["volume"]
    with np.errstate(invalid="ignore"):
        mean = np.where(rows.trades > 0, notional / volume, traded["close"])
    table = pl.DataFrame(
        {
            "time": rows.stamp.astype("datetime64[us]"),
            **traded,
            "trades": rows.trades,
            "vwap": np.clip(mean, traded["low"], traded["high"]),
            **dict(zip(QUOTED, rows.quoted.T, strict=True)),
            "carried": rows.trades == 0,
        },
        schema_overrides={"time": pl.Datetime("us")},
    )
    return table.with_columns(
        pl.col("time").dt.replace_time_zone("UTC"), pl.col(QUOTED).fill_nan(None)
    )


def _trade(rows: _Rows, row: NDArray[np.integer], price: Numbers, size: Numbers) -> None:
    """Adds trades to their rows, of which the first may hold trades already; rows do not decrease."""
    if not len(row):
        return
    column = {name: rows.traded[:, index] for index, name in enumerate(TRADED)}
    before = rows.trades > 0
    started = row[0] if before[row[0]] else -1  # only an open bar has been traded in
    starts = np.flatnonzero(np.append(True, row[1:] != row[:-1]))
    touched = row[starts]
    new = touched[touched != started]
    column["open"][new] = price[starts][touched != started]
    column["close"][touched] = price[np.append(starts[1:], len(row)) - 1]
    column["high"][touched] = np.fmax(column["high"][touched], np.maximum.reduceat(price, starts))
    column["low"][touched] = np.fmin(column["low"][touched], np.minimum.reduceat(price, starts))
    # bincount adds one by one, in order; what the open bar holds goes first
    order = np.append(0, row)
    for name, amounts in (("volume", size), ("notional", price * size)):
        held = np.append(column[name][0] if before[0] else 0.0, amounts)
        sums = np.bincount(order, held, len(rows.id))
        column[name][touched] = sums[touched]
    rows.trades[:] += np.bincount(row, minlength=len(rows.id))
