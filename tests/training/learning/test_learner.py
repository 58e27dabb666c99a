"""The learner: losses and steps against NumPy, weights, target schedules."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray

from models.stacked import StackedNetwork
from tests.support.networks import linear_q_network, two_layer_q_network
from training.learning.batches import Transition
from training.learning.learner import Learner, Noise
from training.learning.settings import LearnerSettings

Numbers = NDArray[np.floating]


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


def test_importance_weights_scale_the_loss_of_every_kind() -> None:
    """A weight of zero takes a transition out, of any loss: what is learned is what the rest teaches."""
    data = batch(np.random.default_rng(4), 8)
    half = Transition(*(part[:, :4] for part in data if part is not None))
    weight = tf.constant(
        [[2.0] * 4 + [0.0] * 4]
    )  # the mean is over 8, so a weight of 2 counts once
    for loss, quantiles in (("mse", None), ("huber", None), ("mse", 5)):
        whole, part = (
            Learner(
                [two_layer_q_network(3, (8, 8), seed=1, quantiles=quantiles)],
                LearnerSettings(loss=loss, optimizer="sgd", learning_rate=0.1),
            )
            for _ in range(2)
        )
        metrics, td_error = whole.train_step(data, weight)
        expected, _ = part.train_step(half)
        assert metrics.loss.numpy()[0] == pytest.approx(expected.loss.numpy()[0], rel=1e-5)
        assert td_error.shape == (1, 8)
        for ours, theirs in zip(weights_of(whole.online), weights_of(part.online), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("loss, quantiles", [("mse", None), ("huber", None), ("mse", 5)])
@pytest.mark.parametrize("all_actions", [False, True])
def test_priorities_come_from_the_td_error_without_its_weight(
    loss: Any, quantiles: int | None, all_actions: bool
) -> None:
    """Schaul et al. (2016), algorithm 1, line 11: the weight scales the gradient alone."""
    data = batch(np.random.default_rng(4), 8)
    if all_actions:
        data = Transition(
            data.state,
            None,
            tf.repeat(data.reward[..., None], 3, axis=-1),
            tf.repeat(data.discount[..., None], 3, axis=-1),
            tf.repeat(data.next_state[:, :, None], 3, axis=2),
        )
    network = two_layer_q_network(3, (8, 8), seed=1, quantiles=quantiles)
    weight = tf.constant([[1.0, 0.5, 0.25, 0.0, 1.0, 0.1, 0.7, 0.3]])
    plain, weighted = (
        Learner([network], LearnerSettings(loss=loss)).train_step(data, each)
        for each in (None, weight)
    )
    assert plain[0].loss.numpy() != weighted[0].loss.numpy()
    np.testing.assert_array_equal(weighted[1], plain[1])
    np.testing.assert_array_equal(weighted[0].td_error, plain[0].td_error)


def test_gradients_are_clipped_by_the_norm_of_their_own_seed() -> None:
    """Of two seeds side by side one is clipped, by its own norm, and the other is not at all."""
    networks = [linear_q_network(3, seed) for seed in (1, 2)]
    wild, calm = (batch(np.random.default_rng(seed), 8) for seed in (3, 4))
    wild = wild._replace(reward=100 * wild.reward)
    settings = LearnerSettings(optimizer="sgd", learning_rate=0.1, clip_norm=5.0)
    together = Learner(networks, settings)
    both = Transition(*(tf.concat(parts, axis=0) for parts in zip(wild, calm, strict=True)))
    metrics, _ = together.train_step(both)
    assert metrics.gradient_norm.numpy()[0] > 50
    assert metrics.gradient_norm.numpy()[1] < 5
    for index, data in enumerate((wild, calm)):
        alone = Learner([networks[index]], settings)
        expected, _ = alone.train_step(data)
        assert metrics.gradient_norm.numpy()[index] == pytest.approx(
            expected.gradient_norm.numpy()[0], rel=1e-5
        )
        for path, weights in together.online.variables.items():
            only = alone.online.variables[path].numpy()[0]
            np.testing.assert_allclose(weights.numpy()[index], only, rtol=1e-5, atol=1e-6)


def test_double_q_learning_chooses_under_the_noise_of_the_online_network() -> None:
    """Fortunato et al. (2018), equation 17: each network has a noise of its own."""
    made = [two_layer_q_network(3, (8, 8), seed, noisy=True) for seed in (1, 2)]
    learner = Learner(made[:1], LearnerSettings(target="double"))
    other = StackedNetwork(made[1:], "other")
    for path, variable in learner.target.variables.items():
        variable.assign(other.variables[path].value)
    rng = np.random.default_rng(6)
    acting, online, target = (
        tf.constant(3 * rng.normal(size=(1, learner.noise_size)), tf.float32) for _ in range(3)
    )
    data = batch(rng)
    judged = np.asarray(learner.target(data.next_state, target))[0]
    chosen = {
        name: np.asarray(learner.online(data.next_state, noise))[0].argmax(axis=1)
        for name, noise in (("own", online), ("target", target), ("acting", acting), ("no", None))
    }
    for name in ("target", "acting", "no"):
        assert (chosen["own"] != chosen[name]).sum() > 5, name
    found = learner._target_of(data, 0.0, Noise(acting, online, target))
    value = judged[np.arange(len(judged)), chosen["own"]]
    expected = np.asarray(data.reward)[0] + np.asarray(data.discount)[0] * value
    np.testing.assert_allclose(np.asarray(found)[0], expected, rtol=1e-4, atol=1e-5)


def test_a_batch_of_all_actions_is_three_batches_of_one() -> None:
    """The loss is the mean over the actions of what each would give; one step of SGD alike."""
    rng = np.random.default_rng(5)
    state = tf.constant(rng.normal(size=(1, 6, 3)), tf.float32)
    reward = tf.constant(rng.normal(size=(1, 6, 3)), tf.float32)
    discount = tf.constant(rng.choice([0, 0.9], (1, 6, 3)), tf.float32)
    then = tf.constant(rng.normal(size=(1, 6, 3, 3)), tf.float32)
    settings = LearnerSettings(optimizer="sgd", learning_rate=0.1, target="double")
    together, apart = (
        Learner([two_layer_q_network(3, (8, 8), seed=1)], settings) for _ in range(2)
    )
    metrics, td_error = together.train_step(Transition(state, None, reward, discount, then))
    flat = Transition(
        tf.repeat(state, 3, axis=1),
        tf.constant([[0, 1, 2] * 6]),
        tf.reshape(reward, (1, 18)),
        tf.reshape(discount, (1, 18)),
        tf.reshape(then, (1, 18, 3)),
    )
    expected, sizes = apart.train_step(flat)
    assert metrics.loss.numpy()[0] == pytest.approx(expected.loss.numpy()[0], rel=1e-5)
    np.testing.assert_allclose(
        td_error, tf.reduce_mean(tf.reshape(sizes, (1, 6, 3)), -1), rtol=1e-4
    )
    for ours, theirs in zip(weights_of(together.online), weights_of(apart.online), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


def test_risk_changes_the_choice_in_acting_and_in_the_target() -> None:
    """A bet that loses much now and then is taken for its mean and left for its worst tenth."""
    network = two_layer_q_network(2, (4, 4), quantiles=10)
    weights = [np.zeros_like(w) for w in network.get_weights()]
    weights[-1] = np.array([[0] * 10, [0.1] * 10, [-3, *[1.0] * 9]]).ravel()
    network.set_weights(weights)
    state = tf.constant([[[0.0, 1.0]]])
    data = Transition(state, tf.constant([[1]]), tf.zeros((1, 1)), tf.ones((1, 1)), state)
    for cvar, choice in ((1.0, 2), (0.1, 1)):
        learner = Learner([network], LearnerSettings(), cvar)
        assert learner.greedy_action(state).numpy() == choice
        goal = learner._target_of(data, 0.0, Noise()).numpy()[0, 0]
        np.testing.assert_allclose(goal, weights[-1].reshape(3, 10)[choice], rtol=1e-6)


def softmax(values: Numbers) -> Numbers:
    exponential = np.exp(values - values.max(axis=-1, keepdims=True))
    return np.asarray(exponential / exponential.sum(axis=-1, keepdims=True))


@pytest.mark.parametrize("quantiles", [None, 4])
@pytest.mark.parametrize("target", ["q_learning", "double", "expected_sarsa", "munchausen"])
def test_the_learner_wires_each_target_as_its_paper_says(
    target: Any, quantiles: int | None
) -> None:
    """In NumPy, from the outputs of an online and a target network that differ."""
    settings = LearnerSettings(target=target, munchausen_temperature=0.5)
    made = [two_layer_q_network(3, (8, 8), seed, quantiles=quantiles) for seed in (1, 2)]
    learner = Learner(made[:1], settings)
    other = StackedNetwork(made[1:], "other")
    for path, variable in learner.target.variables.items():
        variable.assign(other.variables[path].value)
    data = batch(np.random.default_rng(6), 10)
    s, a, r, d, n = (np.asarray(part)[0] for part in data)
    online_next, target_next, target_here = (
        np.asarray(network(states))
        for network, states in zip(made + made[1:], (n, n, s), strict=True)
    )
    values = (
        target_next if quantiles else target_next[..., None]
    )  # (batch, actions, quantiles or 1)
    q_next, q_here = values.mean(axis=-1), target_here.reshape(10, 3, -1).mean(axis=-1)
    q_online = online_next.reshape(10, 3, -1).mean(axis=-1)
    best = np.eye(3)[q_next.argmax(axis=1)]
    policy = {
        "q_learning": best,
        "double": np.eye(3)[q_online.argmax(axis=1)],
        "expected_sarsa": 0.7 * best + 0.1,
        "munchausen": softmax(q_next / 0.5),
    }[target]
    if target == "munchausen":
        log_policy = 0.5 * np.log(softmax(q_here / 0.5))[np.arange(10), a]
        r = r + 0.9 * np.maximum(log_policy, -1.0)
        values = values - 0.5 * np.log(policy)[..., None]
    expected = r[:, None] + d[:, None] * (policy[..., None] * values).sum(axis=1)
    found = np.asarray(learner._target_of(data, 0.3, Noise()))[0].reshape(10, -1)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert not np.allclose(q_online.argmax(axis=1), q_next.argmax(axis=1))
