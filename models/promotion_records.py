"""Who moved the champion when and why, and which version it is by these records.

Every move stands as a tag of the registered model, `promotion/<time>`: written before the aliases move,
and again, as completed, once they have. What was broken off in between is completed by the next command
where both aliases had moved already, and else undone.
"""

import json
import platform
from contextlib import suppress
from datetime import UTC, datetime
from typing import NamedTuple

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from models.registry import CANDIDATE, NOT_THERE, user

CHAMPION = "champion"
PREVIOUS = "previous_champion"
ALIASES = (CHAMPION, PREVIOUS, CANDIDATE)
RECORD = "promotion/"


class NoVersion(ValueError):
    """There is no such model, version or alias. The message names it and what there is."""

    exit_code = 2


class NoReason(ValueError):
    """A champion is not moved without a reason."""

    exit_code = 2


class Promotion(NamedTuple):
    """One move of the champion."""

    when: str  # ISO 8601, UTC
    who: str
    why: str
    kind: str  # promote or rollback
    version: str  # champion from then on
    before: str | None  # champion until then
    gate: str = ""  # passed; or overridden: why, and which conditions failed; of a rollback nothing
    bundle_sha256: str = ""  # of the champion from then on; of older records nothing
    completed: bool = True  # whether the aliases were moved; not of one that was broken off
    undone: bool = False  # whether it was broken off, and the aliases are again as they were


class Recorded(NamedTuple):
    """What the records say of a model, whatever its aliases do.

    Aliases can be set by anyone who may write to the store, a button in MLflow's page included. Whom to
    trust is for the records to say: they are written by `promote` and `rollback` alone. That guards
    against mistakes, not against somebody who writes records too.
    """

    champion: Promotion | None  # the newest record
    previous: Promotion | None  # the newest record of the champion before
    elsewhere: str | None  # how the alias differs, where it was set elsewhere
    rejected: frozenset[str] = (
        frozenset()
    )  # versions that were rolled back from and not promoted since


def resolve(client: MlflowClient, name: str, which: str) -> ModelVersion:
    """A version by number or alias. Raises `NoVersion` where there is none such."""
    try:
        number = which.removeprefix("v")
        if number.isdigit():
            return client.get_model_version(name, number)
        return client.get_model_version_by_alias(name, which.removeprefix("@"))
    except MlflowException as error:
        if error.error_code not in NOT_THERE:
            raise
        raise NoVersion(
            f"{name}: there is no version or alias {which}; see `qdesk models show {name}`"
        ) from error


def champion(client: MlflowClient, name: str, alias: str = CHAMPION) -> ModelVersion | None:
    """The version that an alias stands for, if any."""
    with suppress(NoVersion):
        return resolve(client, name, alias)
    return None


def recorded(client: MlflowClient, name: str) -> Recorded:
    """The champion and the one before by the records; raises `NoVersion` where there is no such model."""
    moves = [move for move in history(client, name) if move.completed]
    alias = champion(client, name)
    stands_for = "no version" if alias is None else f"v{alias.version}"
    if not moves:
        elsewhere = f"the alias {CHAMPION} stands for {stands_for}, but no promotion is on record"
        nothing = alias is None
        return Recorded(None, None, None if nothing else f"{elsewhere}: it was set elsewhere")
    newest = moves[-1]
    elsewhere = (
        f"the alias {CHAMPION} stands for {stands_for}, but the newest record of a promotion names "
        f"v{newest.version}: it was set elsewhere"
    )
    agrees = alias is not None and str(alias.version) == newest.version
    rejected = newest.before if newest.kind == "rollback" else None
    before = before_of(client, name, newest.version, rejected or "")
    previous = next((move for move in reversed(moves) if move.version == before), None)
    gone = set()
    for move in moves:
        gone.discard(move.version)
        if move.kind == "rollback" and move.before is not None:
            gone.add(move.before)
    return Recorded(newest, previous, None if agrees else elsewhere, frozenset(gone))


def history(client: MlflowClient, name: str) -> list[Promotion]:
    """All moves of the champion, oldest first. Raises `NoVersion` where there is no such model."""
    try:
        tags = client.get_registered_model(name).tags
    except MlflowException as error:
        if error.error_code not in NOT_THERE:
            raise
        raise NoVersion(f"{name}: there is no such model; see `qdesk models list`") from error
    read = (_read_record(tags[key]) for key in sorted(tags) if key.startswith(RECORD))
    return [move for move in read if move is not None]


def _read_record(text: str) -> Promotion | None:
    """A record; None where a tag of that name holds none."""
    try:
        found = json.loads(text)
        return Promotion(**{name: found[name] for name in Promotion._fields if name in found})
    except (ValueError, TypeError):
        return None


def before_of(client: MlflowClient, name: str, version: str, rejected: str) -> str | None:
    """The champion before a version by the record, none that is gone or just rejected."""
    champions: list[str] = []  # of each one, those that it had replaced lie below it
    for move in filter(lambda each: each.completed, history(client, name)):
        if move.kind == "promote":
            champions.append(move.version)
        else:
            while len(champions) > 1 and champions[-1] != move.version:
                champions.pop()
    while champions and champions[-1] != version:
        champions.pop()
    for earlier in reversed(champions[:-1]):
        with suppress(NoVersion):
            if earlier not in (version, rejected):
                return str(resolve(client, name, earlier).version)
    return None


def record(
    client: MlflowClient,
    name: str,
    kind: str,
    version: str,
    before: str | None,
    why: str,
    who: str | None,
    gate: str,
    bundle_sha256: str | None,
) -> Promotion:
    """Writes a move that is about to be made; `complete` follows once it was."""
    if not why.strip():
        raise NoReason(f"{name}: the champion is not moved without a reason; say one")
    when = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"
    by = who or f"{user()}@{platform.node()}"
    made = Promotion(when, by, why, kind, version, before, gate, bundle_sha256 or "", False)
    _write(client, name, made)
    return made


def complete(client: MlflowClient, name: str, move: Promotion) -> Promotion:
    """Puts it on record that the aliases of a move were moved."""
    made = move._replace(completed=True)
    _write(client, name, made)
    return made


def undo(client: MlflowClient, name: str, move: Promotion) -> Promotion:
    """Puts it on record that a move that was broken off counts for nothing."""
    made = move._replace(undone=True)
    _write(client, name, made)
    return made


def withdraw(client: MlflowClient, name: str, move: Promotion) -> None:
    """Takes back a move that never began."""
    client.delete_registered_model_tag(name, f"{RECORD}{move.when}")


def unfinished(client: MlflowClient, name: str) -> list[Promotion]:
    """Moves that are being made, or were broken off, oldest first."""
    return [move for move in history(client, name) if not (move.completed or move.undone)]


def _write(client: MlflowClient, name: str, move: Promotion) -> None:
    client.set_registered_model_tag(name, f"{RECORD}{move.when}", json.dumps(move._asdict()))
