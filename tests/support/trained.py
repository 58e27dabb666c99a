"""Trainings in this process, as the command line would start them, and what they left."""

import os
import signal
import sys
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run, ViewType
from rich.console import Console

import qdesk
from qdesk.train import prepared
from tests.support.kills import client_of
from tests.support.stores import fresh
from training.learn import learn
from training.train import train

MARKET = "synthetic:ou?theta=0.05&sigma=0.01&seed=3&bars=6000"
SMALL = ["--bars", MARKET, "--market.episode-bars", "200", "--network.hidden", "16,16"]


class Trained:
    """Trainings in this process, which has TensorFlow loaded."""

    def __init__(self, folder: Path) -> None:
        self.mlruns = folder / "mlruns"
        self.said = StringIO()

    def __call__(self, *arguments: str, stop_at: int | None = None) -> signal.Signals | None:
        command = [*arguments, "--mlruns", str(self.mlruns)]
        elsewhere = "--tracking-uri" in command or "MLFLOW_TRACKING_URI" in os.environ
        if not elsewhere and not self.mlruns.exists():
            fresh(self.mlruns)
        console = Console(file=self.said, width=200)
        runs, start = prepared(command, console)
        with pytest.MonkeyPatch.context() as patch:
            if stop_at is not None:
                patch.setattr("training.session.learn", learn_until(stop_at))
            return train(runs, console, "qdesk train", start)

    def say(self, sentence: str) -> None:
        self.said.write(f"{sentence}\n")


def learn_until(step: int, fault: Exception | None = None) -> Any:
    """`learn`, with SIGTERM or a fault coming once a point at or after a step was logged."""

    def stopped(*arguments: Any) -> Any:
        for point in learn(*arguments):
            yield point
            if point.step >= step and fault is not None:
                raise fault
            if point.step >= step:
                os.kill(os.getpid(), signal.SIGTERM)

    return stopped


def runs_of(trained: Trained) -> list[Any]:
    with client_of(trained.mlruns) as client:
        return list(client.search_runs(["1"], order_by=["attributes.start_time"]))


def runs_by_name(client: MlflowClient) -> dict[str, Run]:
    experiment = client.get_experiment_by_name("qdesk")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], run_view_type=ViewType.ALL)
    return {run.info.run_name: run for run in runs}


def refused(capsys: pytest.CaptureFixture[str], mlruns: Path, *arguments: str) -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["qdesk", "train", *arguments, "--mlruns", str(mlruns)])
        assert qdesk.main() == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return err
