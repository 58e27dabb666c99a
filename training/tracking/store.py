"""The tracking data of a folder, and MLflow's part of it: a database there, or a server."""

import logging
import os
import re
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from durable.addresses import take
from models.places import BadPlace, address_of, making, require_database
from models.registry import NOT_THERE
from models.store import SERVER
from training.tracking.errors import TrackingError

RUN = "qdesk_run"  # the tag of an MLflow run that names the run it is of
EXPERIMENT_TAGS = {
    "mlflow.experimentKind": "custom_model_development",  # the UI opens with runs and charts
    "mlflow.note.content": "Trainings of Q-learning trading agents. Select runs to compare them; the "
    "tags `group`, `algorithm`, `network`, `bars` and `seed` say what each one is.",
}
FULL = ("disk is full", "no space left", "disk quota exceeded")
DRIVER = re.compile(r"\((?:sqlite3|psycopg2?)\.[\w.]+\) (.+)")  # as SQLAlchemy names it
REQUEST_SECONDS = 30  # for each answer of a server; it may itself wait 20 s for its database


class Store:
    """The tracking data of a folder: `artifacts/`, `tensorboard/`, `journals/`, and MLflow's data.

    The folder is created where it is missing. MLflow's data are on a server, else in `mlflow.db`
    there. Raises `TrackingError` where the folder cannot be written, or what is there can never be
    used.
    """

    def __init__(self, folder: Path, uri: str | None = None) -> None:
        self.folder = folder.resolve()
        uri = None if uri is None else take(uri)
        try:
            self._address = address_of(self.folder)
        except BadPlace as error:
            raise TrackingError(str(error)) from error
        self.server = uri if uri != self._address else None
        self._client: MlflowClient | None = None
        self._experiments: dict[str, str] = {}
        self.there: dict[str, set[tuple[str, int]]] = {}  # points of runs from elsewhere
        # A thread must not write into the terminal, where a progress bar is.
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
        # A server that is away is asked again by us, not for minutes by MLflow.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(REQUEST_SECONDS))
        # What a fresh database goes through, and that pip is missing from .venv, is of no use here.
        logging.getLogger("alembic").setLevel(logging.WARNING)
        logging.getLogger("mlflow").setLevel(logging.ERROR)
        # What this one logs is raised as well.
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
        try:
            for part in ("artifacts", "tensorboard", "journals"):
                (self.folder / part).mkdir(parents=True, exist_ok=True)
                with tempfile.TemporaryFile(dir=self.folder / part):
                    pass  # it can be written
        except OSError as error:
            raise TrackingError(f"mlruns {folder}: cannot be used ({error.strerror})") from error
        if self.server is not None:
            _require_usable(self.server)
            return
        try:
            self.client  # noqa: B018 - the schema is made once, before anybody writes
        except BadPlace as error:
            raise TrackingError(str(error)) from error
        except (MlflowException, SQLAlchemyError, sqlite3.Error, OSError, UnicodeError) as error:
            if not is_transient(error):  # else it is tried again
                reason = short(error)
                raise TrackingError(f"mlruns {folder}: cannot be used ({reason})") from error

    @property
    def uri(self) -> str:
        """Of MLflow's data."""
        return self.server or self._address

    @property
    def client(self) -> MlflowClient:
        """MLflow's client; a fresh database gets its schema, one process at a time."""
        # Global as well: creating a model version makes a client of its own inside MLflow.
        if mlflow.get_tracking_uri() != self.uri:
            named = os.environ.get(SERVER)
            mlflow.set_tracking_uri(self.uri)  # which also sets the variable that a user may set
            os.environ.pop(SERVER, None)
            if named is not None:
                os.environ[SERVER] = named
        if self._client is None and self.server is not None:
            self._client = MlflowClient(self.uri, self.uri)
        elif self._client is None:
            self._require_unlocked()
            require_database(self.folder)
            with making(self.folder):
                client = MlflowClient(self.uri, self.uri)
                client.search_experiments(max_results=1)
                client.search_registered_models(max_results=1)
                self._client = client
        return self._client

    def require_experiment(self, name: str) -> None:
        """Refuses to train into an experiment that was deleted; a server is not asked, it may be away.

        Raises `TrackingError` where it was.
        """
        if self._client is not None and self.server is None:
            try:
                self._require_unlocked()
                self.experiment(name)
            except (MlflowException, SQLAlchemyError, sqlite3.Error, OSError) as error:
                if not is_transient(error):  # else it is tried again
                    raise TrackingError(
                        f"mlruns {self.folder}: cannot be used ({short(error)})"
                    ) from error

    def _require_unlocked(self) -> None:
        """Looks whether the database can be used, at once; MLflow would wait for a lock for long.

        Raises:
            sqlite3.Error: it is locked, or no database.
        """
        database = self.folder / "mlflow.db"
        if self.server is None and database.exists():
            with closing(
                sqlite3.connect(f"{database.as_uri()}?mode=rw", timeout=0.2, uri=True)
            ) as probe:
                probe.execute("BEGIN IMMEDIATE")
                probe.execute("SELECT count(*) FROM sqlite_master").fetchone()

    def experiment(self, name: str) -> str:
        """The id of an experiment, which is created where it is missing."""
        if name not in self._experiments:
            found = self.client.get_experiment_by_name(name)
            if found is None:
                artifacts = None if self.server else f"{self.folder}/artifacts"
                try:
                    made = self.client.create_experiment(name, artifacts, EXPERIMENT_TAGS)
                except MlflowException:
                    found = self.client.get_experiment_by_name(name)  # another was quicker
                    if found is None:
                        raise
                else:
                    self._experiments[name] = made
                    return made
            if found.lifecycle_stage != "active":
                raise MlflowException(f"experiment {name} was deleted: restore it, or name another")
            self._experiments[name] = str(found.experiment_id)
        return self._experiments[name]

    def find_run(self, run: str, experiment: str, by_id: bool = False) -> Run | None:
        """MLflow's run of a run of ours, by the tag that names it.

        Where `by_id` is set it may be a run of old, which has MLflow's own id and no such tag.
        """
        found = self.client.search_runs(
            [self.experiment(experiment)], f"tags.`{RUN}` = '{run}'", max_results=1
        )
        if found or not by_id:
            return next(iter(found), None)
        try:
            old = self.client.get_run(run)
        except MlflowException as error:
            if error.error_code not in NOT_THERE:
                raise
            return None
        return old if old.info.lifecycle_stage == "active" else None

    def status_of(self, run: str, experiment: str) -> str | None:
        """How a run ended, as MLflow has it; None where it is not known, or cannot be asked."""
        try:
            found = self.find_run(run, experiment, by_id=True)
        except (MlflowException, SQLAlchemyError, sqlite3.Error, OSError):
            return None
        return None if found is None else str(found.info.status)


def is_transient(error: Exception) -> bool:
    """Whether a fault of the store may be over the next time: a lock, a full disk, a server away."""
    said = str(error).lower()
    return any(
        sign in said
        for sign in ("locked", "disk is full", "disk i/o", "readonly", "no space", "timed out")
    )


def reason_of(error: Exception, where: str) -> str:
    """Why nothing arrives, in a few words."""
    said = short(error)
    if any(sign in said.lower() for sign in FULL):
        return f"the disk of {where.removeprefix('sqlite:///')} is full"
    if "Max retries exceeded" in said or "Failed to establish" in said or "timed out" in said:
        return f"no answer from {where}"
    if "error code 401" in said:
        return f"{where} does not let us in; are MLFLOW_TRACKING_USERNAME and _PASSWORD right?"
    if "error code 403" in said:
        what = said.partition("endpoint ")[2].partition(" ")[0]
        return f"{where} does not allow us {what}; its admin can"
    return said


def short(error: Exception) -> str:
    """The first line of what an error says: of a database's, what its driver said."""
    said = getattr(error, "strerror", None) or str(error) or repr(error)
    lines: list[str] = said.splitlines()
    found = (DRIVER.search(line) for line in lines)
    return next((each[1] for each in found if each is not None), lines[0])


def _require_usable(uri: str) -> None:
    parts = urlsplit(uri)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise TrackingError(
            f"tracking URI {uri}: must be that of an MLflow server, http:// or https://; without one "
            "everything is in mlruns"
        )
