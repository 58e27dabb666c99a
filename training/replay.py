"""Replay on the host: a ring of transitions in NumPy.

The compiled loop keeps a ring of its own (`training/loop.py`); this one serves transitions that come
from outside it: another simulator, recorded experience, a test.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from market.table import POSITIONS


class Batch(NamedTuple):
    """Sampled transitions, in time order."""

    state: NDArray[np.float32]  # (batch, state_size)
    action: NDArray[np.int32]  # (batch,)
    reward: NDArray[np.float32]  # (batch,)
    discount: NDArray[np.float32]  # (batch,)
    next_state: NDArray[np.float32]  # (batch, state_size)


class ReplayBuffer:
    """Uniform replay (Lin 1992; Mnih et al. 2015): holds the newest `capacity` transitions.

    Args:
        capacity: transitions held before the oldest is evicted.
        state_size: length of a state.
        seed: of the sampling.

    Example:
        >>> buffer = ReplayBuffer(capacity=1000, state_size=3, seed=1)
        >>> buffer.push([0.1, 0.0, 1.0], 2, 0.5, [0.2, 1.0, 1.0])
        >>> buffer.sample(32).reward.shape
        (32,)
    """

    def __init__(self, capacity: int, state_size: int, seed: int) -> None:
        if capacity < 1 or state_size < 1:
            raise ValueError(
                f"capacity is {capacity} and state_size {state_size}; both must be at least 1"
            )
        self.capacity, self.state_size = capacity, state_size
        self._ring = Batch(
            state=np.zeros((capacity, state_size), np.float32),
            action=np.zeros(capacity, np.int32),
            reward=np.zeros(capacity, np.float32),
            discount=np.zeros(capacity, np.float32),
            next_state=np.zeros((capacity, state_size), np.float32),
        )
        self._pushed = 0
        self._random = np.random.default_rng(seed)

    def push(
        self,
        state: ArrayLike,
        action: int,
        reward: float,
        next_state: ArrayLike,
        discount: float = 1.0,
    ) -> None:
        """Adds a transition, evicting the oldest when full.

        Args:
            state: shape (state_size,).
            action: action index, 0, 1 or 2.
            reward: any finite number.
            next_state: shape (state_size,).
            discount: gamma * (1 - terminated); 1 where the learner multiplies by gamma itself.

        Raises:
            ValueError: a shape is wrong or a number not finite; the buffer is then unchanged.
        """
        values = Batch(
            self._checked("state", state, (self.state_size,)),
            self._checked_action(action),
            self._checked("reward", reward, ()),
            self._checked("discount", discount, ()),
            self._checked("next_state", next_state, (self.state_size,)),
        )
        slot = self._pushed % self.capacity
        for column, value in zip(self._ring, values, strict=True):
            column[slot] = value
        self._pushed += 1

    def sample(self, batch_size: int) -> Batch:
        """Draws transitions uniformly, with replacement.

        Raises:
            ValueError: the buffer is empty, or batch_size is below 1.
        """
        if not len(self):
            raise ValueError("the replay buffer is empty: push a transition before sampling")
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it must be at least 1")
        picks = self._random.integers(len(self), size=batch_size)
        ring = self._ring
        return Batch(
            ring.state[picks],
            ring.action[picks],
            ring.reward[picks],
            ring.discount[picks],
            ring.next_state[picks],
        )

    def __len__(self) -> int:
        """Transitions held, at most `capacity`."""
        return min(self._pushed, self.capacity)

    def state(self) -> dict[str, Any]:
        """Everything needed to go on exactly: `restore` takes it back. Arrays are copies."""
        return {
            **{name: column[: len(self)].copy() for name, column in self._ring._asdict().items()},
            "capacity": self.capacity,
            "pushed": self._pushed,
            "random": self._random.bit_generator.state,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Takes back what `state` gave.

        Raises:
            ValueError: it came from a buffer of another capacity or state size; nothing is changed.
        """
        if state["capacity"] != self.capacity:
            raise ValueError(
                f"the state is of a replay buffer of capacity {state['capacity']}, this one has "
                f"{self.capacity}: restore into a buffer of the same capacity and state_size"
            )
        held = min(state["pushed"], self.capacity)
        for name, column in self._ring._asdict().items():
            wanted = (held, *column.shape[1:])
            if state[name].shape != wanted:
                raise ValueError(
                    f"replay {name} has shape {state[name].shape}, this buffer needs {wanted}: "
                    "restore into a buffer of the same capacity and state_size"
                )
        generator = np.random.default_rng()
        generator.bit_generator.state = state["random"]  # raises before anything is changed
        for name, column in self._ring._asdict().items():
            column[:held] = state[name]
        self._pushed, self._random = state["pushed"], generator

    def _checked(self, name: str, value: ArrayLike, shape: tuple[int, ...]) -> NDArray[np.float32]:
        array = np.asarray(value, np.float32)
        if array.shape != shape:
            raise ValueError(f"{name} has shape {array.shape}; it must be {shape}")
        if not np.isfinite(array).all():
            raise ValueError(f"{name} is {value!r}; it must be finite")
        return array

    def _checked_action(self, action: int) -> NDArray[np.int32]:
        index = np.asarray(action)
        whole = index.shape == () and np.issubdtype(index.dtype, np.integer)
        if not whole or not 0 <= index < len(POSITIONS):
            raise ValueError(f"action is {action!r}; it must be an action index: 0, 1 or 2")
        return index.astype(np.int32)
