"""Targets, returns and losses: against literal numbers, other libraries, and NumPy from the papers."""

import numpy as np
import pytest

from models.losses import huber, quantile_huber
from models.n_step import n_step_return
from models.targets import (
    double_q_learning_target,
    epsilon_greedy,
    expected_target,
    greedy,
    munchausen_reward,
    q_learning_target,
    soft_policy,
)
from tests.golden import GOLDEN


def test_targets_by_hand() -> None:
    reward, discount = np.array([1, 2, -1], np.float32), np.array([0.5, 0.9, 0.0], np.float32)
    next_q = np.array([[1, 3, 2], [5, -5, 0], [100, 100, 100]], np.float32)
    online = np.array([[9, 1, 1], [0, 0, 1], [1, 2, 3]], np.float32)
    # 1 + 0.5 * 3; 2 + 0.9 * 5; terminal: the reward alone
    np.testing.assert_allclose(q_learning_target(reward, discount, next_q), [2.5, 6.5, -1])
    # the online network picks columns 0, 2 and 2: 1 + 0.5 * 1; 2 + 0.9 * 0; -1
    np.testing.assert_allclose(
        double_q_learning_target(reward, discount, next_q, online), [1.5, 2, -1]
    )
    # epsilon 0.3: 0.8 of the best and 0.1 of each other: 1 + 0.5 * (0.8 * 3 + 0.1 * 3), ...
    policy = epsilon_greedy(next_q, 0.3)
    np.testing.assert_allclose(
        expected_target(reward, discount, next_q, policy), [2.35, 5.15, -1], rtol=1e-6
    )


def test_targets_are_those_of_rlax() -> None:
    made = {name: np.array(each, np.float32) for name, each in GOLDEN["targets"].items()}
    one = q_learning_target(made["reward"], made["discount"], made["next_q"])
    np.testing.assert_allclose(one, made["q_learning"], rtol=1e-5, atol=1e-6)
    double = double_q_learning_target(
        made["reward"], made["discount"], made["next_q"], made["next_q_online"]
    )
    np.testing.assert_allclose(double, made["double"], rtol=1e-5, atol=1e-6)
    assert not np.allclose(one, double)


def test_targets_take_any_leading_axes() -> None:
    """All actions of two seeds at once are the targets one by one."""
    rng = np.random.default_rng(0)
    reward, discount = rng.normal(size=(2, 2, 5, 3)).astype(np.float32)
    next_q = rng.normal(size=(2, 5, 3, 3)).astype(np.float32)
    whole = np.asarray(q_learning_target(reward, discount, next_q))
    for at in np.ndindex(2, 5, 3):
        one = q_learning_target(reward[at], discount[at], next_q[at])
        np.testing.assert_allclose(whole[at], one, rtol=1e-6)


def test_quantile_huber_is_that_of_rlax() -> None:
    made = GOLDEN["quantiles"]
    here, then, chooser = (
        np.array(made[name], np.float32) for name in ("quantiles", "next_quantiles", "chooser")
    )
    reward, discount = (np.array(made[name], np.float32) for name in ("reward", "discount"))
    target = expected_target(reward, discount, then, greedy(chooser.mean(axis=-1)))
    chosen = here[np.arange(len(here)), made["action"]]
    for delta, loss in made["loss"].items():
        found = quantile_huber(chosen, target, float(delta))
        np.testing.assert_allclose(found, loss, rtol=2e-5, atol=1e-6)


def test_huber_by_hand() -> None:
    found = huber(np.array([0.5, -1.5, 3.0], np.float32), 1.5)
    np.testing.assert_allclose(found, [0.125, 1.125, 1.5 * (3 - 0.75)])


@pytest.mark.parametrize("temperature", [0.03, 1.0])
def test_munchausen_is_the_papers(temperature: float) -> None:
    """Equation 1 in double precision, with logarithms of probabilities that do not underflow here."""
    rng = np.random.default_rng(1)
    alpha, lowest, size = 0.9, -1.0, 50
    q, next_q = rng.normal(size=(2, size, 3)) * 3 * temperature
    q[:5] += [[0, 0, 50 * temperature]]  # the others so unlikely that the clip is at work
    reward, action = rng.normal(size=size), rng.integers(3, size=size)
    discount = rng.choice([0.0, 0.9], size)

    def log_policy(q: np.ndarray) -> np.ndarray:
        return q / temperature - np.log(np.exp(q / temperature).sum(axis=1, keepdims=True))

    bonus = np.maximum(temperature * log_policy(q)[np.arange(size), action], lowest)
    soft = np.exp(log_policy(next_q)) * (next_q - temperature * log_policy(next_q))
    expected = reward + alpha * bonus + discount * soft.sum(axis=1)
    assert temperature < 1 or (bonus == lowest).any()

    f = np.float32
    here, then = soft_policy(q.astype(f), temperature), soft_policy(next_q.astype(f), temperature)
    log_taken = np.asarray(here.scaled_log)[np.arange(size), action]
    found = expected_target(
        munchausen_reward(reward.astype(f), log_taken, alpha, lowest),
        discount.astype(f),
        next_q.astype(f) - np.asarray(then.scaled_log),
        then.probability,
    )
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_munchausen_never_adds_more_than_nothing() -> None:
    """Whatever rounding makes of the logarithm of a probability of one."""
    logs = np.array([-2, -0.5, 0, 1e-7, 3], np.float32)
    np.testing.assert_allclose(munchausen_reward(np.ones(5), logs, 0.5, -1.0), [0.5, 0.75, 1, 1, 1])


def test_soft_policy_does_not_overflow() -> None:
    policy = soft_policy(np.array([[1e6, 0, -1e6]], np.float32), 0.03)
    np.testing.assert_array_equal(policy.probability, [[1, 0, 0]])
    np.testing.assert_array_equal(policy.scaled_log, [[0, -1e6, -2e6]])


@pytest.mark.parametrize("length, reward, discount", [
    (1, 1, 0.5), (2, 2, 0.25), (3, 3, 0.125), (4, 4, 0.0625), (5, 5, 0.03125),
])  # fmt: skip
def test_a_window_of_five_ends_with_the_episode_wherever_that_is(
    length: int, reward: float, discount: float
) -> None:
    """Rewards 1, 2, 4, 8, 16 at a discount of a half: each step adds one."""
    continues = [np.array([float(k + 1 != length)]) for k in range(5)]
    rewards = [np.array([2.0**k]) for k in range(5)]
    found = n_step_return(rewards, [np.array([0.5])] * 5, continues)
    assert (found.reward, found.discount, found.steps) == ([reward], [discount], [length])
    ends = [np.array([0.5 * (k + 1 != length)]) for k in range(5)]
    found = n_step_return(rewards, ends, continues)
    assert (found.reward, found.discount, found.steps) == ([reward], [0], [length])


def test_n_step_returns_by_hand() -> None:
    """Windows of three with gamma 0.5: whole; truncated after two; terminated after one."""
    found = n_step_return(
        [np.array([1.0, 1, 1]), np.array([2.0, 2, 2]), np.array([4.0, 4, 4])],
        [np.array([0.5, 0.5, 0]), np.array([0.5, 0.5, 0.5]), np.array([0.5, 0.5, 0.5])],
        [np.array([1.0, 1, 0]), np.array([1.0, 0, 1]), np.array([1.0, 1, 1])],
    )
    np.testing.assert_array_equal(found.reward, [1 + 1 + 1, 1 + 1, 1])
    np.testing.assert_array_equal(found.discount, [0.125, 0.25, 0])
    np.testing.assert_array_equal(found.steps, [3, 2, 1])
