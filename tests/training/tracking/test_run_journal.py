"""The journal of a run: on disk before it is sent, whatever the disk does; and one owner at a time."""

import json
import time
from pathlib import Path

import pytest

from durable.errors import InUse
from durable.growing_file import GrowingFile
from tests.support.faults import disk_ends_at
from tests.support.run_journals import HEAD, begun, entry, kinds, point, steps
from training.tracking.entries import End
from training.tracking.journal import DELIVERED, JOURNAL, RunJournal, Unsent
from training.tracking.journals import head_of, journals, run_known_as, undelivered


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
    journal = begun(tmp_path)
    for step in range(3):
        point(journal, step)
    first = journal.pending(2)
    assert kinds(first) == ["run", "points"]
    journal.acknowledge(first[-1], run_id="m1")
    journal.close()
    journal.close()
    again = RunJournal(journal.folder, make=False)
    assert again.head is not None
    assert again.head.params == {"steps": "1"}
    assert again.answers == {"run_id": "m1"}
    assert steps(again.pending(9)) == [1, 2]
    assert [value for _, value in again.points.values()] == [0, 1 / 3, 2 / 3]
    assert again.unsent == Unsent(points=2)
    point(again, 3)
    assert [each.number for each in again.pending(9)] == [3, 4, 5]
    again.close()


def test_files_of_an_entry_are_whole_and_go_once_delivered(tmp_path: Path) -> None:
    journal = begun(tmp_path)
    made = journal.append(
        entry("version", {"key": "k"}), lambda into: (into / "a").write_bytes(b"x")
    )
    assert (journal.files_of(made) / "a").read_bytes() == b"x"
    assert journal.versions == {"k"}
    assert journal.unsent == Unsent(versions=1, others=1)
    journal.acknowledge(made)
    assert not journal.files_of(made).exists()
    assert not journal.unsent
    journal.close()


def test_a_full_disk_keeps_the_order_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = begun(tmp_path)
    size = (journal.folder / JOURNAL).stat().st_size
    with disk_ends_at(size + 30):
        journal.append(
            entry("artifact", {"folder": ""}), lambda into: (into / "a").write_bytes(b"x" * 4096)
        )
        point(journal, 1)
        assert journal.fault is not None
        assert kinds(journal.pending(9)) == ["run"]  # the file is not there yet
        assert journal.unsent == Unsent(points=1, others=2, lost=2)
        assert journal.unsent.lost == 2  # looking changes nothing
    monkeypatch.setattr("training.tracking.journal.RETRY_SECONDS", 0.0)
    assert journal.flush()
    assert kinds(journal.pending(9)) == ["run", "artifact", "points"]
    assert journal.unsent == Unsent(points=1, others=2)
    journal.close()
    lines = [json.loads(line) for line in (journal.folder / JOURNAL).read_text().splitlines()]
    assert [line["n"] for line in lines] == [1, 2, 3]


def test_points_are_sent_from_memory_where_the_disk_is_full(tmp_path: Path) -> None:
    journal = begun(tmp_path)
    with disk_ends_at((journal.folder / JOURNAL).stat().st_size + 5):
        point(journal, 1)
        (head, logged) = journal.pending(9)
        journal.acknowledge(logged)
        assert not journal.unsent
    journal.close()
    assert kinds([head]) == ["run"]


def test_a_torn_line_is_cut_and_a_damaged_one_passed_over(tmp_path: Path) -> None:
    journal = begun(tmp_path)
    point(journal, 1)
    point(journal, 2)
    journal.close()
    path = journal.folder / JOURNAL
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b"\x00" + lines[1][1:] + lines[2] + lines[1][:-9])
    again = RunJournal(journal.folder)
    assert steps(again.pending(9)[1:]) == [2]
    point(again, 3)
    again.close()
    last = RunJournal(journal.folder)
    assert [each.number for each in last.pending(9)] == [1, 3, 4]
    last.close()


def test_a_journal_whose_beginning_is_damaged_is_kept(tmp_path: Path) -> None:
    journal = begun(tmp_path)
    point(journal, 1)
    journal.close()
    path = journal.folder / JOURNAL
    path.write_bytes(b"\x00" + path.read_bytes()[1:])
    again = RunJournal(journal.folder)
    assert again.head is None
    again.close()
    last = RunJournal(journal.folder)
    last.append(entry("run", HEAD))
    assert [each.number for each in last.pending(9)] == [2, 3]
    last.close()


def test_files_whose_entry_never_came_to_be_stand_in_nobodys_way(tmp_path: Path) -> None:
    journal = begun(tmp_path)
    journal.close()
    stale = journal.folder / "files" / "2"
    stale.mkdir()
    (stale / "old").write_text("of before a power cut")
    again = RunJournal(journal.folder)
    assert not stale.exists()
    stale.mkdir()
    (stale / "old").write_text("of a while ago")
    made = again.append(entry("version", {"key": "k"}), lambda into: (into / "new").write_text("x"))
    assert [path.name for path in again.files_of(made).iterdir()] == ["new"]
    again.close()


def test_text_that_cannot_be_written_is_written_as_far_as_it_can(tmp_path: Path) -> None:
    journal = RunJournal(tmp_path / "journals" / "r1")
    journal.append(
        entry("run", {**HEAD, "params": {"bars": "a\udcff.csv"}, "tags": {"a": "\udcfe"}})
    )
    journal.close()
    again = RunJournal(journal.folder)
    assert again.head is not None
    assert again.head.params == {"bars": "a?.csv"}
    again.close()


def test_one_process_at_a_time(tmp_path: Path) -> None:
    journal = begun(tmp_path)
    with pytest.raises(InUse, match="another process writes this journal"):
        RunJournal(journal.folder)
    journal.close()
    RunJournal(journal.folder).close()


def test_one_that_never_began_leaves_nothing(tmp_path: Path) -> None:
    RunJournal(tmp_path / "journals" / "r2").close()
    assert list(journals(tmp_path)) == []
    with pytest.raises(FileNotFoundError):
        RunJournal(tmp_path / "journals" / "r2", make=False)


def test_a_run_whose_process_is_gone_is_ended_when_it_last_spoke(tmp_path: Path) -> None:
    spoke = int(time.time() * 1000) - 3_600_000
    journal = RunJournal(tmp_path / "journals" / "r1")
    journal.append(entry("run", HEAD, time=spoke - 1))
    journal.append(entry("points", {"step": 1, "metrics": {"train/loss": 1.0}}, time=spoke))
    assert undelivered(journal.folder)
    journal.end_of_the_dead()
    journal.end_of_the_dead()
    assert journal.ended == "KILLED"
    end = journal.pending(9)[-1]
    assert isinstance(end, End)
    assert (end.time, end.dead) == (spoke, True)
    assert undelivered(journal.folder)
    journal.acknowledge(end, run_id="mlflow-1")
    assert not undelivered(journal.folder)
    journal.append(entry("resumed", {}))
    assert journal.ended is None
    assert undelivered(journal.folder)
    journal.close()
    assert run_known_as(tmp_path, "mlflow") == run_known_as(tmp_path, "r1") == ["r1"]
    assert run_known_as(tmp_path, "other") == []
    head = head_of(journal.folder)
    assert head is not None
    assert head.name == "run"


def test_a_lost_note_of_what_arrived_sends_it_again(tmp_path: Path) -> None:
    journal = begun(tmp_path)
    point(journal, 1)
    journal.acknowledge(journal.pending(9)[-1])
    journal.close()
    (journal.folder / DELIVERED).write_text("{")
    again = RunJournal(journal.folder)
    assert len(again.pending(9)) == 2
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
