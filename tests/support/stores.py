"""Stores whose database has MLflow's schema already, which would take MLflow two seconds each."""

import os
import shutil
import tempfile
from functools import cache
from pathlib import Path

import mlflow

from training.tracking.store import Store

_folder = tempfile.TemporaryDirectory()  # for as long as this process


def fresh(mlruns: Path) -> Path:
    """An empty store; where there is one already, it stays as it is."""
    database = mlruns / "mlflow.db"
    if not database.exists():
        mlruns.mkdir(parents=True, exist_ok=True)
        shutil.copy(_empty(), database)
    return mlruns


@cache
def _empty() -> Path:
    before = mlflow.get_tracking_uri()
    named = os.environ.pop("MLFLOW_TRACKING_URI", None)
    store = Store(Path(_folder.name))
    mlflow.set_tracking_uri(before)
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    if named is not None:
        os.environ["MLFLOW_TRACKING_URI"] = named
    return store.folder / "mlflow.db"
