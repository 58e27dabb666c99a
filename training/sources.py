"""Where settings come from, the later winning: defaults < preset (TOML) < environment < command line.

An environment variable is `QDESK_` and the path with two underscores (`QDESK_LEARNER__GAMMA`); the three
`DQN_EPSILON_START`, `DQN_EPSILON_MIN` and `DQN_EPSILON_DECAY` are known by those names as well.
"""

import argparse
import os
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from durable.command_line import (
    Given,
    explained,
    from_command_line,
    from_environment,
    from_file,
    parser_of,
    tree_of,
)
from durable.settings import BadSettings, Fault
from models.exploration import EPSILON_VARIABLES
from training.learning.kinds import KINDS
from training.settings import TrainSettings, known_settings

ALONE = {"features": "names", "checkpoints": "where"}  # settings that may be written as their group
PRESETS = Path(__file__).parent / "presets"
SERVER = "MLFLOW_TRACKING_URI"


def preset_names() -> list[str]:
    """The presets that ship with the project."""
    return sorted(path.stem for path in PRESETS.glob("*.toml"))


def parser() -> argparse.ArgumentParser:
    """The arguments of `qdesk train`."""
    return parser_of(known_settings(), "train", TrainSettings.__doc__)


def given_by_user(arguments: list[str]) -> dict[str, Given]:
    """What the environment and, above it, the command line set.

    Raises:
        BadSettings: a variable or a flag is unknown.
        SystemExit: `--help` was asked for.
    """
    on_command_line = from_command_line(parser(), arguments, ALONE)
    _refuse_unknown_variables()
    named = dict(EPSILON_VARIABLES)
    if os.environ.get(SERVER):  # an empty one is none
        named[SERVER] = "tracking_uri"
    return from_environment(known_settings(), named, "QDESK_") | on_command_line


def load_settings(arguments: list[str]) -> list[TrainSettings]:
    """One tree of settings for each preset that `--preset a,b` (or QDESK_PRESET) names.

    Raises:
        BadSettings: a key is unknown or a value out of range.
        SystemExit: `--help` was asked for.
    """
    given = given_by_user(arguments)
    default = Given("two_layer", "settings")
    presets = str(given.get("preset", default).value).split(",")
    if not all(presets):
        raise BadSettings(f"--preset needs a name: {', '.join(preset_names())}, or a TOML file")
    trees = [
        settings_of(_read_preset(preset) | given | {"preset": Given(preset, "--preset")})
        for preset in presets
    ]
    names = [settings.model_name for settings in trees]
    for preset, name in zip(presets, names, strict=True):
        if names.count(name) > 1:
            raise BadSettings(
                f"preset {preset}: another of the presets is called {name} as well; train them apart, "
                "each with a --name of its own"
            )
    return trees


def settings_of(given: Mapping[str, Given]) -> TrainSettings:
    """Settings from merged sources; raises `BadSettings`."""
    _refuse_two_kinds(given)
    tree = tree_of(given, known_settings(), "train")
    try:
        return TrainSettings.of(tree)
    except ValidationError as error:
        raise BadSettings(explained(Fault.of(error), given)) from error


def _refuse_two_kinds(given: Mapping[str, Given]) -> None:
    """A network that a user asks for where another kind of agent learns is a contradiction."""
    kind = given.get("agent.kind", Given("dqn", "settings"))
    network = given.get("network.kind", Given("tabular", "settings"))
    said = network.source.endswith(("command line", "environment"))
    has_network = kind.value not in KINDS or "network" in KINDS[kind.value].model_fields
    if said and not has_network and network.value != "tabular":
        raise BadSettings(
            f"network.kind is {network.value!r} ({network.source}), but agent.kind is {kind.value!r} "
            f"({kind.source}), which has no network"
        )


def _read_preset(preset: str) -> dict[str, Given]:
    source = f"preset {preset}"
    path = PRESETS / f"{preset}.toml" if preset in preset_names() else Path(preset)
    try:
        found = from_file(path, source, ALONE)
    except FileNotFoundError:
        names = ", ".join(preset_names())
        raise BadSettings(f"{source}: no such file, nor one of the presets ({names})") from None
    for name in ("resume", "fork"):
        if name in found:
            raise BadSettings(f"{source}: {name} is no setting of a preset; give it by --{name}")
    return found


def _refuse_unknown_variables() -> None:
    """A variable that names no setting may be a misspelt one."""
    for group, name in ALONE.items():
        variable = f"QDESK_{group.upper()}"
        if variable in os.environ:
            raise BadSettings(f"{variable}: write {variable}__{name.upper()}")
    known = {f"QDESK_{path.replace('.', '__').upper()}" for path in known_settings()}
    for name in sorted(os.environ):
        unknown = name.startswith("QDESK_") and name.upper() not in known
        if unknown or (name.startswith("DQN_EPSILON_") and name not in EPSILON_VARIABLES):
            raise BadSettings(f"{name}: the environment sets a variable that names no setting")
