"""Bellman targets as pure functions. `discount` is gamma * (1 - terminated): no target knows `done`."""

from typing import Any

from keras import ops

Tensor = Any


def q_learning_target(reward: Tensor, discount: Tensor, next_q: Tensor) -> Tensor:
    """R + discount * max_a Q_target(s', a).

    Mnih et al. (2015), "Human-level control through deep reinforcement learning", algorithm 1.

    Args:
        reward: shape (batch,).
        discount: shape (batch,).
        next_q: Q-values of the target network in the next states, shape (batch, actions).

    Returns:
        Targets of shape (batch,).
    """
    return reward + discount * ops.max(next_q, axis=-1)


def double_q_learning_target(
    reward: Tensor, discount: Tensor, next_q: Tensor, next_q_online: Tensor
) -> Tensor:
    """R + discount * Q_target(s', argmax_a Q_online(s', a)).

    van Hasselt, Guez and Silver (2016), "Deep Reinforcement Learning with Double Q-learning",
    equation 4: the online network chooses, the target network judges.

    Args:
        reward: shape (batch,).
        discount: shape (batch,).
        next_q: Q-values of the target network in the next states, shape (batch, actions).
        next_q_online: the same of the online network.

    Returns:
        Targets of shape (batch,).
    """
    chosen = ops.one_hot(ops.argmax(next_q_online, axis=-1), next_q.shape[-1])
    return reward + discount * ops.sum(next_q * chosen, axis=-1)
