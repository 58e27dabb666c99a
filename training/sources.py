"""Where settings come from, the later winning: defaults < preset (TOML) < environment < command line.

An environment variable is `QDESK_` and the path with two underscores (`QDESK_LEARNER__GAMMA`); the three
`DQN_EPSILON_START`, `DQN_EPSILON_MIN` and `DQN_EPSILON_DECAY` are known by those names as well.
"""

import argparse
import os
import tomllib
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_settings import SettingsError

from durable.command_line import of_command_line
from durable.settings import Fault
from models.exploration import EPSILON_VARIABLES
from training.settings import TrainSettings

# Settings that may be written alone, and what is meant. They are spelt out before they are merged: beside
# others of their group they would be lost.
ALONE = {"features": "names", "checkpoints": "where"}
PRESETS = Path(__file__).parent / "presets"


class BadSettings(ValueError):
    """Settings that cannot be used. The message names the setting, where it came from, and why."""

    exit_code = 2


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
    arguments = _spelt_out(arguments)
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    default = os.environ.get("QDESK_PRESET", "two_layer")
    early.add_argument("--preset", nargs="?", const="", default=default)
    presets = early.parse_known_args(arguments)[0].preset.split(",")
    if not all(presets):
        raise BadSettings(f"--preset needs a name: {', '.join(preset_names())}, or a TOML file")
    trees = [
        _load(_read_preset(preset), f"preset {preset}", [*arguments, "--preset", preset])
        for preset in presets
    ]
    names = [settings.called for settings in trees]
    for preset, name in zip(presets, names, strict=True):
        if names.count(name) > 1:
            raise BadSettings(
                f"preset {preset}: another of the presets is called {name} as well; train them apart, "
                "each with a --name of its own"
            )
    return trees


def load_from(values: dict[str, Any], source: str, arguments: list[str]) -> TrainSettings:
    """One tree of settings that starts from given values in place of a preset's.

    Args:
        values: a tree, as `TrainSettings.tree` gives it.
        source: what they are from, for messages.
        arguments: of the command line.

    Raises:
        BadSettings: a key is unknown or a value out of range.
    """
    _refuse_unknown_variables()
    return _load(values, source, _spelt_out(arguments))


def _spelt_out(arguments: list[str]) -> list[str]:
    """Writes `--features a,b` and `--checkpoints URL` in full."""
    full = {f"--{group}": f"--{group}.{name}" for group, name in ALONE.items()}
    parts = [argument.partition("=") for argument in arguments]
    return [full.get(flag, flag) + equals + value for flag, equals, value in parts]


def _load(values: dict[str, Any], source: str, arguments: list[str]) -> TrainSettings:
    try:
        cli = of_command_line(TrainSettings, "train", arguments)
        return TrainSettings(_cli_settings_source=cli, **values)
    except SettingsError as error:
        raise BadSettings(f"qdesk train: {error}; see `qdesk train --help`") from error
    except ValidationError as error:
        raise BadSettings(_explain(error, values, source, arguments)) from error


def _read_preset(preset: str) -> dict[str, Any]:
    path = PRESETS / f"{preset}.toml" if preset in preset_names() else Path(preset)
    try:
        values = tomllib.loads(path.read_text())
    except FileNotFoundError:
        names = ", ".join(preset_names())
        raise BadSettings(
            f"preset {preset}: no such file, nor one of the presets ({names})"
        ) from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadSettings(f"preset {preset}: cannot be read as TOML: {error}") from error
    for name in ("resume", "fork"):
        if name in values:
            raise BadSettings(
                f"preset {preset}: {name} is no setting of a preset; give it by --{name}"
            )
    for group, name in ALONE.items():
        if isinstance(values.get(group), str | list):
            values[group] = {name: values[group]}
    return values


def _refuse_unknown_variables() -> None:
    """pydantic-settings passes over variables that name no setting; a misspelt one must not."""
    for group, name in ALONE.items():
        variable = f"QDESK_{group.upper()}"
        if variable in os.environ:
            raise BadSettings(f"{variable}: write {variable}__{name.upper()}")
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
    error: ValidationError, given: dict[str, Any], of_given: str, arguments: list[str]
) -> str:
    """The first fault in one sentence: setting, value, reason, and the source that set it."""
    fault = Fault.of(error)
    path = fault.path
    flag = "--" + path.replace("_", "-")
    variables = ["QDESK_" + path.replace(".", "__").upper()]
    variables += [v for v, name in EPSILON_VARIABLES.items() if path == f"epsilon.{name}"]
    value: Any = given
    for part in path.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    if any(argument.split("=")[0] == flag for argument in arguments):
        source = f"{flag} on the command line"
    elif found := [variable for variable in variables if variable in os.environ]:
        source = f"{found[-1]} in the environment"
    else:
        source = of_given if value is not None else "settings"
    if fault.kind == "extra_forbidden":
        return f"{source}: {path} is not a setting; see `qdesk train --help` for those that are"
    if fault.kind == "value_error":
        return f"{path}: {fault.reason}" if path else fault.reason
    reason = fault.reason[0].lower() + fault.reason[1:]
    return f"{path} is {fault.value!r} ({source}): {reason}"
