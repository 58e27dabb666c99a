"""The training that benchmarks measure: one piece of work, for qdesk and for its peers.

Importing it needs nothing but `market`, so that it serves in the peers' environment too.
"""

from typing import Any

from market.accounting import MarketSettings
from market.bars import load_bars
from market.features import FeaturePipeline, FeatureSettings
from market.synthetic import OrnsteinUhlenbeck
from market.table import MarketTable

KNOWN = "known"  # instead of the name of bars: the mean-reverting market whose best policy is known
FEATURES = ["price_change", *(f"log_return_{n}" for n in range(2, 64))]  # the first few of these

WORK: dict[str, Any] = {
    "bars": "btcusd_30m",
    "features": FEATURES[:1],
    "fee_rate": 0.001,
    "streams": 4,
    "batch": 32,
    "hidden": [64, 64],
    "optimizer": "adam",
    "learning_rate": 1e-3,
    "gamma": 0.99,
    "capacity": 100_000,
    "learning_starts": 1000,
    "target_every": 500,
    "epsilon": 0.1,
    "seed": 1,
}
# What differs where the market is the known one.
ON_KNOWN: dict[str, Any] = {
    "bars": KNOWN,
    "features": ["log_price"],
    "fee_rate": 0.01,
    "learning_rate": 3e-4,
}


def table_of(work: dict[str, Any]) -> MarketTable:
    """The market to train on."""
    if work["bars"] == KNOWN:
        bars = OrnsteinUhlenbeck().bars(200_000, 100)
    else:
        bars = load_bars(work["bars"]).split().train
    features = FeaturePipeline.fit(bars, FeatureSettings(names=tuple(work["features"])))
    return MarketTable.of(bars, features, MarketSettings(fee_rate=work["fee_rate"]))


def reward_scale_of(table: MarketTable) -> float:
    """What a price unit counts in rewards: one over the standard deviation of what a unit gains."""
    return 1 / float(table.terms.gain.std())


def build(work: dict[str, Any], parts: dict[str, Any] | None = None) -> Any:
    """The loop of qdesk.

    Args:
        work: settings, as `WORK`; without hidden layers the network is linear.
        parts: further settings of "network", "learner" and "replay", and a number of "seeds".

    Loss and clipping are as Stable-Baselines3's DQN has them.
    """
    from models.exploration import EpsilonSettings
    from tests.support.networks import linear_q_network, two_layer_q_network
    from training.learning.dqn import Dqn
    from training.learning.loop import TrainingLoop
    from training.learning.settings import LearnerSettings, ReplaySettings

    parts = parts or {}
    table = table_of(work)
    seeds = range(work["seed"], work["seed"] + parts.get("seeds", 1))
    if work["hidden"]:
        changes = parts.get("network", {})
        networks = [
            two_layer_q_network(table.state_size, work["hidden"], seed, **changes) for seed in seeds
        ]
    else:
        networks = [linear_q_network(table.state_size, seed) for seed in seeds]
    of_learner = ("gamma", "batch", "optimizer", "learning_rate", "target_every")
    of_replay = ("streams", "capacity", "learning_starts")
    learner = {name: work[name] for name in of_learner} | parts.get("learner", {})
    replay = {name: work[name] for name in of_replay} | parts.get("replay", {})
    return TrainingLoop(
        table,
        networks,
        Dqn(
            learner=LearnerSettings(loss="huber", clip_norm=10.0, **learner),
            replay=ReplaySettings(**replay),
            epsilon=EpsilonSettings(start=work["epsilon"], min=work["epsilon"]),
        ),
        seeds,
        reward_scale=reward_scale_of(table),
    )


def first_update(work: dict[str, Any]) -> int:
    """Iterations after which an iteration learns."""
    return int(-(-work["learning_starts"] // work["streams"]) + 1)
