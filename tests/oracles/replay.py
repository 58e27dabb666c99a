"""Prioritised replay in NumPy, which the ring in tensors is held against."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tests.oracles.sum_tree import SumTree
from training.learning.replay import Batch, ReplayBuffer
from training.learning.ring import LARGEST


class PrioritizedBatch(NamedTuple):
    """A batch drawn by priority."""

    batch: Batch
    slot: NDArray[np.int64]  # (batch,), for `update_priorities`
    weight: NDArray[np.float32]  # (batch,): importance weights, the largest of the batch 1


class PrioritizedReplayBuffer:
    """Proportional prioritised replay: Schaul et al. (2016), "Prioritized Experience Replay".

    A transition is drawn with a chance in proportion to (|TD error| + floor)^alpha; a new one has the
    largest priority so far. Schedules of alpha and beta are their caller's: `alpha` may be set, beta is
    an argument of `sample`.

    Args:
        capacity: as in `ReplayBuffer`.
        state_size: as there.
        seed: as there.
        n_step: as there.
        streams: as there.
        alpha: 0 samples uniformly, 1 in full proportion.
        floor: added to TD errors, so that no transition is ruled out for good.
    """

    def __init__(
        self,
        capacity: int,
        state_size: int,
        seed: int,
        n_step: int = 1,
        streams: int = 1,
        alpha: float = 0.6,
        floor: float = 1e-3,
    ) -> None:
        if not (0 <= alpha <= 1 and 0 <= floor < np.inf):
            raise ValueError(
                f"alpha is {alpha} and floor {floor}; alpha must be from 0 to 1, floor finite and not "
                "below 0"
            )
        self._buffer = ReplayBuffer(capacity, state_size, seed, n_step, streams)
        self._tree = SumTree(capacity)
        self.alpha = alpha
        self.floor = floor
        self._largest = np.float32(1)

    def push(
        self,
        state: ArrayLike,
        action: int,
        reward: float,
        next_state: ArrayLike,
        discount: float = 1.0,
        truncated: bool = False,
    ) -> int:
        """As `ReplayBuffer.push`, with the largest priority so far."""
        slot = self._buffer.push(state, action, reward, next_state, discount, truncated)
        self._tree.set([slot], [self._largest ** np.float32(self.alpha)])
        return slot

    def sample(self, batch_size: int, beta: float) -> PrioritizedBatch:
        """Draws one transition from each of `batch_size` equal strata of the total priority.

        Args:
            batch_size: at least 1.
            beta: how far importance weights (N P(i))^-beta correct for the priorities, 0 to 1.

        Raises:
            ValueError: the buffer is empty, batch_size is below 1, beta is not from 0 to 1, or every
                priority is zero.
        """
        self._buffer.require(batch_size)
        if not 0 <= beta <= 1:
            raise ValueError(f"beta is {beta}; it must be from 0 to 1")
        return self.at(self.draw(self._buffer.bits(batch_size)), beta)

    def draw(self, bits: NDArray[np.uint32]) -> NDArray[np.int64]:
        """The slots that random bits pick, one from each stratum."""
        within = (bits >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24)
        count = np.float32(len(bits))
        return self._tree.find((np.arange(len(bits), dtype=np.float32) + within) / count)

    def at(self, slot: NDArray[np.int64], beta: float) -> PrioritizedBatch:
        """The transitions in slots, with their importance weights."""
        chance = self._tree.values(slot) / self._tree.total
        weight = chance ** np.float32(-beta)  # (N P)^-beta less N, which the next line takes out
        return PrioritizedBatch(self._buffer.at(slot), slot, weight / weight.max())

    def update_priorities(self, slot: NDArray[np.int64], td_error: NDArray[np.floating]) -> None:
        """Gives sampled transitions the priorities of their new TD errors.

        Call it before the next push: a slot filled anew since would get the priority of its past.

        Raises:
            ValueError: a TD error is not finite; nothing is changed.
        """
        size = np.abs(np.asarray(td_error, np.float32)) + np.float32(self.floor)
        if not np.isfinite(size).all():
            raise ValueError(f"a TD error is {td_error[~np.isfinite(size)][0]}; it must be finite")
        size = np.minimum(size, np.float32(LARGEST))
        self._tree.set(slot, size ** np.float32(self.alpha))
        self._largest = max(self._largest, size.max(initial=np.float32(0)))

    def __len__(self) -> int:
        """Transitions held."""
        return len(self._buffer)

    def state(self) -> dict[str, Any]:
        """Everything needed to go on exactly: `restore` takes it back."""
        own = {"largest_priority": self._largest, "alpha": self.alpha}
        return {**self._buffer.state(), **self._tree.state(), **own}

    def restore(self, state: dict[str, Any]) -> None:
        """Takes back what `state` gave, of a buffer of the same capacity, streams and state size.

        Raises:
            ValueError: it does not fit, or a priority is out of range; nothing is changed.
        """
        tree = SumTree(self._tree.capacity)
        tree.restore(state)
        self._buffer.restore(state)
        self._tree = tree
        self._largest = state["largest_priority"]
        self.alpha = state["alpha"]
