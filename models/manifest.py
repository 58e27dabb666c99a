"""What a bundle says of itself: its network, where it comes from, and what it must compute."""

import math
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from models.architectures import ACTIONS, TABULAR, require_known, shapes


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)


LARGEST = 1_000_000  # of a layer, or of a state
MOST_CELLS = 1_000_000_000  # of a table
Units = Annotated[int, Field(ge=1, le=LARGEST)]


class Network(_Strict):
    """What computes Q-values.

    Attributes:
        kind: a network, or a table.
        state_size: length of a state `[features..., position, 1.0]`.
        hidden: units of the hidden layers; of a table and of the linear network none.
        quantiles: outputs an action, None for Q-values themselves.
        cvar: share of worst outcomes that quantiles are averaged over.
        bins: inner edges of each feature's bins; of a table alone.
    """

    kind: Annotated[
        str, AfterValidator(lambda kind: kind if kind == TABULAR else require_known(kind))
    ]
    state_size: int = Field(ge=3, le=LARGEST)
    hidden: list[Units] = []
    dueling: bool = False
    quantiles: Units | None = None
    layer_norm: bool = False
    cvar: float = Field(1.0, gt=0, le=1)
    bins: list[int] = []

    @model_validator(mode="after")
    def _bins_fit(self) -> Self:
        wanted = self.state_size - 2 if self.kind == TABULAR else 0
        if len(self.bins) != wanted or min(self.bins, default=0) < 0:
            raise ValueError(f"bins are {self.bins}; there must be {wanted}")
        if math.prod(bins + 1 for bins in self.bins) > MOST_CELLS:
            raise ValueError(f"bins are {self.bins}; no table has more than {MOST_CELLS:,} cells")
        return self

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The arrays that this network must have, by name."""
        if self.kind == TABULAR:
            rows = 3 * int(np.prod([bins + 1 for bins in self.bins], dtype=np.int64))
            edges: dict[str, tuple[int, ...]] = {
                f"edges_{i}": (bins,) for i, bins in enumerate(self.bins)
            }
            return {**edges, "table": (rows, ACTIONS)}
        return shapes(self, self.state_size)


class Golden(_Strict):
    """States, and the Q-values that the trained model gave for them."""

    states: list[list[float]] = Field(min_length=1)
    q_values: list[list[float]] = Field(min_length=1)


class TrainedMarket(_Strict):
    """The market that a model was trained on."""

    instrument: str  # what its bars are called
    # Most frequent distance of two bars, s; None where none is usual.
    interval: float | None = Field(gt=0)
    # When it is open; None where less than a week was seen.
    calendar: Literal["24/7", "sessions", "irregular"] | None
    lowest: float = Field(gt=0)  # close of the training split, and `highest`
    highest: float = Field(gt=0)
    # Lowest and highest value of each feature in the training split, as states hold them.
    ranges: dict[str, Annotated[list[float], Field(min_length=2, max_length=2)]]


class Origin(_Strict):
    """Where a model comes from, and what it is for."""

    name: str  # of the registered model
    run_id: str  # the MLflow run that trained it
    step: int  # iterations it was trained for
    seed: int  # of its agent
    scheme: Literal["target", "order"]  # what an action means: the position to hold, or an order
    # The schema that states are made by, fitted parameters and hash included.
    features: dict[str, Any]
    settings: dict[str, Any]  # all of the training
    data_hash: str  # of the bars
    code_version: str  # what trained it
    # That it was trained on; None in bundles of before that was kept.
    market: TrainedMarket | None = None

    @field_validator("settings")
    @classmethod
    def _groups_are_groups(cls, settings: dict[str, Any]) -> dict[str, Any]:
        for name in ("market", "learner", "split", "features"):
            if not isinstance(settings.get(name, {}), dict):
                what = f"{name} is {settings[name]!r}; it must be a group of settings"
                raise ValueError(what)  # noqa: TRY004 - pydantic passes a TypeError on
        return settings


class Manifest(_Strict):
    """`manifest.json`, but for what seals it."""

    format: Literal["qdesk-bundle/1"] = "qdesk-bundle/1"
    network: Network
    origin: Origin
    golden: Golden

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        features = self.origin.features.get("features")
        known = len(features) if isinstance(features, list) else 0
        if known + 2 != self.network.state_size:
            raise ValueError(
                f"network.state_size is {self.network.state_size}, but {known} features, position and "
                f"bias make {known + 2}"
            )
        sizes = {len(state) for state in self.golden.states}
        if sizes != {self.network.state_size}:
            raise ValueError(f"golden states have the lengths {sizes}, not the network's")
        outputs = {len(values) for values in self.golden.q_values}
        if outputs != {ACTIONS} or len(self.golden.states) != len(self.golden.q_values):
            raise ValueError("golden Q-values must be three for each golden state")
        return self
