"""Tracking and registration on their own: how runs end, what they hold, and several at once."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
from matplotlib.figure import Figure
from mlflow.entities import Metric, Run

from models.bundle import Bundle
from models.registry import find_version, propose, register
from tests.support.bundles import bundle_of
from tests.support.networks import linear_q_network
from tests.support.stores import fresh
from training.tracking.history import Point
from training.tracking.machine import Machine
from training.tracking.origin import code_version
from training.tracking.store import RUN, Store
from training.tracking.tracker import RunInfo, Tracker, new_run, open_journal
from training.tracking.uploader import Uploader


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    before = mlflow.get_tracking_uri()
    yield Store(fresh(tmp_path / "mlruns"))
    mlflow.set_tracking_uri(before)
    os.environ.pop("MLFLOW_TRACKING_URI", None)


@pytest.fixture
def uploader() -> Iterator[Uploader]:
    with Uploader() as made:
        yield made


def tracker_of(store: Store, uploader: Uploader, run: str | None = None) -> Tracker:
    about = RunInfo("run", "tested", {"steps": "1"}, {"group": "g"}, "what it is")
    return Tracker(store, open_journal(store.folder, run or new_run()), about, uploader)


def tracked(store: Store, tracker: Tracker) -> Run:
    found = store.find_run(tracker.run_id, "tested")
    assert found is not None
    return found


def history(store: Store, tracker: Tracker, name: str) -> list[Metric]:
    run_id = tracked(store, tracker).info.run_id
    return list(store.client.get_metric_history(run_id, name))


def test_how_a_run_ends_is_recorded(store: Store, uploader: Uploader) -> None:
    with tracker_of(store, uploader) as finished:
        finished.log({"train/loss": 1.0}, 1)
    with tracker_of(store, uploader) as stopped:
        stopped.killed()
    with pytest.raises(ZeroDivisionError), tracker_of(store, uploader) as failed:
        raise ZeroDivisionError
    with pytest.raises(KeyboardInterrupt), tracker_of(store, uploader) as interrupted:
        raise KeyboardInterrupt
    assert uploader.flush()
    runs = [tracked(store, each) for each in (finished, stopped, failed, interrupted)]
    assert [run.info.status for run in runs] == ["FINISHED", "KILLED", "FAILED", "KILLED"]
    assert runs[0].data.params == {"steps": "1"}
    assert runs[0].data.tags["group"] == "g"
    assert runs[0].data.tags[RUN] == finished.run_id
    assert runs[0].data.tags["mlflow.note.content"] == "what it is"
    assert runs[0].info.end_time >= runs[0].info.start_time


def test_after_going_back_the_same_is_stored_once_and_another_beside(
    store: Store, uploader: Uploader
) -> None:
    def values(tracker: Tracker) -> list[tuple[int, float]]:
        assert uploader.flush()
        return sorted((p.step, p.value) for p in history(store, tracker, "train/loss"))

    with tracker_of(store, uploader) as tracker:
        tracker.log({"train/loss": 1.0}, 10)
        saved = list(tracker.history)
        tracker.log({"train/loss": 2.0}, 20)
        tracker.go_back(saved, 10)
        tracker.log({"train/loss": 2.0}, 20)
        tracker.log({"train/loss": 3.0}, 30)
        assert values(tracker) == [(10, 1), (20, 2), (30, 3)]
        tracker.go_back(saved, 10, repeats=False)
        tracker.log({"train/loss": 2.5}, 20)
        assert values(tracker) == [(10, 1), (20, 2), (20, 2.5), (30, 3)]
    assert [point.value for point in tracker.history] == [1.0, 2.5]
    assert len(list(tracker.folder.iterdir())) == 1


def test_what_a_power_cut_took_from_the_journal_comes_from_the_checkpoint(
    store: Store, uploader: Uploader
) -> None:
    with tracker_of(store, uploader) as tracker:
        tracker.go_back([Point("train/loss", 1.5, 1_700_000_000_000, 10)], 10)
        assert uploader.flush()
    (point,) = history(store, tracker, "train/loss")
    assert (point.value, point.step, point.timestamp) == (1.5, 10, 1_700_000_000_000)


def test_metrics_are_sent_even_when_the_run_fails(store: Store, uploader: Uploader) -> None:
    tracker = tracker_of(store, uploader)

    def fail_after_logging() -> None:
        with tracker:
            for step in range(1500):
                tracker.log({"train/loss": float(step), "train/q_mean": float("nan")}, step)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_after_logging()
    assert uploader.flush()
    assert tracked(store, tracker).info.status == "FAILED"
    found = history(store, tracker, "train/loss")
    assert [point.value for point in found] == list(range(1500))
    assert history(store, tracker, "train/q_mean") == []


def test_what_mlflow_never_takes_holds_nothing_up(store: Store, uploader: Uploader) -> None:
    with tracker_of(store, uploader) as tracker:
        tracker.log({"train/loss": 1.0}, 1)
        tracker.log({"bad\nname": 1.0}, 2)
        tracker.log({"train/loss": 2.0}, 3)
    assert uploader.flush()
    assert [p.step for p in history(store, tracker, "train/loss")] == [1, 3]
    (number, why) = learned(store, tracker)["refused"][0]
    assert number == 3
    assert "bad" in why


def learned(store: Store, tracker: Tracker) -> Any:
    path = store.folder / "journals" / tracker.run_id / "delivered.json"
    return json.loads(path.read_text())["learned"]


def test_figures_tables_and_machine(store: Store, uploader: Uploader, tmp_path: Path) -> None:
    with tracker_of(store, uploader) as tracker:
        figure = Figure(figsize=(2, 1))
        figure.subplots().plot([1, 2])
        tracker.log_figure("equity", figure, 5)
        tracker.log_table("evaluation/validation", ["policy", "Sharpe"], [["flat", "-"]])
        machine = Machine(store.folder)
        tracker.log_machine(machine.reading(), 5)
        tracker.log_machine(machine.reading(), 6)  # too soon
        tracker.log_learned({"hidden_1/kernel": np.ones((3, 4))}, np.arange(9.0), 5)
        tracker.set_tags(rolled_back="no")
        tracker.describe("what it was")
    assert uploader.flush()
    run = tracked(store, tracker)
    run_id = run.info.run_id
    assert run.data.tags["rolled_back"] == "no"
    assert run.data.tags["mlflow.note.content"] == "what it was"
    assert json.loads(run.data.tags["mlflow.loggedArtifacts"]) == [
        {"path": "evaluation/validation.json", "type": "table"}
    ]
    found = store.client.load_table(
        tracked(store, tracker).info.experiment_id, "evaluation/validation.json", [run_id]
    )
    assert found.to_dict("records") == [{"policy": "flat", "Sharpe": "-"}]
    assert [each.path for each in store.client.list_artifacts(run_id, "figures")] == [
        "figures/equity.png"
    ]
    assert [p.step for p in history(store, tracker, "system/cpu_utilization_percentage")] == [5]
    assert list((store.folder / "journals" / tracker.run_id / "files").iterdir()) == []


def test_registered_is_a_copy_without_optimizer_and_only_once(store: Store) -> None:
    network = linear_q_network(3, seed=1)
    network.compile("adam", "mse")
    bundle = bundle_of(network)
    client = store.client
    run_id = client.create_run(store.experiment("tested")).info.run_id
    with pytest.MonkeyPatch.context() as patch:  # broken off before it was a version
        patch.setattr(client, "create_model_version", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            register(client, bundle, run_id, {"seed": "1"}, "good")
    version = register(client, bundle, run_id, {"seed": "1"}, "good")
    again = register(client, bundle, run_id, {"seed": "1"}, "good")
    assert int(again.version) == int(version.version) == 1
    assert len(client.search_logged_models([store.experiment("tested")])) == 1
    outputs = client.get_run(run_id).outputs
    assert outputs is not None
    assert [output.step for output in outputs.model_outputs] == [7]
    loaded = mlflow.keras.load_model(f"models:/{version.name}/{version.version}")
    assert not loaded.compiled
    assert (loaded.get_weights()[0] == network.get_weights()[0]).all()
    hashes = {name: version.tags.pop(name) for name in ("bundle_sha256", "weights_sha256")}
    assert version.tags == {"seed": "1", "step": "7"}
    artifacts = mlflow.artifacts.download_artifacts(str(version.source))
    kept = Bundle.load(Path(artifacts) / "bundle")
    assert kept.sha256 == hashes["bundle_sha256"]
    assert (kept.weights["q_values/kernel"] == network.get_weights()[0]).all()
    found = find_version(store.client, run_id, bundle)
    assert found is not None
    assert found.version == version.version
    assert find_version(store.client, run_id, bundle_of(linear_q_network(3, 2))) is None
    assert version.name == "qdesk-linear"


def test_a_candidate_set_by_hand_gives_way(store: Store) -> None:
    networks = [linear_q_network(3, seed) for seed in range(3)]
    judged = {"judged_on": "these bars", "net_return": "0.5"}
    run_id = store.client.create_run(store.experiment("tested")).info.run_id
    versions = [
        register(store.client, bundle_of(network), run_id, tags, "")
        for network, tags in zip(networks, [{}, judged, judged], strict=True)
    ]
    by_hand, first, equal = versions
    store.client.set_registered_model_alias(by_hand.name, "candidate", by_hand.version)
    made = propose(store.client, first)
    assert (made.before, made.candidate and made.candidate.version) == ("1", first.version)
    again = propose(store.client, equal)
    assert (again.before, again.candidate and again.candidate.version) == ("2", first.version)
    candidate = store.client.get_model_version_by_alias(first.name, "candidate")
    assert candidate.version == first.version


def test_processes_may_create_the_store_at_once(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from training.tracking.store import Store\n"
        "print(Store(Path(sys.argv[1])).experiment('shared'))\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "mlruns")]
    processes = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    results = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], results
    assert len({out for out, _ in results}) == 1


def test_code_version_is_the_commit() -> None:
    commit = code_version().removesuffix("-dirty")
    assert len(commit) == 40
    assert int(commit, 16)
