"""The journal: all that a desk saw, decided and did, one JSON object a line, never rewritten.

It is an event log as `docs/event-log.md` has it, and each line has a checksum (`durable/lines.py`), so
that a desk does not go on from a line that was changed. A record is in the operating system's hands
before what it tells is done: no order leaves that the journal does not know. A process that is killed
loses nothing of that; a power cut neither where the journal is durable. Where a log is played back, bars
and decisions without consequences may be written together: those that are lost are played again. A last
line that was torn is cut off when the journal is opened again, and reported.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise
from operator import methodcaller
from pathlib import Path
from typing import Any

import msgspec

from durable.lines import Lines, ending, fits, seal_all, sealed
from trading.records import Funding, record_of

FORMAT = "qdesk-journal/2"
UNCHECKED = "qdesk-journal/1"  # of versions before, whose lines have no checksum
TAIL = 1 << 16  # bytes at the end of a journal, in which its last decision stands
TOGETHER = 64  # records that are written at once where a log is played back


class Telling(msgspec.Struct):
    """What a line says of a position, whatever else it lacks: who stops a desk takes what there is."""

    type: str
    position: float | None = None
    side: str = ""
    size: float = 0.0


TELLING = msgspec.json.Decoder(Telling)


class JournalError(ValueError):
    """A journal that cannot be continued. The message names the file, the line and the fault."""

    exit_code = 2


class JournalLost(OSError):
    """The journal can no longer be written, so that nothing may be done any more."""

    exit_code = 1


class Journal:
    """The journal of one desk, which one process at a time may write.

    Raises:
        JournalError: another process writes it.
        OSError: it cannot be opened.
    """

    def __init__(self, path: Path, durable: bool = False, together: int = 1) -> None:
        """Opens a journal, or begins one.

        Args:
            path: of the file; folders around it are made.
            durable: wait for the disk at every flush, as trading in real time does.
            together: fewer bars and decisions than this may wait for a later flush.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.durable = durable
        self.together = together
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._file)
            raise JournalError(
                f"{path}: another process trades on this journal; stop it, or give this one a --desk of "
                "its own"
            ) from None
        self._checksum: int
        try:
            self.torn = self._take_up()
        except BaseException:
            os.close(self._file)
            raise
        number_of_numpy = methodcaller("tolist")
        self._encode = msgspec.json.Encoder(enc_hook=number_of_numpy).encode
        self._lines: list[bytes] = []
        self._left = 0
        self._urgent = False
        self._lost: OSError | None = None

    def append(self, record: object, patient: bool = False) -> None:
        """Adds a record; it is written with the next flush, one that is `patient` with a later one."""
        if not patient:
            self._urgent = True
        self._lines.append(self._encode(record))

    def flush(self, awaited: bool = True) -> None:
        """Writes what was added; unless it is `awaited`, only where some of it may not wait.

        Raises `JournalLost` where a record could not be written, now or before.
        """
        if self._lost is not None:
            raise JournalLost(f"{self.path}: {self._lost.strerror}") from self._lost
        if not (awaited or self._urgent) and len(self._lines) < self.together:
            self._left = len(self._lines)
            return
        data, self._checksum = seal_all(self._lines, self._checksum)
        self._lines.clear()  # first: whatever interrupts this, nothing is written twice
        self._left = 0
        self._urgent = False
        if not data:
            return
        try:
            while data:
                data = data[os.write(self._file, data) :]
            if self.durable:
                os.fdatasync(self._file)
        except OSError as error:
            self._lost = error
            raise JournalLost(f"{self.path}: {error.strerror}") from error

    def close(self) -> None:
        """Gives the file back; what a flush has left for a later one is written, if it can be."""
        del self._lines[self._left :]
        with suppress(JournalLost):
            self.flush()
        os.close(self._file)

    def _take_up(self) -> str | None:
        """Goes on behind the last line that is whole; a torn one is cut off, and returned."""
        end = ending(self._file)
        self._checksum = end.checksum
        if end.whole:
            self._checksum = sealed(end.torn) or 0
            try:
                os.write(self._file, b"\n")
            except OSError as error:
                raise JournalLost(f"{self.path}: {error.strerror}") from error
        elif fits(end.torn[:-1], end.checksum):
            raise JournalError(
                f"{self.path}: the end of the last line was changed after it was written; put the file "
                "aside to begin anew"
            )
        elif end.torn:
            os.ftruncate(self._file, end.size)
            return end.torn.decode(errors="replace")
        return None


def records(path: Path, lines: Lines | None = None) -> Iterator[dict[str, Any]]:
    """The records of a journal, in the order in which they were written; a torn last line is left out.

    Args:
        path: of the journal.
        lines: of that file, for who wants to know afterwards how many of them were unchecked.

    Raises:
        JournalError: a line in between is no record, or is not what was written.
        OSError: the file cannot be read.
    """
    lines = lines or Lines(path)
    for line in lines:
        fault = line.fault or _fault(line.record, lines.unchecked == line.number)
        if fault is not None:
            raise damaged(path, line.number, fault)
        yield line.record


def damaged(path: Path, number: int, fault: str) -> JournalError:
    """The error of a line that a journal cannot be continued from."""
    return JournalError(f"{path} line {number}: {fault}; put the file aside to begin anew")


def _fault(record: dict[str, Any], unchecked: bool) -> str | None:
    """Why a line is no record of a journal, if it is none."""
    if not (isinstance(record.get("time"), int) and isinstance(record.get("type"), str)):
        return "no record of a journal"
    if unchecked and record["type"] == "session" and record.get("format") == FORMAT:
        return "its checksum is missing"
    return None


def funding(path: Path) -> float | None:
    """What a journal's account began with, quote currency; None: not funded. Raises as `records` does."""
    found = (record_of(line) for line in records(path) if line["type"] == "funding")
    return next((each.cash for each in found if isinstance(each, Funding)), None)


def last_position(path: Path) -> float | None:
    """The position at the end of a journal, units; None where its end does not tell.

    Only the end of the file is read: who stops a desk does not wait for a year of records.
    """
    try:
        with path.open("rb") as file:
            file.seek(max(path.stat().st_size - TAIL, 0))
            lines = file.read().split(b"\n")
    except OSError:
        return None
    filled = 0.0
    for before, line in reversed(list(pairwise([b"", *lines]))):
        try:
            line_says = TELLING.decode(line)
        except (ValueError, RecursionError):
            continue
        if line_says.type not in ("fill", "decision", "stop"):
            continue
        if not _trusted(line, before):
            return None
        if line_says.type == "fill":
            filled += line_says.size if line_says.side == "buy" else -line_says.size
        elif line_says.position is not None:
            return line_says.position + filled
    return None


def _trusted(line: bytes, before: bytes) -> bool:
    """Whether a line is what was written, or of a version that wrote no checksums."""
    if sealed(line) is None:
        return sealed(before) is None
    return fits(line, sealed(before) or 0)
