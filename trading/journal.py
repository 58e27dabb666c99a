"""The journal: all that a desk saw, decided and did, one JSON object a line, never rewritten.

It is an event log as `docs/event-log.md` has it. A record is in the operating system's hands before
what it tells is done: no order leaves that the journal does not know. A process that is killed loses
nothing of that; a power cut neither where the journal is durable. A last line that was torn is cut off,
and told, when the journal is opened again.
"""

import fcntl
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson

FORMAT = "qdesk-journal/1"
TAIL = 1 << 16  # bytes at the end of a journal, in which its last decision stands
OPTIONS = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE


class JournalError(ValueError):
    """A journal that cannot be gone on from. The message names the file, the line and the fault."""


class JournalLost(OSError):
    """The journal can no longer be written, so that nothing may be done any more."""


class Journal:
    """The journal of one desk, which one process at a time may write.

    Raises:
        JournalError: another process writes it.
        OSError: it cannot be opened.
    """

    def __init__(self, path: Path, durable: bool = False) -> None:
        """Opens a journal, or begins one.

        Args:
            path: of the file; folders around it are made.
            durable: wait for the disk at every flush, as trading in real time does.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.durable = path, durable
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._file)
            raise JournalError(
                f"{path}: another process trades on this journal; stop it, or give this one a --desk of "
                "its own"
            ) from None
        self.torn = _cut_torn(self._file)
        self._lines: list[bytes] = []
        self._lost: OSError | None = None

    def append(self, record: Mapping[str, Any]) -> None:
        """Adds a record; it is written with the next flush."""
        self._lines.append(orjson.dumps(record, None, OPTIONS))

    def flush(self) -> None:
        """Writes what was added.

        Raises:
            JournalLost: now or before, a record could not be written.
        """
        if self._lost is not None:
            raise JournalLost(f"{self.path}: {self._lost.strerror}") from self._lost
        if not self._lines:
            return
        data = b"".join(self._lines)
        try:
            while data:
                data = data[os.write(self._file, data) :]
            if self.durable:
                os.fdatasync(self._file)
        except OSError as error:
            self._lost = error
            raise JournalLost(f"{self.path}: {error.strerror}") from error
        self._lines.clear()

    def close(self) -> None:
        """Gives the file back; what was not flushed is not written."""
        os.close(self._file)


def records(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a journal, in the order in which they were written; a torn last line is left out.

    Raises:
        JournalError: a line in between is no record.
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return
            try:
                record = orjson.loads(line)
                good = isinstance(record["time"], int) and isinstance(record["type"], str)
            except (ValueError, KeyError, TypeError):
                good = False
            if not good:
                raise JournalError(
                    f"{path} line {number}: no record of a journal; put the file aside to begin anew"
                )
            yield record


def funding(path: Path) -> float | None:
    """What the account of a journal began with, quote currency; None where it was never funded.

    Raises:
        JournalError: a line before it is no record.
        OSError: the file cannot be read.
    """
    return next((each["cash"] for each in records(path) if each["type"] == "funding"), None)


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
    for line in reversed(lines):
        try:
            record = orjson.loads(line)
            kind = record["type"]
            if kind == "fill":
                filled += record["size"] if record["side"] == "buy" else -record["size"]
            elif kind in ("decision", "stop"):
                return float(record["position"]) + filled
        except (ValueError, KeyError, TypeError):
            continue
    return None


def _cut_torn(file: int) -> str | None:
    """Takes a last line without its end away, and returns it."""
    size, tail = os.fstat(file).st_size, b""
    while size > 0:
        start = max(size - 65536, 0)
        block = os.pread(file, size - start, start)
        end = block.rfind(b"\n") + 1
        tail = block[end:] + tail
        if end:
            size = start + end
            break
        size = start
    if not tail:
        return None
    os.ftruncate(file, size)
    return tail.decode(errors="replace")
