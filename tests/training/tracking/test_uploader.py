"""Tracking that is in nobody's way: servers that are down, die or never answer, locks, kills, crowds."""

import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.support.commands import TABULAR, Command, ended
from tests.support.kills import QDESK, client_of
from tests.support.run_journals import entry
from tests.support.servers import TrackingServer
from tests.support.trained import Trained, learn_until
from training.tracking.journal import JOURNAL, RunJournal
from training.tracking.journals import JOURNALS, undelivered

Row = tuple[str, int, float]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrackingServer]:
    made = TrackingServer(tmp_path_factory.mktemp("server"))
    yield made
    made.kill()


@pytest.fixture
def qdesk(capsys: pytest.CaptureFixture[str]) -> Command:
    """Commands in this process, which has TensorFlow and MLflow loaded."""
    return partial(ended, capsys)


def put_points(journal: Path) -> list[Row]:
    """All values of metrics in a journal."""
    entries = [json.loads(line) for line in (journal / JOURNAL).read_text().splitlines()]
    return sorted(
        (name, entry["step"], value)
        for entry in entries
        if entry["kind"] == "points"
        for name, value in entry["metrics"].items()
    )


def stored_points(database: Path, name: str) -> list[Row]:
    """All values of metrics that MLflow has of the runs of a name, as often as it has them."""
    query = (
        "SELECT key, step, value FROM metrics JOIN runs ON runs.run_uuid = metrics.run_uuid "
        "WHERE runs.name = ?"
    )
    connection = sqlite3.connect(database)
    try:
        return sorted(connection.execute(query, (name,)).fetchall())
    finally:
        connection.close()


def status(database: Path, name: str) -> str:
    connection = sqlite3.connect(database)
    try:
        ((found,),) = connection.execute("SELECT status FROM runs WHERE name = ?", (name,))
        return str(found)
    finally:
        connection.close()


def journal_of(mlruns: Path, name: str) -> Path:
    (found,) = [
        path.parent
        for path in (mlruns / JOURNALS).glob(f"*/{JOURNAL}")
        if json.loads(path.read_text().splitlines()[0])["name"] == name
    ]
    return found


def test_a_server_that_is_down_gets_everything_later(
    server: TrackingServer, tmp_path: Path, qdesk: Command
) -> None:
    store = str(tmp_path / "mlruns")
    arguments = ["train", *TABULAR, "--steps", "20000", "--name", "down", "--mlruns", store]
    run = qdesk(*arguments, uri=server.uri)
    assert (run.returncode, run.stderr) == (0, "")
    assert "down s1, best at " in run.stdout  # MLflow gave it no number yet
    said = " ".join(run.stdout.split())
    assert re.search(
        rf"[\d,]+ points, \d+ model versions and \d+ others not sent to MLflow \(no answer from "
        rf"{server.uri}\); all of it is in {store}/journals. Send it: qdesk tracking sync --mlruns "
        rf"{store}$",
        said,
    )
    assert re.search(r"steps/s unsent [\d,]+ ", said)
    seen = qdesk("tracking", "status", "--mlruns", store)
    assert seen.returncode == 0
    assert re.search(r"down-synthetic_ou_s3-s1 \w{8}: [\d,]+ points, .* not sent", seen.stdout)
    failed = qdesk("tracking", "sync", "--mlruns", store)
    assert failed.returncode == 1
    assert f"not sent (no answer from {server.uri})" in failed.stdout
    server.start()
    sent = qdesk("tracking", "sync", "--mlruns", store)
    assert (sent.returncode, sent.stderr) == (0, "")
    assert re.search(r"down-synthetic_ou_s3-s1 \w{8}: sent [\d,]+ points, ", sent.stdout)
    assert qdesk("tracking", "sync", "--mlruns", store).stdout == "everything is sent already\n"
    journal = journal_of(tmp_path / "mlruns", "down-synthetic_ou_s3-s1")
    assert stored_points(server.database, "down-synthetic_ou_s3-s1") == put_points(journal)
    assert status(server.database, "down-synthetic_ou_s3-s1") == "FINISHED"
    shown = qdesk("models", "show", "qdesk-down", "candidate", "--tracking-uri", server.uri)
    assert shown.returncode == 0, shown.stderr
    assert "verified" in shown.stdout
    assert "down-synthetic_ou_s3-s1" in qdesk("runs", "list", uri=server.uri).stdout


def test_a_server_killed_in_mid_training_gets_every_point_once(
    server: TrackingServer, tmp_path: Path, qdesk: Command
) -> None:
    store = tmp_path / "mlruns"
    command = [str(QDESK), "train", *TABULAR, "--steps", "150000", "--name", "killed"]
    server.kill()
    server.start()
    process = subprocess.Popen(
        [*command, "--mlruns", str(store)],
        env={**os.environ, "MLFLOW_TRACKING_URI": server.uri},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 60
        while not stored_points(server.database, "killed-synthetic_ou_s3-s1"):
            assert time.monotonic() < deadline
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        server.kill()
        server.start()
        stdout, stderr = process.communicate(timeout=120)
    finally:
        process.kill()
    assert (process.returncode, stderr) == (0, "")
    assert "View run" not in stdout
    assert qdesk("tracking", "sync", "--mlruns", str(store)).returncode == 0
    journal = journal_of(store, "killed-synthetic_ou_s3-s1")
    assert len(put_points(journal)) > 500
    assert stored_points(server.database, "killed-synthetic_ou_s3-s1") == put_points(journal)
    assert status(server.database, "killed-synthetic_ou_s3-s1") == "FINISHED"


def test_a_run_goes_on_where_it_was_tracked_and_from_another_machine(
    server: TrackingServer, tmp_path: Path
) -> None:
    """Without its journal, from checkpoints alone: the points that MLflow has are not sent again."""
    here, there = Trained(tmp_path / "here"), Trained(tmp_path / "there")
    bucket = f"file://{tmp_path}/bucket"
    server.kill()
    server.start()
    few = [*TABULAR, "--steps", "2000", "--name", "moved", "--checkpoints", bucket]
    assert here(*few, "--tracking-uri", server.uri, stop_at=1200) == signal.SIGTERM
    resume = ["--resume", "latest", "--checkpoints", bucket]
    there(*resume, "--tracking-uri", server.uri)
    points = Counter(row[:2] for row in stored_points(server.database, "moved-synthetic_ou_s3-s1"))
    assert set(points.values()) == {1}
    assert points["train/reward", 2000] == 1
    assert status(server.database, "moved-synthetic_ou_s3-s1") == "FINISHED"
    assert not list(there.mlruns.glob("mlflow.db"))
    with pytest.raises(ValueError, match="has ended after 2,000 iterations"):
        there("--resume", "latest")  # tracked there, whatever is named now


def test_what_a_machine_left_does_not_touch_a_run_that_goes_on_elsewhere(
    server: TrackingServer, tmp_path: Path, qdesk: Command
) -> None:
    """Killed here, resumed and ended there; then this machine sends what it had not sent."""
    here, there = Trained(tmp_path / "here"), Trained(tmp_path / "there")
    bucket = f"file://{tmp_path}/bucket"
    server.kill()
    few = [*TABULAR, "--steps", "2000", "--name", "spot", "--checkpoints", bucket]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.session.learn", learn_until(1200, RuntimeError("the power went")))
        with pytest.raises(RuntimeError, match="the power went"):
            here(*few, "--tracking-uri", server.uri)
    journal = journal_of(here.mlruns, "spot-synthetic_ou_s3-s1")
    lines = (journal / JOURNAL).read_bytes().splitlines(keepends=True)
    assert json.loads(lines[-1])["kind"] == "end"
    (journal / JOURNAL).write_bytes(b"".join(lines[:-1]))  # as kill -9 leaves it
    server.start()
    there("--resume", "latest", "--checkpoints", bucket, "--tracking-uri", server.uri)
    name = "spot-synthetic_ou_s3-s1"
    before = stored_points(server.database, name)
    assert status(server.database, name) == "FINISHED"
    assert qdesk("tracking", "sync", "--mlruns", str(here.mlruns)).returncode == 0
    assert status(server.database, name) == "FINISHED"
    after = stored_points(server.database, name)
    assert set(before) <= set(after)
    assert set(Counter(row[:2] for row in after).values()) == {1}


def test_a_deleted_run_keeps_its_journal_and_says_so(tmp_path: Path, qdesk: Command) -> None:
    trained = Trained(tmp_path)
    trained(*TABULAR, "--steps", "500", "--name", "gone")
    folder = journal_of(trained.mlruns, "gone-synthetic_ou_s3-s1")
    journal = RunJournal(folder)
    journal.append(entry("points", {"step": 600, "metrics": {"train/loss": 1.0}}))
    journal.close()
    with client_of(trained.mlruns) as client:
        (run,) = client.search_runs(["1"])
        client.delete_run(run.info.run_id)
        sync = qdesk("tracking", "sync", "--mlruns", str(trained.mlruns))
        assert sync.returncode == 1
        assert "was deleted in MLflow; restore it there, or remove" in sync.stdout
        client.restore_run(run.info.run_id)
    assert qdesk("tracking", "sync", "--mlruns", str(trained.mlruns)).returncode == 0
    assert ("train/loss", 600, 1.0) in stored_points(
        trained.mlruns / "mlflow.db", run.info.run_name
    )


def test_a_journal_that_never_began_is_nobodys_failure(tmp_path: Path, qdesk: Command) -> None:
    folder = tmp_path / "mlruns" / JOURNALS / "r1"
    folder.mkdir(parents=True)
    (folder / JOURNAL).touch()
    assert qdesk("tracking", "sync", "--mlruns", str(tmp_path / "mlruns")).returncode == 0


def test_a_server_that_never_answers_holds_nothing_up(
    tmp_path: Path, qdesk: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.tracking.uploader.HANGING_SECONDS", 1.0)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        store = str(tmp_path / "mlruns")
        run = qdesk("train", *TABULAR, "--steps", "1000", "--mlruns", store, uri=uri)
    assert (run.returncode, run.stderr) == (0, "")
    assert "not sent to MLflow (no answer in time)" in " ".join(run.stdout.split())


@pytest.mark.parametrize(
    "uri, said",
    [
        ("postgresql://desk/mlflow", "must be that of an MLflow server"),
        ("postgresql://me:secret@desk/mlflow", "must be that of an MLflow server"),
        ("mysql://me:secret@desk/mlflow", "this address holds credentials"),
    ],
)
def test_a_server_that_cannot_be_meant_is_refused(
    tmp_path: Path, uri: str, said: str, qdesk: Command
) -> None:
    run = qdesk("train", *TABULAR, "--mlruns", str(tmp_path / "mlruns"), uri=uri)
    assert run.returncode == 2
    assert said in run.stderr
    assert "secret" not in run.stderr
    assert run.stderr.count("\n") == 1


def test_a_locked_database_holds_nothing_up(tmp_path: Path, qdesk: Command) -> None:
    store = tmp_path / "mlruns"
    assert qdesk("train", *TABULAR, "--steps", "500", "--mlruns", str(store)).returncode == 0
    lock = sqlite3.connect(store / "mlflow.db")
    lock.execute("BEGIN EXCLUSIVE")
    command = ["train", *TABULAR, "--steps", "1000", "--name", "locked", "--mlruns", str(store)]
    run = qdesk(*command)
    lock.close()
    assert (run.returncode, run.stderr) == (0, "")
    assert "database is locked" in run.stdout
    assert qdesk("tracking", "sync", "--mlruns", str(store)).returncode == 0
    journal = journal_of(store, "locked-synthetic_ou_s3-s1")
    assert stored_points(store / "mlflow.db", "locked-synthetic_ou_s3-s1") == put_points(journal)


def test_the_next_start_ends_a_killed_run_and_sends_its_journal(tmp_path: Path) -> None:
    trained = Trained(tmp_path)
    command = [str(QDESK), "train", *TABULAR, "--steps", "100000000", "--log-every", "1000"]
    process = subprocess.Popen(
        [*command, "--name", "dead", "--mlruns", str(trained.mlruns)], stdout=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 60
    while not any(
        path.read_bytes().count(b"\n") > 20
        for path in (trained.mlruns / JOURNALS).glob(f"*/{JOURNAL}")
    ):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    process.wait()
    trained(*TABULAR, "--steps", "1000")
    dead = journal_of(trained.mlruns, "dead-synthetic_ou_s3-s1")
    assert not undelivered(dead)
    database = trained.mlruns / "mlflow.db"
    assert status(database, "dead-synthetic_ou_s3-s1") == "KILLED"
    assert len(put_points(dead)) > 50
    assert stored_points(database, "dead-synthetic_ou_s3-s1") == put_points(dead)
    with client_of(trained.mlruns) as client:
        (run,) = client.search_runs(["1"], "attributes.run_name = 'dead-synthetic_ou_s3-s1'")
    assert run.data.tags["ended"] == "its process was gone"


@pytest.mark.slow
def test_eight_trainings_at_once_on_a_fresh_store(tmp_path: Path, qdesk: Command) -> None:
    store = tmp_path / "mlruns"
    command = [str(QDESK), "train", *TABULAR, "--steps", "1500", "--mlruns", str(store)]
    trainings = [
        subprocess.Popen(
            [*command, "--name", f"crowd{number}"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for number in range(8)
    ]
    said = [training.communicate() for training in trainings]
    assert [training.returncode for training in trainings] == [0] * 8, said
    assert [err for _, err in said] == [b""] * 8
    assert qdesk("tracking", "sync", "--mlruns", str(store)).returncode == 0
    for number in range(8):
        name = f"crowd{number}-synthetic_ou_s3-s1"
        assert status(store / "mlflow.db", name) == "FINISHED"
        journal = journal_of(store, name)
        assert stored_points(store / "mlflow.db", name) == put_points(journal)
