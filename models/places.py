"""Where a store is: a folder with MLflow's database in it, looked at before anything is loaded."""

import fcntl
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DATABASE = "mlflow.db"
SIGNATURE = b"SQLite format 3\0"
# What a path may not hold: in the address of a database it means something else.
NEVER = re.compile(r"\?|%[0-9A-Fa-f]{2}")
ELSEWHERE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  # how an address begins, and no folder


class BadPlace(ValueError):
    """A folder that cannot be used for tracking data. The message names it and the reason."""

    exit_code = 2


def default_mlruns() -> Path:
    """The folder of the tracking data where no argument names one."""
    return Path(os.environ.get("QDESK_MLRUNS", "mlruns"))


def address_of(folder: Path) -> str:
    """The address of the database in a folder, as MLflow wants it.

    Raises `BadPlace` where its path cannot be written as one.
    """
    if ELSEWHERE.match(str(folder)):
        raise BadPlace(
            f"mlruns {folder}: this is an address, and not a folder; a server is named by --tracking-uri"
        )
    try:
        path = folder.resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise BadPlace(f"mlruns {folder}: this is no path ({error})") from error
    found = NEVER.search(str(path))
    if found:
        raise BadPlace(
            f"mlruns {folder}: a path with {found[0]} cannot be the address of a database; name another "
            "folder"
        )
    return f"sqlite:///{path}/{DATABASE}"


def require_database(folder: Path) -> None:
    """Looks whether what is there under the database's name can be one; none is none.

    Raises `BadPlace` where it is empty, no database, or cannot be read.
    """
    path = folder / DATABASE
    try:
        begins = _beginning(path)
        if not begins:  # another process may be making it
            with making(folder):
                begins = _beginning(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise BadPlace(f"{path}: cannot be read ({error.strerror})") from error
    if begins != SIGNATURE:
        what = "is empty" if not begins else "is no SQLite database"
        raise BadPlace(
            f"{path}: {what}; put it back from a backup, or move it away to begin a new store"
        )


def require_writable(folder: Path) -> None:
    """Looks whether tracking data can be written into a folder, and leaves nothing there.

    Raises `BadPlace` where it cannot, now.
    """
    address_of(folder)
    try:
        there = folder.resolve()
        while not there.exists():
            there = there.parent
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(b"x")
            file.flush()
        if (folder / DATABASE).exists() and not os.access(folder / DATABASE, os.W_OK):
            raise BadPlace(f"{folder / DATABASE}: may not be written")
    except OSError as error:
        raise BadPlace(f"mlruns {folder}: cannot be used ({error.strerror})") from error


def _beginning(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(len(SIGNATURE))


@contextmanager
def making(folder: Path) -> Iterator[None]:
    """Keeps other processes out: several that make a fresh database at once break it."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
