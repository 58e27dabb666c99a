"""The latch: room for it is reserved, and only a person raises a state."""

import json
import os
import threading
from pathlib import Path

import pytest

from tests.support.faults import disk_ends_at
from trading.account import RiskState
from trading.journal import JournalLost
from trading.latch import KILL, LATEST, LONGEST, ROOM, STATE, Latch, Latched


def state(latch: Latch) -> RiskState:
    found = latch.read()
    assert found is not None
    return found.state


def test_what_is_latched_is_read_again(tmp_path: Path) -> None:
    latch = Latch(tmp_path / "desk")
    assert latch.read() is None
    latch.hold("REDUCING", "a loss", by_hand=False)
    found = latch.read()
    assert found is not None
    assert found[:3] == ("REDUCING", "a loss", False)
    assert not found.lost
    latch.hold("HALTED", "é" * 10_000, by_hand=True, lost=True)
    found = latch.read()
    assert found is not None
    assert (found.state, found.reason, found.by_hand, found.lost) == (
        "HALTED",
        "é" * 500,
        True,
        True,
    )
    assert LONGEST == 500
    assert (tmp_path / "desk" / STATE).stat().st_size == ROOM == 4096
    assert [each.name for each in (tmp_path / "desk").iterdir()] == [STATE]


def test_room_that_was_reserved_is_written_on_a_full_disk(tmp_path: Path) -> None:
    latch = Latch(tmp_path)
    latch.reserve("ACTIVE", "")
    assert state(latch) == "ACTIVE"
    for room in (ROOM, ROOM + 1):  # no file may grow
        latch.hold("ACTIVE", "checked", by_hand=True)
        with disk_ends_at(room):
            latch.hold("HALTED", "the journal could not be written" * 100)
        assert state(latch) == "HALTED"


def test_a_state_of_a_version_before_gets_its_room(tmp_path: Path) -> None:
    old = {"state": "REDUCING", "reason": "a loss", "by_hand": False, "time": 7}
    (tmp_path / STATE).write_text(json.dumps(old) + "\n")
    latch = Latch(tmp_path)
    latch.reserve("ACTIVE", "")
    assert latch.read() == Latched("REDUCING", "a loss", False, 7)
    assert (tmp_path / STATE).stat().st_size == ROOM


@pytest.mark.parametrize("there", [False, True])
def test_a_desk_for_which_there_is_no_room_is_told(tmp_path: Path, there: bool) -> None:
    latch = Latch(tmp_path)
    if there:
        (tmp_path / STATE).write_text('{"state": "HALTED"}')
    with disk_ends_at(100), pytest.raises(OSError, match="File too large"):
        latch.reserve("ACTIVE", "")
    assert list(tmp_path.iterdir()) == ([tmp_path / STATE] if there else [])


def test_the_kill_switch_needs_no_room(tmp_path: Path) -> None:
    latch = Latch(tmp_path)
    with disk_ends_at(0):
        latch.kill("a drill")
    assert latch.killed()
    found = latch.read()
    assert found is not None
    assert (found.state, found.reason, found.by_hand) == (
        "HALTED",
        "kill switch: no reason given",
        True,
    )
    latch.kill("a drill")
    latch.kill("again")
    found = latch.read()
    assert found is not None
    assert found.reason == "kill switch: again"
    latch.resume("checked")
    assert not latch.killed()
    assert state(latch) == "ACTIVE"


def test_only_a_person_raises_a_state(tmp_path: Path) -> None:
    latch = Latch(tmp_path)
    latch.hold("REDUCING", "a loss")
    latch.hold("ACTIVE", "no longer")
    assert state(latch) == "REDUCING"
    latch.hold("HALTED", "a reject")
    latch.hold("REDUCING", "a loss")
    assert state(latch) == "HALTED"
    latch.hold("HALTED", "another")
    found = latch.read()
    assert found is not None
    assert found.reason == "another"
    latch.hold("REDUCING", "carefully", by_hand=True)
    assert state(latch) == "REDUCING"


def test_that_a_journal_was_lost_is_not_forgotten_before_a_person_says_so(tmp_path: Path) -> None:
    latch = Latch(tmp_path)
    latch.hold("HALTED", "the journal could not be written", lost=True)
    latch.kill("panic")
    latch.hold("HALTED", "kill switch: panic")  # as a desk does that sees the switch
    (tmp_path / KILL).unlink()
    assert latch.lost() is not None
    latch.resume("compared with the venue")
    assert latch.lost() is None


def test_a_file_system_without_links_holds_a_latch_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("trading.latch.os.link", refused)
    latch = Latch(tmp_path / "deep" / "desk")
    latch.reserve("ACTIVE", "")
    assert state(latch) == "ACTIVE"
    assert [path.name for path in latch.folder.iterdir()] == [STATE]
    assert not latch._create(b"another was quicker")
    assert state(latch) == "ACTIVE"
    latch.hold("HALTED", "a fault")
    assert state(latch) == "HALTED"


def test_only_its_owner_may_write_the_switch(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        Latch(tmp_path).kill("a drill")
    finally:
        os.umask(before)
    assert (tmp_path / KILL).stat().st_mode & 0o777 == 0o644


def test_a_long_reason_has_its_room_too(tmp_path: Path) -> None:
    latch = Latch(tmp_path)
    latch.hold("HALTED", "\U0001f600" * 500)
    assert (tmp_path / STATE).stat().st_size == ROOM
    assert state(latch) == "HALTED"


def test_of_many_writers_at_once_the_gravest_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trading.latch.PATIENCE", 600.0)  # however slow the disk is
    states: list[RiskState] = ["ACTIVE", "REDUCING", "HALTED"]
    threads = [
        threading.Thread(target=Latch(tmp_path).hold, args=(states[k % 3], f"number {k}"))
        for k in range(30)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert state(Latch(tmp_path)) == "HALTED"
    assert [each.name for each in tmp_path.iterdir()] == [STATE]


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", "7", "null", "\x00" * ROOM, '{"state": "ACTIVE"}',
        '{"state": "FREE", "reason": "", "by_hand": true, "time": 1}',
        '{"state": [], "reason": "", "by_hand": true, "time": 1}',
        '{"state": "ACTIVE", "reason": "", "by_hand": true, "time": 1e400}',
        '{"state": "ACTIVE", "reason": "", "by_hand": true, "time": -1}',
        f'{{"state": "ACTIVE", "reason": "", "by_hand": true, "time": {LATEST + 1}}}',
        '{"state": "ACTIVE", "reason": "", "by_hand": true, "time": 100000000000000000000}',
        '{"state": "ACTIVE", "reason": "", "by_hand": true, "time": "now"}',
        '{"state": "ACTIVE", "reason": "", "by_hand": true, "time": null}',
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_halted(tmp_path: Path, text: str) -> None:
    (tmp_path / STATE).write_text(text)
    found = Latch(tmp_path).read()
    assert found is not None
    assert (found.state, found.by_hand, found.time) == ("HALTED", False, 0)
    assert "cannot be read" in found.reason
    assert LATEST == 2**63 - 1


def test_a_running_desk_sees_every_change(tmp_path: Path) -> None:
    latch, other = Latch(tmp_path), Latch(tmp_path)
    latch.reserve("ACTIVE", "")
    assert latch.changed()
    assert not latch.changed()
    other.hold("REDUCING", "by hand", by_hand=True)  # in place: the folder does not change
    assert latch.changed()
    other.kill("a drill")
    assert latch.changed()
    (tmp_path / KILL).unlink()
    assert latch.changed()
    assert not latch.changed()


def test_the_first_byte_is_written_too(tmp_path: Path) -> None:
    latch = Latch(tmp_path)
    latch.reserve("ACTIVE", "")
    content = (tmp_path / STATE).read_bytes()
    (tmp_path / STATE).write_bytes(b"\0" + content[1:])
    latch.hold("HALTED", "a drill")
    assert latch.read() == Latched("HALTED", "a drill", False, latched_at(tmp_path))


def latched_at(folder: Path) -> int:
    return int(json.loads((folder / STATE).read_bytes())["time"])


def test_the_switch_counts_as_a_person_of_all_times(tmp_path: Path) -> None:
    latch = Latch(tmp_path)
    (tmp_path / KILL).touch()
    assert latch.read() == Latched("HALTED", "kill switch: no reason given", True, 0)
    (tmp_path / KILL).unlink()
    (tmp_path / KILL).mkdir()  # it cannot be read
    assert latch.read() == Latched("HALTED", "kill switch", True, 0)


def test_where_nothing_was_latched_nothing_was_lost(tmp_path: Path) -> None:
    assert Latch(tmp_path).lost() is None


def test_a_folder_that_is_gone_is_a_lost_journal(tmp_path: Path) -> None:
    latch = Latch(tmp_path / "desk")
    (tmp_path / "desk").rmdir()
    with pytest.raises(JournalLost, match=r"desk: No such file or directory$"):
        latch.changed()


def test_a_reason_that_comes_a_moment_after_the_switch_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    switch = tmp_path / KILL
    switch.touch()
    monkeypatch.setattr("trading.latch.time.sleep", lambda _: switch.write_text("a drill\n"))
    assert Latch(tmp_path).read() == Latched("HALTED", "kill switch: a drill", True, 0)


@pytest.mark.parametrize(
    ("letters", "kept"), [(324, 324), (325, 162), (340, 170), (358, 179), (500, 250)]
)
def test_a_reason_is_halved_until_it_has_room(tmp_path: Path, letters: int, kept: int) -> None:
    """Of letters that take twelve bytes each as JSON, the latch's room and what else stands in it."""
    latch = Latch(tmp_path)
    latch.hold("HALTED", "\N{FIRE}" * letters)
    assert (tmp_path / STATE).stat().st_size == ROOM
    found = latch.read()
    assert found is not None
    assert found.reason == "\N{FIRE}" * kept


def test_a_state_that_is_being_written_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    latch = Latch(tmp_path)
    latch.hold("REDUCING", "a loss")
    whole = (tmp_path / STATE).read_bytes()
    (tmp_path / STATE).write_bytes(whole[:20])
    waited: list[float] = []

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 2:
            (tmp_path / STATE).write_bytes(whole)

    monkeypatch.setattr("trading.latch.time.sleep", sleep)
    assert state(latch) == "REDUCING"
    assert waited == [0.0, 0.001]


def test_what_stays_unreadable_is_looked_at_three_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / STATE).write_bytes(b"{")
    waited: list[float] = []
    monkeypatch.setattr("trading.latch.time.sleep", waited.append)
    assert state(Latch(tmp_path)) == "HALTED"
    assert waited == [0.0, 0.001, 0.002]


def test_room_that_is_reserved_tells_of_nothing_lost(tmp_path: Path) -> None:
    latch = Latch(tmp_path)
    latch.reserve("ACTIVE", "")
    assert latch.lost() is None
