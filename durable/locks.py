"""One process at a time, by a lock that goes with the process that has it."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOOK_EVERY = 0.05  # s between two attempts


class Busy(OSError):
    """Another process has a lock. The message names the file."""

    exit_code = 2


@contextmanager
def locked(path: Path, patience: float = 0.0) -> Iterator[None]:
    """Holds a file's lock, for which it waits `patience` s; a missing file is made, and stays.

    Raises:
        Busy: another process still has it.
        OSError: the file cannot be opened.
    """
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except PermissionError:  # another user's, which can be locked all the same
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    deadline = time.monotonic() + patience
    try:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise Busy(f"{path}: another process has it") from None
                time.sleep(LOOK_EVERY)
        yield
    finally:
        os.close(file)
