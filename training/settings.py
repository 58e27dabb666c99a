"""The whole tree of training settings, composed of what each room declares.

Sources, the later winning: defaults < preset (TOML) < environment < command line. An environment
variable is `QDESK_` and the path with two underscores (`QDESK_LEARNER__GAMMA`); the three
`DQN_EPSILON_START`, `DQN_EPSILON_MIN` and `DQN_EPSILON_DECAY` are known by those names as well.
Nothing here imports TensorFlow, so that `--help` is quick.
"""

import argparse
import os
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    CliSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from market.accounting import MarketSettings
from market.bars import SplitSettings
from market.features import FeatureSettings, split_commas

PRESETS = Path(__file__).parent / "presets"
EPSILON_VARIABLES = {f"DQN_EPSILON_{name.upper()}": name for name in ("start", "min", "decay")}
FROZEN = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class BadSettings(ValueError):
    """Settings that cannot be used. The message names the setting, where it came from, and why."""


Units = Annotated[int, Field(ge=1, le=2**16)]


class NetworkSettings(BaseModel):
    """Which Q-network learns."""

    model_config = FROZEN

    kind: Literal["linear", "two_layer"] = Field("two_layer", description="the Q-network")
    hidden: Annotated[tuple[Units, Units], BeforeValidator(split_commas)] = Field(
        (64, 64), description="units of the two hidden layers"
    )


class LearnerSettings(BaseModel):
    """The train step."""

    model_config = FROZEN

    gamma: float = Field(0.99, ge=0, le=1, description="discount a bar")
    batch: int = Field(32, ge=1, le=2**20, description="transitions an update")
    optimizer: Literal["adam", "sgd"] = Field("adam", description="Adam, or plain gradient descent")
    learning_rate: float = Field(1e-3, gt=0, description="of the optimizer")
    loss: Literal["mse", "huber"] = Field("mse", description="of the TD error")
    huber_delta: float = Field(1.0, gt=0, description="where the Huber loss turns linear")
    clip_norm: float | None = Field(None, gt=0, description="largest global gradient norm")
    double: bool = Field(
        False, description="Double DQN: the online network chooses the next action"
    )
    target_every: int = Field(
        500, ge=1, le=5 * 10**8, description="updates between two copies of the target"
    )
    tau: float | None = Field(
        None,
        gt=0,
        le=1,
        description="move the target by this share every update, instead of copies",
    )


class ReplaySettings(BaseModel):
    """Collection of transitions and the ring that holds them."""

    model_config = FROZEN

    streams: int = Field(4, ge=1, le=2**16, description="markets simulated side by side")
    capacity: int = Field(
        100_000,
        ge=1,
        le=10**9,
        description="transitions held, rounded down to a multiple of the streams",
    )
    learning_starts: int = Field(
        1000, ge=0, le=5 * 10**8, description="transitions collected before the first update"
    )

    @model_validator(mode="after")
    def _ring_holds_every_stream(self) -> Self:
        if self.capacity < self.streams:
            raise ValueError(
                f"capacity is {self.capacity}; it must be at least the number of streams, {self.streams}"
            )
        return self


class EpsilonSettings(BaseModel):
    """Exploration: the share of random actions."""

    model_config = FROZEN

    schedule: Literal["exponential", "linear"] = Field(
        "exponential", description="max(min, start * decay^k), or linear from start to min"
    )
    start: float = Field(1.0, ge=0, le=1, description="at iteration 0 (DQN_EPSILON_START)")
    min: float = Field(0.05, ge=0, le=1, description="never below (DQN_EPSILON_MIN)")
    decay: float = Field(0.9999, gt=0, le=1, description="factor an iteration (DQN_EPSILON_DECAY)")
    steps: int = Field(50_000, ge=1, description="iterations that the linear schedule takes")

    @model_validator(mode="after")
    def _min_is_below_start(self) -> Self:
        if self.min > self.start:
            raise ValueError(f"min is {self.min:g}, above start, {self.start:g}")
        return self


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
    bars: str = Field(
        "btcusd_30m",
        description="a sample's name, a Parquet or CSV file, or synthetic:ou?theta=0.05&sigma=0.01"
        "&seed=3&bars=20000 (ou, walk, regime)",
    )
    steps: int = Field(
        100_000, ge=1, le=10**9, description="iterations: each steps every stream, one update"
    )
    seed: int = Field(1, ge=0, lt=2**31, description="of weights, starts, exploration and sampling")
    evaluate_every: int | None = Field(
        None, ge=1, description="iterations between validations; by default a 20th of the steps"
    )
    log_every: int | None = Field(
        None,
        ge=1,
        description="iterations a logged point averages over; by default a 200th of the steps",
    )
    mlruns: Path = Field(Path("mlruns"), description="folder of the tracking data")
    experiment: str = Field("qdesk", min_length=1, description="MLflow experiment")
    network: NetworkSettings = NetworkSettings()
    learner: LearnerSettings = LearnerSettings()
    replay: ReplaySettings = ReplaySettings()
    epsilon: EpsilonSettings = EpsilonSettings()
    market: MarketSettings = MarketSettings()
    features: FeatureSettings = FeatureSettings()
    split: SplitSettings = SplitSettings()

    @model_validator(mode="after")
    def _learning_takes_place(self) -> Self:
        if self.steps * self.replay.streams <= self.replay.learning_starts:
            raise ValueError(
                f"steps is {self.steps} and ends before learning begins; it must be above "
                f"{self.replay.learning_starts // self.replay.streams} (replay.learning_starts "
                f"{self.replay.learning_starts} over {self.replay.streams} streams)"
            )
        return self

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
        return _EpsilonVariables(settings_cls), env_settings, init_settings

    def flat(self) -> dict[str, str]:
        """Every setting by its dotted path, for tracking."""
        return _flatten(self.model_dump(mode="json"))


class _EpsilonVariables(PydanticBaseSettingsSource):
    """The three DQN_EPSILON_* variables."""

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
        raise NotImplementedError  # the whole source is read at once

    def __call__(self) -> dict[str, Any]:
        found = {
            name: os.environ[key] for key, name in EPSILON_VARIABLES.items() if key in os.environ
        }
        return {"epsilon": found} if found else {}


def preset_names() -> list[str]:
    """The presets that ship with the project."""
    return sorted(path.stem for path in PRESETS.glob("*.toml"))


def load_settings(arguments: list[str]) -> list[TrainSettings]:
    """One tree of settings for each preset that `--preset a,b` (or QDESK_PRESET) names.

    Raises:
        BadSettings: a key is unknown or a value out of range.
        SystemExit: `--help` was asked for.
    """
    _refuse_unknown_variables()
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    default = os.environ.get("QDESK_PRESET", "two_layer")
    early.add_argument("--preset", nargs="?", const="", default=default)
    presets = early.parse_known_args(arguments)[0].preset.split(",")
    if not all(presets):
        raise BadSettings(f"--preset needs a name: {', '.join(preset_names())}, or a TOML file")
    return [_load(preset, arguments) for preset in presets]


def _load(preset: str, arguments: list[str]) -> TrainSettings:
    values = _read_preset(preset)
    try:
        cli: CliSettingsSource[Any] = CliSettingsSource(
            TrainSettings,
            cli_prog_name="qdesk train",
            cli_parse_args=[*arguments, "--preset", preset],
            cli_kebab_case=True,
            cli_avoid_json=True,
            cli_implicit_flags=True,
            cli_parse_none_str="none",
            cli_exit_on_error=False,
        )
        return TrainSettings(_cli_settings_source=cli, **values)
    except SettingsError as error:
        raise BadSettings(f"qdesk train: {error}; see `qdesk train --help`") from error
    except ValidationError as error:
        raise BadSettings(_explain(error, values, preset, arguments)) from error


def _read_preset(preset: str) -> dict[str, Any]:
    path = PRESETS / f"{preset}.toml" if preset in preset_names() else Path(preset)
    try:
        return tomllib.loads(path.read_text())
    except FileNotFoundError:
        names = ", ".join(preset_names())
        raise BadSettings(
            f"preset {preset}: no such file, nor one of the presets ({names})"
        ) from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadSettings(f"preset {preset}: cannot be read as TOML: {error}") from error


def _refuse_unknown_variables() -> None:
    """pydantic-settings passes over variables that name no setting; a misspelt one must not."""
    known = {f"QDESK_{path.replace('.', '__').upper()}" for path in _paths(TrainSettings)}
    for name in sorted(os.environ):
        unknown = name.startswith("QDESK_") and name.upper() not in known
        if unknown or (name.startswith("DQN_EPSILON_") and name not in EPSILON_VARIABLES):
            raise BadSettings(f"{name}: the environment sets a variable that names no setting")


def _paths(model: type[BaseModel], prefix: str = "") -> list[str]:
    paths = []
    for name, field in model.model_fields.items():
        paths.append(prefix + name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            paths += _paths(field.annotation, f"{prefix}{name}.")
    return paths


def _explain(
    error: ValidationError, preset_values: dict[str, Any], preset: str, arguments: list[str]
) -> str:
    """The first fault in one sentence: setting, value, reason, and the source that set it."""
    fault = error.errors()[0]
    path = ".".join(part for part in fault["loc"] if isinstance(part, str))  # indices left out
    flag = "--" + path.replace("_", "-")
    variables = ["QDESK_" + path.replace(".", "__").upper()]
    variables += [v for v, name in EPSILON_VARIABLES.items() if path == f"epsilon.{name}"]
    value: Any = preset_values
    for part in path.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    if any(argument.split("=")[0] == flag for argument in arguments):
        source = f"{flag} on the command line"
    elif found := [variable for variable in variables if variable in os.environ]:
        source = f"{found[-1]} in the environment"
    else:
        source = f"preset {preset}" if value is not None else "settings"
    if fault["type"] == "extra_forbidden":
        return f"{source}: {path} is not a setting; see `qdesk train --help` for those that are"
    reason = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "value_error":
        return f"{path}: {reason}" if path else reason
    return f"{path} is {fault['input']!r} ({source}): {reason[0].lower()}{reason[1:]}"


def _flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = "none" if value is None else str(value)
    return flat
