"""What a training run needs of whatever learns: Q-networks in the compiled loop, or a table."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray


class Diverged(FloatingPointError):
    """Learning produced numbers that are not finite."""


class Window(NamedTuple):
    """Means over the iterations of one call of `Agents.run`."""

    loss: float  # learning units; NaN before the first update
    td_error: float  # mean absolute, learning units; NaN before the first update
    q_mean: float  # price units; NaN before the first update
    gradient_norm: float  # learning units; NaN before the first update, and for a table
    reward: float  # net reward a bar and stream, price units
    epsilon: float  # at the last iteration


class Agents(Protocol):
    """Agents of one kind that learn side by side, each from its own seed."""

    reward_scale: float  # what a price unit counts in learning

    @property
    def seeds(self) -> Sequence[int]:
        """One for each agent."""

    @property
    def iteration(self) -> int:
        """Iterations done."""

    def compile(self) -> None:
        """Gets ready, so that the first call of `run` takes no longer than others."""

    def run(self, iterations: int, stopped: Callable[[], bool] = lambda: False) -> list[Window]:
        """Runs some iterations and returns each agent's means.

        Args:
            iterations: at least 1.
            stopped: asked now and then; where it says so, the rest is not run.

        Raises:
            Diverged: a metric or a weight is no longer finite.
        """

    def model(self, index: int) -> Any:
        """A copy of what an agent has learned, to be registered."""

    def q_values(self, index: int) -> Callable[[NDArray[np.float32]], NDArray[Any]]:
        """An agent's Q-values without exploration, from states (n, state_size) to (n, 3)."""
