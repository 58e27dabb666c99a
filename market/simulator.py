"""The batched market inside the compiled loop: many streams over one table, in TensorFlow.

A transition is one int32: bar, position, action and whether the episode ended in ruin. Everything
else about it (states, reward) is looked up or computed again from the table when it is sampled, so
that the replay ring costs four bytes a transition whatever the number of features.
"""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from market.accounting import (
    Terms,
    cost,
    earned,
    liquidation_cost,
    next_position,
    risk_penalty,
)
from market.table import MarketTable


class Transition(NamedTuple):
    """A batch of transitions; rewards in learning units (price units times the reward scale)."""

    state: tf.Tensor  # (batch, state_size) float32
    action: tf.Tensor  # (batch,) int32, index in {0, 1, 2}
    reward: tf.Tensor  # (batch,) float32
    discount: tf.Tensor  # (batch,) float32: gamma * (1 - terminated)
    next_state: tf.Tensor  # (batch, state_size) float32


class Simulator:
    """Streams of market episodes with random starts.

    Args:
        table: the market.
        streams: how many episodes run side by side.
        seed: draws the first starts; later ones come from the `bits` given to `step`.
        reward_scale: what a price unit counts in rewards.

    Attributes:
        variables: the whole state of the streams, by name.
    """

    def __init__(self, table: MarketTable, streams: int, seed: int, reward_scale: float) -> None:
        table.require_episode()
        self.settings = table.settings
        self.feature_count = table.features.shape[1]
        self.starts = len(table) - table.settings.episode_bars
        terms = np.stack([column * reward_scale for column in table.terms], axis=1)
        terms = np.concatenate([terms, terms[-1:]])  # a row for the last bar, whose terms go unread
        self.rows = tf.Variable(
            np.concatenate([table.features, terms.astype(np.float32)], axis=1),
            trainable=False,
            name="market_rows",
        )
        start = np.random.default_rng(seed).integers(self.starts, size=streams).astype(np.int32)
        price = terms[start, Terms._fields.index("price")]
        initial = {
            "bar": start,
            "end": start + np.int32(table.settings.episode_bars),
            "position": np.zeros(streams, np.int32),
            "cushion": (price * (1 - table.settings.equity_floor)).astype(np.float32),
        }
        self.variables = {
            f"stream/{name}": tf.Variable(value, trainable=False, name=f"stream_{name}")
            for name, value in initial.items()
        }

    def observe(self) -> tf.Tensor:
        """States of all streams, shape (streams, state_size)."""
        bar, position = self.variables["stream/bar"], self.variables["stream/position"]
        return self._states(tf.gather(self.rows, bar), position)

    def step(self, action: tf.Tensor, bits: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Steps every stream and restarts those whose episode ended.

        Args:
            action: action indices in {0, 1, 2}, shape (streams,).
            bits: random uint32 for the starts of new episodes, shape (streams,).

        Returns:
            The transitions' codes (int32) and rewards in learning units, both of shape (streams,).
        """
        bar, end, position, cushion = (
            variable.read_value() for variable in self.variables.values()
        )
        terms = self._terms(tf.gather(self.rows, bar))
        held, net, penalty = self._hold(terms, position, action)
        ruined = cushion + net <= 0
        net -= tf.cast(ruined, tf.float32) * liquidation_cost(terms, tf.cast(held, tf.float32))
        code = ((bar * 3 + position + 1) * 3 + action) * 2 + tf.cast(ruined, tf.int32)

        over = ruined | (bar + 1 >= end)
        start = tf.cast(bits % tf.constant(self.starts, tf.uint32), tf.int32)
        price = self._terms(tf.gather(self.rows, start)).price
        fresh = (
            start,
            start + self.settings.episode_bars,
            tf.zeros_like(held),
            price * (1 - self.settings.equity_floor),
        )
        kept = (bar + 1, end, held, cushion + net)
        for variable, new, old in zip(self.variables.values(), fresh, kept, strict=True):
            variable.assign(tf.where(over, new, old))
        return code, net - penalty

    def transitions(self, code: tf.Tensor, gamma: float) -> Transition:
        """Looks up what codes (shape (batch,)) stand for."""
        ruined, rest = tf.cast(code % 2, tf.float32), code // 2
        action, rest = rest % 3, rest // 3
        position, bar = rest % 3 - 1, rest // 3
        row = tf.gather(self.rows, bar)
        terms = self._terms(row)
        held, net, penalty = self._hold(terms, position, action)
        net -= ruined * liquidation_cost(terms, tf.cast(held, tf.float32))
        return Transition(
            state=self._states(row, position),
            action=action,
            reward=net - penalty,
            discount=gamma * (1 - ruined),
            next_state=self._states(tf.gather(self.rows, bar + 1), held),
        )

    def _states(self, row: tf.Tensor, position: tf.Tensor) -> tf.Tensor:
        position = tf.cast(position, tf.float32)[:, None]
        return tf.concat([row[:, : self.feature_count], position, tf.ones_like(position)], axis=1)

    def _terms(self, row: tf.Tensor) -> Terms:
        return Terms(*tf.unstack(row[:, self.feature_count :], axis=1))

    def _hold(
        self, terms: Terms, position: tf.Tensor, action: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """The position taken, what it earns net of costs, and the risk penalty."""
        held = next_position(position, action - 1, self.settings.scheme)
        previous, taken = tf.cast(position, tf.float32), tf.cast(held, tf.float32)
        net = earned(terms, previous, taken) - cost(terms, previous, taken)
        return held, net, risk_penalty(terms, previous, taken, self.settings)
