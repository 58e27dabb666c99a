"""A desk that wants one position always."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from market.synthetic import RandomWalk
from tests.support.desks import OFF, bundle_for, desk_at
from trading.desk import Desk
from trading.policy import PolicySettings
from trading.risk import Limits
from trading.venues.simulated import SimulatedVenue

SECOND = 10**9


DAY = 86_400 * SECOND


WALK = RandomWalk(sigma=0.001).bars(60, seed=3)


QUIET = OFF.model_copy(update={"volatility_bars": 3})


class Wish:
    """Q-values of a policy that wants a position."""

    def __init__(self, wanted: int = 1) -> None:
        self.wanted = wanted

    def __call__(self, _: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.eye(3, dtype=np.float32)[self.wanted + 1]


def bars(closes: list[float], seconds: float = 60.0, start: int = 0) -> list[dict[str, Any]]:
    first = 1_600_000_000 * SECOND // DAY * DAY + 12 * 3600 * SECOND
    opens = [closes[0], *closes[:-1]]
    return [
        {
            "time": first + round((start + place + 1) * seconds * SECOND),
            "open": before,
            "high": max(before, close),
            "low": min(before, close),
            "close": close,
            "volume": 1.0,
        }
        for place, (before, close) in enumerate(zip(opens, closes, strict=True))
    ]


def feed(desk: Desk, rows: list[dict[str, Any]]) -> None:
    for row in rows:
        if isinstance(desk.venue, SimulatedVenue):
            desk.venue.on_bar(row)
        desk.on_bar(row)


def desk_of(folder: Path, limits: Limits, wish: Wish, scheme: str = "target", **more: Any) -> Desk:
    bundle = bundle_for(WALK, scheme=scheme)
    any_feature = PolicySettings(max_feature=1e9)
    return desk_at(folder, bundle, limits=limits, q_values=wish, policy=any_feature, **more)
