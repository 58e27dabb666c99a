"""`qdesk train` as a user runs it: what it prints, what it leaves in the store, and how it refuses."""

import json
import math
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray

from market.bars import load_bars
from models.registry import model_id_of
from tests.support.commands import said
from tests.support.kills import client_of
from tests.support.stores import fresh
from tests.support.trained import runs_by_name
from training.sources import load_settings
from training.tracking.store import RUN

QDESK = Path(sys.executable).with_name("qdesk")
SERIES = ("train/loss", "train/epsilon", "train/reward")
STEPS = 4000


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("trained") / "mlruns"


@pytest.fixture(scope="module")
def printed(store: Path) -> str:
    """The output of one training of both presets."""
    command = [
        str(QDESK),
        "train",
        "--preset",
        "linear,two_layer",
        "--steps",
        str(STEPS),
        "--seed",
        "3",
    ]
    run = subprocess.run(
        [*command, "--mlruns", str(store)],
        capture_output=True,
        text=True,
        check=False,
        cwd=store.parent,
    )
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    assert [path.name for path in store.parent.iterdir()] == ["mlruns"]
    return run.stdout


@pytest.fixture(scope="module")
def client(store: Path, printed: str) -> Iterator[MlflowClient]:
    assert printed
    with client_of(store) as opened:
        yield opened


@pytest.fixture(scope="module", params=["linear", "two_layer"])
def run(request: pytest.FixtureRequest, client: MlflowClient) -> Run:
    return runs_by_name(client)[f"{request.param}-btcusd_30m-s3"]


def test_prints_a_comparison_net_of_costs(printed: str) -> None:
    assert "Validation on btcusd_30m, 2018-12-13 to 2019-05-07, net of costs" in printed
    figures = r"( +([+-]?\d+\.\d+%?|-)){6} *$"  # whole, at the 80 columns of a pipe
    for network in ("linear", "two_layer"):
        for which in ("best", "last"):
            assert re.search(rf"^ *{network} s3, {which} v\d+{figures}", printed, re.MULTILINE)
    assert re.search(rf"^ *flat +\+0.0%{figures.replace('6', '5')}", printed, re.MULTILINE)
    assert re.search(r"^ *buy and hold +\+82.1% +\+82.1%", printed, re.MULTILINE)
    assert "chosen on these very bars" in " ".join(printed.split())


def test_a_run_is_finished_with_histories_params_tags_and_data(
    client: MlflowClient, run: Run
) -> None:
    assert run.info.status == "FINISHED"
    for name in (*SERIES, "train/q_mean", "train/td_error", "train/gradient_norm"):
        history = client.get_metric_history(run.info.run_id, name)
        assert 50 <= len(history) <= 10_000
        assert len({point.step for point in history}) == len(history)
        assert history[-1].step == STEPS
        assert np.isfinite([point.value for point in history]).all()
    assert len(client.get_metric_history(run.info.run_id, "perf/env_steps_per_second")) == 200
    assert len(client.get_metric_history(run.info.run_id, "eval/validation/net_return")) == 20

    kind = run.data.tags["network"]
    (settings,) = load_settings(["--preset", kind, "--steps", str(STEPS), "--seed", "3"])
    logged = {k: v for k, v in run.data.params.items() if k not in ("mlruns", "reward_scale")}
    assert logged == {k: v for k, v in settings.flat().items() if k != "mlruns"}
    assert run.data.tags["data_hash"] == load_bars("btcusd_30m").content_hash
    assert run.data.tags["seed"] == "3"
    assert run.data.tags["host"]
    assert run.data.tags["code_version"]
    assert "qdesk train --preset linear,two_layer" in run.data.tags["mlflow.note.content"]
    assert run.inputs is not None
    inputs = {each.tags[0].value: each.dataset for each in run.inputs.dataset_inputs}
    assert inputs["training"].name == "btcusd_30m/train"
    assert json.loads(str(inputs["validation"].profile))["num_rows"] == 6956
    figures = client.list_artifacts(run.info.run_id, "figures")
    drawn = ("equity_validation", "positions_validation", "q_values")
    assert [figure.path for figure in figures] == [f"figures/{name}.png" for name in drawn]
    experiment = run.info.experiment_id
    table = client.load_table(experiment, "evaluation/validation.json", [run.info.run_id])
    assert list(table["policy"][2:]) == ["flat", "buy and hold"]
    assert "| buy and hold | +82.1% |" in run.data.tags["mlflow.note.content"]
    system = client.get_metric_history(run.info.run_id, "system/cpu_utilization_percentage")
    assert 1 <= len(system) <= 200


def test_epsilon_history_is_the_schedule(client: MlflowClient, run: Run) -> None:
    for point in client.get_metric_history(run.info.run_id, "train/epsilon"):
        linear = run.data.tags["network"] == "linear"
        expected = max(0.01, 0.999 ** (point.step - 1)) if linear else 0.9999 ** (point.step - 1)
        assert point.value == pytest.approx(expected, rel=1e-4)


def test_tensorboard_holds_the_same_series(client: MlflowClient, store: Path, run: Run) -> None:
    folder = store / "tensorboard" / f"{run.info.run_name}-{run.data.tags[RUN][:8]}"
    events = EventAccumulator(str(folder), size_guidance={"tensors": 0})
    events.Reload()
    for name in (*SERIES, "eval/validation/net_return"):
        shown = {
            event.step: float(make_ndarray(event.tensor_proto)) for event in events.Tensors(name)
        }
        history = client.get_metric_history(run.info.run_id, name)
        assert shown == {point.step: pytest.approx(point.value, rel=1e-6) for point in history}
    assert "figures/equity_validation" in events.Tags()["tensors"]


def test_the_candidate_is_the_best_on_validation_and_loads(client: MlflowClient, run: Run) -> None:
    name = f"qdesk-{run.data.tags['network'].replace('_', '-')}"
    versions = client.search_model_versions(f"name = '{name}'")
    history = client.get_metric_history(run.info.run_id, "eval/validation/net_return")
    scores = {point.step: point.value for point in history}
    best = max(scores, key=lambda step: (scores[step], -step))
    candidate = client.get_model_version_by_alias(name, "candidate")
    assert int(candidate.tags["step"]) == best
    assert candidate.run_id == run.info.run_id
    assert candidate.tags["data_hash"] == run.data.tags["data_hash"]
    described = str(candidate.description)
    assert "on the validation split of btcusd_30m, net of costs, where buy and hold" in described
    assert "qdesk train --preset linear,two_layer" in described
    assert run.data.tags["data_hash"][:16] in described
    steps = sorted(int(version.tags["step"]) for version in versions)
    assert steps[-1] == STEPS  # the last checkpoint is kept whether or not it is the best
    assert len(set(steps)) == len(steps)
    for version in versions:
        logged = client.get_logged_model(model_id_of(version))
        metrics = {metric.key: (metric.value, metric.step) for metric in logged.metrics or []}
        step = int(version.tags["step"])
        value, at = metrics["eval/validation/net_return"]
        assert value == pytest.approx(scores[step])
        assert at == step

    model = mlflow.keras.load_model(f"models:/{name}@candidate")
    states = np.array([[0.0, 0, 1], [1, 1, 1], [-1, -1, 1]], np.float32)
    assert model(states).shape == (3, 3)
    assert np.isfinite(model(states)).all()
    assert not model.compiled
    info = mlflow.models.get_model_info(f"models:/{name}@candidate")
    assert info.signature.inputs.inputs[0].shape == (-1, 3)
    assert info.signature.outputs.inputs[0].shape == (-1, 3)


def test_a_version_trades_as_its_validation_said(client: MlflowClient, run: Run) -> None:
    """Backtests the loaded candidate again, from nothing but the store and the bars."""
    from training.data import TrainingData
    from training.learn import validate
    from training.learning.agent import Policy

    kind = run.data.tags["network"]
    (settings,) = load_settings(["--preset", kind, "--seed", "3"])
    name = f"qdesk-{kind.replace('_', '-')}"
    candidate = client.get_model_version_by_alias(name, "candidate")
    model = mlflow.keras.load_model(f"models:/{name}@candidate")
    market = TrainingData.of(settings).validation["close"]
    again = validate(Policy.greedy(lambda states: model(states).numpy()), market).result.measures
    logged = {m.key: m.value for m in client.get_logged_model(model_id_of(candidate)).metrics or []}
    for measure, value in again.items():
        if math.isnan(value):  # undefined, so there is no point
            assert f"eval/validation/{measure}" not in logged
        else:
            assert logged[f"eval/validation/{measure}"] == pytest.approx(value, rel=1e-9)


@pytest.mark.slow
def test_an_earlier_candidate_yields_only_to_a_better_one(
    client: MlflowClient, store: Path, printed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A worse run on the same bars leaves it, one on other bars takes it, unless it was ruined."""
    before = client.get_model_version_by_alias("qdesk-linear", "candidate")
    assert f"qdesk-linear@candidate is v{before.version}" in printed
    worse = ["--preset", "linear", "--steps", "300", "--log-every", "300", "--seed", "8"]
    for more, same in (([], True), (["--bars", "ethusd_30m"], False)):
        said(capsys, "train", *worse, *more, "--evaluate-every", "300", "--mlruns", store)
        after = client.get_model_version_by_alias("qdesk-linear", "candidate")
        newest = client.search_model_versions("name = 'qdesk-linear'")
        ruined = max(newest, key=lambda version: int(version.version)).tags["ruined"] == "yes"
        assert (after.version == before.version) == (same or ruined)
    client.set_registered_model_alias("qdesk-linear", "candidate", before.version)


@pytest.mark.parametrize("which", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_keeps_a_last_checkpoint(tmp_path: Path, which: signal.Signals) -> None:
    command = [str(QDESK), "train", "--preset", "linear,two_layer", "--steps", "100000000"]
    often = ["--log-every", "500", "--checkpoints.every", "500"]
    process = subprocess.Popen(
        [*command, *often, "--mlruns", str(fresh(tmp_path / "mlruns"))],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "linear-btcusd_30m-s1: 100,000,000 iterations\n"
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob("mlruns/checkpoints/*/step-*[1-9]*")):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(which)
        _, stderr = process.communicate()
    finally:
        process.kill()
    assert process.returncode == 128 + which
    assert sorted(stderr.splitlines()) == [
        f"qdesk train: {which.name}: stopping; once more ends it at once",
        f"qdesk train: stopped by {which.name} after a last checkpoint",
    ]
    with client_of(tmp_path / "mlruns") as client:
        (run,) = runs_by_name(client).values()
        assert run.info.status == "KILLED"
        (version,) = client.search_model_versions("name = 'qdesk-linear'")
        aliases = client.get_registered_model("qdesk-linear").aliases
        ruined = version.tags["ruined"] == "yes"
        expected = {} if ruined else {"candidate": str(version.version)}
        assert {name: str(number) for name, number in aliases.items()} == expected
        saved = max(path.name for path in tmp_path.glob("mlruns/checkpoints/*/step-*"))
        assert int(version.tags["step"]) == int(saved.removeprefix("step-"))
        last = client.get_metric_history(run.info.run_id, "train/loss")[-1].step
        assert last == int(version.tags["step"]) // 500 * 500
