"""The agents that settings describe."""

from typing import TYPE_CHECKING

from market.table import MarketTable
from training.learning.agent import Agents
from training.learning.settings import NetworkSettings
from training.learning.tabular import TableLearning, TabularAgents
from training.settings import TrainSettings

if TYPE_CHECKING:
    import keras


def build_network(settings: NetworkSettings, state_size: int, seed: int) -> "keras.Model":
    """The Q-network that settings describe."""
    from models.networks import q_network

    return q_network(settings, state_size, seed, noisy=settings.noisy)


def build_agents(settings: TrainSettings, train: MarketTable, reward_scale: float) -> Agents:
    """The agents that settings describe, over the training split."""
    seeds = range(settings.seed, settings.seed + settings.seeds)
    if settings.network.kind == "tabular":
        return TabularAgents(
            train,
            TableLearning(
                settings.tabular, settings.learner.gamma, settings.replay.streams, settings.epsilon
            ),
            seeds,
            reward_scale,
            settings.called,
        )
    from training.learning.loop import Dqn, TrainingLoop

    return TrainingLoop(
        train,
        [build_network(settings.network, train.state_size, seed) for seed in seeds],
        Dqn(settings.learner, settings.replay, settings.epsilon, settings.network.cvar),
        seeds,
        reward_scale,
    )
