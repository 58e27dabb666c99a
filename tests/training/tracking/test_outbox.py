"""The journal of a run: on disk before it is sent, whatever the disk does; and one owner at a time."""

import json
import time
from pathlib import Path

import pytest

from durable.errors import InUse
from durable.growing_file import GrowingFile
from tests.support.faults import disk_ends_at
from training.tracking.journal import DELIVERED, JOURNAL, POINTS, VERSION, RunJournal, Unsent
from training.tracking.journals import head_of, journals, run_known_as, undelivered

HEAD = {"name": "run", "params": {"steps": "1"}, "server": None, "adopts": False}


def begun(folder: Path) -> RunJournal:
    box = RunJournal(folder / "journals" / "r1")
    box.put("run", HEAD)
    return box


def point(box: RunJournal, step: int) -> None:
    box.put(POINTS, {"step": step, "metrics": {"train/loss": step / 3}})


def test_a_full_disk_leaves_no_gap_and_no_half_piece(tmp_path: Path) -> None:
    file = GrowingFile(tmp_path / "file")
    file.add(b"first\n")
    assert file.flush()
    with disk_ends_at(9):
        file.add(b"second\n")
        assert not file.flush()
        assert file.fault is not None
        file.add(b"third\n")
        assert not file.flush()
        assert (tmp_path / "file").read_bytes() == b"first\nsec"
    assert file.flush()
    assert file.fault is None
    file.close()
    assert (tmp_path / "file").read_bytes() == b"first\nsecond\nthird\n"


def test_what_was_put_is_there_for_the_next_process(tmp_path: Path) -> None:
    box = begun(tmp_path)
    for step in range(3):
        point(box, step)
    first = box.waiting(2)
    assert [entry.kind for entry in first] == ["run", POINTS]
    box.delivered(first[-1], run_id="m1")
    box.close()
    box.close()
    again = RunJournal(box.folder, make=False)
    assert again.head is not None
    assert again.head["params"] == {"steps": "1"}
    assert again.learned == {"run_id": "m1"}
    assert [entry.content["step"] for entry in again.waiting(9)] == [1, 2]
    assert [value for _, value in again.points.values()] == [0, 1 / 3, 2 / 3]
    assert again.unsent == Unsent(points=2)
    point(again, 3)
    assert [entry.number for entry in again.waiting(9)] == [3, 4, 5]
    again.close()


def test_files_of_an_entry_are_whole_and_go_once_delivered(tmp_path: Path) -> None:
    box = begun(tmp_path)
    entry = box.put(VERSION, {"key": "k"}, lambda into: (into / "a").write_bytes(b"x"))
    assert (box.files_of(entry) / "a").read_bytes() == b"x"
    assert box.versions == {"k"}
    assert box.unsent == Unsent(versions=1, others=1)
    box.delivered(entry)
    assert not box.files_of(entry).exists()
    assert not box.unsent
    box.close()


def test_a_full_disk_keeps_the_order_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = begun(tmp_path)
    size = (box.folder / JOURNAL).stat().st_size
    with disk_ends_at(size + 30):
        box.put("artifact", {"folder": ""}, lambda into: (into / "a").write_bytes(b"x" * 4096))
        point(box, 1)
        assert box.fault is not None
        assert [entry.kind for entry in box.waiting(9)] == ["run"]  # the file is not there yet
        assert box.unsent == Unsent(points=1, others=2, lost=2)
        assert box.unsent.lost == 2  # looking changes nothing
    monkeypatch.setattr("training.tracking.journal.RETRY_SECONDS", 0.0)
    assert box.flush()
    assert [entry.kind for entry in box.waiting(9)] == ["run", "artifact", POINTS]
    assert box.unsent == Unsent(points=1, others=2)
    box.close()
    lines = [json.loads(line) for line in (box.folder / JOURNAL).read_text().splitlines()]
    assert [line["n"] for line in lines] == [1, 2, 3]


def test_points_are_sent_from_memory_where_the_disk_is_full(tmp_path: Path) -> None:
    box = begun(tmp_path)
    with disk_ends_at((box.folder / JOURNAL).stat().st_size + 5):
        point(box, 1)
        (head, logged) = box.waiting(9)
        box.delivered(logged)
        assert not box.unsent
    box.close()
    assert head.kind == "run"


def test_a_torn_line_is_cut_and_a_damaged_one_passed_over(tmp_path: Path) -> None:
    box = begun(tmp_path)
    point(box, 1)
    point(box, 2)
    box.close()
    path = box.folder / JOURNAL
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b"\x00" + lines[1][1:] + lines[2] + lines[1][:-9])
    again = RunJournal(box.folder)
    assert [entry.content["step"] for entry in again.waiting(9)[1:]] == [2]
    point(again, 3)
    again.close()
    last = RunJournal(box.folder)
    assert [entry.number for entry in last.waiting(9)] == [1, 3, 4]
    last.close()


def test_a_journal_whose_beginning_is_damaged_is_kept(tmp_path: Path) -> None:
    box = begun(tmp_path)
    point(box, 1)
    box.close()
    path = box.folder / JOURNAL
    path.write_bytes(b"\x00" + path.read_bytes()[1:])
    again = RunJournal(box.folder)
    assert again.head is None
    again.close()
    last = RunJournal(box.folder)
    last.put("run", HEAD)
    assert [entry.number for entry in last.waiting(9)] == [2, 3]
    last.close()


def test_files_whose_entry_never_came_to_be_stand_in_nobodys_way(tmp_path: Path) -> None:
    box = begun(tmp_path)
    box.close()
    stale = box.folder / "files" / "2"
    stale.mkdir()
    (stale / "old").write_text("of before a power cut")
    again = RunJournal(box.folder)
    assert not stale.exists()
    stale.mkdir()
    (stale / "old").write_text("of a while ago")
    entry = again.put(VERSION, {"key": "k"}, lambda into: (into / "new").write_text("x"))
    assert [path.name for path in again.files_of(entry).iterdir()] == ["new"]
    again.close()


def test_text_that_cannot_be_written_is_written_as_far_as_it_can(tmp_path: Path) -> None:
    box = RunJournal(tmp_path / "journals" / "r1")
    box.put("run", {**HEAD, "params": {"bars": "a\udcff.csv"}, "tags": ["\udcfe"]})
    box.close()
    again = RunJournal(box.folder)
    assert again.head is not None
    assert again.head["params"] == {"bars": "a?.csv"}
    again.close()


def test_one_process_at_a_time(tmp_path: Path) -> None:
    box = begun(tmp_path)
    with pytest.raises(InUse, match="another process writes this journal"):
        RunJournal(box.folder)
    box.close()
    RunJournal(box.folder).close()


def test_one_that_never_began_leaves_nothing(tmp_path: Path) -> None:
    RunJournal(tmp_path / "journals" / "r2").close()
    assert list(journals(tmp_path)) == []
    with pytest.raises(FileNotFoundError):
        RunJournal(tmp_path / "journals" / "r2", make=False)


def test_a_run_whose_process_is_gone_is_ended_when_it_last_spoke(tmp_path: Path) -> None:
    spoke = int(time.time() * 1000) - 3_600_000
    box = RunJournal(tmp_path / "journals" / "r1")
    box.put("run", HEAD, at=spoke - 1)
    box.put(POINTS, {"step": 1, "metrics": {"train/loss": 1.0}}, at=spoke)
    assert undelivered(box.folder)
    box.end_of_the_dead()
    box.end_of_the_dead()
    assert box.ended == "KILLED"
    end = box.waiting(9)[-1]
    assert (end.kind, end.time, end.content["dead"]) == ("end", spoke, True)
    assert undelivered(box.folder)
    box.delivered(end, run_id="mlflow-1")
    assert not undelivered(box.folder)
    box.put("resumed", {})
    assert box.ended is None
    assert undelivered(box.folder)
    box.close()
    assert run_known_as(tmp_path, "mlflow") == run_known_as(tmp_path, "r1") == ["r1"]
    assert run_known_as(tmp_path, "other") == []
    assert (head_of(box.folder) or {})["name"] == "run"


def test_a_lost_note_of_what_arrived_sends_it_again(tmp_path: Path) -> None:
    box = begun(tmp_path)
    point(box, 1)
    box.delivered(box.waiting(9)[-1])
    box.close()
    (box.folder / DELIVERED).write_text("{")
    again = RunJournal(box.folder)
    assert len(again.waiting(9)) == 2
    again.close()


@pytest.mark.parametrize(
    "unsent, said",
    [
        (Unsent(), "nothing"),
        (Unsent(points=1), "1 point"),
        (Unsent(points=1200, versions=1), "1,200 points and 1 model version"),
        (Unsent(2, 3, 4), "2 points, 3 model versions and 4 others"),
    ],
)
def test_what_is_unsent_in_words(unsent: Unsent, said: str) -> None:
    assert str(unsent) == said
