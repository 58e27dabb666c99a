"""From codes to what the learner learns from: transitions, n-step windows, or all actions at a bar."""

from typing import NamedTuple

import tensorflow as tf

from market.simulator import Simulator
from models.n_step import n_step_return


class Transition(NamedTuple):
    """A batch for each seed; rewards in learning units (price units times the reward scale).

    Where `action` is None, reward, discount and next_state are those of all three actions, with an axis
    of actions behind the batch's.
    """

    state: tf.Tensor  # (seeds, batch, state_size) float32
    action: tf.Tensor | None  # (seeds, batch) int32, index in {0, 1, 2}
    reward: tf.Tensor  # (seeds, batch) float32
    discount: tf.Tensor  # (seeds, batch) float32: gamma^n * (1 - terminated)
    next_state: tf.Tensor  # (seeds, batch, state_size) float32


def sampled(simulator: Simulator, code: tf.Tensor, valid: tf.Tensor, gamma: float) -> Transition:
    """The transitions that were made, summed over windows of codes along streams, (seeds, batch, n).

    `valid`, of that shape, is 1 where the transition after is valid (see `Ring.windows`).
    """
    steps = simulator.unpack(code)
    window = n_step_return(
        tf.unstack(steps.reward, axis=-1),
        tf.unstack(gamma * (1 - steps.ruined), axis=-1),
        tf.unstack(steps.continues * valid, axis=-1),
    )
    bar = steps.bar[..., 0]
    position = steps.position[..., 0]
    held = steps.held[..., 0]
    last = bar  # within an episode bars follow one another
    if code.shape[-1] > 1:
        extra = tf.cast(window.steps, tf.int32) - 1
        last = bar + extra
        held = tf.reduce_sum(steps.held * tf.one_hot(extra, code.shape[-1], dtype=tf.int32), -1)
    return Transition(
        state=simulator.states(bar, position),
        action=steps.action[..., 0],
        reward=window.reward,
        discount=window.discount,
        next_state=simulator.states(last + 1, held),
    )


def counterfactual_batch(
    simulator: Simulator, code: tf.Tensor, bits: tf.Tensor, gamma: float
) -> Transition:
    """What each action would have led to, at the bars of codes, out of positions drawn at random.

    The simulator states the assumption behind this (`rewards_of_all`). Codes, and the random uint32 that
    draw the positions, have the shape (seeds, batch).
    """
    bar = simulator.unpack(code).bar
    position = tf.cast(bits % tf.constant(3, tf.uint32), tf.int32) - 1
    reward, held = simulator.rewards_of_all(bar, position)
    bar_of_each = tf.broadcast_to(bar[..., None], held.shape)
    return Transition(
        state=simulator.states(bar, position),
        action=None,
        reward=reward,
        discount=tf.fill(reward.shape, gamma),
        next_state=simulator.states(bar_of_each + 1, held),
    )
