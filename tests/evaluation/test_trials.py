"""What was tried: every run of a store is found, however many there are."""

from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.store.entities import PagedList

from evaluation.trials import runs_of, trials_on
from tests.support.registered import uri_of

HASH = "abc"
YEAR = 10_000.0  # bars


class SmallPages(MlflowClient):
    """A client whose server hands out two runs at a time."""

    pages = 0

    def search_runs(self, *arguments: Any, **named: Any) -> PagedList[Run]:
        self.pages += 1
        experiments, query, kinds, _, *rest = arguments
        return super().search_runs(experiments, query, kinds, 2, *rest, **named)


@pytest.fixture
def paged(tmp_path: Path) -> SmallPages:
    (tmp_path / "mlruns").mkdir()
    uri = uri_of(tmp_path / "mlruns")
    return SmallPages(uri, uri)


def scored(
    client: MlflowClient,
    experiment: str,
    number: int,
    sharpe: float,
    params: dict[str, str] | None = None,
    data: str = HASH,
) -> str:
    """A training that was validated."""
    tags = {"data_hash": data, "algorithm": "dqn", "network": "linear"}
    made = client.create_run(experiment, start_time=1000 + number, tags=tags).info.run_id
    for name, value in (params or {"batch": str(number)}).items():
        client.log_param(made, name, value)
    client.log_metric(made, "eval/validation/net_return", 0.1)
    client.log_metric(made, "eval/validation/sharpe", sharpe)
    return str(made)


def test_every_page_of_runs_is_read_deleted_ones_too_oldest_first(paged: SmallPages) -> None:
    experiments = [
        paged.create_experiment(name, artifact_location="memory://") for name in ("a", "b")
    ]
    made = [scored(paged, experiments[number % 2], number, 1.0) for number in range(7)]
    scored(paged, experiments[0], 7, 1.0, data="other")
    paged.delete_run(made[2])
    found = runs_of(paged, f"tags.data_hash = '{HASH}'")
    assert [run.info.run_id for run in found] == made
    assert paged.pages == 4
    paged.delete_experiment(experiments[1])
    assert len(runs_of(paged, f"tags.data_hash = '{HASH}'")) == 7
    assert runs_of(paged, "tags.data_hash = 'none'") == []
    trials = trials_on(paged, HASH, YEAR)
    assert (trials.number, trials.families) == (7, {"dqn, linear": 7})


def test_a_configuration_counts_once_with_the_middle_of_its_runs(paged: SmallPages) -> None:
    """Three seeds of one and one of another: ratios a bar of 0.02 and 0.05."""
    experiment = paged.create_experiment("a", artifact_location="memory://")
    for number, sharpe in enumerate((9.0, 2.0, -1.0)):
        params = {"batch": "32", "seed": str(number)}
        scored(paged, experiment, number, sharpe, params)
    scored(paged, experiment, 3, 5.0, {"batch": "64", "seed": "0"})
    trials = trials_on(paged, HASH, YEAR)
    assert (trials.number, trials.families) == (2, {"dqn, linear": 2})
    assert trials.variance == pytest.approx((0.05 - 0.02) ** 2 / 2)
