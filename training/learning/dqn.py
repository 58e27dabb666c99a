"""Deep Q-learning and its extensions: settings of the agents in `training/learning/loop.py`."""

import math
from typing import Self

from pydantic import BaseModel, model_validator

from models.exploration import EpsilonSettings
from training.learning.agent import AgentSettings
from training.learning.settings import LearnerSettings, NetworkSettings, ReplaySettings

MAX_STORED = 1_800_000_000  # with the nodes above them, what 31 bits can number


class Dqn(AgentSettings):
    """Q-networks that learn from replay: Mnih et al. (2015), and what it was extended by since."""

    kind = "dqn"
    module = "training.learning.loop"
    packages = ("tensorflow", "keras")
    network: NetworkSettings = NetworkSettings()
    learner: LearnerSettings = LearnerSettings()
    replay: ReplaySettings = ReplaySettings()
    epsilon: EpsilonSettings = EpsilonSettings()

    @model_validator(mode="after")
    def _ring_holds_a_sequence(self) -> Self:
        replay = self.replay
        if replay.capacity // replay.streams < self.learner.n_step:
            raise ValueError(
                f"replay.capacity is {replay.capacity}; it must be at least "
                f"{self.learner.n_step * replay.streams} to hold learner.n_step transitions of each of "
                "replay.streams"
            )
        return self

    @model_validator(mode="after")
    def _everything_set_does_something(self) -> Self:
        if not self.replay.prioritised:
            _require_default("replay.priority", self.replay.priority, "replay.prioritised is off")
        if self.learner.target != "munchausen":
            others = {name for name in LearnerSettings.model_fields if "munchausen" not in name}
            target = f"learner.target is {self.learner.target}"
            _require_default("learner", self.learner, target, others)
        return self

    @property
    def model_name(self) -> str:
        """Outputs of one name have one shape."""
        kind = self.network.kind
        return f"{kind}_quantiles" if self.network.quantiles else kind

    @property
    def algorithm(self) -> str:
        """DQN and what it was extended by: `dqn`, `dqn+double+n_step+prioritised`."""
        learner = self.learner
        parts = {
            learner.target: learner.target != "q_learning",
            "all_actions": learner.backup == "all_actions",
            "n_step": learner.n_step > 1,
            "prioritised": self.replay.prioritised,
            "dueling": self.network.dueling,
            "quantile": self.network.quantiles is not None,
            "noisy": self.network.noisy,
        }
        return "+".join(["dqn", *(name for name, present in parts.items() if present)])

    @property
    def architecture(self) -> str:
        """The kind of network."""
        return self.network.kind

    @property
    def cvar(self) -> float:
        """See `AgentSettings.cvar`."""
        return self.network.cvar

    @property
    def learning_rate(self) -> float | None:
        """Of the optimizer."""
        return self.learner.learning_rate

    @property
    def n_step(self) -> int:
        """See `AgentSettings.n_step`."""
        return self.learner.n_step

    @property
    def bonus(self) -> float:
        """Munchausen's target adds a share of the log-policy and the entropy of its policy."""
        learner = self.learner
        if learner.target != "munchausen":
            return 0.0
        log_policy = learner.munchausen_alpha * abs(learner.munchausen_lowest)
        return log_policy + learner.munchausen_temperature * math.log(3)

    def require(self, steps: int, seeds: int) -> None:
        """See `AgentSettings.require`."""
        replay = self.replay
        if steps <= replay.first_update:
            raise ValueError(
                f"steps is {steps} and ends before learning begins; it must be above "
                f"{replay.first_update} (replay.learning_starts {replay.learning_starts} over "
                f"{replay.streams} streams)"
            )
        if replay.capacity * seeds > MAX_STORED:
            raise ValueError(
                f"replay.capacity is {replay.capacity:,} and seeds {seeds}: "
                f"{replay.capacity * seeds:,} transitions; at most {MAX_STORED:,} are held"
            )


def _require_default(
    group: str, settings: BaseModel, where: str, used: frozenset[str] | set[str] = frozenset()
) -> None:
    """A setting that does nothing, given a value of its own, is a misunderstanding."""
    for name, field in sorted(type(settings).model_fields.items()):
        if name not in used and getattr(settings, name) != field.default:
            raise ValueError(f"{group}.{name} is set, but does nothing where {where}; leave it out")
