"""The whole tree of training settings, composed of what each room declares.

Where their values come from stands in `sources.py`. Nothing here imports TensorFlow, so that `--help`
is quick.
"""

import os
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, Field, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from durable.addresses import taken
from market.accounting import MarketSettings
from market.bars import SplitSettings
from market.features import FeatureSettings
from models.configuration import flatten
from models.exploration import EPSILON_VARIABLES, EpsilonSettings
from training.checkpoints.settings import CheckpointSettings
from training.learning.settings import (
    LearnerSettings,
    NetworkSettings,
    ReplaySettings,
    TabularSettings,
)

MAX_STORED = 1_800_000_000  # with the nodes above them, what 31 bits can number


class TrainSettings(BaseSettings):
    """Everything that decides a training run."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        enable_decoding=False,
        env_prefix="QDESK_",
        env_nested_delimiter="__",
        env_parse_none_str="none",
    )

    preset: str = Field(
        "two_layer", description="committed settings to start from, or a TOML file; a,b trains both"
    )
    name: str | None = Field(
        None,
        pattern="^[a-z0-9_-]+$",
        max_length=64,
        description="of runs and of the registered model, in a-z, 0-9, _ and -; by default the kind "
        "of network",
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
        description="end after so many validations in a row that were no seed's best; none: never",
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
    network: NetworkSettings = NetworkSettings()
    tabular: TabularSettings = TabularSettings()
    learner: LearnerSettings = LearnerSettings()
    replay: ReplaySettings = ReplaySettings()
    epsilon: EpsilonSettings = EpsilonSettings()
    market: MarketSettings = MarketSettings()
    features: FeatureSettings = FeatureSettings()
    split: SplitSettings = SplitSettings()
    checkpoints: CheckpointSettings = CheckpointSettings()

    @model_validator(mode="after")
    def _learning_takes_place(self) -> Self:
        if self.steps <= self.replay.first_update and self.network.kind != "tabular":
            raise ValueError(
                f"steps is {self.steps} and ends before learning begins; it must be above "
                f"{self.replay.first_update} (replay.learning_starts "
                f"{self.replay.learning_starts} over {self.replay.streams} streams)"
            )
        if self.replay.capacity // self.replay.streams < self.learner.n_step:
            raise ValueError(
                f"replay.capacity is {self.replay.capacity}; it must be at least "
                f"{self.learner.n_step * self.replay.streams} to hold learner.n_step transitions of each "
                "of replay.streams"
            )
        if self.replay.capacity * self.seeds > MAX_STORED and self.network.kind != "tabular":
            raise ValueError(
                f"replay.capacity is {self.replay.capacity:,} and seeds {self.seeds}: "
                f"{self.replay.capacity * self.seeds:,} transitions; at most {MAX_STORED:,} are held"
            )
        self._refuse_what_does_nothing()
        if self.fork and self.resume is None:
            raise ValueError("fork is set without resume, which says what checkpoint to start from")
        if self.seed + self.seeds > 2**31:
            raise ValueError(
                f"seed is {self.seed} and seeds {self.seeds}; the last is past 2^31 - 1"
            )
        return self

    def _refuse_what_does_nothing(self) -> None:
        """A setting of the other kind of learner, given a value of its own, is a misunderstanding."""
        kind = f"network.kind is {self.network.kind}"
        if self.network.kind == "tabular":
            _require_default("learner", self.learner, {"gamma"}, kind)
            _require_default("replay", self.replay, {"streams"}, kind)
            if self.on_divergence == "rollback":
                raise ValueError(
                    f"on_divergence is rollback, but {kind}, whose numbers stay bounded"
                )
            return
        _require_default("tabular", self.tabular, set(), kind)
        if not self.replay.prioritised:
            _require_default(
                "replay.priority", self.replay.priority, set(), "replay.prioritised is off"
            )
        if self.learner.target != "munchausen":
            others = {name for name in LearnerSettings.model_fields if "munchausen" not in name}
            target = f"learner.target is {self.learner.target}"
            _require_default("learner", self.learner, others, target)

    @property
    def called(self) -> str:
        """What runs and the registered model are called; outputs of one name have one shape."""
        kind = self.network.kind
        return self.name or (f"{kind}_quantiles" if self.network.quantiles else kind)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - no source of ours
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Environment above preset; the preset is what `load_settings` passes to the constructor."""
        return _OtherVariables(settings_cls), env_settings, init_settings

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
        """What decides the run, as JSON has it: neither the wish to resume nor where things are."""
        elsewhere = {"resume", "fork", "mlruns", "tracking_uri", "checkpoints"}
        return self.model_dump(mode="json", exclude=elsewhere)

    def flat(self) -> dict[str, str]:
        """Every setting by its dotted path, for tracking."""
        return flatten(self.model_dump(mode="json", exclude={"resume", "fork"}))


def _require_default(room: str, settings: BaseModel, used: set[str], where: str) -> None:
    for name, field in sorted(type(settings).model_fields.items()):
        if name not in used and getattr(settings, name) != field.default:
            raise ValueError(f"{room}.{name} is set, but does nothing where {where}; leave it out")


class _OtherVariables(PydanticBaseSettingsSource):
    """The three DQN_EPSILON_* variables, and MLflow's own."""

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
        raise NotImplementedError  # the whole source is read at once

    def __call__(self) -> dict[str, Any]:
        found = {
            name: os.environ[key] for key, name in EPSILON_VARIABLES.items() if key in os.environ
        }
        server = os.environ.get("MLFLOW_TRACKING_URI")
        given: dict[str, Any] = {"epsilon": found} if found else {}
        return {**given, "tracking_uri": server} if server else given
