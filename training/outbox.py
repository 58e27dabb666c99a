"""A run's journal: all that is to be tracked stands here, on disk, before it is sent anywhere.

`mlruns/journals/<run id>/journal.jsonl` holds one entry a line, numbered, and is only ever added to;
`files/<number>/` what belongs to an entry; `delivered.json` how far MLflow has it, and what it answered.
Training writes, `shipper.py` sends; a process that dies leaves nothing behind that the next cannot send.
"""

import fcntl
import os
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from models.sealed import TEMPORARY
from training.faults import InUse
from training.growing_file import GrowingFile

JOURNALS = "journals"  # the folder of all runs' journals in that of the tracking data
JOURNAL, DELIVERED, FILES = "journal.jsonl", "delivered.json", "files"
POINTS, VERSION = "points", "version"  # kinds of entries that are counted by themselves

Write = Callable[[Path], object]  # writes what belongs to an entry into a folder, there and empty


class Entry(NamedTuple):
    """One thing to be tracked."""

    number: int  # from 1 on, without a gap
    kind: str
    time: int  # milliseconds since 1970
    content: dict[str, Any]


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


class Outbox:
    """The journal of one run, which one process at a time may have.

    Args:
        folder: of the run's journal; its name is the run's id.
        make: whether to begin a journal where there is none.

    Attributes:
        points: time and value of every point that was ever put, by metric and step.
        versions: keys of all model versions that were ever put.
        head: what the run is: the content of its first entry, or None before that.
        ended: how it ended, or None while it has not.
        learned: what MLflow answered: `run_id`, `versions` by key, `candidate` …

    Raises:
        InUse: another process has it.
        OSError: it cannot be opened.
    """

    def __init__(self, folder: Path, make: bool = True) -> None:
        self.folder, self.run = folder, folder.name
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
        self.points: dict[tuple[str, int], tuple[int, float]] = {}
        self.versions: set[str] = set()
        self.head: dict[str, Any] | None = None
        self.ended: str | None = None
        self._closed = False
        self._last_time = 0
        self._waiting: deque[Entry] = deque()  # for delivery
        self._unwritten: deque[tuple[Entry, Write | None]] = deque()
        known = _read_json(folder / DELIVERED)
        self.learned: dict[str, Any] = known.get("learned", {})
        self._delivered = int(known.get("up_to", 0))
        self._number = self._delivered
        self._read()

    def put(
        self,
        kind: str,
        content: Mapping[str, Any],
        write: Write | None = None,
        at: int | None = None,
    ) -> Entry:
        """Adds an entry. It never fails: what the disk does not take now it is given again later.

        Args:
            kind: of the entry.
            content: as JSON has it.
            write: writes files that belong to it; may be called again, and later.
            at: when it happened, milliseconds since 1970; by default now.
        """
        with self._changed:
            now = int(time.time() * 1000) if at is None else at
            entry = Entry(self._number + 1, kind, now, dict(content))
            self._number += 1
            self._note(entry)
            self._waiting.append(entry)
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
                self._file.add(_line(entry))
                self._unwritten.popleft()
            return self._file.flush()

    @property
    def fault(self) -> OSError | None:
        """Why the disk does not take what was put, if it does not."""
        return self._file.fault

    def waiting(self, most: int) -> list[Entry]:
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

    def delivered(self, entry: Entry, **learned: Any) -> None:
        """Notes that everything up to an entry has arrived, and what was answered."""
        with self._changed:
            self.learned |= learned
            self._delivered = max(self._delivered, entry.number)
            state = {"up_to": self._delivered, "learned": self.learned}
            with suppress(OSError):  # then the same is sent again, which changes nothing
                temporary = self.folder / f"{TEMPORARY}{DELIVERED}"
                temporary.write_bytes(orjson.dumps(state))
                temporary.replace(self.folder / DELIVERED)
            while self._waiting and self._waiting[0].number <= entry.number:
                files = self.files_of(self._waiting.popleft())
                if files.exists():
                    shutil.rmtree(files, ignore_errors=True)

    @property
    def unsent(self) -> Unsent:
        """What was put and is not delivered."""
        with self._changed:
            unwritten = len(self._unwritten) or (0 if self._file.flush() else 1)
            counted = {POINTS: 0, VERSION: 0, "": 0}
            for entry in self._waiting:
                if entry.kind == POINTS:
                    counted[POINTS] += len(entry.content["metrics"])
                else:
                    counted[entry.kind if entry.kind == VERSION else ""] += 1
            lost = unwritten if self._waiting else 0
            return Unsent(counted[POINTS], counted[VERSION], counted[""], lost)

    def end_of_the_dead(self) -> None:
        """Ends a run whose process is gone without having said how it ended."""
        if self.head is not None and self.ended is None:
            gone = {"tags": {"ended": "its process was gone"}}
            self.put("tags", gone)
            self.put("end", {"status": "KILLED"}, at=self._last_time)

    def close(self) -> None:
        """Lets others have it, with everything on disk that the disk takes; an empty one goes."""
        with self._changed:
            if self._closed:
                return
            self.flush()
            with suppress(OSError):
                os.fsync(self._file.descriptor)
            if self.head is None:
                shutil.rmtree(self.folder, ignore_errors=True)
            self._file.close()
            self._closed = True

    def _note(self, entry: Entry) -> None:
        content = entry.content
        if entry.kind == POINTS:
            for name, value in content["metrics"].items():
                self.points[name, content["step"]] = (entry.time, value)
        elif entry.kind == VERSION:
            self.versions.add(content["key"])
        elif entry.kind == "run":
            self.head = content
        elif entry.kind in ("end", "resumed"):
            self.ended = content.get("status")
        self._last_time = max(self._last_time, entry.time)

    def _keep(self, entry: Entry, write: Write) -> bool:
        """Writes an entry's files; they are there whole or not at all."""
        folder = self.files_of(entry)
        temporary = folder.with_name(f"{TEMPORARY}{folder.name}")
        try:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            write(temporary)
            temporary.replace(folder)
        except OSError as error:
            self._file.fault = error
            return False
        return True

    def _read(self) -> None:
        """Takes in what was put by processes before; a last line that was torn is cut off."""
        content = (self.folder / JOURNAL).read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            self._file.cut(whole)
        for line in content[:whole].splitlines():
            with suppress(
                ValueError, KeyError, TypeError, AttributeError
            ):  # a damaged line: the rest goes on
                known = orjson.loads(line)
                entry = Entry(known.pop("n"), known.pop("kind"), known.pop("time"), known)
                self._note(entry)
                self._number = max(self._number, entry.number)
                if entry.number > self._delivered:
                    self._waiting.append(entry)


def journals(mlruns: Path) -> Iterator[Path]:
    """The folders of all runs' journals, the oldest first."""
    found = [path.parent for path in (mlruns / JOURNALS).glob(f"*/{JOURNAL}")]
    return iter(sorted(found, key=lambda folder: (folder / JOURNAL).stat().st_ctime))


def head_of(folder: Path) -> dict[str, Any] | None:
    """What the run of a journal is, read without opening it; None where that is not to be had."""
    with suppress(OSError, ValueError), (folder / JOURNAL).open("rb") as file:
        head = orjson.loads(file.readline())
        if isinstance(head, dict) and head.get("kind") == "run":
            return head
    return None


def heads(mlruns: Path) -> Iterator[dict[str, Any]]:
    """What the runs of all journals are, the oldest first."""
    return (head for folder in journals(mlruns) if (head := head_of(folder)))


def undelivered(folder: Path) -> bool:
    """Whether a journal that nobody writes may hold something that is not sent, by a short look."""
    known = _read_json(folder / DELIVERED)
    with suppress(OSError, IndexError, ValueError):
        with (folder / JOURNAL).open("rb") as file:
            file.seek(max(os.fstat(file.fileno()).st_size - 2**16, 0))
            last = orjson.loads(file.read().splitlines()[-1])
        return bool(last.get("kind") != "end" or last["n"] > known.get("up_to", 0))
    return True


def run_known_as(mlruns: Path, which: str) -> list[str]:
    """Ids of the runs whose id, here or in MLflow, begins so."""
    found = []
    for folder in journals(mlruns):
        names = (folder.name, str(_read_json(folder / DELIVERED).get("learned", {}).get("run_id")))
        if any(name.startswith(which) for name in names):
            found.append(folder.name)
    return found


def _line(entry: Entry) -> bytes:
    known = {"n": entry.number, "kind": entry.kind, "time": entry.time, **entry.content}
    return orjson.dumps(known, None, orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE)


def _read_json(path: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError):
        found = orjson.loads(path.read_bytes())
        if isinstance(found, dict):
            return found
    return {}
