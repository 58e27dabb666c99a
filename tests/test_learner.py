"""The learner: five probe environments, losses against NumPy, target schedules."""

from collections.abc import Callable, Iterator

import keras
import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray

from models.networks import linear_q_network, two_layer_q_network
from models.stacked import StackedNetwork
from training.batches import Transition
from training.learner import Learner
from training.replay import ReplayBuffer
from training.settings import LearnerSettings

GAMMA = 0.8
Given = tuple[list[float], int, float, list[float], float]  # state, action, reward, next, discount
Probe = Callable[[np.random.Generator], Iterator[Given]]
SETTINGS = LearnerSettings(learning_rate=3e-3, batch=32, target_every=50)


def learned(probe: Probe, settings: LearnerSettings = SETTINGS) -> keras.Model:
    """Trains a two-layer network on a probe's transitions, from the host's replay buffer."""
    rng = np.random.default_rng(1)
    buffer = ReplayBuffer(1000, state_size=2, seed=1)
    while len(buffer) < 1000:
        for transition in probe(rng):
            buffer.push(*transition)
    learner = Learner([two_layer_q_network(2, (16, 16), seed=1)], settings)
    step = tf.function(learner.train_step, autograph=False)
    for update in range(1, 1001):
        step(Transition(*(part[None] for part in buffer.sample(settings.batch))))
        if settings.tau is None and update % settings.target_every == 0:
            learner.copy_target()
    return learner.online.network(0)


def q_of(network: keras.Model, *states: list[float]) -> NDArray[np.float32]:
    return np.asarray(network(np.array(states, np.float32)))


# Each probe isolates one fault. Action indices are 0, 1, 2; the state is (what is seen, bias).


def value(rng: np.random.Generator) -> Iterator[Given]:
    """One state, one step, reward 1: is a value learned at all?"""
    yield [0, 1], int(rng.integers(3)), 1.0, [0, 1], 0.0


def state(rng: np.random.Generator) -> Iterator[Given]:
    """Reward is what is seen: does the value depend on the state?"""
    seen = float(rng.choice([-1, 1]))
    yield [seen, 1], int(rng.integers(3)), seen, [seen, 1], 0.0


def discount(
    rng: np.random.Generator,
) -> Iterator[Given]:
    """Two steps, reward only at the second: does value flow back, discounted once?"""
    yield [0, 1], int(rng.integers(3)), 0.0, [1, 1], GAMMA
    yield [1, 1], int(rng.integers(3)), 1.0, [0, 1], 0.0


def action(
    rng: np.random.Generator,
) -> Iterator[Given]:
    """Reward is the action, -1, 0 or +1: does the value depend on the action taken?"""
    taken = int(rng.integers(3))
    yield [0, 1], taken, taken - 1.0, [0, 1], 0.0


def both(rng: np.random.Generator) -> Iterator[Given]:
    """Reward is the action times what is seen: does the policy follow the state?"""
    seen, taken = float(rng.choice([-1, 1])), int(rng.integers(3))
    yield [seen, 1], taken, seen * (taken - 1), [seen, 1], 0.0


def test_probe_value() -> None:
    np.testing.assert_allclose(q_of(learned(value), [0, 1]), [[1, 1, 1]], atol=0.02)


def test_probe_state() -> None:
    q = q_of(learned(state), [-1, 1], [1, 1])
    np.testing.assert_allclose(q, np.array([[-1] * 3, [1] * 3]), atol=0.05)


@pytest.mark.parametrize(
    "change", [{}, {"target": "double"}, {"tau": 0.02}], ids=["copy", "double", "tau"]
)
def test_probe_discount(change: dict[str, float]) -> None:
    q = q_of(learned(discount, SETTINGS.model_copy(update=change)), [0, 1], [1, 1])
    np.testing.assert_allclose(q, np.array([[GAMMA] * 3, [1] * 3]), atol=0.05)


def test_probe_action() -> None:
    np.testing.assert_allclose(q_of(learned(action), [0, 1]), [[-1, 0, 1]], atol=0.05)


def test_probe_both() -> None:
    q = q_of(learned(both), [-1, 1], [1, 1])
    np.testing.assert_allclose(q, [[1, 0, -1], [-1, 0, 1]], atol=0.05)


def batch(rng: np.random.Generator, size: int = 64) -> Transition:
    return Transition(
        state=tf.constant(rng.normal(size=(1, size, 3)), tf.float32),
        action=tf.constant(rng.integers(0, 3, (1, size)), tf.int32),
        reward=tf.constant(rng.normal(size=(1, size)) * 2, tf.float32),
        discount=tf.constant(rng.choice([0, 0.9], (1, size)), tf.float32),
        next_state=tf.constant(rng.normal(size=(1, size, 3)), tf.float32),
    )


def weights_of(network: StackedNetwork) -> list[NDArray[np.float32]]:
    return [variable.numpy()[0] for variable in network.variables.values()]


@pytest.mark.parametrize("loss", ["mse", "huber"])
def test_one_step_of_sgd_against_numpy(loss: str) -> None:
    """Loss, gradient, clipping and update of a linear network, worked out in NumPy."""
    settings = LearnerSettings(
        optimizer="sgd", learning_rate=0.1, loss=loss, huber_delta=0.7, clip_norm=0.05
    )
    learner = Learner([linear_q_network(3, seed=1)], settings)
    weights = weights_of(learner.online)[0].astype(np.float64)
    data = batch(np.random.default_rng(3))
    s, a, r, d, n = (np.asarray(part)[0] for part in data)
    td_error = r + d * (n @ weights).max(axis=1) - (s @ weights)[np.arange(64), a]
    if loss == "mse":
        losses, slope = td_error**2, 2 * td_error
    else:
        small = abs(td_error) <= 0.7
        losses = np.where(small, td_error**2 / 2, 0.7 * (abs(td_error) - 0.35))
        slope = np.where(small, td_error, 0.7 * np.sign(td_error))
    gradient = np.zeros((3, 3))
    np.add.at(gradient.T, a, -slope[:, None] * s / 64)
    norm = np.sqrt((gradient**2).sum())
    assert norm > 0.05  # so that the clip is at work

    metrics, sizes = learner.train_step(data)
    np.testing.assert_allclose(sizes[0], abs(td_error), rtol=1e-4, atol=1e-5)
    assert metrics.loss.numpy()[0] == pytest.approx(losses.mean(), rel=1e-5)
    assert metrics.td_error.numpy()[0] == pytest.approx(abs(td_error).mean(), rel=1e-5)
    assert metrics.gradient_norm.numpy()[0] == pytest.approx(norm, rel=1e-5)
    expected = weights - 0.1 * gradient * 0.05 / norm
    np.testing.assert_allclose(weights_of(learner.online)[0], expected, rtol=1e-4, atol=1e-6)


def test_the_target_starts_as_the_online_network_and_moves_only_when_told() -> None:
    learner = Learner([two_layer_q_network(3, (8, 8), seed=1)], LearnerSettings())
    started = weights_of(learner.target)
    for ours, theirs in zip(started, weights_of(learner.online), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    learner.train_step(batch(np.random.default_rng(0)))
    for before, after in zip(started, weights_of(learner.target), strict=True):
        np.testing.assert_array_equal(before, after)
    learner.copy_target(due=False)
    np.testing.assert_array_equal(started[0], weights_of(learner.target)[0])
    learner.copy_target()
    for ours, theirs in zip(weights_of(learner.target), weights_of(learner.online), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_soft_target_moves_by_tau() -> None:
    learner = Learner([linear_q_network(3, seed=1)], LearnerSettings(tau=0.1))
    before = weights_of(learner.target)[0]
    learner.train_step(batch(np.random.default_rng(0)))
    moved = before + 0.1 * (weights_of(learner.online)[0] - before)
    np.testing.assert_allclose(weights_of(learner.target)[0], moved, rtol=1e-6)
