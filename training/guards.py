"""Signs that learning goes wrong while its numbers are still finite."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from market.table import MarketTable
from training.settings import TrainSettings


def explained_q(settings: TrainSettings, table: MarketTable, reward_scale: float) -> float:
    """The largest |Q| that rewards can explain, r_max / (1 - gamma), in learning units.

    r_max is the largest absolute reward of any action out of any position on any bar, liquidation
    included; a target may add a bonus to each. Infinite for gamma 1.
    """
    gamma = settings.agent.learner.gamma
    if gamma == 1:
        return math.inf
    outcomes = table.outcomes()
    largest = float(abs(outcomes.net - outcomes.penalty).max() + abs(outcomes.closing).max())
    return (largest * reward_scale + settings.agent.bonus) / (1 - gamma)


def spread_states(table: MarketTable, count: int) -> NDArray[np.float32]:
    """States from all over a market, in every position, of shape (count or fewer, state_size)."""
    bars = np.unique(np.linspace(0, len(table) - 1, count).astype(int))
    return table.states(bars, np.arange(len(bars)) % 3 - 1)


class QGuard:
    """Watches for Q-values beyond what rewards can explain.

    Args:
        most: the largest that they can, learning units.
    """

    def __init__(self, most: float) -> None:
        self._most = most
        self._warned = False

    def shares(self, q_values: Sequence[NDArray[np.float64]]) -> list[float]:
        """The largest Q-value of each agent, as a share of the most that rewards can explain."""
        return [float(abs(values).max()) / self._most for values in q_values]

    def warning(self, step: int, shares: Sequence[float]) -> str | None:
        """What is to be said of them, once."""
        if max(shares) <= 1 or self._warned:
            return None
        self._warned = True
        return (
            f"warning: by iteration {step} a Q-value is {max(shares):.3g} times the largest that "
            "rewards can explain, r_max / (1 - gamma); see guard/q_over_explained"
        )
