"""`qdesk train` with several seeds, with tables, and with quantiles: the same doors as one network."""

import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.entities.model_registry import ModelVersion
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray

import qdesk
from models.networks import q_values_of
from models.registry import model_id_of
from models.tabular import TabularQ
from tests.support.kills import client_of
from tests.support.stores import fresh
from tests.support.trained import Trained, runs_by_name
from training.data import TrainingData
from training.learn import validate
from training.learning.agent import Policy
from training.sources import load_settings
from training.tracking.store import RUN

STEPS = 2000
SEEDS = (5, 6, 7)
COUNTS = ["--steps", str(STEPS), "--seed", str(SEEDS[0]), "--seeds", str(len(SEEDS))]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("agents") / "mlruns"


@pytest.fixture(scope="module")
def printed(store: Path) -> dict[str, str]:
    """What is said of three seeds of tables, trained where TensorFlow is missing, and of networks."""
    tables = trained_without(
        ("tensorflow", "keras"), ["train", "--preset", "tabular"], fresh(store)
    )
    networks = Trained(store.parent)
    networks("--preset", "rainbow", "--network.cvar", "0.25", *COUNTS)
    return {"tabular": tables, "rainbow": networks.said.getvalue()}


def trained_without(without: tuple[str, ...], arguments: list[str], store: Path) -> str:
    """The output of a training in an installation that really lacks some packages, by link."""
    site = store.parent / "site"
    site.mkdir(exist_ok=True)
    for entry in Path(np.__file__).parents[1].iterdir():
        kept = site / entry.name
        if any(entry.name == name or entry.name.startswith(f"{name}-") for name in without):
            kept.unlink(missing_ok=True)
        elif not kept.exists():
            kept.symlink_to(entry)
    root = Path(qdesk.__file__).parents[1]
    command = [sys.executable, "-S", "-m", "qdesk", *arguments, *COUNTS, "--mlruns", str(store)]
    run = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": f"{site}:{root}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    return run.stdout


@pytest.fixture(scope="module")
def client(store: Path, printed: dict[str, str]) -> Iterator[MlflowClient]:
    assert printed
    with client_of(store) as opened:
        yield opened


@pytest.fixture(scope="module", params=["tabular", "rainbow"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def runs(client: MlflowClient, kind: str) -> list[Run]:
    every = runs_by_name(client)
    return [every[f"{kind}-btcusd_30m-s{seed}"] for seed in SEEDS]


def test_the_comparison_names_every_seed_and_their_middle(
    printed: dict[str, str], kind: str
) -> None:
    for seed in SEEDS:
        for which in ("best", "last"):
            assert f" {kind} s{seed}, {which} v" in printed[kind]
    assert f" {kind} mean, last v" in printed[kind]
    assert printed[kind].count("@candidate is") == 1


def test_each_seed_is_a_run_of_its_own_in_one_group(
    client: MlflowClient, runs: list[Run], kind: str
) -> None:
    assert len({run.data.tags["group"] for run in runs}) == 1
    assert [run.data.tags["seed"] for run in runs] == [str(seed) for seed in SEEDS]
    assert [run.data.params["seed"] for run in runs] == [str(seed) for seed in SEEDS]
    rewards = set()
    for run in runs:
        assert run.info.status == "FINISHED"
        history = client.get_metric_history(run.info.run_id, "train/reward")
        assert len(history) == 200
        assert history[-1].step == STEPS
        rewards.add(tuple(point.value for point in history))
        assert len(client.get_metric_history(run.info.run_id, "eval/validation/net_return")) == 20
    assert len(rewards) == len(SEEDS)
    algorithm = "dqn+double+n_step+prioritised+dueling+quantile"
    expected = {"tabular": ("q_learning", "1"), "rainbow": (algorithm, "0.25")}[kind]
    assert (runs[0].data.tags["algorithm"], runs[0].data.tags["cvar"]) == expected


def test_tensorboard_holds_the_same_series(
    client: MlflowClient, store: Path, runs: list[Run]
) -> None:
    for run in runs:
        folder = store / "tensorboard" / f"{run.info.run_name}-{run.data.tags[RUN][:8]}"
        events = EventAccumulator(str(folder), size_guidance={"tensors": 0})
        events.Reload()
        for name in ("train/loss", "train/epsilon", "eval/validation/net_return"):
            shown = {
                event.step: float(make_ndarray(event.tensor_proto))
                for event in events.Tensors(name)
            }
            history = client.get_metric_history(run.info.run_id, name)
            assert shown == {point.step: pytest.approx(point.value, rel=1e-6) for point in history}
        (image,) = events.Tensors("figures/equity_validation")
        width, height, png = image.tensor_proto.string_val
        assert png.startswith(b"\x89PNG")
        assert int.from_bytes(png[16:20]) == int(width)
        assert int.from_bytes(png[20:24]) == int(height)


def test_a_version_trades_as_its_validation_said(
    client: MlflowClient, runs: list[Run], kind: str
) -> None:
    """Every version of every seed, loaded from the store and walked along the bars again."""
    (settings,) = load_settings(["--preset", kind])
    market = TrainingData.of(settings).validation["close"]
    versions = client.search_model_versions(f"name = 'qdesk-{kind}'")
    assert {version.run_id for version in versions} == {run.info.run_id for run in runs}
    for version in versions:
        if kind == "tabular":
            q_values = table_of(version).q_values
        else:
            model = mlflow.keras.load_model(f"models:/{version.name}/{version.version}")
            assert model.output_shape == (None, 3, 32)
            q_values = partial(q_values_of, model, cvar=0.25)
        again = validate(Policy.greedy(q_values), market).result
        logged = {
            m.key: m.value for m in client.get_logged_model(model_id_of(version)).metrics or []
        }
        for measure, value in again.measures.items():
            if np.isnan(value):  # undefined, such as the Sharpe ratio of what was ruined
                assert f"eval/validation/{measure}" not in logged
                continue
            assert logged[f"eval/validation/{measure}"] == pytest.approx(value, rel=1e-6)


def test_a_table_loads_by_mlflow_without_a_pickle(client: MlflowClient) -> None:
    model = mlflow.pyfunc.load_model("models:/qdesk-tabular@candidate")
    states = np.array([[0.3, 0, 1], [0.3, 1, 1]], np.float32)
    values = model.predict(states)
    assert values.shape == (2, 3)
    candidate = client.get_model_version_by_alias("qdesk-tabular", "candidate")
    np.testing.assert_array_equal(table_of(candidate).q_values(states), values)


def table_of(version: ModelVersion) -> TabularQ:
    """Read from the version's files, of which none is a pickle."""
    folder = Path(mlflow.artifacts.download_artifacts(str(version.source)))
    assert not list(folder.rglob("*.pkl"))
    (known,) = folder.rglob("table.json")
    return TabularQ.load(known.parent)
