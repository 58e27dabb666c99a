"""Networks, side by side too, and schedules."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from models.cvar import conditional_value_at_risk
from models.exploration import EpsilonSettings, epsilon
from models.networks import NoisyDense, copy_of, q_values_of
from models.stacked import HeadDense, StackedNetwork
from tests.support.networks import linear_q_network, two_layer_q_network

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


def test_epsilon_is_the_seeds_formula() -> None:
    for decay in (0.5, 0.999, 0.999999, 0.99999999, 1.0):
        settings = EpsilonSettings(start=0.9, min=0.01, decay=decay)
        for k in (0, 1, 10, 1000, 2198, 2_000_000, 300_000_000):
            expected = max(0.01, 0.9 * decay**k)
            assert epsilon(k, settings) == pytest.approx(expected, rel=1e-9)
            tensor = epsilon(tf.cast(k, tf.float32), settings, tf)
            assert tensor.numpy() == pytest.approx(expected, rel=1e-5)


def test_linear_epsilon() -> None:
    settings = EpsilonSettings(schedule="linear", start=1.0, min=0.2, steps=100)
    values = [epsilon(k, settings) for k in (0, 50, 100, 10_000)]
    np.testing.assert_allclose(values, [1.0, 0.6, 0.2, 0.2], rtol=1e-6)


PARTS = {
    "plain": {},
    "dueling": {"dueling": True},
    "quantiles": {"quantiles": 8},
    "noisy": {"noisy": True},
    "layer norm": {"layer_norm": True},
    "all": {"dueling": True, "quantiles": 8, "noisy": True, "layer_norm": True},
}


@pytest.mark.parametrize("parts", PARTS.values(), ids=PARTS)
def test_stacked_networks_are_the_networks(parts: dict[str, Any], tmp_path: Path) -> None:
    """Three at once against one at a time, copied out again, and saved and loaded in safe mode."""
    networks = [two_layer_q_network(4, (8, 16), seed, **parts) for seed in (1, 2, 3)]
    states = np.random.default_rng(1).normal(size=(3, 5, 4)).astype(np.float32)
    outputs = StackedNetwork(networks, "online")(states).numpy()
    assert outputs.shape == (3, 5, 3) + ((8,) if "quantiles" in parts else ())
    stacked = StackedNetwork(networks, "online")
    for i, network in enumerate(networks):
        np.testing.assert_allclose(outputs[i], network(states[i]), rtol=1e-5, atol=1e-6)
        alone = StackedNetwork([network], "online")(states[i : i + 1])
        np.testing.assert_allclose(outputs[i], alone[0], rtol=1e-5, atol=1e-6)
        copy = stacked.network(stacked.weights(i))
        np.testing.assert_allclose(outputs[i], copy(states[i]), rtol=1e-5, atol=1e-6)
        assert not any(isinstance(layer, NoisyDense) for layer in copy.layers)
        copy.save(tmp_path / "q.keras")
        loaded = keras.saving.load_model(tmp_path / "q.keras", safe_mode=True)
        np.testing.assert_array_equal(loaded(states[i]), copy(states[i]))
        assert copy.name == "two_layer"


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("build", [linear_q_network, two_layer_q_network])
def test_the_head_learns_what_a_dense_layer_would(build: Any, seeds: int) -> None:
    """Compiled, outputs and gradients of all weights are those of Keras's own layer.

    To the bit where vectors are 512 bits wide; narrower ones add the products up in another order.
    """
    networks = [build(4, seed=seed) for seed in range(1, seeds + 1)]
    states = np.random.default_rng(1).normal(size=(seeds, 32, 4)).astype(np.float32)

    def gradients(plain: bool) -> Any:
        stack = StackedNetwork(networks, "plain" if plain else "thin")
        assert isinstance(stack._template.layers[-1], HeadDense)
        if plain:
            stack._template = keras.models.clone_model(networks[0])
        weights = [variable.value for variable in stack.variables.values()]

        def program(states: tf.Tensor) -> Any:
            with tf.GradientTape() as tape:
                outputs = stack(states)
                loss = tf.reduce_sum(tf.square(outputs))
            return outputs, *tape.gradient(loss, weights)

        return tf.function(program, jit_compile=True, autograph=False)(tf.constant(states))

    for plain, thin in zip(gradients(True), gradients(False), strict=True):
        np.testing.assert_allclose(thin, plain, rtol=1e-5, atol=1e-5)
    stack = StackedNetwork(networks, "given")
    assert [type(layer) for layer in stack.network(stack.weights(0)).layers] == [
        type(layer) for layer in networks[0].layers
    ]


def test_dueling_is_what_numpy_computes() -> None:
    network = two_layer_q_network(4, (8, 16), seed=1, dueling=True)
    w1, b1, w2, b2, wa, ba, wv, bv = network.get_weights()
    assert (wa.shape, wv.shape) == ((16, 3), (16, 1))
    hidden = np.maximum(np.maximum(STATES @ w1 + b1, 0) @ w2 + b2, 0)
    advantage, value = hidden @ wa + ba, hidden @ wv + bv
    expected = value + advantage - advantage.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(network(STATES), expected, rtol=1e-5, atol=1e-6)


def test_a_noisy_layer_is_equation_10() -> None:
    """With given noise; fresh, its noise levels are 0.5 / sqrt(inputs) and it computes with its means."""
    layer = NoisyDense(3, seed=1, name="noisy")
    layer(STATES)
    kernel, bias, kernel_sigma, bias_sigma = (w.numpy() for w in layer.trainable_weights)
    np.testing.assert_allclose(kernel_sigma, 0.25)
    np.testing.assert_allclose(bias_sigma, 0.25)
    assert abs(kernel).max() <= 0.5
    np.testing.assert_allclose(layer(STATES), STATES @ kernel + bias, rtol=1e-5, atol=1e-6)
    rng = np.random.default_rng(0)
    noise_in, noise_out = rng.normal(size=4).astype("f4"), rng.normal(size=3).astype("f4")
    layer.noise_in.assign(noise_in)
    layer.noise_out.assign(noise_out)
    noisy = kernel + kernel_sigma * np.outer(noise_in, noise_out)
    expected = STATES @ noisy + bias + bias_sigma * noise_out
    np.testing.assert_allclose(layer(STATES), expected, rtol=1e-5, atol=1e-6)


def test_noise_reaches_each_network_of_a_stack() -> None:
    """What `StackedNetwork` does with noise is what the layers do with it."""
    networks = [two_layer_q_network(4, (8, 16), seed, noisy=True) for seed in (1, 2)]
    stacked = StackedNetwork(networks, "online")
    assert stacked.noise_sizes == [4, 8, 8, 16, 16, 3]
    states = np.random.default_rng(1).normal(size=(2, 5, 4)).astype(np.float32)
    noise = np.random.default_rng(2).normal(size=(2, 55)).astype(np.float32)
    outputs = stacked(states, tf.constant(noise)).numpy()
    for i, network in enumerate(networks):
        parts = np.split(noise[i], np.cumsum(stacked.noise_sizes)[:-1])
        for variable, part in zip(network.non_trainable_variables, parts, strict=True):
            variable.assign(part)
        np.testing.assert_allclose(outputs[i], network(states[i]), rtol=1e-5, atol=1e-6)
    assert not np.allclose(outputs, stacked(states))


def test_conditional_value_at_risk_by_hand() -> None:
    """Of the outcomes 1, 2, 3, 10: the mean; the worst half; the worst 3 / 8, one and a half of them."""
    quantiles = np.array([[1, 2, 3, 10]], np.float32)
    for level, expected in ((1, 4), (0.5, 1.5), (0.375, (1 + 0.5 * 2) / 1.5), (0.01, 1)):
        assert conditional_value_at_risk(quantiles, level)[0] == pytest.approx(expected)
        tensor = conditional_value_at_risk(tf.constant(quantiles), level)
        assert tensor.numpy()[0] == pytest.approx(expected)


def test_q_values_of_quantiles_choose_by_risk() -> None:
    """A bet that loses much now and then: its mean is better than nothing, its worst tenth is not."""
    network = two_layer_q_network(2, (4, 4), quantiles=10)
    weights = [np.zeros_like(w) for w in network.get_weights()]
    weights[-1] = np.array([[0] * 10, [0.1] * 10, [-3, *[1.0] * 9]]).ravel()
    network.set_weights(weights)
    state = np.array([[0, 1]], np.float32)
    np.testing.assert_allclose(q_values_of(network, state, 1.0), [[0, 0.1, 0.6]], rtol=1e-5)
    np.testing.assert_allclose(q_values_of(network, state, 0.1), [[0, 0.1, -3]], rtol=1e-5)
    assert q_values_of(network, state, 0.1).argmax() == 1
