"""Q-networks: state in, for each of short, flat and long a Q-value (or its quantiles) out.

Plain functional Keras models with fixed names: they save and load under Keras's safe mode, and
TensorBoard and MLflow show the same layers in every run.
"""

from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from models.architectures import ARCHITECTURES, Dense, Described, Norm, heads
from models.cvar import conditional_value_at_risk


def q_network(
    network: Described, state_size: int, seed: int = 0, *, noisy: bool = False
) -> keras.Model:
    """The Keras model of a network that is described in `models/architectures.py`.

    Args:
        network: its kind and parts.
        state_size: length of a state.
        seed: of the initial weights; each layer draws its own.
        noisy: every dense layer is a `NoisyDense`.

    Returns:
        A model from (batch, state_size) to (batch, 3), or (batch, 3, quantiles), named as its kind. With
        quantiles the outputs of an action are the value's at (i + 1/2) / N: Dabney et al. (2018),
        "Distributional Reinforcement Learning with Quantile Regression".
    """
    architecture = ARCHITECTURES[network.kind]
    dense = NoisyDense if noisy else _dense
    x = inputs = keras.Input((state_size,), name="state")
    layer = 0
    for step in architecture.steps(network):
        if isinstance(step, Dense):
            layer += 1
            x = dense(step.units, _seed_of(seed, layer), step.name)(x)
        elif isinstance(step, Norm):
            x = keras.layers.LayerNormalization(name=step.name)(x)
        else:
            x = keras.layers.ReLU(name=step.name)(x)
    outputs = []
    for place, (name, actions) in enumerate(heads(network).items()):
        units = actions * (network.quantiles or 1)
        drawn = _seed_of(seed, 0 if place == 0 else layer + place)
        head = dense(units, drawn, name) if architecture.bias else _dense(units, drawn, name, False)
        out = head(x)
        if network.quantiles is not None:
            shape = (actions, network.quantiles)
            out = keras.layers.Reshape(shape, name=f"{name}_quantiles")(out)
        outputs.append(out)
    if network.dueling:
        advantage, value = outputs
        outputs = [value + (advantage - ops.mean(advantage, axis=1, keepdims=True))]
    return keras.Model(inputs, outputs[0], name=network.kind)


@keras.saving.register_keras_serializable("qdesk")
class NoisyDense(keras.layers.Layer):  # type: ignore[misc]
    """A dense layer whose weights carry learned noise, which explores in place of epsilon.

    y = x (M + S * f(e) f(e')^T) + m + s * f(e') with f(e) = sign(e) sqrt(|e|): factorised Gaussian noise,
    Fortunato et al. (2018), "Noisy Networks for Exploration", equations 10 and 11; initial weights as in
    its section 3.2.

    The two vectors f(e) of shape (inputs,) and f(e') of shape (units,) are the layer's non-trainable
    weights. They are zero, so that the layer computes with its means, until whoever trains puts drawn
    ones in their place.

    Args:
        units: outputs.
        seed: of the initial weights.
        name: of the layer.
        sigma: initial noise, in units of 1 / sqrt(inputs).
    """

    def __init__(self, units: int, seed: int, name: str, sigma: float = 0.5, **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.units = units
        self.seed = seed
        self.sigma = sigma

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Makes the weights, in the order kernel, bias, their noise levels, and the noise."""
        inputs = input_shape[-1]
        assert inputs is not None
        bound = inputs**-0.5
        for name, shape, offset in (
            ("kernel", (inputs, self.units), 0),
            ("bias", (self.units,), 1),
        ):
            drawn = keras.initializers.RandomUniform(-bound, bound, seed=self.seed + offset)
            setattr(self, name, self.add_weight(shape, drawn, name=name))
        level = keras.initializers.Constant(self.sigma * bound)
        self.kernel_sigma = self.add_weight((inputs, self.units), level, name="kernel_sigma")
        self.bias_sigma = self.add_weight((self.units,), level, name="bias_sigma")
        self.noise_in = self.add_weight((inputs,), "zeros", trainable=False, name="noise_in")
        self.noise_out = self.add_weight((self.units,), "zeros", trainable=False, name="noise_out")

    def call(self, inputs: Any) -> Any:
        """From (batch, inputs) to (batch, units)."""
        # Noise on both sides of a product of plain weights: XLA is slow where it must make up a matrix.
        noise = ops.matmul(inputs * self.noise_in, self.kernel_sigma) + self.bias_sigma
        return ops.matmul(inputs, self.kernel) + self.bias + noise * self.noise_out

    def get_config(self) -> dict[str, Any]:
        """What the constructor takes."""
        own = {"units": self.units, "seed": self.seed, "sigma": self.sigma}
        return {**super().get_config(), **own}


def copy_of(network: keras.Model, into: keras.Model | None = None) -> keras.Model:
    """A network of its own that computes the same, of Keras's own layers and nothing else attached.

    A `NoisyDense` becomes a `Dense` with its mean weights, any other kind of `Dense` a plain one. An
    earlier copy takes the weights where one is given, which is quicker than a new one.
    """

    def clone(layer: keras.layers.Layer) -> keras.layers.Layer:
        if isinstance(layer, NoisyDense):
            return _dense(layer.units, layer.seed, layer.name)
        if isinstance(layer, keras.layers.Dense):
            return keras.layers.Dense.from_config(layer.get_config())
        return type(layer).from_config(layer.get_config())

    if into is None:
        cloned = keras.models.clone_model(network, clone_function=clone)
        into = keras.Model(cloned.input, cloned.output, name=network.name)  # without an optimizer
    for layer in into.layers:
        weights = network.get_layer(layer.name).get_weights()
        layer.set_weights(weights[: len(layer.weights)])
    return into


def q_values_of(
    network: keras.Model, states: NDArray[np.float32], cvar: float
) -> NDArray[np.float32]:
    """Q-values of a network's outputs, shape (n, 3); those of quantiles at a CVaR level."""
    outputs: NDArray[np.float32] = network(states).numpy()
    if outputs.ndim == 3:
        outputs = conditional_value_at_risk(outputs, cvar)
    return outputs


def _seed_of(seed: int, layer: int) -> int:
    """A stream of random numbers for each network and layer; seed + layer would share them."""
    return int(np.random.SeedSequence([seed, layer]).generate_state(1)[0])


def _dense(units: int, seed: int, name: str, use_bias: bool = True) -> keras.layers.Dense:
    initializer = keras.initializers.GlorotUniform(seed=seed)
    return keras.layers.Dense(units, None, use_bias, initializer, name=name)
