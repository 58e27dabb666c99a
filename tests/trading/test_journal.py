"""The trading journal: what was flushed is there, a torn line is not, and one process writes it."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from trading.journal import (
    FORMAT,
    TOGETHER,
    UNCHECKED,
    Journal,
    JournalError,
    JournalLost,
    funding,
    last_position,
    records,
)

FIRST = {"time": 1, "type": "bar", "close": 1.5}
SECOND = {"time": 2, "type": "decision", "position": -1}
WRITTEN = b'{"time":1,"type":"bar","close":1.5,"crc":"06271ea1"}\n'  # FIRST, at the beginning


def test_nothing_is_written_before_it_is_flushed_and_then_once(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "deeper" / "journal.jsonl"
    journal = Journal(path)
    assert (journal.path, journal.torn, journal.durable) == (path, None, False)
    journal.append(FIRST)
    assert path.read_bytes() == b""
    journal.flush()
    journal.flush()
    assert path.read_bytes() == WRITTEN
    journal.append({**SECOND, "close": np.float64(2.5), "q": np.array([1.0, 2.0])})
    journal.append(FIRST)
    journal.flush()
    journal.append(SECOND)
    journal.close()  # what was not flushed is not there
    assert list(records(path)) == [FIRST, {**SECOND, "close": 2.5, "q": [1.0, 2.0]}, FIRST]
    again = Journal(path)
    again.append(SECOND)
    again.flush()
    again.close()
    assert len(list(records(path))) == 4
    assert FORMAT == "qdesk-journal/2"


def test_bars_and_decisions_are_written_together_and_all_else_at_once(
    tmp_path: Path,
) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal(path, together=3)
    for _ in range(2):
        journal.append(FIRST, patient=True)
        journal.flush(awaited=False)
    assert path.read_bytes() == b""
    journal.append(SECOND, patient=True)
    journal.flush(awaited=False)
    assert len(list(records(path))) == 3
    journal.append(FIRST, patient=True)
    journal.flush()
    assert len(list(records(path))) == 4
    journal.append(SECOND, patient=True)
    journal.append({**FIRST, "type": "fill"})
    journal.flush(awaited=False)
    assert len(list(records(path))) == 6
    journal.append(SECOND, patient=True)
    journal.flush(awaited=False)
    assert len(list(records(path))) == 6
    journal.close()
    assert [each["time"] for each in records(path)] == [1, 1, 2, 1, 2, 1, 2]
    prompt = Journal(path)
    prompt.append(FIRST, patient=True)
    prompt.flush(awaited=False)
    assert len(list(records(path))) == 8
    prompt.close()


def test_what_was_interrupted_while_it_was_written_is_not_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal(path, together=3)
    journal.append(FIRST)
    write = os.write

    def interrupted(file: int, data: bytes) -> int:
        write(file, data)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            journal.flush()
    journal.close()
    assert list(records(path)) == [FIRST]


def test_of_a_bar_that_was_broken_off_nothing_is_written(tmp_path: Path) -> None:
    """Those before it, which a flush has left, are."""
    path = tmp_path / "journal.jsonl"
    journal = Journal(path, together=9)
    journal.append(FIRST)
    journal.append(SECOND)
    journal.flush(awaited=False)
    journal.append(FIRST)
    journal.close()
    assert list(records(path)) == [FIRST, SECOND]


def test_one_that_is_lost_is_closed_without_another_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(tmp_path / "journal.jsonl", together=2)
    journal.append(FIRST)

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(JournalLost, match="No space left"):
        journal.flush()
    journal.close()


def test_anybody_may_read_it_and_its_owner_alone_write(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        Journal(tmp_path / "journal.jsonl").close()
    finally:
        os.umask(before)
    assert (tmp_path / "journal.jsonl").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("tail", [1, 7, 65_535, 65_536, 65_537, 131_072, 200_001])
@pytest.mark.parametrize("lines", [0, 1, 5000])
def test_a_torn_line_is_cut_off_and_told_however_long_it_is(
    tmp_path: Path, tail: int, lines: int
) -> None:
    """Across the blocks of 65,536 bytes in which it is looked for."""
    path = tmp_path / "journal.jsonl"
    whole = b"".join(b'{"time":%d,"type":"bar"}\n' % number for number in range(lines))
    torn = b"".join(b"%d," % number for number in range(tail))[:tail]
    path.write_bytes(whole + torn)
    journal = Journal(path)
    assert journal.torn == torn.decode()
    assert path.read_bytes() == whole
    journal.append(FIRST)
    journal.flush()
    journal.close()
    assert path.read_bytes() == whole + WRITTEN
    again = Journal(path)
    assert again.torn is None
    again.close()
    assert len(list(records(path))) == lines + 1


def test_a_torn_line_that_is_no_text_is_told_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b'{"time":1,"type":"bar"}\n\xff{')
    journal = Journal(path)
    assert journal.torn == "\ufffd{"
    journal.close()


def test_a_second_process_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    opened = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(JournalError, match="another process trades on this journal; stop it"):
        Journal(path)
    assert len(list(Path("/proc/self/fd").iterdir())) == opened  # nothing is left open
    journal.append(FIRST)
    journal.flush()
    journal.close()
    Journal(path).close()


def test_what_the_system_takes_in_pieces_is_written_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write
    monkeypatch.setattr("trading.journal.os.write", lambda file, data: write(file, data[:7]))
    journal = Journal(tmp_path / "journal.jsonl")
    for record in (FIRST, SECOND, FIRST):
        journal.append(record)
    journal.flush()
    journal.close()
    assert list(records(tmp_path / "journal.jsonl")) == [FIRST, SECOND, FIRST]


@pytest.mark.parametrize("durable", [False, True])
def test_only_a_durable_journal_waits_for_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durable: bool
) -> None:
    synced: list[int] = []
    sync = os.fdatasync

    def seen(file: int) -> None:
        synced.append(os.fstat(file).st_size)
        sync(file)

    monkeypatch.setattr("trading.journal.os.fdatasync", seen)
    journal = Journal(tmp_path / "journal.jsonl", durable)
    for _ in range(2):
        journal.append(FIRST)
        journal.flush()
        journal.flush()
    journal.close()
    size = (tmp_path / "journal.jsonl").stat().st_size
    assert synced == ([size // 2, size] if durable else [])


def test_a_journal_that_was_lost_once_is_lost_for_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    journal = Journal(tmp_path / "journal.jsonl", durable=True)
    journal.append(FIRST)
    with monkeypatch.context() as patch:
        patch.setattr("trading.journal.os.fdatasync", full)
        with pytest.raises(JournalLost, match=r"journal.jsonl: No space left on device"):
            journal.flush()
    for _ in range(2):
        with pytest.raises(JournalLost, match=r"journal.jsonl: No space left on device"):
            journal.flush()
    journal.close()


@pytest.mark.parametrize(
    "line",
    [b"", b"{", b"[1]", b"7", b'{"type":"bar"}', b'{"time":1}', b'{"time":1.5,"type":"bar"}',
     b'{"time":1,"type":7}', b"\xff"],
)  # fmt: skip
def test_a_line_in_between_that_is_no_record_is_named(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "journal.jsonl"
    good = b'{"time":1,"type":"bar"}\n'
    path.write_bytes(good + line + b"\n" + good)
    read = iter(records(path))
    assert next(read) == {"time": 1, "type": "bar"}
    with pytest.raises(JournalError, match=r"journal.jsonl line 2: (no record of a|it is no JSON)"):
        next(read)


def test_a_last_line_without_its_end_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b'{"time":1,"type":"bar"}\n{"time":2,"type":"bar"}')
    assert [each["time"] for each in records(path)] == [1]


def kept(path: Path, *records: dict[str, Any]) -> list[bytes]:
    """The lines of a journal with these records."""
    journal = Journal(path)
    for record in records:
        journal.append(record)
    journal.flush()
    journal.close()
    return path.read_bytes().splitlines(keepends=True)


def test_a_last_line_without_its_newline_is_whole_and_gone_on_from(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    kept(path, FIRST, SECOND)
    path.write_bytes(path.read_bytes()[:-1])
    assert len(kept(path, FIRST)) == 3
    assert list(records(path)) == [FIRST, SECOND, FIRST]


def test_a_last_line_whose_newline_was_changed_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    kept(path, FIRST, SECOND)
    changed = path.read_bytes()[:-1] + b"\x0b"
    path.write_bytes(changed)
    with pytest.raises(JournalError, match="the end of the last line was changed"):
        Journal(path)
    assert path.read_bytes() == changed


@pytest.mark.parametrize(("written_as", "refused"), [(FORMAT, True), (UNCHECKED, False)])
def test_a_first_line_that_lost_its_checksum_is_refused(
    tmp_path: Path, written_as: str, refused: bool
) -> None:
    """It says itself whether it is of a version that wrote none."""
    path = tmp_path / "journal.jsonl"
    first = {"time": 1, "type": "session", "format": written_as}
    path.write_bytes(orjson.dumps(first) + b"\n")
    if refused:
        with pytest.raises(JournalError, match="line 1: its checksum is missing"):
            list(records(path))
    else:
        assert list(records(path)) == [first]


def test_the_last_position_is_told_of_lines_that_are_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    fill = {"time": 3, "type": "fill", "size": 2.0, "side": "buy"}
    bar = {"time": 4, "type": "bar", "close": 1.5}
    lines = kept(path, FIRST, SECOND, fill, bar)
    assert last_position(path) == 1.0
    for changed, told in ((3, 1.0), (2, None), (1, None)):
        damaged = list(lines)
        damaged[changed] = damaged[changed].replace(b'"time":', b'"tame":')
        path.write_bytes(b"".join(damaged))
        assert last_position(path) == told, changed


def test_the_last_position_follows_lines_of_a_version_without_checksums(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(orjson.dumps(FIRST) + b"\n")
    kept(path, SECOND)
    assert last_position(path) == -1.0
    path.write_bytes(orjson.dumps(SECOND) + b"\n")
    assert last_position(path) == -1.0


def test_as_many_are_written_together_as_are_lost_without_harm() -> None:
    assert TOGETHER == 64


def test_what_no_flush_has_seen_is_not_written_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal(path, together=9)
    journal.append(FIRST, patient=True)
    journal.append(SECOND, patient=True)
    journal.close()
    assert path.read_bytes() == b""
    journal = Journal(path, together=9)
    journal.append(FIRST, patient=True)
    journal.flush()
    journal.append(SECOND, patient=True)
    journal.append(SECOND, patient=True)
    journal.close()
    assert list(records(path)) == [FIRST]
    assert (JournalError.exit_code, JournalLost.exit_code) == (2, 1)


def test_the_end_of_a_session_tells_the_position_whatever_came_before(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    fill = {"time": 3, "type": "fill", "size": 2.0, "side": "sell"}
    stop = {"time": 4, "type": "stop", "position": 3.0}
    kept(path, FIRST, SECOND, stop, fill)
    assert last_position(path) == 1.0


def test_what_an_account_began_with_is_read_of_its_first_funding(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    kept(path, FIRST, {"time": 2, "type": "gap", "since": 1, "reason": "x"})
    assert funding(path) is None
    kept(path, *({"time": 3, "type": "funding", "cash": cash} for cash in (500.0, 700.0)))
    assert funding(path) == 500.0


def test_a_line_that_cannot_be_completed_is_a_journal_that_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "journal.jsonl"
    (line,) = kept(path, FIRST)
    path.write_bytes(line.removesuffix(b"\n"))

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(JournalLost, match="No space left on device"):
        Journal(path)


def test_no_change_of_a_byte_keeps_a_desk_from_being_stopped(tmp_path: Path) -> None:
    """Its position may be unknown then; it is never a fault."""
    path = tmp_path / "journal.jsonl"
    lines = b"".join(kept(path, FIRST, SECOND, {"time": 3, "type": "stop", "position": 2.0}))
    for place in range(len(lines)):
        path.write_bytes(lines[:place] + bytes([lines[place] ^ 0x80]) + lines[place + 1 :])
        assert last_position(path) in (None, -1.0, 2.0)
    path.write_bytes(lines + b"[" * 5000)
    assert last_position(path) == 2.0
