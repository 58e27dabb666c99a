"""What all settings have in common: they are plain, frozen data."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError


class Settings(BaseModel):
    """Settings of one thing: frozen; unknown names and numbers that are not finite are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class BadSettings(ValueError):
    """Settings that cannot be used. The message names the setting, where it came from, and why."""

    exit_code = 2


class Fault(NamedTuple):
    """The first thing that is wrong with settings."""

    path: str  # dotted, of the setting; empty where it concerns several
    kind: str  # pydantic's word for it
    reason: str  # what would be right, or why this is not
    value: Any  # that was given

    @classmethod
    def of(cls, error: ValidationError) -> "Fault":
        """The first fault of an error; indices are left out of its path."""
        first = error.errors()[0]
        kind = first["type"]
        names = [each for each in first["loc"] if isinstance(each, str)]
        if kind != "extra_forbidden":  # which may be a name that no setting could have
            names = [each for each in names if each.isidentifier()]
        reason = first["msg"].removeprefix("Value error, ")
        return cls(".".join(names), kind, reason, first["input"])

    @property
    def sentence(self) -> str:
        """The reason, as it goes on behind a colon."""
        return f"{self.reason[0].lower()}{self.reason[1:]}"


def leaves(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values of a tree by dotted path."""
    found: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            found |= leaves(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value
    return found


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """The tree that `leaves` gives these values of."""
    tree: dict[str, Any] = {}
    for path, value in values.items():
        *groups, name = path.split(".")
        at = tree
        for group in groups:
            at = at.setdefault(group, {})
        at[name] = value
    return tree
