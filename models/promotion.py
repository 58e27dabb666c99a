"""Which version may trade: `champion` and `previous_champion`, and who moved them when and why.

Every move stands as a tag of the registered model, `promotion/<time>`, written before the aliases move: a
champion without a record cannot come about. One move is made at a time, and one that was broken off is
completed or undone before the next.
"""

import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
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

from durable.locks import Busy
from durable.verified import CorruptError
from models.bundle import Bundle
from models.promotion_records import (
    CHAMPION,
    PREVIOUS,
    NoReason,
    NoVersion,
    Promotion,
    before_of,
    champion,
    complete,
    history,
    record,
    recorded,
    resolve,
    undo,
    unfinished,
    withdraw,
)
from models.registry import BUNDLE, model_id_of
from models.turns import BROKEN_OFF, alone, first


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

    exit_code = 4

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


def load_recorded(
    client: MlflowClient, name: str, move: Promotion, into: Path | None = None
) -> Bundle:
    """The verified bundle of the version that a record names; it must be the one that was promoted.

    Raises:
        NoVersion: the version is gone.
        CorruptError: its bundle cannot be trusted, or is not the one that the record names.
    """
    bundle = load_bundle(client, resolve(client, name, move.version), into)
    if move.bundle_sha256 not in ("", bundle.sha256):
        raise CorruptError(
            f"{name} v{move.version}: its bundle has the sha256 {bundle.sha256}, but "
            f"{move.bundle_sha256} was promoted"
        )
    return bundle


def load_bundle(client: MlflowClient, version: ModelVersion, into: Path | None = None) -> Bundle:
    """The verified bundle of a version; it must be the very one that was registered.

    A copy is left in the folder `into`, which must not be there yet. Raises `CorruptError`.
    """
    location = str(client.get_logged_model(model_id_of(version)).artifact_location)
    where = f"{location}/{BUNDLE}"
    with TemporaryDirectory() as folder:
        copy = into or Path(folder) / BUNDLE
        try:
            _copy(where, copy, client.tracking_uri)
            bundle = Bundle.load(copy)
        except (MlflowException, OSError) as error:
            raise CorruptError(f"{where}: cannot be read ({error})") from error
        except CorruptError as error:
            raise CorruptError(str(error).replace(str(copy), where)) from error
    stated = version.tags.get("bundle_sha256")
    if bundle.sha256 != stated:
        raise CorruptError(f"{where}: its sha256 is {bundle.sha256}, but {stated} was registered")
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
        GateSaidNo: conditions failed and they were not overridden. Nothing was moved.
        Busy: somebody else moves the champion. Nothing was moved.
        CorruptError: its bundle cannot be trusted. Nothing was moved.
    """
    with _turn(client, name) as (locked, mended):
        version = resolve(client, name, which)
        if mended and mended[-1].completed and mended[-1].version == str(version.version):
            return mended[-1]  # what is asked for was broken off, and has just been completed
        return _promote(client, name, version, why, who, judge, override, locked)


def _promote(
    client: MlflowClient,
    name: str,
    version: ModelVersion,
    why: str,
    who: str | None,
    judge: Judge,
    override: str | None,
    locked: bool,
) -> Promotion:
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
    made = record(
        client, name, "promote", str(version.version), before, why, who, gate, bundle.sha256
    )
    _await_turn(client, name, made, now, locked)
    client.set_model_version_tag(name, made.version, f"gate/{made.when}", gate)
    return _finish(client, name, made)


def rollback(client: MlflowClient, name: str, why: str, who: str | None = None) -> Promotion:
    """Makes the previous champion the champion again, once its bundle was verified.

    Both are those of the records, wherever the aliases stand. `previous_champion` becomes the one that it
    had replaced, but never the version that is rolled back from; so one can roll back further. Where
    there is none, the alias goes.

    Raises:
        NoVersion: there is none to go back to.
        CorruptError: its bundle cannot be trusted. Nothing was moved.
        Busy: somebody else moves the champion. Nothing was moved.
    """
    with _turn(client, name) as (locked, _):
        now, back, *_ = recorded(client, name)
        if now is None or back is None:
            missing = "champion" if now is None else "previous champion to go back to"
            raise NoVersion(f"{name}: there is no {missing}; see `qdesk models show {name}`")
        bundle = load_recorded(client, name, back)
        made = record(
            client, name, "rollback", back.version, now.version, why, who, "", bundle.sha256
        )
        _await_turn(client, name, made, now, locked)
        return _finish(client, name, made)


@contextmanager
def _turn(client: MlflowClient, name: str) -> Iterator[tuple[bool, list[Promotion]]]:
    """Keeps others of this machine from moving the champion; mends what was broken off first."""
    with alone(client, f"promotion-{name}") as locked:
        yield locked, mend(client, name, locked)


def mend(client: MlflowClient, name: str, locked: bool = False) -> list[Promotion]:
    """Completes or undoes moves that were broken off; returns what became of them.

    Unless `locked` says that no other process can be moving the champion, only what began more than ten
    minutes ago is taken to be broken off. Raises `NoVersion` where there is no such model.
    """
    return [
        _finish(client, name, move) if _has_moved(client, name, move) else _undo(client, name, move)
        for move in unfinished(client, name)
        if locked or _age(move) > BROKEN_OFF
    ]


def _has_moved(client: MlflowClient, name: str, move: Promotion) -> bool:
    """Whether both aliases stand as a move would have them, and no later move was made.

    The champion's alone may have been set by hand.
    """
    now = champion(client, name)
    before = champion(client, name, PREVIOUS)
    later = any(each.completed and each.when > move.when for each in history(client, name))
    moved = now is not None and str(now.version) == move.version
    there = None if before is None else str(before.version)
    traced = there is not None or move.kind == "rollback"  # a first promotion leaves no other trace
    return moved and traced and there == _previous_of(client, name, move) and not later


def _finish(client: MlflowClient, name: str, move: Promotion) -> Promotion:
    """Moves the aliases to where a move says, and puts it on record; a second time it changes nothing."""
    _set_previous(client, name, _previous_of(client, name, move))
    client.set_registered_model_alias(name, CHAMPION, move.version)
    return complete(client, name, move)


def _previous_of(client: MlflowClient, name: str, move: Promotion) -> str | None:
    """The champion before, once a move is made."""
    if move.kind == "rollback":
        return before_of(client, name, move.version, move.before or "")
    if move.before is not None:
        return move.before
    known = recorded(client, name).previous  # the alias alone was wrong
    return known and known.version


def _undo(client: MlflowClient, name: str, move: Promotion) -> Promotion:
    """Moves the aliases back to where the records say, but where a later move was made."""
    known = recorded(client, name)
    last = known.champion
    if last is None or last.when < move.when:
        _set_previous(client, name, known.previous and known.previous.version)
    return undo(client, name, move)


def _set_previous(client: MlflowClient, name: str, version: str | None) -> None:
    if version is not None:
        client.set_registered_model_alias(name, PREVIOUS, version)
    elif champion(client, name, PREVIOUS) is not None:
        client.delete_registered_model_alias(name, PREVIOUS)


def _await_turn(
    client: MlflowClient, name: str, made: Promotion, before: Promotion | None, locked: bool
) -> None:
    """Sees to it that of several moves at once one is made.

    Raises `Busy` where somebody else moves the champion, or just did.
    """
    if locked:
        return

    def others() -> set[str]:
        moves = unfinished(client, name)
        return {move.when for move in moves if move == made or _age(move) < BROKEN_OFF}

    if first(made.when, others) and recorded(client, name).champion == before:
        return
    withdraw(client, name, made)
    raise Busy(
        f"{name}: somebody else moves the champion at this moment; see `qdesk models show {name}`, and "
        "say again what is to be done"
    )


def _age(move: Promotion) -> float:
    """Seconds since a move began; where it does not say, it was long ago."""
    try:
        return (datetime.now(UTC) - datetime.fromisoformat(move.when)).total_seconds()
    except (ValueError, TypeError):
        return math.inf
