"""What a training needs of whatever learns: before it is built, its settings; then the agents.

Nothing here imports TensorFlow: a kind of agent that needs it imports it where its agents are built.
"""

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from durable.settings import Settings
from market.table import MarketTable
from training.learning.replay import ReplayBuffer
from training.learning.settings import DiscountSettings, StreamSettings

State = Mapping[str, NDArray[Any]]


class Diverged(FloatingPointError):
    """Learning produced numbers that are not finite."""

    exit_code = 1


class LogWindow(NamedTuple):
    """Means over the iterations since the window before.

    Price units are shares of N, or growth of log equity, where the sizing is another.
    """

    loss: float  # learning units; NaN before the first update
    td_error: float  # mean absolute, learning units; NaN before the first update
    q_mean: float  # price units; NaN before the first update
    gradient_norm: float  # learning units; NaN before the first update, and for a table
    reward: float  # net reward a bar and stream, price units
    epsilon: float  # at the last iteration


class Policy(NamedTuple):
    """What an agent does without exploration.

    Attributes:
        actions: from states (n, state_size) to indices of actions (n,).
        q_values: from states to Q-values (n, 3), learning units, which `actions` is greedy for; None of
            agents that have none.
    """

    actions: Callable[[NDArray[np.float32]], NDArray[Any]]
    q_values: Callable[[NDArray[np.float32]], NDArray[Any]] | None = None

    @classmethod
    def greedy(cls, q_values: Callable[[NDArray[np.float32]], NDArray[Any]]) -> "Policy":
        """The greedy policy of a Q-function."""
        return cls(lambda states: np.asarray(q_values(states)).argmax(axis=1), q_values)


class Agents(Protocol):
    """Agents of one kind that learn side by side, each from its own seed."""

    reward_scale: float  # what a price unit counts in learning, or the unit of another sizing

    @property
    def seeds(self) -> Sequence[int]:
        """One for each agent."""

    @property
    def iteration(self) -> int:
        """Iterations done."""

    def compile(self) -> None:
        """Gets ready, so that the first call of `run` takes no longer than others."""

    def run(self, iterations: int, stopped: Callable[[], bool] = lambda: False) -> list[LogWindow]:
        """Runs some iterations and returns each agent's means since means were last returned.

        Args:
            iterations: at least 1.
            stopped: asked now and then; where it says so, the rest is not run and nothing is returned.
                The window stays open: a later call that runs the rest returns the means of it all.

        Raises:
            Diverged: a metric or a weight is no longer finite.
        """

    def learn_from(self, lived: ReplayBuffer) -> None:
        """Learns, before the first iteration, from transitions that were made elsewhere.

        They are in learning units. The loop's ratio of updates to transitions is kept. Raises `Diverged`.
        """

    def state(self) -> State:
        """The whole training state, an open window included, as arrays by name.

        They may be views of what the next call of `run` changes.
        """

    def restore(self, state: State) -> None:
        """Takes back what `state` gave, of agents of the same settings, seeds and market.

        Raises `ValueError`: names, types or shapes differ; nothing is changed.
        """

    @property
    def learning_rate(self) -> float:
        """Of the optimizer."""

    def set_learning_rate(self, rate: float) -> None:
        """Has every agent go on at another rate."""

    def model(self, index: int) -> Any:
        """A copy of what an agent has learned, to be registered."""

    def weights(self, index: int) -> Mapping[str, NDArray[Any]]:
        """What an agent has learned by now, as arrays by name; the next `run` may change them."""

    def policy(self, index: int) -> Policy:
        """What an agent would do by now, without exploration."""


class AgentSettings(Settings):
    """How agents of one kind learn; each kind is a class of this, with groups of settings of its own."""

    kind: ClassVar[str]  # what `agent.kind` calls it
    # Has `agents(settings, table, seeds, reward_scale, name)`, which makes the agents.
    module: ClassVar[str]
    packages: ClassVar[tuple[str, ...]] = ()  # that it needs, beside those of every training
    learner: DiscountSettings = DiscountSettings()
    replay: StreamSettings = StreamSettings()

    @property
    def model_name(self) -> str:
        """Of runs and of the registered model, where the user names none."""
        return self.kind

    @property
    def algorithm(self) -> str:
        """What a run's tag says; runs are grouped by it."""
        return self.kind

    @property
    def architecture(self) -> str:
        """What stands for the policy or its values, as a run's tag says it."""
        return self.kind

    @property
    def summary(self) -> str:
        """What learns, for a run's description."""
        return f"{self.algorithm}, {self.architecture}"

    @property
    def cvar(self) -> float:
        """Share of worst outcomes that quantiles are averaged over; 1 where there are none."""
        return 1.0

    @property
    def learning_rate(self) -> float | None:
        """Of the optimizer; None where there is none to set anew."""
        return None

    @property
    def n_step(self) -> int:
        """Transitions that a target adds up."""
        return 1

    @property
    def bonus(self) -> float:
        """The most that a target adds to a reward, learning units."""
        return 0.0

    def require(self, steps: int, seeds: int) -> None:
        """Refuses a training in which these agents could not learn.

        Raises `ValueError`: says what is wrong, and what would be right.
        """

    def require_table(self, table: MarketTable, seeds: int) -> None:
        """Refuses a market on which these agents could not learn, before anything is written.

        Raises `TooManyCells` where they would not fit into memory.
        """

    def agents(
        self, table: MarketTable, seeds: Sequence[int], reward_scale: float, name: str
    ) -> Agents:
        """Agents that begin to learn.

        Args:
            table: the market to train on.
            seeds: one for each agent.
            reward_scale: what a price unit counts in learning, or the unit of another sizing.
            name: of the registered model.
        """
        made: Agents = import_module(self.module).agents(self, table, seeds, reward_scale, name)
        return made


def require_fits(present: State, given: State) -> None:
    """Refuses a state that is not of these agents.

    Raises `ValueError`: names the first array whose name, type or shape differs.
    """
    for name in sorted(present.keys() | given.keys()):
        wanted, found = (
            _form(state[name]) if name in state else "none" for state in (present, given)
        )
        if wanted != found:
            raise ValueError(f"the state holds {found} as {name}; these settings need {wanted}")


def _form(array: NDArray[Any]) -> str:
    return f"{array.dtype} {list(array.shape)}"
