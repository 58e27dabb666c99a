"""What a training run needs of whatever learns: Q-networks in the compiled loop, or a table."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

State = Mapping[str, NDArray[Any]]


class Diverged(FloatingPointError):
    """Learning produced numbers that are not finite."""

    exit_code = 1


class Window(NamedTuple):
    """Means over the iterations since the window before.

    Price units are shares of N, or growth of log equity, where the sizing is another.
    """

    loss: float  # learning units; NaN before the first update
    td_error: float  # mean absolute, learning units; NaN before the first update
    q_mean: float  # price units; NaN before the first update
    gradient_norm: float  # learning units; NaN before the first update, and for a table
    reward: float  # net reward a bar and stream, price units
    epsilon: float  # at the last iteration


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

    def run(self, iterations: int, stopped: Callable[[], bool] = lambda: False) -> list[Window]:
        """Runs some iterations and returns each agent's means since means were last returned.

        Args:
            iterations: at least 1.
            stopped: asked now and then; where it says so, the rest is not run and nothing is returned.
                The window stays open: a later call that runs the rest returns the means of it all.

        Raises:
            Diverged: a metric or a weight is no longer finite.
        """

    def state(self) -> State:
        """The whole training state, an open window included, as arrays by name.

        They may be views of what the next call of `run` changes.
        """

    def restore(self, state: State) -> None:
        """Takes back what `state` gave, of agents of the same settings, seeds and market.

        Raises:
            ValueError: names, types or shapes differ; nothing is changed.
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

    def q_values(self, index: int) -> Callable[[NDArray[np.float32]], NDArray[Any]]:
        """An agent's Q-values without exploration, from states (n, state_size) to (n, 3)."""


def require_fits(present: State, given: State) -> None:
    """Refuses a state that is not of these agents.

    Raises:
        ValueError: the first array whose name, type or shape differs.
    """
    for name in sorted(present.keys() | given.keys()):
        wanted, found = (
            _form(state[name]) if name in state else "none" for state in (present, given)
        )
        if wanted != found:
            raise ValueError(f"the state holds {found} as {name}; these settings need {wanted}")


def _form(array: NDArray[Any]) -> str:
    return f"{array.dtype} {list(array.shape)}"
