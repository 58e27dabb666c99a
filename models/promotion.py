"""Which version may trade: `champion` and `previous_champion`, and who moved them when and why.

Every move stands as a tag of the registered model, `promotion/<time>`, written before the aliases move: a
champion without a record cannot come about.
"""

import json
import platform
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple
from urllib.parse import urlparse
from urllib.request import url2pathname

import mlflow
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from models.bundle import Bundle
from models.registry import BUNDLE, CANDIDATE, NOT_THERE, model_id_of, user
from models.sealed import Damaged

CHAMPION, PREVIOUS = "champion", "previous_champion"
ALIASES = (CHAMPION, PREVIOUS, CANDIDATE)
RECORD = "promotion/"


class NoVersion(ValueError):
    """There is no such model, version or alias. The message names it and what there is."""


class NoReason(ValueError):
    """A champion is not moved without a reason."""


class Condition(NamedTuple):
    """One thing that a version must fulfil before it may trade."""

    name: str
    passed: bool
    found: str
    required: str


class GateSaidNo(Exception):
    """A version does not fulfil all conditions; no alias was moved. The message says how many.

    Attributes:
        conditions: all of them.
    """

    def __init__(self, version: str, conditions: Sequence[Condition]) -> None:
        failed = sum(not condition.passed for condition in conditions)
        super().__init__(
            f"{version}: the gate says no, {failed} of {len(conditions)} conditions failed; no alias was "
            "moved"
        )
        self.conditions = list(conditions)


class Judgement(NamedTuple):
    """What a version was held to."""

    conditions: Sequence[Condition]
    policy: str = ""  # what was asked that is not usual, for the record


Judge = Callable[[MlflowClient, ModelVersion, Bundle], Judgement]


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


class Recorded(NamedTuple):
    """What the records say of a model, whatever its aliases do.

    Aliases can be set by anyone who may write to the store, a button in MLflow's page included. Whom to
    trust is for the records to say: they are written by `promote` and `rollback` alone. That guards
    against mistakes, not against somebody who writes records too.
    """

    champion: Promotion | None  # the newest record
    previous: Promotion | None  # the newest record of the champion before
    elsewhere: str | None  # how the alias differs, where it was set elsewhere


def resolve(client: MlflowClient, name: str, which: str) -> ModelVersion:
    """A version by number or alias.

    Raises:
        NoVersion: there is none such.
    """
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
    moves = history(client, name)
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
    before = _before(client, name, newest.version, rejected or "")
    previous = next((move for move in reversed(moves) if move.version == before), None)
    return Recorded(newest, previous, None if agrees else elsewhere)


def load_recorded(
    client: MlflowClient, name: str, move: Promotion, into: Path | None = None
) -> Bundle:
    """The verified bundle of the version that a record names; it must be the one that was promoted.

    Raises:
        NoVersion: the version is gone.
        Damaged: its bundle cannot be trusted, or is not the one that the record names.
    """
    bundle = load_bundle(client, resolve(client, name, move.version), into)
    if move.bundle_sha256 not in ("", bundle.sha256):
        raise Damaged(
            f"{name} v{move.version}: its bundle has the sha256 {bundle.sha256}, but "
            f"{move.bundle_sha256} was promoted"
        )
    return bundle


def load_bundle(client: MlflowClient, version: ModelVersion, into: Path | None = None) -> Bundle:
    """The verified bundle of a version; it must be the very one that was registered.

    Args:
        client: of the registry.
        version: whose.
        into: a folder to leave a copy in, which must not be there yet.

    Raises:
        Damaged: it cannot be trusted.
    """
    location = str(client.get_logged_model(model_id_of(version)).artifact_location)
    where = f"{location}/{BUNDLE}"
    with TemporaryDirectory() as folder:
        copy = into or Path(folder) / BUNDLE
        try:
            _copy(where, copy, client.tracking_uri)
            bundle = Bundle.load(copy)
        except (MlflowException, OSError) as error:
            raise Damaged(f"{where}: cannot be read ({error})") from error
        except Damaged as error:
            raise Damaged(str(error).replace(str(copy), where)) from error
    stated = version.tags.get("bundle_sha256")
    if bundle.sha256 != stated:
        raise Damaged(f"{where}: its sha256 is {bundle.sha256}, but {stated} was registered")
    return bundle


def _copy(where: str, folder: Path, tracking_uri: str) -> None:
    """Copies what there is, links as links, so that they are refused."""
    if where.startswith("/"):
        shutil.copytree(where, folder, symlinks=True)
    elif where.startswith("file:"):
        shutil.copytree(url2pathname(urlparse(where).path), folder, symlinks=True)
    else:
        with TemporaryDirectory() as temporary:
            path = mlflow.artifacts.download_artifacts(
                where, dst_path=temporary, tracking_uri=tracking_uri
            )
            shutil.copytree(path, folder, symlinks=True)


def promote(
    client: MlflowClient,
    name: str,
    which: str,
    why: str,
    who: str | None = None,
    *,
    judge: Judge,
    override: str | None = None,
) -> Promotion:
    """Makes a version the champion, once its bundle was verified and it was judged to be good.

    The champion before is `previous_champion` then.

    Args:
        client: of the registry.
        name: of the registered model.
        which: a version's number or alias.
        why: for the record.
        who: for the record; by default the user and the host.
        judge: gives all conditions that the version was held to, at least one, and what in them is not
            usual, which the record tells.
        override: why it becomes champion even where conditions failed; stands in the record and on the
            version.

    Raises:
        NoVersion: there is none such, or it is the champion already.
        NoReason: nothing stands in `why`, or in `override`.
        GateSaidNo: conditions failed and nobody overrode them. Nothing was moved.
        Damaged: its bundle cannot be trusted. Nothing was moved.
    """
    version = resolve(client, name, which)
    known = recorded(client, name)
    now = known.champion
    if now is not None and now.version == str(version.version) and known.elsewhere is None:
        raise NoVersion(f"{name}: v{version.version} is the champion already")
    if override is not None and not override.strip():
        raise NoReason(f"{name}: the gate is not overridden without a reason; say one")
    bundle = load_bundle(client, version)
    conditions, policy = judge(client, version, bundle)
    failed = [condition.name for condition in conditions if not condition.passed]
    gate = "passed"
    if failed or not conditions:
        if override is None:
            raise GateSaidNo(f"{name} v{version.version}", conditions)
        gate = f"overridden: {override}; failed: {'; '.join(failed) or 'not judged'}"
    if policy:
        gate += f"; by a policy of its own: {policy}"
    before = None if now is None or now.version == str(version.version) else now.version
    made = _record(
        client, name, "promote", str(version.version), before, why, who, gate, bundle.sha256
    )
    client.set_model_version_tag(name, made.version, f"gate/{made.when}", gate)
    if before is not None:
        client.set_registered_model_alias(name, PREVIOUS, before)
    client.set_registered_model_alias(name, CHAMPION, made.version)
    return made


def rollback(client: MlflowClient, name: str, why: str, who: str | None = None) -> Promotion:
    """Makes the previous champion the champion again, once its bundle was verified.

    Both are those of the records, wherever the aliases stand. `previous_champion` becomes the one that it
    had replaced, but never the version that is rolled back from; so one can roll back further. Where
    there is none, the alias goes.

    Raises:
        NoVersion: there is none to go back to.
        Damaged: its bundle cannot be trusted. Nothing was moved.
    """
    now, back, _ = recorded(client, name)
    if now is None or back is None:
        missing = "champion" if now is None else "previous champion to go back to"
        raise NoVersion(f"{name}: there is no {missing}; see `qdesk models show {name}`")
    bundle = load_recorded(client, name, back)
    further = _before(client, name, back.version, now.version)
    made = _record(client, name, "rollback", back.version, now.version, why, who, "", bundle.sha256)
    client.set_registered_model_alias(name, CHAMPION, made.version)
    if further is not None:
        client.set_registered_model_alias(name, PREVIOUS, further)
    else:
        client.delete_registered_model_alias(name, PREVIOUS)
    return made


def history(client: MlflowClient, name: str) -> list[Promotion]:
    """All moves of the champion, oldest first.

    Raises:
        NoVersion: there is no such model.
    """
    try:
        tags = client.get_registered_model(name).tags
    except MlflowException as error:
        if error.error_code not in NOT_THERE:
            raise
        raise NoVersion(f"{name}: there is no such model; see `qdesk models list`") from error
    return [Promotion(**json.loads(tags[key])) for key in sorted(tags) if key.startswith(RECORD)]


def _before(client: MlflowClient, name: str, version: str, rejected: str) -> str | None:
    """The champion before a version by the record, none that is gone or just rejected."""
    champions: list[str] = []  # of each one, those that it had replaced lie below it
    for move in history(client, name):
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


def _record(
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
    if not why.strip():
        raise NoReason(f"{name}: the champion is not moved without a reason; say one")
    when = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"
    by = who or f"{user()}@{platform.node()}"
    made = Promotion(when, by, why, kind, version, before, gate, bundle_sha256 or "")
    client.set_registered_model_tag(name, f"{RECORD}{when}", json.dumps(made._asdict()))
    return made
