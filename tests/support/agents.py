"""Agents as trainings build them, and settings of Q-networks."""

from market.table import MarketTable
from training.learning.agent import Agents
from training.learning.dqn import Dqn
from training.settings import TrainSettings


def agents_of(settings: TrainSettings, table: MarketTable, reward_scale: float) -> Agents:
    """The agents of all seeds."""
    seeds = range(settings.seed, settings.seed + settings.seeds)
    return settings.agent.agents(table, seeds, reward_scale, settings.model_name)


def dqn_of(settings: TrainSettings) -> Dqn:
    """How Q-networks learn under settings that train such."""
    assert isinstance(settings.agent, Dqn)
    return settings.agent
