"""Tracking and registration on their own: how runs end, and several at once."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest

from models.bundle import Bundle
from models.networks import copy_of, linear_q_network
from models.registry import find_version, propose, register
from tests.test_bundle import bundle_of
from training.tracking import Store, Tracker, code_version


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    before = mlflow.get_tracking_uri()
    yield Store(tmp_path / "mlruns", "tested")
    mlflow.set_tracking_uri(before)


def tracker_of(store: Store, **tags: str) -> Tracker:
    with store.create_run("run", {"steps": "1"}, {"group": "g", **tags}, "what it is") as run:
        return Tracker(store, run)


def status_of(store: Store, tracker: Tracker) -> str:
    return str(store.client.get_run(tracker.run_id).info.status)


def test_how_a_run_ends_is_recorded(store: Store) -> None:
    with tracker_of(store) as finished:
        finished.log({"train/loss": 1.0}, 1)
    with tracker_of(store) as stopped:
        stopped.killed()
    with pytest.raises(ZeroDivisionError), tracker_of(store) as failed:
        raise ZeroDivisionError
    with pytest.raises(KeyboardInterrupt), tracker_of(store) as interrupted:
        raise KeyboardInterrupt
    ends = [status_of(store, each) for each in (finished, stopped, failed, interrupted)]
    assert ends == ["FINISHED", "KILLED", "FAILED", "KILLED"]


def test_after_going_back_the_same_is_stored_once_and_another_beside(store: Store) -> None:
    def values(tracker: Tracker) -> list[tuple[int, float]]:
        history = store.client.get_metric_history(tracker.run_id, "train/loss")
        return sorted((point.step, point.value) for point in history)

    with tracker_of(store) as tracker:
        tracker.log({"train/loss": 1.0}, 10)
        saved = list(tracker.history)
        tracker.log({"train/loss": 2.0}, 20)
        tracker.go_back(saved)
        tracker.log({"train/loss": 2.0}, 20)
        tracker.log({"train/loss": 3.0}, 30)
        tracker.flush()
        assert values(tracker) == [(10, 1), (20, 2), (30, 3)]
        tracker.go_back(saved, repeats=False)
        tracker.log({"train/loss": 2.5}, 20)
        tracker.flush()
        assert values(tracker) == [(10, 1), (20, 2), (20, 2.5), (30, 3)]
    assert [point.value for point in tracker.history] == [1.0, 2.5]
    assert len(list(tracker.folder.iterdir())) == 1


def test_metrics_are_sent_even_when_the_run_fails(store: Store) -> None:
    tracker = tracker_of(store)

    def fail_after_logging() -> None:
        with tracker:
            for step in range(1500):
                tracker.log({"train/loss": float(step), "train/q_mean": float("nan")}, step)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_after_logging()
    assert status_of(store, tracker) == "FAILED"
    history = store.client.get_metric_history(tracker.run_id, "train/loss")
    assert [point.value for point in history] == list(range(1500))
    assert store.client.get_metric_history(tracker.run_id, "train/q_mean") == []


def test_registered_is_a_copy_without_optimizer(store: Store) -> None:
    network = linear_q_network(3, seed=1)
    network.compile("adam", "mse")
    bundle = bundle_of(network)
    with tracker_of(store) as tracker:
        version = register(
            store.client, copy_of(network), bundle, tracker.run_id, {"seed": "1"}, "good"
        )
    loaded = mlflow.keras.load_model(f"models:/{version.name}/{version.version}")
    assert not loaded.compiled
    assert (loaded.get_weights()[0] == network.get_weights()[0]).all()
    hashes = {name: version.tags.pop(name) for name in ("bundle_sha256", "weights_sha256")}
    assert version.tags == {"seed": "1", "step": "7"}
    artifacts = mlflow.artifacts.download_artifacts(str(version.source))
    kept = Bundle.load(Path(artifacts) / "bundle")
    assert kept.sha256 == hashes["bundle_sha256"]
    assert (kept.weights["q_values/kernel"] == network.get_weights()[0]).all()
    found = find_version(store.client, tracker.run_id, bundle)
    assert found is not None
    assert found.version == version.version
    assert find_version(store.client, tracker.run_id, bundle_of(linear_q_network(3, 2))) is None
    assert version.name == "qdesk-linear"


def test_a_candidate_set_by_hand_gives_way(store: Store) -> None:
    networks = [linear_q_network(3, seed) for seed in range(3)]
    judged = {"judged_on": "these bars", "net_return": "0.5"}
    with tracker_of(store) as tracker:
        versions = [
            register(store.client, network, bundle_of(network), tracker.run_id, tags, "")
            for network, tags in zip(networks, [{}, judged, judged], strict=True)
        ]
    by_hand, first, equal = versions
    store.client.set_registered_model_alias(by_hand.name, "candidate", by_hand.version)
    assert propose(store.client, first).version == first.version
    assert propose(store.client, equal).version == first.version
    candidate = store.client.get_model_version_by_alias(first.name, "candidate")
    assert candidate.version == first.version


def test_processes_may_create_the_store_at_once(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from training.tracking import Store\n"
        "print(Store(Path(sys.argv[1]), 'shared').experiment_id)\n"
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
