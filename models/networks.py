"""Q-networks: state in, one Q-value for each of short, flat and long out.

Plain functional Keras models with fixed names: they save and load under Keras's safe mode, and
TensorBoard and MLflow show the same layers in every run.
"""

from collections.abc import Sequence

import keras
import numpy as np

ACTIONS = 3


def linear_q_network(state_size: int, seed: int = 0) -> keras.Model:
    """Q(s, a) = w_a . s, with three rows of weights and no bias: the state's last entry is one.

    Args:
        state_size: length of a state.
        seed: of the initial weights.

    Returns:
        A model from (batch, state_size) to (batch, 3), named `linear`.
    """
    inputs = keras.Input((state_size,), name="state")
    q_values = _dense(ACTIONS, None, _seed_of(seed, 0), "q_values", use_bias=False)(inputs)
    return keras.Model(inputs, q_values, name="linear")


def two_layer_q_network(
    state_size: int, hidden: Sequence[int] = (64, 64), seed: int = 0
) -> keras.Model:
    """Two hidden layers of rectified linear units, then a linear layer of Q-values.

    Args:
        state_size: length of a state.
        hidden: units of the hidden layers.
        seed: of the initial weights; each layer draws its own.

    Returns:
        A model from (batch, state_size) to (batch, 3), named `two_layer`.
    """
    x = inputs = keras.Input((state_size,), name="state")
    for layer, units in enumerate(hidden, start=1):
        x = _dense(units, "relu", _seed_of(seed, layer), f"hidden_{layer}")(x)
    q_values = _dense(ACTIONS, None, _seed_of(seed, 0), "q_values")(x)
    return keras.Model(inputs, q_values, name="two_layer")


def copy_of(network: keras.Model) -> keras.Model:
    """A network of its own with the same weights and nothing else attached (no optimizer)."""
    copy = type(network).from_config(network.get_config())
    copy.set_weights(network.get_weights())
    return copy


def _seed_of(seed: int, layer: int) -> int:
    """A stream of random numbers for each network and layer; seed + layer would share them."""
    return int(np.random.SeedSequence([seed, layer]).generate_state(1)[0])


def _dense(
    units: int, activation: str | None, seed: int, name: str, use_bias: bool = True
) -> keras.layers.Dense:
    initializer = keras.initializers.GlorotUniform(seed=seed)
    return keras.layers.Dense(units, activation, use_bias, initializer, name=name)
