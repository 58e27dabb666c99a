"""Compiled loops on small markets."""

import hashlib
from collections.abc import Sequence
from typing import Any

from market.accounting import MarketSettings
from market.bars import Bars
from market.features import FeaturePipeline, FeatureSettings
from market.table import MarketTable
from tests.support.networks import two_layer_q_network
from training.learning.agent import LogWindow
from training.learning.dqn import Dqn
from training.learning.loop import TrainingLoop
from training.learning.settings import LearnerSettings, NetworkSettings, ReplaySettings

QUICK = ReplaySettings(learning_starts=100, capacity=2000)


SMALL = LearnerSettings(batch=16, target_every=37)


def loop_of(
    bars: Bars,
    variant: dict[str, dict[str, Any]] | None = None,
    seeds: Sequence[int] = (1,),
    **market: Any,
) -> TrainingLoop:
    parts = variant or {}
    features = FeaturePipeline.fit(bars, FeatureSettings())
    table = MarketTable.of(bars, features, MarketSettings(episode_bars=200, **market))
    network = parts.get("network", {})
    return TrainingLoop(
        table,
        [two_layer_q_network(table.state_size, (16, 16), seed, **network) for seed in seeds],
        Dqn(
            network=NetworkSettings(**network, cvar=0.5 if network.get("quantiles") else 1.0),
            learner=SMALL.model_copy(update=parts.get("learner", {})),
            replay=QUICK.model_copy(update=parts.get("replay", {})),
        ),
        seeds,
        reward_scale=1.0,
    )


def window_of(loop: TrainingLoop, iterations: int) -> LogWindow:
    (window,) = loop.run(iterations)
    return window


def digest(loop: TrainingLoop) -> str:
    parts = (variable.numpy().tobytes() for variable in loop.variables.values())
    return hashlib.sha256(b"".join(parts)).hexdigest()
