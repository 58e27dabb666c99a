"""Networks, targets and schedules."""

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from models.networks import copy_of, linear_q_network, two_layer_q_network
from models.targets import double_q_learning_target, q_learning_target
from training.schedules import epsilon
from training.settings import EpsilonSettings

STATES = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)


def test_linear_is_a_matrix_product() -> None:
    network = linear_q_network(4, seed=1)
    assert [w.path for w in network.weights] == ["q_values/kernel"]
    np.testing.assert_allclose(network(STATES), STATES @ network.get_weights()[0], rtol=1e-5)


def test_two_layer_is_what_numpy_computes() -> None:
    network = two_layer_q_network(4, hidden=(8, 16), seed=1)
    w1, b1, w2, b2, w3, b3 = network.get_weights()
    assert (w1.shape, w2.shape, w3.shape) == ((4, 8), (8, 16), (16, 3))
    hidden = np.maximum(np.maximum(STATES @ w1 + b1, 0) @ w2 + b2, 0)
    np.testing.assert_allclose(network(STATES), hidden @ w3 + b3, rtol=1e-5, atol=1e-6)


def test_a_seed_decides_the_weights() -> None:
    one, same, other = (two_layer_q_network(4, seed=seed).get_weights() for seed in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(one, same, strict=True))
    assert not np.array_equal(one[0], other[0])


@pytest.mark.parametrize("build", [linear_q_network, two_layer_q_network])
def test_saves_and_loads_under_safe_mode(build: type[keras.Model], tmp_path: Path) -> None:
    network = build(4, seed=3)
    network.save(tmp_path / "q.keras")
    loaded = keras.saving.load_model(tmp_path / "q.keras", safe_mode=True)
    np.testing.assert_array_equal(loaded(STATES), network(STATES))


def test_a_copy_shares_nothing() -> None:
    network = two_layer_q_network(4, seed=1)
    copy = copy_of(network)
    before = copy(STATES).numpy()
    network.set_weights([w + 1 for w in network.get_weights()])
    np.testing.assert_array_equal(copy(STATES), before)
    assert copy.name == network.name


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


def test_epsilon_is_the_seeds_formula() -> None:
    for decay in (0.5, 0.999, 0.999999, 0.99999999, 1.0):
        settings = EpsilonSettings(start=0.9, min=0.01, decay=decay)
        for k in (0, 1, 10, 1000, 2198, 2_000_000, 300_000_000):
            expected = max(0.01, 0.9 * decay**k)
            assert epsilon(tf.constant(k), settings).numpy() == pytest.approx(expected, rel=1e-5)


def test_linear_epsilon() -> None:
    settings = EpsilonSettings(schedule="linear", start=1.0, min=0.2, steps=100)
    values = [epsilon(tf.constant(k), settings).numpy() for k in (0, 50, 100, 10_000)]
    np.testing.assert_allclose(values, [1.0, 0.6, 0.2, 0.2], rtol=1e-6)
