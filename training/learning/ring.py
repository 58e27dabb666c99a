"""Replay inside the compiled loop: a ring of codes in tensors, sampled uniformly or by priority.

The ring has a row for each of the last iterations and a column for each stream. A seed's transitions
are numbered row * streams + stream; those numbers are `slots`. Every array has a leading axis of seeds.
"""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from models.exploration import linear
from training.learning.random_bits import below, uniform
from training.learning.settings import ReplaySettings

# Children of a node: few levels, and few children to add up on each.
FAN_OUT = 8
LARGEST = 1e28  # of a priority: 10^9 of them still add up to a float32


def level_sizes(capacity: int) -> list[int]:
    """Nodes on each level of a tree, the leaves first; whole families, the last one below the root."""
    sizes = [-(-capacity // FAN_OUT) * FAN_OUT]
    while sizes[-1] > FAN_OUT:
        parents = sizes[-1] // FAN_OUT
        sizes.append(-(-parents // FAN_OUT) * FAN_OUT)
    return sizes


class Sample(NamedTuple):
    """Slots to learn from, each of shape (seeds, batch)."""

    slot: tf.Tensor  # int32
    weight: tf.Tensor | None  # importance weights, float32, the largest of a batch 1; None: all 1


class Ring:
    """The newest transitions of each seed.

    Args:
        seeds: how many.
        settings: capacity, streams, priorities.

    Attributes:
        variables: its whole state, by name.
    """

    def __init__(self, seeds: int, settings: ReplaySettings) -> None:
        self.settings = settings
        self._seeds = seeds
        self.streams = settings.streams
        self.rows = settings.capacity // self.streams
        shape = (self.rows, seeds, self.streams)
        self._codes = tf.Variable(tf.zeros(shape, tf.int32), trainable=False, name="replay_ring")
        self.variables = {"replay/ring": self._codes}
        if settings.prioritised:
            self._tree = TensorSumTree(seeds, self.rows * self.streams)
            # Of |TD error| + floor, before the exponent; one until something was learned.
            self._largest = tf.Variable(tf.ones(seeds), trainable=False, name="replay_largest")
            self.variables["replay/tree"] = self._tree.nodes
            self.variables["replay/largest_priority"] = self._largest

    def sample(self, bits: tf.Tensor, iteration: tf.Tensor) -> Sample:
        """Draws, by random uint32 (seeds, batch), among what was stored before this iteration."""
        if not self.settings.prioritised:
            held = tf.minimum(iteration, self.rows) * self.streams
            return Sample(below(bits, held), None)
        slot = self._tree.find(strata(bits))
        chance = self._tree.values(slot) / self._tree.total()
        priority = self.settings.priority
        beta = self._at(iteration, priority.beta, priority.beta_end)
        weight = _power(chance, -beta)  # (N P)^-beta less N, which the next line takes out
        return Sample(slot, weight / tf.reduce_max(weight, axis=1, keepdims=True))

    def windows(
        self, slot: tf.Tensor, length: int, iteration: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Codes from slots on, along their streams.

        Args:
            slot: shape (seeds, batch).
            length: transitions of a window.
            iteration: iterations done.

        Returns:
            Codes, int32, and whether one more is valid (1.0) or this is the newest (0.0), both of shape
            (seeds, batch, length). What stands after the newest is not of this window.
        """
        row = slot[..., None] // self.streams
        stream = slot[..., None] % self.streams
        row = (row + tf.range(length)) % self.rows
        valid = tf.cast(row != (iteration - 1) % self.rows, tf.float32)
        seed = tf.range(self._seeds)[:, None, None]
        place = (row * self._seeds + seed) * self.streams + stream
        return tf.gather(tf.reshape(self._codes.read_value(), [-1]), place), valid

    def store(self, code: tf.Tensor, iteration: tf.Tensor, after: tf.Tensor | None = None) -> None:
        """Puts an iteration's transitions, codes of shape (seeds, streams), in place of the oldest.

        `after` is what was read of the ring in this iteration.
        """
        row = _after(after, iteration % self.rows)
        self._codes.scatter_update(tf.IndexedSlices(code[None], row[None]))

    def prioritise(
        self,
        iteration: tf.Tensor,
        sample: Sample | None = None,
        td_error: tf.Tensor | None = None,
        stored: bool = True,
    ) -> None:
        """Gives what was just stored the largest priority so far, and a sample that of its TD errors.

        Those are absolute, of shape (seeds, batch).
        """
        if not self.settings.prioritised:
            return
        priority = self.settings.priority
        end = priority.alpha if priority.alpha_end is None else priority.alpha_end
        largest = self._largest.read_value()
        row = iteration % self.rows
        slots = []
        sizes = []
        if sample is not None and td_error is not None:
            size = tf.minimum(td_error + priority.floor, LARGEST)
            largest = tf.maximum(largest, tf.reduce_max(size, axis=1))
            self._largest.assign(largest)
            if stored:
                # One walk through the tree for both. What was learned from and is overwritten in this
                # very iteration gets the new one's value: the order of writing does not matter.
                size = tf.where(tf.equal(sample.slot // self.streams, row), largest[:, None], size)
            slots.append(_after(sample.weight, sample.slot))
            sizes.append(size)
        if stored:
            shape = (self._seeds, self.streams)
            slots.append(tf.broadcast_to(row * self.streams + tf.range(self.streams), shape))
            sizes.append(tf.broadcast_to(largest[:, None], shape))
        alpha = self._at(iteration, priority.alpha, end)
        self._tree.set(tf.concat(slots, axis=1), _power(tf.concat(sizes, axis=1), alpha))

    def _at(self, iteration: tf.Tensor, start: float, end: float) -> tf.Tensor:
        """An exponent at an iteration."""
        return linear(tf.cast(iteration, tf.float32), start, end, self.settings.priority.steps, tf)


class TensorSumTree:
    """A sum tree in tensors, one for each seed.

    All levels lie in one variable, the leaves first, on each level one seed's nodes after the other's.
    Walks through the levels are loops of their own: unrolled, XLA computes a level's choice again in
    everything that follows it.

    Args:
        seeds: how many trees.
        capacity: leaves of each.

    Attributes:
        nodes: the variable.
    """

    def __init__(self, seeds: int, capacity: int) -> None:
        sizes = level_sizes(capacity)
        first = np.cumsum([0, *(seeds * size for size in sizes)])
        self._depth = len(sizes)
        self._seeds = seeds
        self._sizes, self._first = (tf.constant(a, tf.int32) for a in (sizes, first))
        self.nodes = tf.Variable(tf.zeros(first[-1]), trainable=False, name="replay_tree")

    def total(self) -> tf.Tensor:
        """Sums of all leaves, shape (seeds, 1)."""
        return self._prefixes(self._depth - 1, tf.zeros((self._seeds, 1), tf.int32))[-1]

    def values(self, leaf: tf.Tensor) -> tf.Tensor:
        """Values of leaves, both of shape (seeds, n)."""
        return tf.gather(self.nodes.read_value(), self._place(0, leaf))

    def set(self, leaf: tf.Tensor, value: tf.Tensor) -> None:
        """Gives leaves new values, both of shape (seeds, n)."""

        def write(level: tf.Tensor | int, node: tf.Tensor, value: tf.Tensor) -> None:
            place = tf.reshape(self._place(level, node), [-1])
            self.nodes.scatter_update(tf.IndexedSlices(tf.reshape(value, [-1]), place))

        def climb(level: tf.Tensor, node: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            parent = node // FAN_OUT
            write(level + 1, parent, self._prefixes(level, parent)[-1])
            return level + 1, parent

        write(0, leaf, value)
        tf.while_loop(lambda level, _: level < self._depth - 1, climb, (0, leaf))

    def find(self, share: tf.Tensor) -> tf.Tensor:
        """Leaves where shares of the totals fall, both of shape (seeds, n)."""

        def descend(
            level: tf.Tensor, node: tf.Tensor, mass: tf.Tensor
        ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            prefix = self._prefixes(level, node)
            child = tf.zeros_like(node)
            before = tf.zeros_like(mass)
            for sums in prefix[:-1]:
                beyond = (sums <= mass) & (sums < prefix[-1])
                child += tf.cast(beyond, tf.int32)
                before = tf.where(beyond, sums, before)
            return level - 1, node * FAN_OUT + child, mass - before

        root = tf.zeros(share.shape, tf.int32)
        start = (self._depth - 1, root, share * self.total())
        return tf.while_loop(lambda level, *_: level >= 0, descend, start)[1]

    def _prefixes(self, level: tf.Tensor | int, parent: tf.Tensor) -> list[tf.Tensor]:
        """Sums of children from the left, in the order in which NumPy accumulates them."""
        families = tf.reshape(self.nodes.read_value(), (-1, FAN_OUT))
        children = tf.gather(families, self._place(level, parent * FAN_OUT) // FAN_OUT)
        sums = tf.unstack(children, axis=-1)
        for k in range(1, FAN_OUT):
            sums[k] = sums[k - 1] + sums[k]
        return sums  # type: ignore[no-any-return]

    def _place(self, level: tf.Tensor | int, node: tf.Tensor) -> tf.Tensor:
        """Where in the variable the nodes of a level are, shape (seeds, n)."""
        return self._first[level] + tf.range(self._seeds)[:, None] * self._sizes[level] + node


def strata(bits: tf.Tensor) -> tf.Tensor:
    """A share of [0, 1] from each of as many equal strata as there are draws, shape (seeds, n).

    Schaul et al. (2016), "Prioritized Experience Replay", appendix B.2.1.
    """
    count = bits.shape[1]
    return (tf.range(count, dtype=tf.float32) + uniform(bits)) / count


def _power(base: tf.Tensor, exponent: tf.Tensor) -> tf.Tensor:
    """base^exponent for base >= 0, faster than `tf.pow`; of zero it is as good as zero."""
    return tf.exp(exponent * tf.math.log(tf.maximum(base, 1e-37)))


def _after(read: tf.Tensor | None, number: tf.Tensor) -> tf.Tensor:
    """The same number, but not before something at least zero was read.

    XLA copies a whole variable, iteration by iteration, where it could write before it has read.
    """
    return number if read is None else number + tf.cast(tf.reduce_min(read) < 0, tf.int32)
