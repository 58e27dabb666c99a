"""Replay on the host: a ring of transitions in NumPy, sampled uniformly.

The compiled loop keeps a ring of its own (`training/learning/ring.py`); this one serves transitions that
come from outside it: another simulator, recorded experience, a test. Given the same pushes and random
bits, both draw the same.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from market.table import POSITIONS
from models.n_step import n_step_return


class Batch(NamedTuple):
    """Sampled transitions, in time order; with n_step above 1, windows of them."""

    state: NDArray[np.float32]  # (batch, state_size)
    action: NDArray[np.int32]  # (batch,)
    reward: NDArray[np.float32]  # (batch,)
    discount: NDArray[np.float32]  # (batch,)
    next_state: NDArray[np.float32]  # (batch, state_size)


class ReplayBuffer:
    """Uniform replay (Lin 1992; Mnih et al. 2015): holds the newest `capacity` transitions.

    Args:
        capacity: transitions held before the oldest is evicted; a multiple of `streams`.
        state_size: length of a state.
        seed: of the sampling.
        n_step: transitions that a sample adds up, fewer where its episode or the known past ends.
        streams: environments that push in turns, so that a transition's successor comes that many
            pushes later.

    Example:
        >>> buffer = ReplayBuffer(capacity=1000, state_size=3, seed=1)
        >>> buffer.push([0.1, 0.0, 1.0], 2, 0.5, [0.2, 1.0, 1.0])
        0
        >>> buffer.sample(32).reward.shape
        (32,)
    """

    def __init__(
        self, capacity: int, state_size: int, seed: int, n_step: int = 1, streams: int = 1
    ) -> None:
        if min(capacity, state_size, n_step, streams) < 1:
            raise ValueError(
                f"capacity is {capacity}, state_size {state_size}, n_step {n_step} and streams "
                f"{streams}; all must be at least 1"
            )
        if capacity % streams:
            raise ValueError(f"capacity is {capacity}; it must be a multiple of streams, {streams}")
        self.capacity = capacity
        self.state_size = state_size
        self.n_step = n_step
        self.streams = streams
        self._ring = Batch(
            state=np.zeros((capacity, state_size), np.float32),
            action=np.zeros(capacity, np.int32),
            reward=np.zeros(capacity, np.float32),
            discount=np.zeros(capacity, np.float32),
            next_state=np.zeros((capacity, state_size), np.float32),
        )
        self._continues = np.zeros(capacity, np.float32)
        self._pushed = 0
        self._random = np.random.default_rng(seed)

    def push(
        self,
        state: ArrayLike,
        action: int,
        reward: float,
        next_state: ArrayLike,
        discount: float = 1.0,
        truncated: bool = False,
    ) -> int:
        """Adds a transition, evicting the oldest when full.

        Args:
            state: shape (state_size,).
            action: action index, 0, 1 or 2.
            reward: any finite number.
            next_state: shape (state_size,).
            discount: gamma * (1 - terminated); 1 where the learner multiplies by gamma itself, which
                with n_step above 1 it cannot.
            truncated: whether the stream's next push is of another episode though this one did not
                terminate.

        Returns:
            The slot it was put in.

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
        self._continues[slot] = not truncated and values.discount > 0
        self._pushed += 1
        return slot

    def sample(self, batch_size: int) -> Batch:
        """Draws transitions uniformly, with replacement.

        Raises `ValueError` where the buffer is empty, or batch_size is below 1.
        """
        self.require(batch_size)
        return self.at(self.draw(self.bits(batch_size)))

    def require(self, batch_size: int) -> None:
        """Raises ValueError where a batch of that size cannot be drawn."""
        if not len(self):
            raise ValueError("the replay buffer is empty: push a transition before sampling")
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it must be at least 1")

    def bits(self, count: int) -> NDArray[np.uint32]:
        """The next random bits of the buffer's own generator."""
        return self._random.integers(0, 2**32, count, np.uint32)

    def draw(self, bits: NDArray[np.uint32]) -> NDArray[np.int64]:
        """The slots that random bits pick; uniform but for 1 part in 2^32 / len."""
        return (bits.astype(np.uint64) * np.uint64(len(self)) >> np.uint64(32)).astype(np.int64)

    def at(self, slots: NDArray[np.integer]) -> Batch:
        """The transitions in slots; with n_step above 1, the windows that begin there."""
        newest = self._pushed - 1
        number = newest - (newest - slots) % self.capacity  # of the push that filled a slot
        ring = self._ring
        places = []
        known = []
        for k in range(self.n_step):
            later = number + k * self.streams
            places.append(later % self.capacity)
            known.append((later + self.streams < self._pushed).astype(np.float32))
        window = n_step_return(
            [ring.reward[place] for place in places],
            [ring.discount[place] for place in places],
            [self._continues[place] * each for place, each in zip(places, known, strict=True)],
        )
        last = (number + (np.asarray(window.steps).astype(int) - 1) * self.streams) % self.capacity
        return Batch(
            ring.state[slots],
            ring.action[slots],
            window.reward,
            window.discount,
            ring.next_state[last],
        )

    def __len__(self) -> int:
        """Transitions held, at most `capacity`."""
        return min(self._pushed, self.capacity)

    def state(self) -> dict[str, Any]:
        """Everything needed to go on exactly: `restore` takes it back. Arrays are copies."""
        return {
            **{name: column[: len(self)].copy() for name, column in self._columns().items()},
            "capacity": self.capacity,
            "streams": self.streams,
            "pushed": self._pushed,
            "random": self._random.bit_generator.state,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Takes back what `state` gave.

        Raises `ValueError` where it came from a buffer of another capacity, streams or state size;
        nothing is changed.
        """
        for name in ("capacity", "streams"):
            if state[name] != getattr(self, name):
                raise ValueError(
                    f"the state is of a replay buffer of {name} {state[name]}, this one has "
                    f"{getattr(self, name)}: restore into a buffer of the same capacity, streams and "
                    "state_size"
                )
        held = min(state["pushed"], self.capacity)
        for name, column in self._columns().items():
            wanted = (held, *column.shape[1:])
            if state[name].shape != wanted:
                raise ValueError(
                    f"replay {name} has shape {state[name].shape}, this buffer needs {wanted}: "
                    "restore into a buffer of the same capacity, streams and state_size"
                )
        generator = np.random.default_rng()
        generator.bit_generator.state = state["random"]  # raises before anything is changed
        for name, column in self._columns().items():
            column[:held] = state[name]
        self._pushed = state["pushed"]
        self._random = generator

    def _columns(self) -> dict[str, NDArray[Any]]:
        return {**self._ring._asdict(), "continues": self._continues}

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
