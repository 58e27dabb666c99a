"""Bellman targets as pure functions. `discount` is gamma^n * (1 - terminated): no target knows `done`.

Shapes: `...` is any number of leading axes (batch; or seed, batch; or seed, batch, action taken), the
same in all arguments. n-step returns, which host and compiled replay share, stand in `n_step.py`.
"""

from typing import Any, NamedTuple

from keras import ops

Tensor = Any


def expected_target(
    reward: Tensor, discount: Tensor, next_values: Tensor, next_policy: Tensor
) -> Tensor:
    """R + discount * sum_a pi(a|s') Q_target(s', a): what every target below is, for its policy pi.

    Expected SARSA: van Seijen et al. (2009), "A Theoretical and Empirical Analysis of Expected Sarsa",
    equation 7. With quantiles, those of the actions are averaged one by one.

    Args:
        reward: shape (...).
        discount: shape (...).
        next_values: Q-values in the next states, shape (..., actions), or their quantiles, shape
            (..., actions, quantiles).
        next_policy: probabilities of the next actions, shape (..., actions).

    Returns:
        Targets of shape (...), or (..., quantiles).
    """
    if len(next_values.shape) > len(next_policy.shape):
        expected = ops.sum(next_values * next_policy[..., None], axis=-2)
        return reward[..., None] + discount[..., None] * expected
    return reward + discount * ops.sum(next_values * next_policy, axis=-1)


def q_learning_target(reward: Tensor, discount: Tensor, next_q: Tensor) -> Tensor:
    """R + discount * max_a Q_target(s', a).

    Mnih et al. (2015), "Human-level control through deep reinforcement learning", algorithm 1. Of reward
    and discount of shape (...), and the target network's Q-values in the next states, (..., actions).
    """
    return expected_target(reward, discount, next_q, greedy(next_q))


def double_q_learning_target(
    reward: Tensor, discount: Tensor, next_q: Tensor, next_q_online: Tensor
) -> Tensor:
    """R + discount * Q_target(s', argmax_a Q_online(s', a)).

    van Hasselt, Guez and Silver (2016), "Deep Reinforcement Learning with Double Q-learning",
    equation 4: the online network chooses, the target network judges. Shapes as in `q_learning_target`.
    """
    return expected_target(reward, discount, next_q, greedy(next_q_online))


class SoftPolicy(NamedTuple):
    """The policy softmax(Q / temperature), which Munchausen's target is made of."""

    probability: Tensor  # (..., actions)
    scaled_log: Tensor  # (..., actions): temperature * log of the probability, at most 0


def soft_policy(q: Tensor, temperature: float) -> SoftPolicy:
    """Softmax of Q / temperature, without overflow: Vieillard et al. (2020), appendix B.1."""
    above = q - ops.max(q, axis=-1, keepdims=True)
    exponential = ops.exp(above / temperature)
    total = ops.sum(exponential, axis=-1, keepdims=True)
    return SoftPolicy(exponential / total, above - temperature * ops.log(total))


def munchausen_reward(reward: Tensor, log_policy: Tensor, alpha: float, lowest: float) -> Tensor:
    """R + alpha * max(temperature * log pi(a|s), lowest), all of shape (...).

    Vieillard, Pietquin and Geist (2020), "Munchausen Reinforcement Learning", equation 1, clipped as in
    its section 4. The whole target is

        expected_target(munchausen_reward(...), discount, next_q - pi'.scaled_log, pi'.probability)

    with pi' the `soft_policy` of the target network in the next state, pi that in the state.
    """
    return reward + alpha * ops.clip(log_policy, lowest, 0.0)


def greedy(q: Tensor) -> Tensor:
    """The greedy policy as probabilities, shape (..., actions); the first of equals is taken."""
    return ops.one_hot(ops.argmax(q, axis=-1), q.shape[-1], dtype=q.dtype)


def epsilon_greedy(q: Tensor, epsilon: Tensor) -> Tensor:
    """Greedy but for a share epsilon of uniformly random actions, shape (..., actions)."""
    return greedy(q) * (1 - epsilon) + epsilon / q.shape[-1]
