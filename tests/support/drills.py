"""A desk whose next decision a test names."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from market.synthetic import RandomWalk
from tests.support.desks import OFF, bundle_for, desk_at
from tests.support.hostile import HostileVenue
from trading.execution import ExecutionSettings
from trading.journal import records
from trading.risk import Limits
from trading.sizing import DeskSettings

MINUTE = 60 * 10**9


START = 1_600_000_000 * 10**9


BUNDLE = bundle_for(RandomWalk().bars(200, seed=1))


LONG, FLAT, SHORT = 1, 0, -1


class Drill:
    """A desk that wants what it is told, bar by bar, one a minute at a price of 100."""

    def __init__(self, folder: Path, limits: Limits = OFF, timeout: float = 60.0) -> None:
        self.folder, self.bars, self.wanted = folder, 0, FLAT
        self.venue = HostileVenue(folder / "journal.jsonl")
        self.desk = desk_at(
            folder,
            BUNDLE,
            limits=limits,
            venue=self.venue,
            q_values=self._choose,
            settings=DeskSettings(quantity=1.0, cash=1000.0),
            execution=ExecutionSettings(order_timeout=timeout),
        )
        self.bar(FLAT)
        self.bar(FLAT)

    def _choose(self, _: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.eye(3, dtype=np.float32)[self.wanted + 1]

    def bar(self, wanted: int, price: float = 100.0) -> None:
        self.wanted, self.bars = wanted, self.bars + 1
        prices = dict.fromkeys(("open", "high", "low", "close"), price)
        self.desk.on_bar({"time": START + self.bars * MINUTE, **prices, "volume": 1.0})

    def hold(self, wanted: int) -> None:
        """Takes a position at once."""
        self.bar(wanted)
        self.venue.execute(1.0)
        self.desk.on_venue_event()
        assert self.desk.account.position == wanted

    def told(self, kind: str = "order") -> list[dict[str, Any]]:
        path = self.folder / "journal.jsonl"
        return [each for each in records(path) if each["type"] == kind]

    @property
    def statuses(self) -> list[str]:
        return [each["status"] for each in self.told()]

    @property
    def sent(self) -> list[tuple[str, float, bool]]:
        return [(each.side, each.quantity, each.reduce_only) for each in self.venue.submitted]
