"""What stops a desk from outside and holds it stopped: two small files in its folder.

`risk.json` is the state of the risk engine, so that a restart stays where it was. `KILL` is the kill
switch: while it is there, nothing is sent. `qdesk kill` makes it, as `touch KILL` does; `qdesk resume`
takes it away.
"""

import json
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from trading.book import RiskState

STATE, KILL = "risk.json", "KILL"
STATES: tuple[RiskState, ...] = ("ACTIVE", "REDUCING", "HALTED")


class Latched(NamedTuple):
    """What is latched: `by_hand` where a person set it, which alone goes up."""

    state: RiskState
    reason: str
    by_hand: bool
    time: int  # ns since 1970


class Latch:
    """The files of one desk."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._seen = 0

    def changed(self) -> bool:
        """Whether a file came, went or was replaced since this was last asked."""
        now = os.stat(self.folder).st_mtime_ns  # noqa: PTH116  # asked at every bar
        changed, self._seen = now != self._seen, now
        return changed

    def killed(self) -> bool:
        """Whether the kill switch is thrown. A folder's time is too coarse to trust for this alone."""
        return os.path.exists(self.folder / KILL)  # noqa: PTH110  # asked up to 100 times a second

    def read(self) -> Latched | None:
        """What is latched; None where nothing ever was. Unreadable is HALTED."""
        if (self.folder / KILL).exists():
            with suppress(OSError, UnicodeDecodeError):
                reason = (self.folder / KILL).read_text().strip()
                return Latched("HALTED", f"kill switch: {reason or 'no reason given'}", True, 0)
            return Latched("HALTED", "kill switch", True, 0)
        try:
            found = json.loads((self.folder / STATE).read_text())
            state, reason = found["state"], str(found["reason"])
            if state not in STATES:
                raise ValueError(state)  # noqa: TRY301
            return Latched(state, reason, bool(found["by_hand"]), int(found["time"]))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return Latched("HALTED", f"{self.folder / STATE} cannot be read", False, 0)

    def hold(self, state: RiskState, reason: str, by_hand: bool = False) -> None:
        """Latches a state, on the disk when this returns; raises `OSError` where it cannot be."""
        now = time.time_ns()
        found = {"state": state, "reason": reason, "by_hand": by_hand, "time": now}
        self._write(STATE, json.dumps(found) + "\n")

    def kill(self, reason: str) -> None:
        """Throws the kill switch."""
        self._write(KILL, reason + "\n")

    def resume(self, reason: str) -> None:
        """Takes the kill switch back and latches ACTIVE, by hand."""
        (self.folder / KILL).unlink(missing_ok=True)
        self.hold("ACTIVE", reason, by_hand=True)  # last: a desk that saw the switch holds HALTED

    def _write(self, name: str, text: str) -> None:
        temporary = self.folder / f".{name}-{os.getpid()}"
        try:
            with temporary.open("w") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self.folder / name)
            folder = os.open(self.folder, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        finally:
            temporary.unlink(missing_ok=True)
