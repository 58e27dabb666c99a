"""The batched market inside the compiled loop: many streams over one table, in TensorFlow.

A transition is one int32: bar, position, action and how its episode went on. Everything else about it
(states, reward) is looked up or computed again from the table when it is sampled, so that the replay
ring costs four bytes a transition whatever the number of features.

Streams have a leading axis of seeds: each seed is an experiment of its own over the same table.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from market.accounting import (
    cost,
    earned,
    equity_above_floor,
    growth,
    liquidation_cost,
    next_position,
    risk_penalty,
    ruins,
)
from market.table import MarketTable
from market.terms import AnyTerms, scaled

CONTINUES, TRUNCATED, RUINED = range(3)  # what a code says of the episode after its transition


class Transitions(NamedTuple):
    """What codes stand for; every field has the codes' shape."""

    bar: tf.Tensor  # int32
    position: tf.Tensor  # int32, coming in
    action: tf.Tensor  # int32, index in {0, 1, 2}
    held: tf.Tensor  # int32, the position that the action led to
    reward: tf.Tensor  # float32, learning units
    ruined: tf.Tensor  # float32: 1 where the episode terminated, else 0
    continues: (
        tf.Tensor
    )  # float32: 1 where the episode was neither terminated nor truncated, else 0


class Simulator:
    """Streams of market episodes with random starts.

    Args:
        table: the market.
        streams: how many episodes run side by side for each seed.
        seeds: each draws its streams' first starts; later ones come from the `bits` given to `step`.
        reward_scale: what a price unit counts in rewards, or the unit of the settings' sizing.

    Attributes:
        variables: the whole state of the streams, by name, each of shape (seeds, streams).
    """

    def __init__(
        self, table: MarketTable, streams: int, seeds: Sequence[int], reward_scale: float
    ) -> None:
        table.require_episode()
        self.settings = table.settings
        self.episode_bars = table.episode_bars
        self.feature_count = table.features.shape[1]
        self.starts = len(table) - table.episode_bars
        known = scaled(table.terms, reward_scale)
        self._kind = type(known)
        terms = np.stack(known, axis=1)
        terms = np.concatenate([terms, terms[-1:]])  # a row for the last bar, whose terms go unread
        self.rows = tf.Variable(
            np.concatenate([table.features, terms.astype(np.float32)], axis=1),
            trainable=False,
            name="market_rows",
        )
        drawn = [np.random.default_rng(seed).integers(self.starts, size=streams) for seed in seeds]
        start = np.stack(drawn).astype(np.int32)
        price = terms[start, known._fields.index("price")]
        initial = {
            "bar": start,
            "end": start + np.int32(table.episode_bars),
            "position": np.zeros_like(start),
            "cushion": equity_above_floor(price, table.settings).astype(np.float32),
        }
        self.variables = {
            f"stream/{name}": tf.Variable(value, trainable=False, name=f"stream_{name}")
            for name, value in initial.items()
        }

    def observe(self) -> tf.Tensor:
        """States of all streams, shape (seeds, streams, state_size)."""
        return self.states(self.variables["stream/bar"], self.variables["stream/position"])

    def states(self, bar: tf.Tensor, position: tf.Tensor) -> tf.Tensor:
        """States `[features..., position, 1.0]` of shape (..., state_size) for arguments of (...)."""
        features = tf.gather(self.rows, bar)[..., : self.feature_count]
        position = tf.cast(position, tf.float32)[..., None]
        return tf.concat([features, position, tf.ones_like(position)], axis=-1)

    def step(self, action: tf.Tensor, bits: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Steps every stream and restarts those whose episode ended, where random bits (uint32) say.

        Actions are indices in {0, 1, 2}. Returns the transitions' codes (int32) and rewards in learning
        units. All have the shape (seeds, streams).
        """
        bar, end, position, above_floor = (
            variable.read_value() for variable in self.variables.values()
        )
        terms = self._terms(tf.gather(self.rows, bar))
        held, net, penalty = self._hold(terms, position, action)
        ruined = ruins(terms, above_floor, net, tf.math)
        reward = self._reward(terms, position, held, net, tf.cast(ruined, tf.float32))
        over = ruined | (bar + 1 >= end)
        ending = tf.where(ruined, RUINED, tf.where(over, TRUNCATED, CONTINUES))
        code = ((bar * 3 + position + 1) * 3 + action) * 3 + ending

        start = tf.cast(bits % tf.constant(self.starts, tf.uint32), tf.int32)
        price = self._terms(tf.gather(self.rows, start)).price
        fresh = (
            start,
            start + self.episode_bars,
            tf.zeros_like(held),
            equity_above_floor(price, self.settings),
        )
        kept = (bar + 1, end, held, above_floor + reward)
        for variable, new, old in zip(self.variables.values(), fresh, kept, strict=True):
            variable.assign(tf.where(over, new, old))
        return code, reward - penalty

    def unpack(self, code: tf.Tensor) -> Transitions:
        """Looks up what codes of any shape stand for."""
        ending = code % 3
        rest = code // 3
        action = rest % 3
        rest = rest // 3
        position = rest % 3 - 1
        bar = rest // 3
        ruined = tf.cast(tf.equal(ending, RUINED), tf.float32)
        terms = self._terms(tf.gather(self.rows, bar))
        held, net, penalty = self._hold(terms, position, action)
        reward = self._reward(terms, position, held, net, ruined)
        continues = tf.cast(tf.equal(ending, CONTINUES), tf.float32)
        return Transitions(bar, position, action, held, reward - penalty, ruined, continues)

    def rewards_of_all(self, bar: tf.Tensor, position: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """What each of the three actions would earn, out of a position, at a bar.

        The price-taker assumption stands here: that bars are what they are whatever we hold, so that
        the reward and the next state of actions not taken are known. It is the assumption of the
        whole simulator, which replays recorded bars; here learning leans on it too. Ruin depends on
        the equity that a path has led to and is left out: no action terminates.

        Args:
            bar: shape (...).
            position: coming in, shape (...).

        Returns:
            Rewards in learning units, and the positions that the actions lead to, both (..., 3).
        """
        terms = self._kind(*(term[..., None] for term in self._terms(tf.gather(self.rows, bar))))
        held, net, penalty = self._hold(terms, position[..., None], tf.range(3))
        held = tf.broadcast_to(held, net.shape)
        return growth(terms, net, tf.math) - penalty, held

    def _terms(self, row: tf.Tensor) -> AnyTerms:
        return self._kind(*tf.unstack(row[..., self.feature_count :], axis=-1))

    def _hold(
        self, terms: AnyTerms, position: tf.Tensor, action: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """The position taken, what it earns net of costs, and the risk penalty."""
        held = next_position(position, action - 1, self.settings.scheme)
        previous = tf.cast(position, tf.float32)
        taken = tf.cast(held, tf.float32)
        net = earned(terms, previous, taken, tf.math) - cost(terms, previous, taken, tf.math)
        return held, net, risk_penalty(terms, previous, taken, self.settings, tf.math)

    @staticmethod
    def _reward(
        terms: AnyTerms, position: tf.Tensor, held: tf.Tensor, net: tf.Tensor, ruined: tf.Tensor
    ) -> tf.Tensor:
        """The reward before penalties; where an account is ruined, its position is liquidated."""
        previous = tf.cast(position, tf.float32)
        taken = tf.cast(held, tf.float32)
        net -= ruined * liquidation_cost(terms, taken, previous, tf.math)
        return growth(terms, net, tf.math)
