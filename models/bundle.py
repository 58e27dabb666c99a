"""The deployable form of a trained model: weights and a manifest, verified, run in NumPy.

A bundle is a sealed folder inside every model version. It loads without TensorFlow, and only where its
hashes, its shapes and its arithmetic are those it was made with: it carries states with the Q-values that
the trained model gave for them, and must give the same.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors.numpy import save

from durable.verified import CorruptError, read_verified, require_finite, write_into
from models.architectures import HEADS, TABULAR, Weights, forward
from models.cvar import conditional_value_at_risk
from models.manifest import Golden, Manifest, Network, Origin
from models.tabular import Discretiser, TabularQ

if TYPE_CHECKING:
    import keras

WEIGHTS = "weights.safetensors"
TOLERANCE = 1e-5  # of golden Q-values, as a share of the largest where that is above one
BLOCK = 2048  # states at once, whose activations a core keeps in its cache


@dataclass(frozen=True)
class Bundle:
    """A verified model."""

    manifest: Manifest  # what it is
    weights: Weights  # its arrays by name, read-only
    sha256: str | None = None  # of the whole, as sealed; None where it never was

    @classmethod
    def of(
        cls,
        model: "keras.Model | TabularQ",
        origin: Origin,
        states: NDArray[np.float32],
        cvar: float = 1.0,
    ) -> Self:
        """The bundle of a trained model.

        Args:
            model: of Keras's own layers, as `copy_of` gives it, or a table.
            origin: where it comes from.
            states: golden ones, of shape (n, state_size). Those with two actions about as good as one
                another are left out, unless all are so.
            cvar: see `Network`.

        Raises:
            CorruptError: NumPy does not give the model's Q-values.
        """
        if isinstance(model, TabularQ):
            edges = model.discretiser.edges
            weights = {**{f"edges_{i}": each for i, each in enumerate(edges)}, "table": model.table}
            bins = [len(each) for each in edges]
            network = Network(kind=TABULAR, state_size=model.state_size, bins=bins)
            q_values = model.q_values(states)
        else:
            from models.networks import q_values_of

            weights = {weight.path: weight.numpy() for weight in model.weights}
            network = _network_of(model, weights, cvar)
            q_values = q_values_of(model, states, cvar)
        ordered = np.sort(q_values, axis=1)
        clear = ordered[:, 2] - ordered[:, 1] > 4 * TOLERANCE * max(1.0, float(abs(q_values).max()))
        if clear.any():
            states = states[clear]
            q_values = q_values[clear]
        golden = Golden(states=states.tolist(), q_values=q_values.tolist())
        bundle = cls(Manifest(network=network, origin=origin, golden=golden), weights)
        bundle.verify("the bundle that was made")
        return bundle

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Reads a bundle and verifies it: hashes, then schema, shapes, finite weights, golden Q-values.

        Raises:
            CorruptError: it is not what was sealed, or not a bundle of this schema.
            OSError: it cannot be read.
        """
        where = str(folder)
        sealed = read_verified(folder, WEIGHTS)
        sealing = ("files", "arrays", "sha256")
        known = {name: value for name, value in sealed.manifest.items() if name not in sealing}
        try:
            manifest = Manifest.model_validate(known)
        except ValidationError as error:
            fault = error.errors()[0]
            path = ".".join(map(str, fault["loc"]))
            raise CorruptError(
                f"{where}: its manifest is not of this schema ({path + ': ' if path else ''}"
                f"{fault['msg'].removeprefix('Value error, ')})"
            ) from error
        for array in sealed.arrays.values():
            array.flags.writeable = False
        bundle = cls(manifest, sealed.arrays, sealed.manifest.get("sha256"))
        bundle.verify(where)
        return bundle

    def save_into(self, folder: Path) -> str:
        """Writes the bundle into a folder that is there and empty; returns its sha256."""
        return str(write_into(folder, WEIGHTS, self.weights, self.as_json())["sha256"])

    @property
    def weights_sha256(self) -> str:
        """Of the weights alone: equal for equal bits, whatever else is known of them."""
        return hashlib.sha256(save(dict(self.weights))).hexdigest()

    def as_json(self) -> dict[str, Any]:
        """The manifest as JSON has it."""
        return self.manifest.model_dump(mode="json")

    def verify(self, where: str) -> None:
        """Refuses what would not trade as it was trained.

        Raises `CorruptError` where a shape, a weight or a golden Q-value is not what it must be.
        """
        wanted = self.manifest.network.shapes()
        for name in sorted(wanted.keys() | self.weights.keys()):
            form = f"float32 {wanted[name]}" if name in wanted else "none"
            array = self.weights.get(name)
            found = "none" if array is None else f"{array.dtype} {array.shape}"
            if found != form:
                raise CorruptError(f"{where}: {name} is {found}; it must be {form}")
        try:
            require_finite(self.weights)
        except ValueError as error:
            raise CorruptError(f"{where}: {error}") from error
        if self.manifest.network.kind == TABULAR:
            for i in range(len(self.manifest.network.bins)):
                if not (np.diff(self.weights[f"edges_{i}"]) > 0).all():
                    raise CorruptError(f"{where}: edges_{i} must ascend")
        golden = self.manifest.golden
        expected = np.array(golden.q_values)
        q_values = self.q_values(np.array(golden.states, np.float32))
        scale = max(1.0, float(abs(expected).max()))
        # Two actions about as good as one another may change places; others may not. This comes first:
        # what chooses as it did can still be off, what is within the tolerance cannot choose otherwise.
        chosen = np.take_along_axis(expected, q_values.argmax(axis=1)[:, None], axis=1)[:, 0]
        if (expected.max(axis=1) - chosen > 2 * TOLERANCE * scale).any():
            raise CorruptError(f"{where}: the action in a golden state is another than it was")
        if not self.golden_error() <= 1:
            worst = float(abs(q_values - expected).max())
            raise CorruptError(
                f"{where}: a golden Q-value is off by {worst:.3g}; {TOLERANCE:g} may be"
            )

    def golden_error(self) -> float:
        """Largest difference of a golden Q-value, as a share of the one that may be."""
        expected = np.array(self.manifest.golden.q_values)
        q_values = self.q_values(np.array(self.manifest.golden.states, np.float32))
        allowed = TOLERANCE * max(1.0, float(abs(expected).max()))
        return float(abs(q_values - expected).max()) / allowed

    def q_values(self, states: NDArray[np.float32]) -> NDArray[np.float32]:
        """From states `[features..., position, 1.0]` of shape (n, state_size) to Q-values (n, 3)."""
        network = self.manifest.network
        if network.kind == TABULAR:
            return self._table.q_values(states)
        blocks = (states[start : start + BLOCK] for start in range(0, max(len(states), 1), BLOCK))
        outputs = np.concatenate([forward(network, self.weights, block) for block in blocks])
        if network.quantiles is None:
            return outputs
        values: NDArray[np.float32] = conditional_value_at_risk(outputs, network.cvar)
        return values

    @property
    def _table(self) -> TabularQ:
        edges = tuple(self.weights[f"edges_{i}"] for i in range(len(self.manifest.network.bins)))
        return TabularQ(Discretiser(edges), self.weights["table"], self.manifest.origin.name)

    def model(self) -> "keras.Model | TabularQ":
        """The model that this bundle was made of, anew; a network needs Keras."""
        network = self.manifest.network
        if network.kind == TABULAR:
            return self._table
        from models.networks import copy_of, q_network

        made = copy_of(q_network(network, network.state_size))
        for weight in made.weights:
            weight.assign(self.weights[weight.path])
        return made


def _network_of(model: "keras.Model", weights: Weights, cvar: float) -> Network:
    biases = [path.removesuffix("/bias") for path in weights if path.endswith("/bias")]
    hidden = [weights[f"{name}/bias"].shape[0] for name in biases if name not in HEADS]
    return Network(
        kind=model.name,
        state_size=model.input_shape[-1],
        hidden=hidden,
        dueling="value/kernel" in weights,
        quantiles=model.output_shape[2] if len(model.output_shape) == 3 else None,
        layer_norm="norm_1/gamma" in weights,
        cvar=cvar,
    )
