"""Evaluations in this process."""

import sys
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

import qdesk
from tests.support.registered import uri_of
from tests.support.trained import Trained

NAME = "qdesk-tabular"


TABLE = [
    "--preset",
    "tabular",
    "--features",
    "log_price",
    "--steps",
    "4000",
    "--market.episode-bars",
    "300",
]


class Desk:
    """A store, and the commands of a user of it."""

    code = "c0ffee"  # of this checkout it might be dirty

    def __init__(self, folder: Path, capsys: Any) -> None:
        self.folder, self.mlruns, self._capsys = folder, folder / "mlruns", capsys

    def train(self, *arguments: str) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("training.describe.code_version", lambda: self.code)
            Trained(self.folder)(
                *TABLE, "--market.episode-bars", "300", "--market.fee-rate", "0.003", *arguments
            )

    def __call__(self, *arguments: str) -> tuple[int, str, str]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["qdesk", *arguments, "--mlruns", str(self.mlruns)])
            patch.setattr("qdesk.evaluate.code_version", lambda: self.code)
            code = qdesk.main()
        said = self._capsys.readouterr()
        return code, said.out, said.err

    def refused(self, *arguments: str) -> str:
        code, _, said = self(*arguments)
        assert code == 2, said
        assert said.count("\n") == 1
        return said

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(uri_of(self.mlruns), uri_of(self.mlruns))

    def report(self, kind: str) -> str:
        (path,) = (self.mlruns / "evaluations").glob(f"{NAME}-v*-{kind}.html")
        return path.read_text()


def newest_run(client: MlflowClient) -> Any:
    experiment = client.get_experiment_by_name("qdesk-evaluations")
    assert experiment is not None
    return client.search_runs([experiment.experiment_id], order_by=["attributes.start_time DESC"])[
        0
    ]
