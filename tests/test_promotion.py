"""Who may trade: the champion's aliases and their record, and the last good model at start-up."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient

import qdesk
from models.last_good import INDEX, load_last_good
from models.networks import linear_q_network
from models.promotion import NoVersion, history, load_bundle, promote, resolve, rollback
from models.registry import model_id_of, register
from models.sealed import Damaged
from tests.test_bundle import bundle_of
from training.tracking import Store, Tracker

NAME = "qdesk-linear"


@pytest.fixture
def mlruns(tmp_path: Path) -> Iterator[Path]:
    """A store with three versions."""
    before = mlflow.get_tracking_uri()
    store = Store(tmp_path / "mlruns", "tested")
    with store.create_run("run", {}, {}, "") as run, Tracker(store, run) as tracker:
        for seed in (1, 2, 3):
            model = linear_q_network(3, seed)
            tags = {"bars": "made", "net_return": str(seed / 10), "algorithm": "dqn", "seed": "1"}
            register(store.client, model, bundle_of(model), tracker.run_id, tags, f"number {seed}")
    yield tmp_path / "mlruns"
    mlflow.set_tracking_uri(before)


def uri_of(mlruns: Path) -> str:
    return f"sqlite:///{mlruns}/mlflow.db"


@pytest.fixture
def client(mlruns: Path) -> MlflowClient:
    return MlflowClient(uri_of(mlruns), uri_of(mlruns))


def bundle_folder(client: MlflowClient, which: str) -> Path:
    logged = client.get_logged_model(model_id_of(resolve(client, NAME, which)))
    return Path(str(logged.artifact_location)) / "bundle"


def spoil(client: MlflowClient, which: str) -> None:
    path = bundle_folder(client, which) / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")


def aliases(client: MlflowClient) -> dict[str, int]:
    found: dict[str, Any] = client.get_registered_model(NAME).aliases
    return {name: int(version) for name, version in found.items()}


def test_champions_come_and_go_with_a_record(client: MlflowClient) -> None:
    promote(client, NAME, "1", "the first", "ann")
    assert aliases(client) == {"champion": 1}
    promote(client, NAME, "2", "better", "bob")
    promote(client, NAME, "3", "better still", "bob")
    assert aliases(client) == {"champion": 3, "previous_champion": 2}
    rollback(client, NAME, "it lost", "ann")
    assert aliases(client) == {"champion": 2, "previous_champion": 1}
    rollback(client, NAME, "that one too", "ann")
    assert aliases(client) == {"champion": 1}
    with pytest.raises(NoVersion, match="there is no previous champion to go back to"):
        rollback(client, NAME, "no more", "ann")
    moves = history(client, NAME)
    assert [(move.kind, move.version, move.before) for move in moves] == [
        ("promote", "1", None),
        ("promote", "2", "1"),
        ("promote", "3", "2"),
        ("rollback", "2", "3"),
        ("rollback", "1", "2"),
    ]
    assert [move.who for move in moves] == ["ann", "bob", "bob", "ann", "ann"]
    assert moves[3].why == "it lost"
    assert moves[0].when.endswith("Z")
    assert moves == sorted(moves)


def test_a_rejected_version_is_nobodys_predecessor(client: MlflowClient) -> None:
    for which in ("1", "2", "1"):
        promote(client, NAME, which, "back and forth")
    rollback(client, NAME, "1 is bad")
    assert aliases(client) == {"champion": 2}
    client.set_registered_model_alias(NAME, "previous_champion", "2")  # as a crash could leave it
    with pytest.raises(NoVersion, match="the previous champion is v2, the champion itself"):
        rollback(client, NAME, "to itself")


def test_the_cache_follows_a_rollback(client: MlflowClient, mlruns: Path, tmp_path: Path) -> None:
    """What was verified last comes from it, not what was taken in last."""
    cache = tmp_path / "cache"
    for which in ("1", "2"):
        promote(client, NAME, which, "next")
        load_last_good(NAME, cache, uri_of(mlruns))
    rollback(client, NAME, "2 is bad")
    assert load_last_good(NAME, cache, uri_of(mlruns)).version == "1"
    assert load_last_good(NAME, cache, "sqlite:////nowhere/mlflow.db").version == "1"


def test_a_champion_is_good_where_the_cache_cannot_be_written(
    client: MlflowClient, mlruns: Path, tmp_path: Path
) -> None:
    promote(client, NAME, "1", "first")
    (tmp_path / NAME).symlink_to("/proc")
    found = load_last_good(NAME, tmp_path, uri_of(mlruns))
    assert (found.version, found.source, found.steps_down) == ("1", "champion", [])


@pytest.mark.parametrize("name", ["../x", "/etc", "", "..", "a/b"])
def test_a_name_stays_in_the_cache(tmp_path: Path, name: str) -> None:
    found = load_last_good(name, tmp_path, "sqlite:////nowhere/mlflow.db")
    assert found.source == "none"
    assert "is no model's name" in found.steps_down[0]


@pytest.mark.parametrize("index", ["[" * 100_000, "7", '[{"version": "../v1", "sha256": "0"}]'])
def test_a_list_that_is_none_is_passed_over(tmp_path: Path, index: str) -> None:
    (tmp_path / NAME).mkdir()
    (tmp_path / NAME / INDEX).write_text(index)
    assert load_last_good(NAME, tmp_path, "sqlite:////nowhere/mlflow.db").source == "none"


def test_what_cannot_be_trusted_is_not_promoted(client: MlflowClient) -> None:
    promote(client, NAME, "1", "the first")
    spoil(client, "2")
    with pytest.raises(Damaged, match=r"weights.safetensors: it does not have the sha256"):
        promote(client, NAME, "2", "looks good")
    with pytest.raises(NoVersion, match="v1 is the champion already"):
        promote(client, NAME, "champion", "again")
    with pytest.raises(NoVersion, match="there is no version or alias 9"):
        promote(client, NAME, "9", "typo")
    assert aliases(client) == {"champion": 1}
    assert len(history(client, NAME)) == 1
    promote(client, NAME, "3", "good")
    spoil(client, "1")
    with pytest.raises(Damaged):
        rollback(client, NAME, "to a damaged one")
    assert aliases(client) == {"champion": 3, "previous_champion": 1}


def test_a_bundle_of_another_version_is_refused(client: MlflowClient) -> None:
    """Each is whole; but it is not the one that was registered."""
    shutil.rmtree(bundle_folder(client, "1"))
    shutil.copytree(bundle_folder(client, "2"), bundle_folder(client, "1"))
    with pytest.raises(Damaged, match=r"its sha256 is \w+, but \w+ was registered"):
        load_bundle(client, resolve(client, NAME, "1"))
    link = bundle_folder(client, "3") / "weights.safetensors"
    link.rename(link.parent.parent / "weights")
    link.symlink_to(link.parent.parent / "weights")
    with pytest.raises(Damaged, match=r"artifacts/bundle/weights.safetensors.*symbolic link"):
        load_bundle(client, resolve(client, NAME, "3"))


def test_the_last_good_model_step_by_step(
    client: MlflowClient, mlruns: Path, tmp_path: Path
) -> None:
    cache, uri = tmp_path / "cache", uri_of(mlruns)
    nothing = load_last_good(NAME, cache, uri)
    assert (nothing.bundle, nothing.source) == (None, "none")
    assert [step.split(":")[0] for step in nothing.steps_down[:2]] == [
        "champion",
        "previous_champion",
    ]
    promote(client, NAME, "1", "first")
    promote(client, NAME, "2", "second")
    first = load_last_good(NAME, cache, uri)
    assert (first.version, first.source, first.steps_down) == ("2", "champion", [])

    promote(client, NAME, "3", "third")
    spoil(client, "3")
    second = load_last_good(NAME, cache, uri)
    assert (second.version, second.source) == ("2", "previous_champion")
    assert "champion: " in second.steps_down[0]
    assert "does not have the sha256" in second.steps_down[0]

    spoil(client, "2")  # but a copy of the very same was verified before
    third = load_last_good(NAME, cache, uri)
    assert (third.version, third.source) == ("2", "previous_champion")

    down = load_last_good(NAME, cache, "sqlite:////nowhere/mlflow.db")
    assert (down.version, down.source) == ("2", "cache")
    assert "cannot be reached" in down.steps_down[0]
    assert down.bundle is not None
    assert second.bundle is not None
    assert down.bundle.manifest == second.bundle.manifest

    (copy,) = (cache / NAME).glob("v2-*")
    (copy / "weights.safetensors").write_bytes(b"")
    lost = load_last_good(NAME, cache, "sqlite:////nowhere/mlflow.db")
    assert lost.source == "none"
    assert "cached v2: " in lost.steps_down[1]
    assert "no verified copy" in lost.steps_down[-1]


def test_a_cache_keeps_a_few_and_survives_a_broken_list(
    client: MlflowClient, mlruns: Path, tmp_path: Path
) -> None:
    cache, uri = tmp_path / "cache", uri_of(mlruns)
    model = linear_q_network(3, 4)
    run_id = resolve(client, NAME, "1").run_id
    mlflow.set_tracking_uri(uri)
    register(client, model, bundle_of(model), str(run_id), {}, "")
    for which in ("1", "2", "3", "4"):
        promote(client, NAME, which, "next")
        assert load_last_good(NAME, cache, uri).version == which
    assert sorted(path.name[:2] for path in (cache / NAME).glob("v*")) == ["v2", "v3", "v4"]
    newest = next((cache / NAME).glob("v4-*"))
    (newest / "manifest.json").unlink()
    fallen = load_last_good(NAME, cache, "sqlite:////nowhere/mlflow.db")
    assert (fallen.version, fallen.source) == ("3", "cache")
    (cache / NAME / INDEX).write_text("{")
    assert load_last_good(NAME, cache, "sqlite:////nowhere/mlflow.db").source == "none"
    assert load_last_good(NAME, cache, uri).version == "4"
    read_only = tmp_path / "file"
    read_only.write_text("no folder")
    assert load_last_good(NAME, read_only, uri).version == "4"


@pytest.fixture(scope="module")
def mute() -> Iterator[str]:
    """A server that takes connections and never answers."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


ASK = """
import sys, time
from pathlib import Path
from models.last_good import load_last_good
for uri in sys.argv[3:]:
    began = time.monotonic()
    found = load_last_good(sys.argv[1], Path(sys.argv[2]), uri)
    print(found.source, found.version, time.monotonic() - began)
    print({"tensorflow", "keras", "mlflow"} & set(sys.modules))
"""


def test_from_the_cache_it_takes_no_second_and_no_tensorflow(
    client: MlflowClient, mlruns: Path, tmp_path: Path, mute: str
) -> None:
    promote(client, NAME, "1", "first")
    load_last_good(NAME, tmp_path / "cache", uri_of(mlruns))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{free.getsockname()[1]}"
    uris = [closed, mute, "sqlite:////nowhere/mlflow.db"]
    command = [sys.executable, "-c", ASK, NAME, str(tmp_path / "cache"), *uris]
    began = time.monotonic()
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    whole = time.monotonic() - began
    lines = run.stdout.splitlines()
    for said, loaded in zip(lines[::2], lines[1::2], strict=True):
        source, version, seconds = said.split()
        assert (source, version) == ("cache", "1")
        assert float(seconds) < 1
        assert loaded == "set()"
    assert whole < 10  # hours on MLflow's own retries


def test_from_the_registry_it_needs_no_tensorflow(
    client: MlflowClient, mlruns: Path, tmp_path: Path
) -> None:
    promote(client, NAME, "1", "first")
    command = [sys.executable, "-c", ASK, NAME, str(tmp_path / "cache"), uri_of(mlruns)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert run.stdout.startswith("champion 1 ")
    assert run.stdout.splitlines()[1] == "{'mlflow'}"


def test_through_mlflows_server(client: MlflowClient, mlruns: Path, tmp_path: Path) -> None:
    """A real server, artifacts by way of it; then it dies."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    uri = f"http://127.0.0.1:{port}"
    command = [str(Path(sys.executable).with_name("mlflow")), "server", "--workers", "1"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--backend-store-uri", uri_of(mlruns)]
    server = subprocess.Popen(
        [*command, "--artifacts-destination", str(tmp_path / "served")],
        env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert server.stdout is not None
        for line in server.stdout:
            if "Application startup complete" in line:
                break
        remote = MlflowClient(uri, uri)
        experiment = remote.create_experiment("served")  # its artifacts go through the server
        run_id = remote.create_run(experiment).info.run_id
        model = linear_q_network(3, 9)
        mlflow.set_tracking_uri(uri)
        register(remote, model, bundle_of(model), run_id, {}, "over the wire")
        location = remote.get_logged_model(model_id_of(resolve(remote, NAME, "4")))
        assert str(location.artifact_location).startswith("mlflow-artifacts:")
        promote(remote, NAME, "4", "served")
        found = load_last_good(NAME, tmp_path / "cache", uri)
        assert (found.version, found.source, found.steps_down) == ("4", "champion", [])
    finally:
        server.terminate()
        server.communicate()
    found = load_last_good(NAME, tmp_path / "cache", uri)
    assert (found.version, found.source) == ("4", "cache")


def ran(*arguments: str) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["qdesk", "models", *arguments])
        return qdesk.main()


def test_the_command_line(
    client: MlflowClient, mlruns: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = ["--mlruns", str(mlruns)]
    assert ran("promote", NAME, "1", "--reason", "the first", *store) == 0
    assert ran("promote", NAME, "2", "--reason", "more", "--by", "ann", *store) == 0
    said = capsys.readouterr().out
    assert f"{NAME}@champion is v2 (+20.0% on validation), in place of v1 (+10.0%" in said
    assert ran("show", NAME, *store) == 0
    shown = capsys.readouterr().out
    assert "promote v2 in place of v1 by ann: more" in shown
    assert "+20.0%" in shown
    assert ran("list", *store) == 0
    assert NAME in capsys.readouterr().out
    assert ran("compare", NAME, "1", "champion", *store) == 0
    assert "v1" in capsys.readouterr().out
    assert ran("show", NAME, "champion", *store) == 0
    assert "number 2" in capsys.readouterr().out
    assert ran("verify", NAME, "champion", *store) == 0
    assert f"{NAME} v2 is good" in capsys.readouterr().out
    assert ran("rollback", NAME, "--reason", "worse", *store) == 0
    said = capsys.readouterr().out
    assert f"{NAME}@champion is v1 (+10.0% on validation) again, in place of v2" in said
    spoil(client, "3")
    assert ran("verify", NAME, "3", *store) == 2
    assert "does not have the sha256" in capsys.readouterr().err
    for wrong in (
        ["show", "qdesk-none"],
        ["verify", NAME, "77"],
        ["rollback", NAME, "--reason", "x"],
        ["promote", NAME, "2", "--reason", " "],
    ):
        assert ran(*wrong, *store) == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert ran("list", "--mlruns", str(mlruns / "none")) == 2
    assert "there is no store here" in capsys.readouterr().err
    assert not (mlruns / "none").exists()
    began = time.monotonic()
    assert ran("list", "--tracking-uri", "http://127.0.0.1:9") == 2
    assert time.monotonic() - began < 30  # MLflow alone would ask for minutes
    said = capsys.readouterr().err
    assert said.startswith("http://127.0.0.1:9: this store cannot be used (no server answers there")
    assert said.count("\n") == 1
