"""What stops a desk from outside and holds it stopped: two small files in its folder.

`risk.json` is the state of the risk engine, so that a restart stays where it was. Its room is reserved
while there is room, and it is written in place, so that a full disk does not keep a desk from halting.
`KILL` is the kill switch: while it is there, nothing is sent. `qdesk kill` makes it, as `touch KILL`
does; `qdesk resume` takes it away. No write but a person's raises a state.
"""

import json
import os
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from durable.files import sync
from durable.locks import locked
from trading.account import RiskState
from trading.journal import JournalLost
from trading.risk import SEVERITY

STATE = "risk.json"
KILL = "KILL"
ROOM = 4096  # bytes of the state, whatever it says
LONGEST = 500  # characters of a reason
LATEST = 2**63 - 1  # ns since 1970
LOOKS = 4  # at a kill switch without a reason, 10 ms apart
PATIENCE = 1.0  # s that another writer is waited for
# What a file that holds no state raises.
UNREADABLE = (ValueError, LookupError, TypeError, ArithmeticError, RecursionError)


class Latched(NamedTuple):
    """What is latched: `by_hand` where a person set it, which alone goes up."""

    state: RiskState
    reason: str
    by_hand: bool
    time: int  # ns since 1970
    lost: bool = False  # the journal could not be written: the desk may not know what it did


class Latch:
    """The files of one desk."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._seen = 0, 0

    def changed(self) -> bool:
        """Whether a file came, went or was written since last asked; `JournalLost`: the folder went."""
        try:
            now = os.stat(self.folder).st_mtime_ns, self._written  # noqa: PTH116  # at every bar
        except OSError as error:
            raise JournalLost(f"{self.folder}: {error.strerror}") from error
        changed = now != self._seen
        self._seen = now
        return changed

    @property
    def _written(self) -> int:
        try:
            return os.stat(self.folder / STATE).st_mtime_ns  # noqa: PTH116
        except OSError:
            return 0

    def killed(self) -> bool:
        """Whether the kill switch is thrown. A folder's time is too coarse to trust for this alone."""
        return os.path.exists(self.folder / KILL)  # noqa: PTH110  # asked up to 100 times a second

    def read(self) -> Latched | None:
        """What is latched; None where nothing ever was. Unreadable is HALTED."""
        if (self.folder / KILL).exists():
            with suppress(OSError, UnicodeDecodeError):
                return Latched("HALTED", f"kill switch: {self._why_killed()}", True, 0)
            return Latched("HALTED", "kill switch", True, 0)
        for attempt in range(3):  # another process may be writing it
            time.sleep(0.001 * attempt)
            try:
                return _parsed((self.folder / STATE).read_bytes())
            except FileNotFoundError:
                return None
            except (OSError, *UNREADABLE):
                continue
        return Latched("HALTED", f"{self.folder / STATE} cannot be read", False, 0)

    def _why_killed(self) -> str:
        """The reason in the kill switch, which stands there a moment after the switch itself."""
        for _ in range(LOOKS):
            if reason := (self.folder / KILL).read_text().strip():
                return reason
            time.sleep(0.01)
        return "no reason given"

    def lost(self) -> Latched | None:
        """What was latched when the journal could not be written, whatever was thrown since."""
        try:
            found = _parsed((self.folder / STATE).read_bytes())
        except (OSError, *UNREADABLE):
            return None
        return found if found.lost else None

    def reserve(self, state: RiskState, reason: str) -> None:
        """Takes the room that a state needs, so that it can be latched once a disk is full.

        The desk's own state is latched where nothing is yet; without room this raises `OSError`.
        """
        path = self.folder / STATE
        if not path.exists():
            self._create(_written(state, reason, False, False))
        with locked(path, PATIENCE):
            content = path.read_bytes()
            if len(content) < ROOM:
                self._overwrite(content.ljust(ROOM - 1) + b"\n")

    def hold(
        self, state: RiskState, reason: str, by_hand: bool = False, lost: bool = False
    ) -> None:
        """Latches a state, on the disk when this returns, else `OSError`; a lighter one only by hand."""
        path = self.folder / STATE
        content = _written(state, reason, by_hand, lost)
        if not path.exists() and self._create(content):
            return
        with locked(path, PATIENCE):
            try:
                now = _parsed(path.read_bytes())
            except UNREADABLE:
                now = None
            if now is not None and now.lost and not by_hand:  # which a person alone forgives
                content = _written(state, reason, by_hand, lost=True)
            graver = now is not None and SEVERITY[now.state] > SEVERITY[state]
            if by_hand or not graver:
                self._overwrite(content)

    def kill(self, reason: str) -> None:
        """Throws the kill switch, or raises `OSError`; the reason stands in it where there is room."""
        file = os.open(self.folder / KILL, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            with suppress(OSError):
                os.ftruncate(file, 0)
                os.write(file, f"{reason}\n".encode(errors="replace"))
                os.fsync(file)
            sync(self.folder)
        finally:
            os.close(file)

    def resume(self, reason: str) -> None:
        """Takes the kill switch back and latches ACTIVE, by hand."""
        (self.folder / KILL).unlink(missing_ok=True)
        self.hold("ACTIVE", reason, by_hand=True)  # last: a desk that saw the switch holds HALTED

    def _create(self, content: bytes) -> bool:
        """Makes the file of the state, whole; False where it is there by now."""
        temporary = self.folder / f".{STATE}-{os.getpid()}-{threading.get_ident()}"
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            try:
                os.link(temporary, self.folder / STATE)
            except PermissionError:  # a file system without links
                os.close(os.open(self.folder / STATE, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
                temporary.replace(self.folder / STATE)
        except FileExistsError:
            return False
        finally:
            temporary.unlink(missing_ok=True)
        sync(self.folder)
        return True

    def _overwrite(self, content: bytes) -> None:
        file = os.open(self.folder / STATE, os.O_WRONLY | os.O_CLOEXEC)
        try:
            done = 0
            while done < len(content):
                done += os.pwrite(file, content[done:], done)
            os.ftruncate(file, len(content))
            os.fsync(file)
        finally:
            os.close(file)


def _written(state: RiskState, reason: str, by_hand: bool, lost: bool) -> bytes:
    """A state as it stands in its file, `ROOM` bytes."""
    found: dict[str, object] = {"state": state, "by_hand": by_hand, "time": time.time_ns()}
    if lost:
        found["lost"] = True
    said = reason[:LONGEST]
    while len(json.dumps(said)) > ROOM - 200:  # as JSON a letter may be twelve
        said = said[: len(said) // 2]
    found["reason"] = said
    return json.dumps(found).encode().ljust(ROOM - 1) + b"\n"


def _parsed(content: bytes) -> Latched:
    """A state; raises one of `UNREADABLE` where it is none."""
    found = json.loads(content)
    state = found["state"]
    moment = int(found["time"])
    if state not in SEVERITY or not 0 <= moment <= LATEST:
        raise ValueError(state)
    by_hand = bool(found["by_hand"])
    lost = bool(found.get("lost", False))
    return Latched(state, str(found["reason"]), by_hand, moment, lost)
