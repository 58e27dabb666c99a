"""The MLflow store that a command works on: a folder, or a server."""

import argparse
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from durable.addresses import take
from models.last_good import impatient
from models.places import DATABASE, BadPlace, address_of, default_mlruns, require_database
from models.promotion_records import NoVersion

SERVER = "MLFLOW_TRACKING_URI"


def store_arguments() -> argparse.ArgumentParser:
    """Which store: a parent for the parsers of commands."""
    store = argparse.ArgumentParser(add_help=False)
    either = store.add_mutually_exclusive_group()
    either.add_argument(
        "--mlruns",
        type=Path,
        help="folder of the tracking data (default: QDESK_MLRUNS, else mlruns)",
    )
    either.add_argument(
        "--tracking-uri", help="of an MLflow server instead (default: MLFLOW_TRACKING_URI)"
    )
    return store


@contextmanager
def opened(options: argparse.Namespace) -> Iterator[MlflowClient]:
    """The store that the arguments name.

    Raises `NoVersion` where there is none, or it cannot be used.
    """
    try:
        uri = _uri(options.tracking_uri, options.mlruns)
        with impatient(uri):
            yield MlflowClient(uri, uri)
    except (MlflowException, SQLAlchemyError, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0]
        if "Max retries exceeded" in reason or "Failed to establish" in reason:
            reason = "no server answers there"
        store = options.tracking_uri or options.mlruns or os.environ.get(SERVER) or default_mlruns()
        raise NoVersion(f"{store}: this store cannot be used ({reason})") from error


def _uri(tracking_uri: str | None, mlruns: Path | None) -> str:
    logging.getLogger("alembic").setLevel(logging.WARNING)
    uri = tracking_uri or (None if mlruns else os.environ.get(SERVER))
    if uri is not None:
        return take(uri)
    folder = mlruns or default_mlruns()
    try:
        uri = address_of(folder)
        require_database(folder)
    except BadPlace as error:
        raise NoVersion(str(error)) from error
    if not (folder / DATABASE).exists():
        raise NoVersion(f"{folder}: there is no store here; `qdesk train` makes one")
    return uri
