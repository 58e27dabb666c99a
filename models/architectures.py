"""Networks, each described once: `ARCHITECTURES`, by kind.

A description is the steps from a state to the last hidden layer; heads come behind it. The Keras model
(`models/networks.py`), the shapes that a bundle must have, its forward pass in NumPy and the quick one of
a single state follow from it. Here nothing imports Keras.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic_core import PydanticCustomError

ACTIONS = 3
HEADS = ("q_values", "advantage", "value")
TABULAR = "tabular"  # what stands for a table where a network's kind is asked for
NORM_EPSILON = np.float32(1e-3)  # of Keras's layer normalisation

States = NDArray[np.float32]
Weights = Mapping[str, NDArray[Any]]


class Described(Protocol):
    """What is said of a network: by settings, or by a bundle's manifest."""

    @property
    def kind(self) -> str:
        """Which of `ARCHITECTURES`."""

    @property
    def hidden(self) -> Sequence[int]:
        """Units of the hidden layers."""

    @property
    def dueling(self) -> bool:
        """Whether there are heads for value and advantage."""

    @property
    def quantiles(self) -> int | None:
        """Outputs an action, None for Q-values themselves."""

    @property
    def layer_norm(self) -> bool:
        """Whether hidden layers are normalised."""


class Dense(NamedTuple):
    """x W + b, of weights `name/kernel` and `name/bias`."""

    name: str
    units: int


class Norm(NamedTuple):
    """Layer normalisation (Ba et al. 2016), of weights `name/gamma` and `name/beta`."""

    name: str


class Rectify(NamedTuple):
    """max(x, 0)."""

    name: str


Step = Dense | Norm | Rectify


class Architecture(NamedTuple):
    """A kind of network."""

    about: str  # its models, in the plural, for a person
    steps: Callable[[Described], list[Step]]  # from a state to what the heads see
    bias: bool = True  # whether heads have one: not where the state's last entry is
    # Which optional parts make sense with it, of `dueling`, `quantiles`, `noisy` and `layer_norm`.
    takes: tuple[str, ...] = ()


def _two_layer(network: Described) -> list[Step]:
    steps: list[Step] = []
    for layer, units in enumerate(network.hidden, start=1):
        steps.append(Dense(f"hidden_{layer}", units))
        if network.layer_norm:
            steps.append(Norm(f"norm_{layer}"))
        steps.append(Rectify(f"relu_{layer}"))
    return steps


ARCHITECTURES = {
    "linear": Architecture("Linear Q-networks", lambda _: [], bias=False),
    "two_layer": Architecture(
        "Two-layer Q-networks", _two_layer, takes=("dueling", "quantiles", "noisy", "layer_norm")
    ),
}


def require_known(kind: str) -> str:
    """A kind, if there is one of that name. Raises `PydanticCustomError` where there is none."""
    if kind not in ARCHITECTURES:
        names = " or ".join(map(repr, ARCHITECTURES))
        raise PydanticCustomError("literal_error", f"Input should be {names}")
    return kind


def heads(network: Described) -> dict[str, int]:
    """Actions of each head, by name: Q = V(s) + A(s, a) - mean_a A(s, a) where there are two.

    Wang et al. (2016), "Dueling Network Architectures for Deep Reinforcement Learning", equation 9.
    """
    return {"advantage": ACTIONS, "value": 1} if network.dueling else {"q_values": ACTIONS}


def shapes(network: Described, state_size: int) -> dict[str, tuple[int, ...]]:
    """The arrays that a network must have, by name."""
    architecture = ARCHITECTURES[network.kind]
    found: dict[str, tuple[int, ...]] = {}
    inputs = state_size
    for step in architecture.steps(network):
        if isinstance(step, Dense):
            found[f"{step.name}/kernel"] = (inputs, step.units)
            found[f"{step.name}/bias"] = (step.units,)
            inputs = step.units
        elif isinstance(step, Norm):
            found[f"{step.name}/gamma"] = (inputs,)
            found[f"{step.name}/beta"] = (inputs,)
    for name, actions in heads(network).items():
        outputs = actions * (network.quantiles or 1)
        found[f"{name}/kernel"] = (inputs, outputs)
        if architecture.bias:
            found[f"{name}/bias"] = (outputs,)
    return found


def forward(network: Described, weights: Weights, states: States) -> States:
    """Outputs of shape (n, 3) or (n, 3, quantiles), of states of shape (n, state_size)."""
    architecture = ARCHITECTURES[network.kind]
    x: NDArray[Any] = states
    for step in architecture.steps(network):
        if isinstance(step, Dense):
            x = x @ weights[f"{step.name}/kernel"] + weights[f"{step.name}/bias"]
        elif isinstance(step, Norm):
            centred = x - x.mean(axis=1, keepdims=True)
            deviation = np.sqrt((centred**2).mean(axis=1, keepdims=True) + NORM_EPSILON)
            x = centred / deviation * weights[f"{step.name}/gamma"] + weights[f"{step.name}/beta"]
        else:
            x = np.maximum(x, 0)
    outputs = []
    for name, actions in heads(network).items():
        out: States = x @ weights[f"{name}/kernel"]
        if architecture.bias:
            out += weights[f"{name}/bias"]
        outputs.append(
            out if network.quantiles is None else out.reshape(-1, actions, network.quantiles)
        )
    if len(outputs) == 1:
        return outputs[0]
    advantage, value = outputs
    dueling: States = value + (advantage - advantage.mean(axis=1, keepdims=True))
    return dueling


def one_state(network: Described, weights: Weights) -> Callable[[States], States] | None:
    """From a state of shape (state_size,) to Q-values of shape (3,), which the next call overwrites.

    Every product goes into an array that is made once. None of networks with quantiles, several heads
    or normalised layers.
    """
    architecture = ARCHITECTURES[network.kind]
    steps = architecture.steps(network)
    dense = [step for step in steps if isinstance(step, Dense)]
    rectified = [type(step) for step in steps] == [Dense, Rectify] * len(dense)
    if network.dueling or network.quantiles or not rectified:
        return None
    layers = [
        (
            np.ascontiguousarray(weights[f"{step.name}/kernel"]),
            weights[f"{step.name}/bias"],
            np.empty(step.units, np.float32),
            np.zeros(step.units, np.float32),
        )
        for step in dense
    ]
    outputs = np.empty(ACTIONS, np.float32)
    last = np.ascontiguousarray(weights["q_values/kernel"])
    bias = weights["q_values/bias"] if architecture.bias else None
    add = np.add
    maximum = np.maximum

    def q_values(state: States) -> States:
        x = state
        for kernel, offset, units, zeros in layers:
            x.dot(kernel, units)
            add(units, offset, units)
            x = maximum(units, zeros, out=units)
        x.dot(last, outputs)
        return outputs if bias is None else add(outputs, bias, outputs)

    return q_values
