"""Networks that are described by hand."""

from collections.abc import Sequence
from typing import NamedTuple

import keras

from models.networks import q_network


class Description(NamedTuple):
    """A network that is described by hand."""

    kind: str
    hidden: Sequence[int] = ()
    dueling: bool = False
    quantiles: int | None = None
    layer_norm: bool = False


def linear_q_network(state_size: int, seed: int = 0) -> keras.Model:
    """Q(s, a) = w_a . s, with three rows of weights and no bias: the state's last entry is one.

    Args:
        state_size: length of a state.
        seed: of the initial weights.
    """
    return q_network(Description("linear"), state_size, seed)


def two_layer_q_network(
    state_size: int,
    hidden: Sequence[int] = (64, 64),
    seed: int = 0,
    *,
    dueling: bool = False,
    quantiles: int | None = None,
    noisy: bool = False,
    layer_norm: bool = False,
) -> keras.Model:
    """Two hidden layers of rectified linear units, then a linear layer of Q-values.

    Args:
        state_size: length of a state.
        hidden: units of the hidden layers.
        seed: of the initial weights; each layer draws its own.
        dueling: two heads on the last hidden layer.
        quantiles: outputs per action.
        noisy: every dense layer is a `NoisyDense`.
        layer_norm: each hidden layer is normalised before it is rectified.
    """
    described = Description("two_layer", hidden, dueling, quantiles, layer_norm)
    return q_network(described, state_size, seed, noisy=noisy)
