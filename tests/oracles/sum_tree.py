"""Sampling in proportion to priorities: a sum tree in NumPy.

The compiled loop has the same tree in tensors (`training/learning/ring.py`). Both add, in float32, the
eight children of a node from left to right, so that the same uniforms draw the same leaves.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from training.learning.ring import FAN_OUT, LARGEST, level_sizes


class SumTree:
    """Leaves with a value each, of which one is drawn in proportion to its value.

    Args:
        capacity: leaves; all are zero at first.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._levels = [np.zeros(size, np.float32) for size in level_sizes(capacity)]

    @property
    def total(self) -> np.float32:
        """The sum of all leaves."""
        total: np.float32 = _prefixes(self._levels[-1][None])[0, -1]
        return total

    def values(self, index: NDArray[np.integer]) -> NDArray[np.float32]:
        """The values of leaves."""
        values: NDArray[np.float32] = self._levels[0][index]
        return values

    def set(self, index: ArrayLike, value: ArrayLike) -> None:
        """Gives leaves new values; where one is named twice, the last counts.

        Args:
            index: leaves, shape (n,).
            value: shape (n,), each in [0, `LARGEST`].

        Raises:
            ValueError: an index or a value is out of range; nothing is changed.
        """
        indices = np.asarray(index, np.int64)
        values = np.asarray(value, np.float32)
        strange = (indices < 0) | (indices >= self.capacity)
        if strange.any():
            raise ValueError(f"leaf {indices[strange][0]}; leaves are 0 to {self.capacity - 1}")
        wrong = ~((values >= 0) & (values <= np.float32(LARGEST)))  # NaN is in no range
        if wrong.any():
            first = values[wrong].flat[0]
            raise ValueError(f"priority is {first}; it must be from 0 to {LARGEST:g}")
        self._levels[0][indices] = values
        for lower, upper in zip(self._levels, self._levels[1:], strict=False):
            indices = indices // FAN_OUT
            upper[indices] = _prefixes(lower.reshape(-1, FAN_OUT)[indices])[:, -1]

    def find(self, share: ArrayLike) -> NDArray[np.int64]:
        """The leaves where shares of the total fall; a leaf of zero is never one.

        Args:
            share: in [0, 1], shape (n,).

        Returns:
            Leaves, shape (n,).

        Raises:
            ValueError: all leaves are zero.
        """
        if self.total == 0:
            raise ValueError("every priority is zero: there is nothing to draw")
        mass = np.asarray(share, np.float32) * self.total
        node = np.zeros(mass.shape, np.int64)
        for level in reversed(self._levels):
            prefix = _prefixes(level.reshape(-1, FAN_OUT)[node])
            # By rounding, mass can reach the whole; the last child that adds anything is then taken.
            last = (prefix < prefix[:, -1:]).sum(axis=1)
            child = np.minimum((prefix <= mass[:, None]).sum(axis=1), last)
            before = np.take_along_axis(prefix, np.maximum(child - 1, 0)[:, None], axis=1)[:, 0]
            mass = np.where(child > 0, mass - before, mass)
            node = node * FAN_OUT + child
        return node

    def state(self) -> dict[str, Any]:
        """The leaves; `restore` takes them back."""
        return {"leaves": self._levels[0][: self.capacity].copy()}

    def restore(self, state: dict[str, Any]) -> None:
        """Takes back what `state` gave.

        Raises:
            ValueError: it is of another capacity, or a leaf is out of range; nothing is changed.
        """
        leaves = np.asarray(state["leaves"])
        if leaves.shape != (self.capacity,):
            raise ValueError(f"leaves have shape {leaves.shape}, this tree has {self.capacity}")
        self.set(np.arange(self.capacity), leaves)


def _prefixes(children: NDArray[np.float32]) -> NDArray[np.float32]:
    """Sums from the left: child 0, 0 + 1, ...; shape (n, 8)."""
    return np.add.accumulate(children, axis=1)
