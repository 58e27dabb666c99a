"""The model to trade with at start-up: the last one known to be good, whatever else is down.

champion -> previous champion -> the copy that was verified last on this machine -> none. Each step down
is reported. Champions are those of the promotion records, not of the aliases, which anyone can set.
Nothing here loads TensorFlow; MLflow is loaded only once its store has answered.
"""

import json
import os
import re
import shutil
import sqlite3
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote

from durable.addresses import BadAddress, take
from durable.files import whole_file, whole_folder
from durable.verified import CorruptError
from models.bundle import Bundle

if TYPE_CHECKING:
    from models.promotion_records import Promotion, Recorded

PROBE_SECONDS = 0.5  # what a store is given to say that it is there
REQUEST_SECONDS = 5  # what it is given for each answer after that
KEPT = 3  # verified copies in the cache
INDEX = "last_good.json"


class LastGood(NamedTuple):
    """What was found."""

    bundle: Bundle | None
    version: str | None
    source: str  # champion, previous_champion, cache or none
    steps_down: list[str]  # what was not good before this, in order
    notes: list[str]  # what is to be known of it all the same
    unpromoted: bool = (
        False  # the registry answered, and no version of this model was ever promoted
    )


def load_last_good(name: str, cache_dir: Path, tracking_uri: str | None = None) -> LastGood:
    """The best model that can be trusted now; never an exception for what is down or damaged.

    Verified copies are kept in `cache_dir`, for times when nothing else is there. MLflow is where
    `tracking_uri` says, by default MLFLOW_TRACKING_URI, else `mlruns/mlflow.db` here.
    """
    if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9_. -]*", name):
        return LastGood(None, None, "none", [f"{name!r} is no model's name"], [])
    uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlruns/mlflow.db"
    cache = _Cache(cache_dir / name)
    search = _Search([], [])
    known = None
    try:
        uri = take(uri)
        silent = _silent(uri)
    except BadAddress as error:
        uri = "the address that was given"
        silent = str(error)
    if silent is not None:
        search.steps.append(f"MLflow at {uri} cannot be reached ({silent})")
    else:
        with impatient(uri):
            try:
                known = _recorded(name, uri)
            except Exception as error:
                search.steps.append(f"champion: {_first_line(error)}")
            else:
                found = search.of_registry(name, known, uri, cache)
                if found is not None:
                    return found
    found = search.of_cache(cache, known)
    unpromoted = known is not None and known.champion is None and found.bundle is None
    return found._replace(unpromoted=unpromoted)


class _Search(NamedTuple):
    """What was found on the way to a good model."""

    steps: list[str]
    notes: list[str]

    def of_registry(
        self, name: str, known: "Recorded", uri: str, cache: "_Cache"
    ) -> LastGood | None:
        """The champion of the records, or the one before it."""
        if known.elsewhere is not None:
            self.steps.append(f"champion: {known.elsewhere}")
        for alias, move in (("champion", known.champion), ("previous_champion", known.previous)):
            if move is None:
                self.steps.append(f"{alias}: no record of a promotion")
                continue
            try:
                bundle = _of_registry(name, move, uri, cache)
            except Exception as error:
                self.steps.append(f"{alias}: {_first_line(error)}")
                continue
            if not move.bundle_sha256:
                self.notes.append(
                    f"{alias} v{move.version}: its promotion record is older than hashes in records; the "
                    "hash that the version was registered with was taken"
                )
            return LastGood(bundle, move.version, alias, self.steps, self.notes)
        return None

    def of_cache(self, cache: "_Cache", known: "Recorded | None") -> LastGood:
        """The copy that was verified last on this machine, or none.

        Where the registry answered with its records, versions that were rolled back from do not
        trade, nor those of which no promotion is known.
        """
        for version, folder, sha256, promoted in cache.newest_first():
            if known is not None and (version in known.rejected or promoted is None):
                why = "was rolled back from" if version in known.rejected else "was never promoted"
                self.steps.append(f"cached v{version}: {why}, as the records have it")
                continue
            try:
                bundle = cache.load(folder, sha256)
            except Exception as error:
                self.steps.append(f"cached v{version}: {error}")
                continue
            if promoted is None:
                self.notes.append(
                    f"cached v{version}: was kept by an earlier version of qdesk, without its promotion "
                    "record"
                )
            return LastGood(bundle, version, "cache", self.steps, self.notes)
        self.steps.append(f"no verified copy of {cache.folder.name} in {cache.folder}")
        return LastGood(None, None, "none", self.steps, self.notes)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else repr(error)


def _recorded(name: str, uri: str) -> "Recorded":
    from mlflow import MlflowClient

    from models.promotion_records import recorded

    return recorded(MlflowClient(uri, uri), name)


def _of_registry(name: str, move: "Promotion", uri: str, cache: "_Cache") -> Bundle:
    from mlflow import MlflowClient

    from models.promotion import load_recorded
    from models.promotion_records import resolve

    client = MlflowClient(uri, uri)
    version = resolve(client, name, move.version)
    sha256 = str(version.tags.get("bundle_sha256"))
    if move.bundle_sha256 in ("", sha256):
        with suppress(CorruptError, OSError):  # the very same is here already
            bundle = cache.load(cache.folder_of(move.version, sha256), sha256)
            with suppress(OSError):
                cache.put_first(move.version, sha256, move.when)
            return bundle
    with TemporaryDirectory() as folder:
        copy = Path(folder) / "bundle"
        bundle = load_recorded(client, name, move, copy)
        with suppress(OSError):  # trading continues without a copy
            cache.keep(copy, move.version, sha256, move.when)
    return bundle


class _Cache:
    """Verified copies of a model's bundles, and a list of them, the newest first."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def folder_of(self, version: str, sha256: str) -> Path:
        return self.folder / f"v{version}-{sha256[:16]}"

    def load(self, folder: Path, sha256: str) -> Bundle:
        bundle = Bundle.load(folder)
        if bundle.sha256 != sha256:
            raise CorruptError(f"{folder}: its sha256 is {bundle.sha256}; it was {sha256}")
        return bundle

    def newest_first(self) -> list[tuple[str, Path, str, str | None]]:
        """Version, folder, sha256 and time of promotion; nothing where there is no readable list.

        The time is None of copies that were kept before it was.
        """
        try:
            listed = json.loads((self.folder / INDEX).read_text())
            known = [
                (str(each["version"]), str(each["sha256"]), each.get("promoted")) for each in listed
            ]
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return []
        return [
            (version, self.folder_of(version, sha256), sha256, promoted)
            for version, sha256, promoted in known
            if version.isdigit() and re.fullmatch("[0-9a-f]{64}", sha256)
        ]

    def keep(self, copy: Path, version: str, sha256: str, promoted: str) -> None:
        """Takes in a verified copy."""
        with whole_folder(self.folder_of(version, sha256)) as temporary:
            shutil.copytree(copy, temporary, dirs_exist_ok=True)
        self.put_first(version, sha256, promoted)

    def put_first(self, version: str, sha256: str, promoted: str | None) -> None:
        """Makes a copy the one that was good last; takes the oldest away."""
        others = [each for each in self.newest_first() if (each[0], each[2]) != (version, sha256)]
        kept: list[tuple[str, str, str | None]] = [(version, sha256, promoted)]
        kept += [(each[0], each[2], each[3]) for each in others[: KEPT - 1]]
        names = ("version", "sha256", "promoted")
        listed = [dict(zip(names, each, strict=True)) for each in kept]
        with whole_file(self.folder / INDEX, awaited=False) as index:
            index.write_text(json.dumps(listed) + "\n")
        for _, old, *_ in others[KEPT - 1 :]:
            shutil.rmtree(old, ignore_errors=True)


def _silent(uri: str) -> str | None:
    """Why a store does not answer, found out quickly; None where it does."""
    if uri.startswith("sqlite:"):
        path = quote(uri.partition(":///")[2])
        try:
            opened = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=PROBE_SECONDS)
            with closing(opened) as store:
                store.execute("select count(*) from alembic_version")
        except sqlite3.Error as error:
            return str(error)
        return None
    if not uri.startswith(("http://", "https://")):
        return None
    answer: list[str | None] = [f"no answer within {PROBE_SECONDS} s"]

    def ask() -> None:
        try:
            with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=PROBE_SECONDS):  # noqa: S310
                answer[0] = None
        except urllib.error.HTTPError:
            answer[0] = None  # someone answers; whether with what we need, the client finds out
        except (OSError, ValueError) as error:
            answer[0] = str(getattr(error, "reason", error))

    thread = threading.Thread(target=ask, daemon=True)  # looking a name up has no time limit
    thread.start()
    thread.join(PROBE_SECONDS)
    return answer[0]


@contextmanager
def _asked_once() -> Iterator[None]:
    """Has MLflow open a database in one attempt of its ten."""
    from mlflow.store.db import utils

    before = utils.MAX_RETRY_COUNT
    utils.MAX_RETRY_COUNT = 1
    try:
        yield
    finally:
        utils.MAX_RETRY_COUNT = before


@contextmanager
def impatient(uri: str) -> Iterator[None]:
    """Has MLflow's client give up at once; it would ask a dead server or database again for minutes."""
    wanted = {
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": str(REQUEST_SECONDS),
        "PGCONNECT_TIMEOUT": str(REQUEST_SECONDS),  # of PostgreSQL's own library
    }
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        with nullcontext() if uri.startswith(("http://", "https://")) else _asked_once():
            yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
