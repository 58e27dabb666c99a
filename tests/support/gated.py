"""Findings that the gate says yes to, for tests of what it says no to."""

from typing import Any

import numpy as np

from evaluation.assessment import Findings, PositionTrack, assess
from evaluation.gate import Provenance
from evaluation.trials import Trials
from market.accounting import Fill, MarketSettings
from market.features import FeaturePipeline
from market.synthetic import OrnsteinUhlenbeck
from market.table import MarketTable
from models.promotion import Condition

LAW, FEE = OrnsteinUhlenbeck(), 0.002
GOOD = Provenance("data", "data", "abc", "abc", 0.1, same_bundle=True)
ONE = Trials(1, 0.0, {"dqn": 1})


def track(law: Any, seeds: int = 5, edge: bool = True, bars: int = 1500) -> PositionTrack:
    """Seeds that trade as the best policy would, each with some mistakes of its own; or at random."""
    path = law.bars(bars, 3)
    tables: dict[Fill, MarketTable] = {}
    fills: tuple[Fill, ...] = ("close", "next_open")
    for fill in fills:
        settings = MarketSettings(fill=fill, fee_rate=FEE)
        tables[fill] = MarketTable.of(path, FeaturePipeline.fit(path), settings)
    close = tables["close"].close[:-1]
    choice = LAW.best_choice(close, FEE, 0.99)
    rng = np.random.default_rng(1)
    positions = []
    for number in range(seeds):
        held, now = [], 0
        for row, slip in zip(choice, rng.random(len(choice)), strict=True):
            if edge:
                now = int(row[now + 1]) if slip > 0.1 * number else now
            elif slip < 0.05:
                now = int(rng.integers(-1, 2))
            held.append(now)
        positions.append(held)
    steps = len(close)
    made = np.array(positions, np.int8)
    edges = [0, steps // 3, steps]
    return PositionTrack(
        "walk-forward", tables, "close", made, list(range(seeds)), edges, np.ones(steps + 1)
    )


def findings(of: PositionTrack) -> Findings:
    return assess(of, draws=300, random_draws=20).findings


def own_of(walked: Findings) -> Findings:
    """As if a version's own weights had done what the first seed did."""
    stress = [
        each.model_copy(update={"net_returns": each.net_returns[:1]}) for each in walked.stress
    ]
    return walked.model_copy(update={"kind": "validation", "stress": stress})


def failed(conditions: list[Condition]) -> list[str]:
    return [each.name for each in conditions if not each.passed]
