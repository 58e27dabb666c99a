"""Runs of processes that are gone are ended before a training's end, however busy the machine is."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow.exceptions import MlflowException

from tests.support.stores import fresh
from training.tracking import uploader as shipping
from training.tracking.store import Store
from training.tracking.tracker import RunInfo, Tracker, new_run, open_journal
from training.tracking.uploader import Uploader, send_what_was_left

BEGUN_AND_KILLED = """
import os, sys
from pathlib import Path
from training.tracking.uploader import Uploader
from training.tracking.store import Store
from training.tracking.tracker import RunInfo, Tracker, open_journal
store = Store(Path(sys.argv[1]))
with Uploader() as uploader:
    tracker = Tracker(
        store, open_journal(store.folder, "d" * 32), RunInfo("dead", "tested", {}, {}, ""), uploader
    )
    tracker.log({"train/loss": 1.0}, 1)
    uploader.flush()
    os._exit(9)
"""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A store with the run of a process that is gone."""
    before = mlflow.get_tracking_uri()
    command = [sys.executable, "-c", BEGUN_AND_KILLED, str(fresh(tmp_path / "mlruns"))]
    assert subprocess.run(command, capture_output=True, timeout=120).returncode == 9
    yield Store(tmp_path / "mlruns")
    mlflow.set_tracking_uri(before)
    os.environ.pop("MLFLOW_TRACKING_URI", None)


def status(store: Store) -> str:
    run = store.find_run("d" * 32, "tested")
    assert run is not None
    return str(run.info.status)


def tracker_of(store: Store, uploader: Uploader) -> Tracker:
    about = RunInfo("run", "tested", {}, {}, "")
    return Tracker(store, open_journal(store.folder, new_run()), about, uploader)


def test_a_dead_run_that_had_to_stand_back_is_ended_all_the_same(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the first look at it fell into the moment when a run of this process had the word."""
    stood_back = threading.Event()

    def busy_at_first(*arguments: Any) -> bool:
        if not stood_back.is_set():
            stood_back.set()
            return False
        return send_what_was_left(*arguments)

    monkeypatch.setattr(shipping, "send_what_was_left", busy_at_first)
    assert status(store) == "RUNNING"
    with Uploader() as uploader, tracker_of(store, uploader):
        uploader.add_orphans(store.folder)
        assert stood_back.wait(60)
        assert uploader.flush()
        assert uploader.unended == []
    assert status(store) == "KILLED"


def test_a_dead_run_that_failed_once_is_tried_again_before_the_end(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = threading.Event()

    def locked_at_first(*arguments: Any) -> bool:
        if not failed.is_set():
            failed.set()
            raise MlflowException("database is locked")
        return send_what_was_left(*arguments)

    monkeypatch.setattr(shipping, "send_what_was_left", locked_at_first)
    with Uploader() as uploader, tracker_of(store, uploader):
        uploader.add_orphans(store.folder)
        assert failed.wait(60)
        assert uploader.flush()
        assert uploader.unended == []
    assert status(store) == "KILLED"


def test_a_dead_run_that_cannot_be_ended_is_named_with_the_reason(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def locked(*_: Any) -> bool:
        raise MlflowException("database is locked")

    monkeypatch.setattr(shipping, "send_what_was_left", locked)
    monkeypatch.setattr(shipping, "LEFT_SECONDS", 1.0)
    with Uploader() as uploader, tracker_of(store, uploader):
        uploader.add_orphans(store.folder)
        assert uploader.flush()
        assert uploader.unended == ["d" * 32]
        assert uploader.why_unended == "database is locked"
    assert status(store) == "RUNNING"


def test_a_run_whose_process_lives_is_not_waited_for(store: Store) -> None:
    held = open_journal(store.folder, "d" * 32)
    with Uploader() as uploader, tracker_of(store, uploader):
        uploader.add_orphans(store.folder)
        assert uploader.flush()
        assert uploader.unended == []
    held.close()
    assert status(store) == "RUNNING"
