"""The market that a command names: its bars as rows, and what is known of it before the first one."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from market.bars import Bars, BarsError
from market.calendar import WEEK
from market.events.aggregate import Every
from market.events.schema import EventsError
from market.source import bars_from
from trading.feed import Rejections, Row, arriving, logged, recorded
from trading.preflight import MarketFacts
from trading.settings import TradingSettings
from trading.startup import Model

STDIN = 0


class MarketData(NamedTuple):
    """What is to be traded."""

    instrument: str  # what the journal calls it
    rows: Iterator[Row | None]  # its bars; None where time passed without one
    facts: MarketFacts  # what is known of it now
    rejections: Rejections  # events that are passed over
    alarms: list[Callable[[str], None]]  # told where the feed brings nothing to trade on

    def facts_of(self, rows: list[Row]) -> MarketFacts:
        """What is known once all bars, at least one, were read: their prices too."""
        closes = np.array([row["close"] for row in rows])
        name = self.facts.instrument or rows[0].get("instrument")
        return self.facts._replace(closes=closes, instrument=name)


def market_data(
    settings: TradingSettings, model: Model, say: Callable[[str], None], live: bool = False
) -> MarketData:
    """What the settings name, and its bars; what cannot be used is refused first.

    Where it is `live`, events arrive as they happen, and none may be ahead of the clock. Raises
    `BarsError` or `EventsError` where they cannot be used.
    """
    rejections = Rejections(say)
    alarms = [say]
    named = settings.instrument
    needed = model.pipeline.stream().columns
    if settings.bars is not None:
        bars = bars_from(settings.bars)
        missing = [name for name in needed if name not in bars.table.columns]
        if missing:
            raise BarsError(
                f"{bars.name}: {model.name} needs {', '.join(missing)}, which these bars do not have"
            )
        name = named or bars.name
        return MarketData(name, iter(recorded(bars)), _facts_of(bars, name), rejections, alarms)
    every = Every.parse(settings.every)
    interval = every.amount / 1e9 if every.by == "time" else None
    facts = MarketFacts(named, interval, None, None, every.by == "time")
    if settings.events == "-":
        latest = _latest(settings.limits.clock_skew) if live else None

        def alarm(reason: str) -> None:
            for each in alarms:
                each(reason)

        rows = arriving(STDIN, settings.every, named, rejections, latest, alarm)
        return MarketData(named or "stdin", rows, facts, rejections, alarms)
    path = Path(str(settings.events))
    if not path.exists():
        raise EventsError(f"{path}: no such file")
    name = named or path.name.split(".")[0]
    rows = logged(path, settings.every, named, rejections)
    return MarketData(name, rows, facts, rejections, alarms)


def _facts_of(bars: Bars, name: str) -> MarketFacts:
    closes = bars.column("close")
    if len(bars) < 2:
        return MarketFacts(name, None, None, closes)
    calendar = bars.calendar
    interval = None if calendar.kind == "irregular" else calendar.interval
    kind = calendar.kind if calendar.seen >= WEEK else None
    return MarketFacts(name, interval, kind, closes)


def _latest(skew: float | None) -> Callable[[], int]:
    """The latest time that an event may have now, ns."""
    if skew is None:
        return lambda: 2**63 - 1
    ahead = round(skew * 1e9)
    return lambda: time.time_ns() + ahead
