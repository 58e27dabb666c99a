"""Checkpoints: which are kept, which is taken, who is kept out, and what happens to a bad disk."""

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from durable.errors import InUse
from durable.files import TEMPORARY
from durable.verified import write_verified
from training.checkpoints.checkpoint import (
    STATE,
    STOP_SECONDS,
    UPLOAD_SECONDS,
    Checkpoint,
    Checkpoints,
    RunLock,
    newest,
    steps_in,
)
from training.checkpoints.errors import CheckpointError, NoCheckpoint
from training.checkpoints.object_store import Bucket, Uploads
from training.checkpoints.settings import CheckpointSettings
from training.resume import find

RUN = "0123456789abcdef"


@contextmanager
def checkpoints_of(folder: Path, every: int = 100, **settings: Any) -> Iterator[Checkpoints]:
    kept = CheckpointSettings(**settings)
    with Checkpoints(RunLock(folder), kept, every, lambda _: None) as checkpoints:
        yield checkpoints


def save(checkpoints: Checkpoints, step: int, score: float | None = None) -> None:
    checkpoints.save(step, {"weights": np.full(1000, step)}, {"run_ids": [RUN]}, score)


def steps_of(folder: Path) -> list[int]:
    return sorted(int(path.name[5:]) for path in folder.glob("step-*"))


def damage(folder: Path, step: int) -> None:
    path = folder / f"step-{step:012d}" / STATE
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 8
    path.write_bytes(content)


def test_the_newest_and_the_best_are_kept(tmp_path: Path) -> None:
    with checkpoints_of(tmp_path / RUN, keep_last=2, keep_best=2) as checkpoints:
        scores = [0.1, 0.5, None, 0.4, 0.5, 0.2, None, -1.0]
        for step, score in enumerate(scores, start=1):
            save(checkpoints, step, score)
        assert steps_of(tmp_path / RUN) == [2, 5, 7, 8]
    with checkpoints_of(tmp_path / RUN, keep_last=1, keep_best=1) as checkpoints:
        save(checkpoints, 9)
    assert steps_of(tmp_path / RUN) == [2, 9]  # what it found is judged by the same rule


def test_when_one_is_due(tmp_path: Path) -> None:
    with checkpoints_of(tmp_path / RUN) as checkpoints:
        assert checkpoints.due(0)  # so that there always is one to go back to
        save(checkpoints, 0)
        assert not checkpoints.due(99)
        assert checkpoints.due(100)
        assert checkpoints.due(50, score=0.1)
        save(checkpoints, 50, 0.1)
        assert not checkpoints.due(60, score=0.1)
        assert checkpoints.due(60, score=0.2)
        save(checkpoints, 120)
        assert not checkpoints.due(199)
        assert checkpoints.due(230)
    with checkpoints_of(tmp_path / RUN) as checkpoints:  # after a resume from 50 it goes as it went
        assert not checkpoints.due(99)
        assert checkpoints.due(100)
    with checkpoints_of(tmp_path / "other", keep_best=0) as checkpoints:
        save(checkpoints, 0)
        assert not checkpoints.due(60, score=0.2)


def test_a_damaged_newest_is_named_set_aside_and_the_one_before_taken(tmp_path: Path) -> None:
    folder = tmp_path / RUN
    with checkpoints_of(folder) as checkpoints:
        for step in (100, 200, 300):
            save(checkpoints, step)
    said: list[str] = []
    damage(folder, 300)
    assert newest(folder, None, said.append).step == 200
    assert len(said) == 1
    assert "step-000000000300/state.safetensors: it does not have the sha256" in said[0]
    assert "set aside as damaged-step-000000000300" in said[0]
    assert (folder / "damaged-step-000000000300" / STATE).exists()
    assert newest(folder, None, said.append).step == 200
    assert len(said) == 1  # said once

    damage(folder, 200)
    (folder / "step-000000000100" / "manifest.json").write_text("{}")
    with pytest.raises(NoCheckpoint, match="there is no checkpoint that can be used"):
        newest(folder, None, said.append)
    assert len(said) == 3


def test_a_fork_sets_nothing_aside(tmp_path: Path) -> None:
    folder = tmp_path / RUN
    with checkpoints_of(folder) as checkpoints:
        save(checkpoints, 100)
        save(checkpoints, 200)
    damage(folder, 200)
    said: list[str] = []
    assert newest(folder, None, said.append, aside=False).step == 100
    assert steps_of(folder) == [100, 200]


def test_another_format_is_not_read(tmp_path: Path) -> None:
    folder = tmp_path / "step-000000000001"
    write_verified(folder, STATE, {"a": np.ones(1)}, {"format": "qdesk-checkpoint/9", "step": 1})
    with pytest.raises(ValueError, match="its format is 'qdesk-checkpoint/9'; this version reads"):
        Checkpoint.load(folder)


def test_a_second_trainer_is_refused(tmp_path: Path) -> None:
    with checkpoints_of(tmp_path / RUN) as checkpoints:
        save(checkpoints, 100)
        with pytest.raises(InUse, match=f"process {os.getpid()} trains this run; stop it first"):
            RunLock(tmp_path / RUN)
        save(checkpoints, 200)
    RunLock(tmp_path / RUN).close()


def test_one_that_was_killed_just_now_gets_a_moment_to_be_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = RunLock(tmp_path / RUN)
    pauses: list[float] = []

    def gone(seconds: float) -> None:
        pauses.append(seconds)
        killed.close()

    monkeypatch.setattr("durable.locks.time.sleep", gone)
    RunLock(tmp_path / RUN).close()
    assert len(pauses) == 1


def test_what_a_bucket_does_not_have_is_not_looked_for_there(tmp_path: Path) -> None:
    here, there, said = tmp_path / "here" / RUN, tmp_path / "there" / RUN, list[str]()
    settings = CheckpointSettings(where=f"file://{tmp_path}/bucket")
    with Checkpoints(RunLock(there), settings, 1, print) as checkpoints:
        save(checkpoints, 1)
    with checkpoints_of(here) as checkpoints:
        save(checkpoints, 2)
    damage(here, 2)
    assert newest(here, Bucket(f"file://{tmp_path}/bucket"), said.append).step == 1
    assert len(said) == 1
    assert "set aside" in said[0]


def test_what_arrived_is_not_uploaded_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[str] = []
    upload = Bucket.upload

    def seen(self: Bucket, run: str, folder: Path) -> None:
        sent.append(folder.name)
        upload(self, run, folder)

    monkeypatch.setattr(Bucket, "upload", seen)
    settings = CheckpointSettings(where=f"file://{tmp_path}/bucket")
    for step in (1, 2):
        with Checkpoints(RunLock(tmp_path / RUN), settings, 1, print) as checkpoints:
            assert not checkpoints.has(step)
            save(checkpoints, step)
            assert checkpoints.has(step)
    assert sent == ["step-000000000001", "step-000000000002"]


def test_only_its_owner_may_write_a_lock(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        RunLock(tmp_path / RUN).close()
    finally:
        os.umask(before)
    assert (tmp_path / RUN / "lock").stat().st_mode & 0o777 == 0o644


def test_a_step_may_have_as_many_digits_as_its_folder(tmp_path: Path) -> None:
    for name in ("step-999999999999", "step-000000000007", "step-x", "damaged-step-000000000009"):
        (tmp_path / name).mkdir()
    assert sorted(steps_in(tmp_path)) == [7, 999_999_999_999]


def test_a_lock_names_its_owner_and_nothing_of_the_one_before(tmp_path: Path) -> None:
    folder = tmp_path / RUN
    folder.mkdir()
    (folder / "lock").write_text("4194303999\nand more\n")
    lock = RunLock(folder)
    assert (folder / "lock").read_text() == f"{os.getpid()}\n"
    lock.close()


def test_saved_again_it_keeps_its_score_and_its_place(tmp_path: Path) -> None:
    with checkpoints_of(tmp_path / RUN, keep_last=1, keep_best=1) as checkpoints:
        save(checkpoints, 1, 0.9)
        save(checkpoints, 1)
        save(checkpoints, 2, 0.1)
        save(checkpoints, 3, 0.2)
    assert steps_of(tmp_path / RUN) == [1, 3]


def test_one_that_was_being_replaced_comes_back(tmp_path: Path) -> None:
    folder = tmp_path / RUN
    with checkpoints_of(folder) as checkpoints:
        save(checkpoints, 1)
    (folder / "step-000000000001").rename(folder / f"{TEMPORARY}old-step-000000000001")
    RunLock(folder).close()
    assert newest(folder, None, print).step == 1


def test_going_back_sets_what_came_later_aside(tmp_path: Path) -> None:
    folder = tmp_path / RUN
    with checkpoints_of(folder) as checkpoints:
        for step, score in ((1, 0.1), (2, 0.5), (3, 0.2)):
            save(checkpoints, step, score)
    with checkpoints_of(folder, keep_last=2) as checkpoints:
        checkpoints.set_aside_after(1)
        assert newest(folder, None, print).step == 1
        assert checkpoints.due(2, score=0.3)  # what came later is no best
        save(checkpoints, 2, 0.3)
    assert steps_of(folder) == [1, 2]
    assert (folder / "before-going-back-step-000000000003" / STATE).exists()


def test_the_one_that_training_goes_back_to_keeps_its_score(tmp_path: Path) -> None:
    folder = tmp_path / RUN
    with checkpoints_of(folder, keep_last=1, keep_best=1) as checkpoints:
        save(checkpoints, 1, 0.9)
        save(checkpoints, 2, 0.1)
        checkpoints.set_aside_after(1)
        for step in (2, 3, 4):
            save(checkpoints, step, 0.2)
        assert not checkpoints.due(5, score=0.8)
    assert steps_of(folder) == [1, 4]


def test_what_a_killed_process_left_is_taken_away(tmp_path: Path) -> None:
    left = tmp_path / RUN / f"{TEMPORARY}step-000000000300-1"
    left.mkdir(parents=True)
    (left / STATE).write_bytes(b"half")
    with checkpoints_of(tmp_path / RUN):
        assert not left.exists()


@contextmanager
def nobody() -> Iterator[None]:
    """Permissions mean nothing to root."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    for path in (tmp_path, *tmp_path.parents[:-1]):
        if path.stat().st_uid == os.geteuid() and path.is_relative_to("/tmp"):
            path.chmod(path.stat().st_mode | 0o055)
    folder = tmp_path / RUN
    with checkpoints_of(folder) as checkpoints:
        save(checkpoints, 100)
        folder.chmod(0o555)
        with nobody(), pytest.raises(PermissionError):
            save(checkpoints, 200)
        assert newest(folder, None, print).step == 100
        said: list[str] = []
        damage(folder, 100)
        with nobody(), pytest.raises(NoCheckpoint):
            newest(folder, None, said.append)
        assert "cannot be set aside: Permission denied" in said[0]
        (folder / "step-000000000100").chmod(0o700)
        with nobody(), pytest.raises(NoCheckpoint):
            newest(folder, None, said.append)
        assert "step-000000000100: cannot be read (Permission denied)" in said[1]
    folder.chmod(0o755)
    with (
        nobody(),
        pytest.raises(CheckpointError, match="cannot be written \\(Permission denied\\)"),
    ):
        RunLock(tmp_path / "other")
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"file.*cannot be written"):
        RunLock(tmp_path / "file" / RUN)


def test_a_folder_that_vanished_is_made_anew(tmp_path: Path) -> None:
    folder = tmp_path / RUN
    with checkpoints_of(folder, keep_last=1) as checkpoints:
        save(checkpoints, 100)
        shutil.rmtree(tmp_path / RUN)
        save(checkpoints, 200)
        save(checkpoints, 300)
        assert newest(folder, None, print).step == 300
        assert steps_of(folder) == [300]


def test_older_ones_than_were_resumed_from_stay(tmp_path: Path) -> None:
    """Whoever resumes from an older one writes the same again; until then what is newer stays."""
    folder = tmp_path / RUN
    with checkpoints_of(folder, keep_last=3) as checkpoints:
        for step in (100, 200, 300):
            save(checkpoints, step)
    with checkpoints_of(folder, keep_last=3) as checkpoints:
        save(checkpoints, 200)
        assert steps_of(folder) == [100, 200, 300]


def test_found_by_id_beginning_latest_and_path(tmp_path: Path) -> None:
    for run, step in (("aaa1", 500), ("aab2", 100)):
        with checkpoints_of(tmp_path / run) as checkpoints:
            checkpoints.save(step, {"w": np.ones(1)}, {"run_ids": [run, f"second-of-{run}"]})
        time.sleep(0.002)
    assert find("latest", tmp_path, None).name == "aab2"
    assert find("aaa1", tmp_path, None).name == "aaa1"
    assert find("aab", tmp_path, None).name == "aab2"
    assert find("second-of-aaa1", tmp_path, None).name == "aaa1"
    exact = tmp_path / "aaa1" / "step-000000000500"
    assert find(str(exact), tmp_path / "nowhere", None) == exact
    assert find(str(tmp_path / "aaa1"), tmp_path / "nowhere", None) == tmp_path / "aaa1"
    with pytest.raises(NoCheckpoint, match=r"aa: more than one run \(aaa1, aab2\)"):
        find("aa", tmp_path, None)
    with pytest.raises(NoCheckpoint, match=r"x: no run in .* has this id"):
        find("x", tmp_path, None)
    with pytest.raises(NoCheckpoint, match=r"latest: .* holds no checkpoint"):
        find("latest", tmp_path / "nowhere", None)


def test_a_lock_that_is_closed_twice_closes_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = RunLock(tmp_path / RUN)
    lock.close()
    monkeypatch.setattr("training.checkpoints.checkpoint.os.close", pytest.fail)
    lock.close()


@pytest.mark.parametrize("fault", [None, KeyError("boom")])
def test_only_a_training_that_ended_well_waits_for_its_uploads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Exception | None
) -> None:
    def away(*_: object) -> None:
        raise ConnectionError("nobody answers")

    patience = []
    close = Uploads.close

    def closing(self: Uploads, seconds: float) -> set[str]:
        patience.append(seconds)
        return close(self, 0.0)

    monkeypatch.setattr(Bucket, "upload", away)
    monkeypatch.setattr(Uploads, "close", closing)
    said: list[str] = []
    settings = CheckpointSettings(where=f"file://{tmp_path}/bucket")
    with (
        suppress(KeyError),
        Checkpoints(RunLock(tmp_path / RUN), settings, 1, said.append) as checkpoints,
    ):
        save(checkpoints, 1)
        if fault is not None:
            raise fault
    assert patience == [UPLOAD_SECONDS if fault is None else 0.0]
    assert (f"waiting for {settings.url}" in said) is (fault is None)
    assert "step-000000000001 did not arrive" in said[-1]


def test_the_end_of_a_training_waits_five_minutes_for_uploads() -> None:
    assert UPLOAD_SECONDS == 300
    assert STOP_SECONDS == 8  # and one that was stopped seconds
