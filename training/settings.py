"""The whole tree of training settings, composed of what each room declares.

Where their values come from stands in `sources.py`. Nothing here imports TensorFlow, so that `--help`
is quick.
"""

from collections import ChainMap
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, Self

from pydantic import (
    BeforeValidator,
    Field,
    SerializeAsAny,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from durable.addresses import taken
from durable.command_line import Fields, fields
from durable.settings import Settings, leaves, nested
from market.accounting import MarketSettings
from market.bars import SplitSettings
from market.features import FeatureSettings
from models.configuration import flatten
from training.checkpoints.settings import CheckpointSettings
from training.learning.agent import AgentSettings
from training.learning.dqn import Dqn
from training.learning.kinds import KINDS

KIND = "agent.kind"


class TrainSettings(Settings):
    """Everything that decides a training run."""

    preset: str = Field(
        "two_layer", description="committed settings to start from, or a TOML file; a,b trains both"
    )
    name: str | None = Field(
        None,
        pattern="^[a-z0-9_-]+$",
        max_length=64,
        description="of runs and of the registered model, in a-z, 0-9, _ and -; by default the kind "
        "of network, or tabular",
    )
    bars: str = Field(
        "btcusd_30m",
        description="a sample's name, a Parquet or CSV file, or synthetic:ou?theta=0.05&sigma=0.01"
        "&seed=3&bars=20000 (ou, walk, regime)",
    )
    steps: int = Field(
        100_000, ge=1, le=10**9, description="iterations: each steps every stream, one update"
    )
    seed: int = Field(1, ge=0, lt=2**31, description="of weights, starts, exploration and sampling")
    seeds: int = Field(
        1, ge=1, le=1024, description="agents trained at once, with the seeds from `seed` on"
    )
    evaluate_every: int | None = Field(
        None, ge=1, description="iterations between validations; by default a 20th of the steps"
    )
    log_every: int | None = Field(
        None,
        ge=1,
        description="iterations a logged point averages over; by default a 200th of the steps",
    )
    patience: int | None = Field(
        None,
        ge=1,
        description="end after this many validations in a row without a best of any seed; none: never",
    )
    on_divergence: Literal["fail", "rollback"] = Field(
        "fail",
        description="where numbers are no longer finite: end as FAILED, or once go back to the last "
        "checkpoint with half the learning rate",
    )
    resume: str | None = Field(
        None, description="go on from a checkpoint: a run's id, latest, or a folder"
    )
    fork: bool = Field(
        False,
        description="with resume: as a new run, whose settings may differ from the checkpoint's",
    )
    mlruns: Path = Field(Path("mlruns"), description="folder of the tracking data")
    tracking_uri: Annotated[str | None, BeforeValidator(taken)] = Field(
        None,
        description="of an MLflow server that has the runs and models (MLFLOW_TRACKING_URI); none: "
        "mlruns/mlflow.db does",
    )
    experiment: str = Field("qdesk", min_length=1, description="MLflow experiment")
    agent: SerializeAsAny[AgentSettings] = Dqn()
    market: MarketSettings = MarketSettings()
    features: FeatureSettings = FeatureSettings()
    split: SplitSettings = SplitSettings()
    checkpoints: CheckpointSettings = CheckpointSettings()

    @classmethod
    def of(cls, tree: Mapping[str, Any]) -> Self:
        """Settings from a tree, in which the groups of the agent stand beside the others.

        Trees of before there were kinds of agents are read: there a table was a kind of network,
        and the settings of both stood in each. Raises `ValidationError` where a value is out of
        range, or would do nothing.
        """
        given = leaves(tree)
        kind = _kind_of(given)
        own = fields(kind)
        for path, field in _settings_of_agents().items():
            if path in given and path not in own:
                if not (path.startswith("network.") or _is_default(given[path], field)):
                    where = f"where {KIND} is {kind.kind}"
                    _refuse(path, f"{path} is set, but does nothing {where}; leave it out")
                del given[path]
        groups = {path.partition(".")[0] for path in own}
        rest = nested(given)
        agent = {group: rest.pop(group) for group in groups & rest.keys()}
        return cls(agent=kind.model_validate(agent), **rest)

    @model_validator(mode="after")
    def _learning_takes_place(self) -> Self:
        self.agent.require(self.steps, self.seeds)
        if self.on_divergence == "rollback" and self.agent.learning_rate is None:
            raise ValueError(
                f"on_divergence is rollback, but {KIND} is {self.agent.kind}, which has no learning rate "
                "to go on at"
            )
        if self.fork and self.resume is None:
            raise ValueError("fork is set without resume, which says what checkpoint to start from")
        if self.seed + self.seeds > 2**31:
            raise ValueError(
                f"seed is {self.seed} and seeds {self.seeds}; the last is past 2^31 - 1"
            )
        return self

    @property
    def model_name(self) -> str:
        """What runs and the registered model are called."""
        return self.name or self.agent.model_name

    @property
    def log_interval(self) -> int:
        """Iterations that a logged point averages over."""
        return self.log_every or -(-self.steps // 200)

    @property
    def evaluate_interval(self) -> int:
        """Iterations between two validations."""
        return self.evaluate_every or -(-self.steps // 20)

    @property
    def checkpoint_interval(self) -> int:
        """Iterations between two checkpoints."""
        return self.checkpoints.every or -(-self.steps // 10)

    def tree(self) -> dict[str, Any]:
        """What decides the run, as JSON has it: neither the wish to resume nor where things are.

        `of` takes it back.
        """
        return self._tree({"resume", "fork", "mlruns", "tracking_uri", "checkpoints"})

    def flat(self) -> dict[str, str]:
        """Every setting by its dotted path, for tracking."""
        return flatten(self._tree({"resume", "fork"}))

    def _tree(self, without: set[str]) -> dict[str, Any]:
        own = self.model_dump(mode="json", exclude={*without, "agent"})
        kind = {"agent": {"kind": self.agent.kind}}
        return {**own, **kind, **self.agent.model_dump(mode="json")}


def known_settings() -> Fields:
    """All settings by dotted path, those of every kind of agent among them."""
    own = fields(TrainSettings)
    kind = Field("dqn", description=f"of what learns: {' or '.join(KINDS)}")
    groups = {path: field for path, field in own.items() if not path.startswith("agent.")}
    return {**groups, KIND: FieldInfo.from_annotated_attribute(str, kind), **_settings_of_agents()}


def _settings_of_agents() -> Fields:
    """Of every kind; what several have is described by the first."""
    return ChainMap(*map(fields, KINDS.values()))


def _kind_of(given: dict[str, Any]) -> type[AgentSettings]:
    """The kind of agent that settings name; takes its name out of them."""
    name = given.pop(KIND, None)
    if given.get("network.kind") == "tabular" and name in (None, "tabular"):
        name = given.pop("network.kind")
    if name is None:
        return Dqn
    if name not in KINDS:
        names = " or ".join(map(repr, KINDS))
        _refuse(KIND, f"Input should be {names}", "literal_error", name)
    return KINDS[name]


def _is_default(value: Any, field: FieldInfo) -> bool:
    """Whether a value, however it is written, is a setting's default."""
    kind: Any = field.annotation
    for each in field.metadata:
        kind = Annotated[kind, each]
    try:
        return bool(TypeAdapter(kind).validate_python(value) == field.default)
    except ValidationError:
        return False


def _refuse(path: str, reason: str, kind: str = "value_error", value: Any = None) -> NoReturn:
    location = tuple(path.split(".")) if kind != "value_error" else ()
    raise ValidationError.from_exception_data(
        "TrainSettings",
        [{"type": PydanticCustomError(kind, reason), "loc": location, "input": value}],
    )
