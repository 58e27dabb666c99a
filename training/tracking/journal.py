"""A run's journal: all that is to be tracked stands here, on disk, before it is sent anywhere.

`mlruns/journals/<run id>/journal.jsonl` holds one entry a line, numbered, and is only ever added to;
`files/<number>/` what belongs to an entry; `delivered.json` how far MLflow has it, and what it answered.
Training writes, `uploader.py` sends; a process that dies leaves nothing behind that the next cannot send.
"""

import fcntl
import os
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import orjson

from durable.errors import InUse
from durable.files import whole_file, whole_folder
from durable.growing_file import GrowingFile
from durable.lines import Lines, fits, seal
from training.tracking.entries import (
    Begun,
    End,
    Entry,
    Points,
    Registered,
    Resumed,
    entry_of,
    line_of,
)

JOURNAL = "journal.jsonl"
DELIVERED = "delivered.json"
FILES = "files"
DAMAGED = (KeyError, TypeError, msgspec.ValidationError)  # what a line that is no entry raises
RETRY_SECONDS = 1.0  # between two attempts to write files to a disk that is full

Write = Callable[[Path], object]  # writes what belongs to an entry into a folder, there and empty


class Unsent(NamedTuple):
    """What MLflow does not have yet."""

    points: int = 0  # values of metrics
    versions: int = 0  # model versions
    others: int = 0  # tags, files, how a run ended …
    lost: int = 0  # entries of these that are not on disk either

    @classmethod
    def of(cls, parts: Iterable["Unsent"]) -> "Unsent":
        """Of several journals together."""
        return cls(*(sum(each) for each in zip(cls(), *parts, strict=True)))

    def __bool__(self) -> bool:
        return any(self)

    def __str__(self) -> str:
        parts = ((self.points, "point"), (self.versions, "model version"), (self.others, "other"))
        said = [f"{n:,} {what}{'s' if n != 1 else ''}" for n, what in parts if n]
        return (
            " and ".join([", ".join(said[:-1]), said[-1]] if len(said) > 1 else said) or "nothing"
        )


class RunJournal:
    """The journal of one run, which one process at a time may have; begun where there is none.

    The name of its folder is the run's id.

    Raises:
        InUse: another process has it.
        OSError: it cannot be opened.
    """

    def __init__(self, folder: Path, make: bool = True) -> None:
        self.folder = folder
        self.run = folder.name
        if make:
            (folder / FILES).mkdir(parents=True, exist_ok=True)
        elif not (folder / JOURNAL).exists():
            raise FileNotFoundError(f"{folder}: there is no journal")
        self._file = GrowingFile(folder / JOURNAL)
        try:
            fcntl.flock(self._file.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise InUse(f"{folder}: another process writes this journal") from None
        self._changed = threading.RLock()
        self.points: dict[tuple[str, int], tuple[int, float]] = {}  # time and value of all ever put
        self.versions: set[str] = set()  # keys of all model versions ever put
        self.head: Begun | None = None  # what the run is: its first entry
        self.ended: str | None = None  # how it ended, if it has
        self.damage: list[str] = []  # a sentence for every line that was changed, and is left out
        self._checksum = 0  # of the last line
        self._closed = False
        self._last_time = 0
        self._waiting: deque[Entry] = deque()  # for delivery
        self._counted = {"points": 0, "versions": 0, "others": 0}  # of what waits
        self._unwritten: deque[tuple[Entry, Write | None]] = deque()
        known = delivery_of(folder)
        # Of MLflow: `run_id`, `versions` by key, `candidate` …
        self.answers: dict[str, Any] = known.get("learned", {})
        self._delivered = int(known.get("up_to", 0))
        self._number = self._delivered
        self._read()
        self.reopened = bool(self._number)  # another process began it
        self._added = self._on_disk = self._number  # the last entry in the file, and on disk
        self._tried = -RETRY_SECONDS  # when files of an entry could not be written
        self._tidy()

    def append(self, entry: Entry, write: Write | None = None) -> Entry:
        """Adds and returns an entry. It never fails: what the disk does not take is given again later.

        Without a time it is of now. `write` writes files that belong to it; it may be called again, and
        later.
        """
        with self._changed:
            entry.time = entry.time or int(time.time() * 1000)
            self._number += 1
            entry.number = self._number
            self._note(entry)
            self._wait(entry)
            self._unwritten.append((entry, write))
            self.flush()
            return entry

    def flush(self) -> bool:
        """Writes what could not be written before; says whether everything is on disk."""
        with self._changed:
            while self._unwritten:
                entry, write = self._unwritten[0]
                if write is not None and not self._keep(entry, write):
                    return False
                line, self._checksum = seal(line_of(entry), self._checksum)
                self._file.add(line)
                self._added = entry.number
                self._unwritten.popleft()
            whole = self._file.flush()
            if whole:
                self._on_disk = self._added
            return whole

    @property
    def fault(self) -> OSError | None:
        """Why the disk does not take what was put, if it does not."""
        return self._file.fault

    def pending(self, most: int) -> list[Entry]:
        """The oldest entries that are not delivered; none whose files are not on disk yet."""
        with self._changed:
            unkept = {entry.number for entry, write in self._unwritten if write is not None}
            found: list[Entry] = []
            for entry in self._waiting:
                if len(found) == most or entry.number in unkept:
                    break
                found.append(entry)
            return found

    def files_of(self, entry: Entry) -> Path:
        """The folder of what belongs to an entry."""
        return self.folder / FILES / str(entry.number)

    def acknowledge(self, entry: Entry, **learned: Any) -> None:
        """Notes that everything up to an entry has arrived, and what was answered."""
        with self._changed:
            self.answers |= learned
            self._delivered = max(self._delivered, entry.number)
            state = {"up_to": self._delivered, "learned": self.answers}
            noted = False
            with suppress(OSError):  # then the same is sent again, which changes nothing
                with whole_file(self.folder / DELIVERED, awaited=False) as temporary:
                    temporary.write_bytes(seal(orjson.dumps(state), 0)[0])
                noted = True
            while self._waiting and self._waiting[0].number <= entry.number:
                gone = self._waiting.popleft()
                self._counted[gone.counted] -= gone.count
                if noted and self.files_of(gone).exists():
                    shutil.rmtree(self.files_of(gone), ignore_errors=True)

    @property
    def unsent(self) -> Unsent:
        """What was put and is not delivered."""
        with self._changed:
            lost = 0
            if not self.flush():
                lost = sum(entry.number > self._on_disk for entry in self._waiting)
            return Unsent(**self._counted, lost=lost)

    def end_of_the_dead(self) -> None:
        """Ends a run whose process is gone without having said how it ended, if MLflow agrees."""
        if self.head is not None and self.ended is None:
            self.append(End(status="KILLED", dead=True, time=self._last_time))

    def close(self) -> None:
        """Lets others have it, with everything on disk that the disk takes; an empty one goes."""
        with self._changed:
            if self._closed:
                return
            self._tried = -RETRY_SECONDS  # there is no later
            while not self.flush() and self._unwritten and self._unwritten[0][1] is not None:
                self._unwritten.popleft()  # its files are lost; what was put after it is not
                self._tried = -RETRY_SECONDS
            with suppress(OSError):
                os.fsync(self._file.descriptor)
            if not self._number:
                shutil.rmtree(self.folder, ignore_errors=True)
            self._file.close()
            self._closed = True

    def _note(self, entry: Entry) -> None:
        match entry:
            case Points():
                for name, value in entry.metrics.items():
                    self.points[name, entry.step] = (entry.time, value)
            case Registered():
                self.versions.add(entry.key)
            case Begun():
                self.head = entry
            case End():
                self.ended = entry.status
            case Resumed():
                self.ended = None
        self._last_time = max(self._last_time, entry.time)

    def _wait(self, entry: Entry) -> None:
        self._counted[entry.counted] += entry.count
        self._waiting.append(entry)

    def _keep(self, entry: Entry, write: Write) -> bool:
        """Writes an entry's files; they are there whole or not at all. A full disk is not asked often."""
        if time.monotonic() - self._tried < RETRY_SECONDS:
            return False
        try:
            with whole_folder(self.files_of(entry), awaited=False) as temporary:
                write(temporary)
        except OSError as error:
            self._file.fault = error
            self._tried = time.monotonic()
            return False
        return True

    def _tidy(self) -> None:
        """Takes away files whose entry never came to be."""
        with suppress(OSError):
            for folder in (self.folder / FILES).iterdir():
                if not folder.name.isdigit() or int(folder.name) > self._number:
                    shutil.rmtree(folder, ignore_errors=True)

    def _read(self) -> None:
        """Takes in what was put by processes before; a last line that was torn is cut off."""
        path = self.folder / JOURNAL
        lines = Lines(path)
        last = 0
        for line in lines:
            taken = None if line.fault is not None else self._take(line.record)
            last = last + 1 if taken is None else taken
            self._number = max(self._number, last)
            if taken is None:
                fault = line.fault or "it is no entry of a run's journal"
                self.damage.append(f"{path} line {line.number} is left out: {fault}")
        self._checksum = lines.checksum
        if lines.unended:
            self._file.add(b"\n")
        elif lines.torn:
            self._file.cut(path.stat().st_size - len(lines.torn))

    def _take(self, record: dict[str, Any]) -> int | None:
        """Takes an entry in, and returns its number; None where it is none."""
        try:
            entry = entry_of(record)
            self._note(entry)
            if entry.number > self._delivered:
                self._wait(entry)
        except DAMAGED:
            return None
        return entry.number


def delivery_of(folder: Path) -> dict[str, Any]:
    """How far MLflow has a journal, and what it answered; nothing where that is not known for certain.

    Then everything is sent again, which changes nothing.
    """
    with suppress(OSError, ValueError):
        data = (folder / DELIVERED).read_bytes()
        found = orjson.loads(data)
        if isinstance(found, dict) and (fits(data, 0) or found.keys() <= {"up_to", "learned"}):
            return found
    return {}
