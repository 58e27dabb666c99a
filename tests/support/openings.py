"""Openings of held-back bars that stand half-way."""

from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from tests.support.stores import fresh
from training.tracking.store import Store

BEGIN = Callable[[dict[str, str]], Run]


@pytest.fixture
def store(tmp_path: Path) -> MlflowClient:
    return Store(fresh(tmp_path / "mlruns")).client


def beginning(store: MlflowClient) -> BEGIN:
    """Makes runs as an evaluation does."""
    found = store.get_experiment_by_name("evaluations")
    experiment = store.create_experiment("evaluations") if found is None else found.experiment_id
    return lambda tags: store.create_run(experiment, tags=tags, run_name="evaluation")
