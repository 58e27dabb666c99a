"""Networks of one architecture side by side: the weights of all seeds, with a leading axis.

An ensemble of seeds learns in one program; a single network is the ensemble of one.
"""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from models.architectures import ACTIONS
from models.networks import NoisyDense, copy_of


class HeadDense(keras.layers.Dense):  # type: ignore[misc]
    """A dense layer of a few units that computes what `Dense` does but learns faster.

    XLA has quick code for products of matrices in their natural order and calls a library for
    transposed ones, which takes its time where a side is as short as the three actions. Here the
    kernel is first put into rows, one for each unit: both gradients are then products in natural
    order.
    """

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """From (batch, inputs) to (batch, units)."""
        rows = tf.stack(tf.unstack(tf.convert_to_tensor(self.kernel), axis=1))
        outputs = tf.matmul(inputs, rows, transpose_b=True)
        return outputs if self.bias is None else outputs + self.bias


def _of_own_layers(layer: keras.layers.Layer) -> keras.layers.Layer:
    """A layer as it was, or in the form in which it learns fast."""
    thin = type(layer) is keras.layers.Dense and layer.units <= ACTIONS
    return (HeadDense if thin else type(layer)).from_config(layer.get_config())


class StackedNetwork:
    """Applies each network to its own batch.

    Args:
        networks: of one architecture; their weights are copied.
        name: of the variables.

    Attributes:
        variables: trainable weights, each of shape (networks, ...), by the path of the layer's weight.
        distributional: whether a network's outputs are quantiles.
    """

    def __init__(self, networks: Sequence[keras.Model], name: str) -> None:
        # Its weights are written to.
        self._template = keras.models.clone_model(networks[0], clone_function=_of_own_layers)
        self._count = len(networks)
        self.distributional = len(self._template.output_shape) == 3
        self.variables: dict[str, keras.Variable] = {}
        for i, weight in enumerate(self._template.trainable_variables):
            values = np.stack([network.trainable_variables[i].numpy() for network in networks])
            flat_name = f"{name}_{weight.path.replace('/', '_')}"
            self.variables[weight.path] = keras.Variable(values, name=flat_name)
        self.noise_sizes = [
            size
            for layer in self._template.layers
            if isinstance(layer, NoisyDense)
            for size in (layer.noise_in.shape[0], layer.noise_out.shape[0])
        ]

    def __call__(self, states: tf.Tensor, noise: tf.Tensor | None = None) -> tf.Tensor:
        """Outputs of shape (networks, batch, 3) or (networks, batch, 3, quantiles).

        Args:
            states: shape (networks, batch, state_size).
            noise: f(e) of the noisy layers one after the other, shape (networks, sum of
                `noise_sizes`); by default there is none.
        """
        weights = [variable.value for variable in self.variables.values()]
        if self.noise_sizes:
            if noise is None:
                noise = tf.zeros((self._count, sum(self.noise_sizes)))
            weights += tf.split(noise, self.noise_sizes, axis=1)
        if self._count == 1:  # the very operations of a network alone
            alone = [tf.reshape(weight, weight.shape[1:]) for weight in weights]
            return self._apply((*alone, states[0]))[None]
        return tf.vectorized_map(self._apply, (*weights, states))

    def _apply(self, arguments: tuple[tf.Tensor, ...]) -> tf.Tensor:
        *weights, states = arguments
        trainable = len(self.variables)
        return self._template.stateless_call(weights[:trainable], weights[trainable:], states)[0]

    def weights(self, index: int) -> list[NDArray[Any]]:
        """The present weights of one network, in the order of `variables`."""
        return [variable.value.numpy()[index] for variable in self.variables.values()]

    def network(
        self, weights: Sequence[NDArray[Any]], into: keras.Model | None = None
    ) -> keras.Model:
        """A Keras model, new or an earlier one, with the weights of one network; noise left out."""
        for variable, value in zip(self._template.trainable_variables, weights, strict=True):
            variable.assign(value)
        return copy_of(self._template, into)
