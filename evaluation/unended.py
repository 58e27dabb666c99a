"""Evaluations whose process is gone are ended in MLflow by the next one."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mlflow import MlflowClient

from durable.locks import locked
from evaluation.trials import runs_of

RUNNING = "running"  # the folder of what runs, one locked file each
PROCESS = "evaluation_process"  # the tag that says which of those a run is of
ENDED = "ended"  # the tag of a run whose process was gone


@contextmanager
def running(folder: Path, client: MlflowClient) -> Iterator[dict[str, str]]:
    """Shows other processes that an evaluation goes on, until it is left; gives tags for its run.

    The folder is that of evaluations on this machine. Raises `OSError` where it cannot be shown.
    """
    path = folder / RUNNING / uuid.uuid4().hex
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path):
        path.write_text(client.tracking_uri)
        try:
            yield {PROCESS: path.name}
        finally:
            path.unlink(missing_ok=True)


def end_the_dead(folder: Path, client: MlflowClient) -> None:
    """Ends runs of this store whose processes were killed; what cannot be ended now is left."""
    for path in sorted((folder / RUNNING).glob("*")):
        with suppress(OSError), locked(path):  # in use, or another user's
            whose = path.read_text()
            if whose == client.tracking_uri:
                _end(client, path.name)
            if whose in ("", client.tracking_uri):  # of one that ended meanwhile nothing is left
                path.unlink(missing_ok=True)


def _end(client: MlflowClient, name: str) -> None:
    for run in runs_of(client, f"tags.{PROCESS} = '{name}'"):
        if run.info.status == "RUNNING" and run.info.lifecycle_stage == "active":
            client.set_tag(run.info.run_id, ENDED, "its process was gone")
            client.set_terminated(run.info.run_id, "KILLED")
