"""Q-values of one state at a time, as fast as NumPy gives them: what trading asks for at every bar."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from models.bundle import Bundle
from models.tabular import ACTIONS

State = NDArray[np.float32]


def one_state(bundle: Bundle) -> Callable[[State], NDArray[np.float32]]:
    """From a state of shape (state_size,) to Q-values of shape (3,), which the next call overwrites.

    The plain networks are multiplied into arrays made once; tables, and networks of many heads, go
    through `Bundle.q_values`.
    """
    network = bundle.manifest.network
    weights = bundle.weights
    plain = not (network.dueling or network.quantiles or network.layer_norm)
    if network.kind == "tabular" or not plain:
        return lambda state: bundle.q_values(state[np.newaxis])[0]
    outputs = np.empty(ACTIONS, np.float32)
    last = np.ascontiguousarray(weights["q_values/kernel"])
    if network.kind == "linear":

        def linear(state: State) -> NDArray[np.float32]:
            return state.dot(last, outputs)

        return linear
    layers = [
        (
            np.ascontiguousarray(weights[f"hidden_{layer}/kernel"]),
            weights[f"hidden_{layer}/bias"],
            np.empty(units, np.float32),
            np.zeros(units, np.float32),
        )
        for layer, units in enumerate(network.hidden, start=1)
    ]
    bias = weights["q_values/bias"]
    add = np.add
    maximum = np.maximum

    def two_layer(state: State) -> NDArray[np.float32]:
        x = state
        for kernel, offset, units, zeros in layers:
            x.dot(kernel, units)
            add(units, offset, units)
            x = maximum(units, zeros, out=units)
        x.dot(last, outputs)
        return add(outputs, bias, outputs)

    return two_layer
