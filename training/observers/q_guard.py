"""Watches for Q-values beyond what rewards can explain, while they are still finite."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from market.table import MarketTable
from training.checkpoints.checkpoint import Tell
from training.learn import Progress
from training.observers.observer import Observer
from training.settings import TrainSettings
from training.tracking.tracker import Tracker


@dataclass(eq=False)
class QGuard(Observer):
    """Logs the largest Q-value as a share of what rewards can explain, and warns once."""

    most: float  # that rewards can explain, learning units
    trackers: Sequence[Tracker]
    tell: Tell
    warned: bool = False

    def on_point(self, point: Progress) -> None:
        """Looks at all Q-values that were looked up in a validation; an agent may have none."""
        if point.validations is None:
            return
        largest = 0.0
        for tracker, validation in zip(self.trackers, point.validations, strict=True):
            if validation.q_values is not None:
                share = float(abs(validation.q_values).max()) / self.most
                tracker.log({"guard/q_over_explained": share}, point.step)
                largest = max(largest, share)
        if largest > 1 and not self.warned:
            self.warned = True
            self.tell(
                f"warning: by iteration {point.step} a Q-value is {largest:.3g} times the largest that "
                "rewards can explain, r_max / (1 - gamma); see guard/q_over_explained"
            )


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
