"""What versions before stored is read: `tests/stored` was written by the last one without checksums."""

import json
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from durable.lines import Lines
from market.synthetic import RandomWalk
from tests.support.desks import bundle_for, desk_at, rows_of
from tests.support.run_journals import entry, steps
from tests.support.servers import free_port
from trading.journal import FORMAT, UNCHECKED, Journal, JournalError, records
from trading.latch import Latch
from training.tracking.journal import RunJournal
from training.tracking.journals import head_of, undelivered

STORED = Path(__file__).parent / "stored"


def test_a_desk_goes_on_from_a_journal_without_checksums(tmp_path: Path) -> None:
    folder = tmp_path / "desk"
    shutil.copytree(STORED / "desk", folder)
    before = list(records(folder / "journal.jsonl"))
    latched = Latch(folder).read()
    assert latched is not None
    assert (latched.state, latched.reason, latched.lost) == ("REDUCING", "a loss", False)
    bars = RandomWalk(sigma=0.01).bars(12, seed=1)
    desk = desk_at(folder, bundle_for(bars))
    assert (desk.account.bars, desk.account.state) == (12, "REDUCING")
    for row in rows_of(RandomWalk(sigma=0.01).bars(15, seed=1))[12:]:
        desk.on_bar(row)
    desk.ledger.journal.close()
    lines = Lines(folder / "journal.jsonl")
    assert list(records(lines.path, lines))[: len(before)] == before
    assert lines.unchecked == len(before)
    assert (FORMAT, UNCHECKED) == ("qdesk-journal/2", "qdesk-journal/1")
    whole = (folder / "journal.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "journal.jsonl").write_bytes(b"".join([*whole, whole[0]]))  # a line of old behind new
    with pytest.raises(JournalError, match=rf"line {len(whole) + 1}: its checksum is missing"):
        list(records(folder / "journal.jsonl"))


def test_a_session_that_promises_checksums_has_them(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_text(json.dumps({"time": 1, "type": "session", "format": FORMAT}) + "\n")
    with pytest.raises(JournalError, match="line 1: its checksum is missing"):
        list(records(path))
    path.write_text(json.dumps({"time": 1, "type": "session", "format": UNCHECKED}) + "\n")
    assert len(list(records(path))) == 1
    Journal(path).close()


def test_a_run_goes_on_from_a_journal_without_checksums(tmp_path: Path) -> None:
    folder = tmp_path / ("a" * 32)
    shutil.copytree(STORED / "run", folder)
    assert head_of(folder) is not None
    assert undelivered(folder)
    journal = RunJournal(folder, make=False)
    assert (journal.damage, journal.answers) == ([], {"run_id": "m1"})
    assert steps(journal.pending(9)) == [1, 2]
    journal.append(entry("points", {"step": 3, "metrics": {"train/loss": 1.0}}))
    journal.close()
    lines = Lines(folder / "journal.jsonl")
    assert [line.fault for line in lines] == [None] * 5
    assert lines.unchecked == 4


@pytest.mark.parametrize("answers", [False, True])
def test_a_postgresql_that_is_down_or_silent_is_not_waited_for(answers: bool) -> None:
    """A hundred seconds of attempts before; the limit here is generous to a busy machine."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        port = silent.getsockname()[1] if answers else free_port()
        uri = f"postgresql://127.0.0.1:{port}/mlflow"
        for command in (["runs", "list"], ["models", "list"]):
            run = subprocess.run(
                [sys.executable, "-m", "qdesk", *command, "--tracking-uri", uri],
                capture_output=True,
                text=True,
                timeout=80,
            )
            assert run.returncode == 2
            assert run.stderr.count("\n") == 1
            assert f"{uri}: this store cannot be used" in run.stderr
