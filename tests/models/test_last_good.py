"""The last good model at start-up, whatever is down, damaged or slow."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient

from models.last_good import INDEX, load_last_good
from models.promotion import rollback
from models.promotion_records import resolve
from models.registry import model_id_of, register
from tests.support.bundles import bundle_of
from tests.support.networks import linear_q_network
from tests.support.registered import NAME, promote, spoil, uri_of


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
    register(client, bundle_of(model), str(run_id), {}, "")
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
            if "Uvicorn running on" in line:
                break
        remote = MlflowClient(uri, uri)
        experiment = remote.create_experiment("served")  # its artifacts go through the server
        run_id = remote.create_run(experiment).info.run_id
        model = linear_q_network(3, 9)
        mlflow.set_tracking_uri(uri)
        register(remote, bundle_of(model), run_id, {}, "over the wire")
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
