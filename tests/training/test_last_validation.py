"""What was tried on some data, as MLflow has it: last validations, walk-forwards, what is undefined."""

import statistics
from pathlib import Path

import pytest
from mlflow import MlflowClient

from evaluation.trials import last_validation, trials_on
from tests.support.stores import fresh
from training.tracking.store import Store

TRADED = {"net_return": 0.1, "trades": 12.0, "ruined": 0.0}
NEVER = {"net_return": 0.0, "trades": 0.0, "ruined": 0.0}
RUINED = {"net_return": -1.0, "trades": 7.0, "ruined": 1.0}


class Log:
    """Trainings on the same data, each of a configuration of its own."""

    def __init__(self, folder: Path) -> None:
        self.store = Store(fresh(folder))
        self.experiment = self.store.experiment("qdesk")
        self.count = 0

    @property
    def client(self) -> MlflowClient:
        return self.store.client

    def __call__(self, *validations: dict[str, float], steps: tuple[int, ...] = ()) -> str:
        self.count += 1
        run = str(self.client.create_run(self.experiment, tags={"data_hash": "d"}).info.run_id)
        self.client.log_param(run, "learner.gamma", str(self.count))
        for step, measures in zip(steps or (100, 200, 300), validations, strict=False):
            for name, value in measures.items():
                self.client.log_metric(run, f"eval/validation/{name}", value, step=step)
        return run


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path / "mlruns")


def variance(log: Log) -> float:
    return trials_on(log.client, "d", 4.0).variance


def test_a_last_validation_without_a_trade_counts_as_zero(log: Log) -> None:
    """Its Sharpe ratio has no point: MLflow's latest is the older one, -0.70."""
    run = log({**TRADED, "sharpe": -0.7}, NEVER)
    assert log.client.get_run(run).data.metrics["eval/validation/sharpe"] == -0.7
    log({**TRADED, "sharpe": 0.2}, {**TRADED, "sharpe": 0.5})
    assert variance(log) == pytest.approx(statistics.variance([0.0, 0.25]))
    assert trials_on(log.client, "d", 4.0).number == 2


@pytest.mark.parametrize("last", [NEVER, RUINED, TRADED, {"net_return": 0.0}])
def test_whatever_made_the_last_ratio_undefined(log: Log, last: dict[str, float]) -> None:
    """No trade, ruin, no variation; and a store of which only the net return is known."""
    log({**TRADED, "sharpe": 9.0}, {**TRADED, "sharpe": -0.7}, last)
    log({**TRADED, "sharpe": 0.5})
    assert variance(log) == pytest.approx(statistics.variance([0.0, 0.25]))


def test_a_step_that_was_validated_twice(log: Log) -> None:
    """A training that went back came there again, and no longer traded."""
    run = log({**TRADED, "sharpe": 0.9}, NEVER, steps=(100, 100))
    assert last_validation(log.client.get_run(run)) == NEVER


def test_what_trades_again_counts_as_it_ended(log: Log) -> None:
    log(NEVER, {**TRADED, "sharpe": 1.0})
    log(NEVER)
    assert variance(log) == pytest.approx(statistics.variance([0.5, 0.0]))


def test_a_training_that_was_never_validated_is_no_trial(log: Log) -> None:
    run = log()
    log.client.log_metric(run, "train/loss", 1.0, step=5)
    assert last_validation(log.client.get_run(run)) == {}
    assert trials_on(log.client, "d", 4.0).number == 0
