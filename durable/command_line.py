"""Settings by dotted path: from a command line, the environment and TOML files into plain trees.

Each value travels with the words for its source, so that a fault can name the one who set it.
"""

import argparse
import os
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, NamedTuple, NoReturn, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from durable.settings import BadSettings, Fault, leaves, nested

Fields = Mapping[str, FieldInfo]


class Given(NamedTuple):
    """A value of a setting, and the words for where it came from."""

    value: Any
    source: str


def fields(model: type[BaseModel], prefix: str = "") -> dict[str, FieldInfo]:
    """The settings of a model and of the groups in it, by dotted path."""
    found: dict[str, FieldInfo] = {}
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            found |= fields(kind, f"{prefix}{name}.")
        else:
            found[prefix + name] = field
    return found


def parser_of(
    known: Fields, command: str, about: str | None, positional: str | None = None
) -> argparse.ArgumentParser:
    """The parser of a command with a flag for every setting, but for the one that needs none."""
    parser = _Parser(prog=f"qdesk {command}", description=about, allow_abbrev=False)
    for path, field in known.items():
        if path == positional:
            parser.add_argument(path, metavar=path.upper(), help=field.description)
            continue
        default = field.get_default(call_default_factory=True)
        shown = "none" if default is None else text(default)
        meaning = f"{field.description} (default: {shown})".replace("%", "%%")
        form: dict[str, Any] = {"metavar": _metavar(field)}
        if field.annotation is bool:
            form = {"action": argparse.BooleanOptionalAction}
        elif get_origin(field.annotation) is tuple:
            form |= {"action": "extend", "nargs": 1}
        flag = "--" + path.replace("_", "-")
        parser.add_argument(flag, dest=path, help=meaning, default=argparse.SUPPRESS, **form)
    return parser


def from_command_line(
    parser: argparse.ArgumentParser, arguments: list[str], alone: Mapping[str, str] = {}
) -> dict[str, Given]:
    """What a command line sets, by a parser that `parser_of` made.

    `alone` are groups that may be written for one setting of theirs: `{"features": "names"}`.

    Raises:
        BadSettings: a flag is unknown, or lacks its value.
        SystemExit: `--help` was asked for.
    """
    full = {f"--{group}": f"--{group}.{name}" for group, name in alone.items()}
    parts = [argument.partition("=") for argument in arguments]
    spelt_out = [full.get(flag, flag) + equals + value for flag, equals, value in parts]
    found = vars(parser.parse_args(spelt_out))
    return {
        path: Given(
            ",".join(value) if isinstance(value, list) else _none(value),
            f"--{path.replace('_', '-')} on the command line",
        )
        for path, value in found.items()
    }


def from_environment(known: Fields, names: Mapping[str, str], prefix: str = "") -> dict[str, Given]:
    """What the environment sets.

    `names` are variables with a name of their own, and the settings that they stand for; they win. All
    others have the prefix, in whatever case: `QDESK_` and the path, two underscores for a dot. Without a
    prefix there are no others.
    """
    found: dict[str, Given] = {}
    if prefix:
        upper = {name.upper(): name for name in os.environ}
        variables = {prefix + path.replace(".", "__").upper(): path for path in known}
        for variable in variables.keys() & upper.keys():
            found[variables[variable]] = _variable(upper[variable])
    return found | {path: _variable(name) for name, path in names.items() if name in os.environ}


def from_file(path: Path, source: str, alone: Mapping[str, str] = {}) -> dict[str, Given]:
    """What a TOML file sets; for `alone` see `from_command_line`.

    Raises:
        FileNotFoundError: there is none.
        BadSettings: it cannot be read.
    """
    try:
        tree = tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadSettings(f"{source}: cannot be read as TOML: {error}") from error
    for group, name in alone.items():
        if isinstance(tree.get(group), str | list):
            tree[group] = {name: tree[group]}
    return from_tree(tree, source)


def from_tree(tree: Mapping[str, Any], source: str) -> dict[str, Given]:
    """The settings of a tree."""
    return {path: Given(value, source) for path, value in leaves(tree).items()}


def tree_of(given: Mapping[str, Given], known: Fields, command: str) -> dict[str, Any]:
    """Settings as a tree; where several sources are merged, the last one wins.

    Raises `BadSettings` where one has no such name.
    """
    for path, (_, source) in given.items():
        if path not in known:
            raise BadSettings(
                f"{source}: {path} is not a setting; see `qdesk {command} --help` for those that are"
            )
    return nested({path: each.value for path, each in given.items()})


def explained(fault: Fault, given: Mapping[str, Given]) -> str:
    """A fault in one sentence: setting, value, the source that set it, and the reason."""
    path = fault.path
    if fault.kind == "value_error":
        return f"{path}: {fault.reason}" if path else fault.reason
    source = given[path].source if path in given else "settings"
    return f"{path} is {fault.value!r} ({source}): {fault.sentence}"


def text(value: Any) -> str:
    """A value as it is written on a command line."""
    if isinstance(value, list | tuple):
        return ",".join(map(text, value))
    return str(value)


class _Parser(argparse.ArgumentParser):
    """Raises what is wrong, as every other source of settings does."""

    def error(self, message: str) -> NoReturn:
        raise BadSettings(f"{self.prog}: {message}; see `{self.prog} --help`")


def _variable(name: str) -> Given:
    return Given(_none(os.environ[name]), f"{name} in the environment")


def _none(value: Any) -> Any:
    return None if value == "none" else value


def _metavar(field: FieldInfo) -> str:
    kinds = list(_kinds(field.annotation))
    return "{" + ",".join(kinds) + "}" if len(kinds) > 1 else kinds[0]


def _kinds(kind: Any) -> Iterator[str]:
    """What a value may be: types, or words to choose from."""
    origin = get_origin(kind)
    if origin in (Union, UnionType):
        yield from (each for part in get_args(kind) for each in _kinds(part))
    elif origin is Literal:
        yield from map(str, get_args(kind))
    elif origin is tuple:
        yield ",".join(name for part in get_args(kind) for name in _kinds(part))
    elif kind is NoneType:
        yield "none"
    elif kind is Ellipsis:
        yield "..."
    else:
        yield from _kinds(get_args(kind)[0]) if origin else [getattr(kind, "__name__", str(kind))]
