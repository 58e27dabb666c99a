"""Several files that appear under their names together: all of them, or none.

They are written into a hidden folder beside their names. Once they are whole, an intent says what is to
be renamed; then it is; then the intent goes. A fault in between is undone. What a killed process left is
completed where its intent stood, and taken away where it did not, by whoever writes there next; readers
refuse files that an intent names.
"""

import errno
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from durable.files import sync, whole_file
from durable.locks import Busy, locked

PREFIX = ".converting-"  # of a folder that is locked while its process lives
UNBORN = ".beginning-"  # before it is
NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EXDEV, errno.EMLINK)  # a file system without them
LOCK = "lock"
INTENT = "intent.json"
OLD = 3600.0  # s after which a folder that was never locked is one of a process that is gone


class Renaming(NamedTuple):
    """One file of a set."""

    written: Path  # in the hidden folder
    name: Path  # that it is to have


@contextmanager
def workplace(parent: Path) -> Iterator[Path]:
    """A hidden folder to write a set of files in, inside the one that they are for; it goes when left.

    Raises `OSError` where it cannot be written.
    """
    mend(parent)
    folder = Path(tempfile.mkdtemp(prefix=UNBORN, dir=parent))
    try:
        folder.chmod(0o755)  # so that readers see what is under way
        with locked(folder / LOCK):  # before others look for it
            folder = folder.rename(parent / folder.name.replace(UNBORN, PREFIX, 1))
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def rename_all(folder: Path, renamings: Sequence[Renaming]) -> None:
    """Gives the files of a workplace their names, in place of files that have them.

    Raises `OSError` where one could not be renamed; all names stand for what they stood for before.
    """
    before: list[Path | None] = []
    for written, name in renamings:
        sync(written)
        before.append(_kept(name, folder / f"before-{written.name}"))
    names = [[written.name, name.name] for written, name in renamings]
    with whole_file(folder / INTENT) as draft:
        draft.write_text(json.dumps(names))
    try:
        for written, name in renamings:
            written.replace(name)
        sync(folder.parent)
    except BaseException:
        for (written, name), old in zip(renamings, before, strict=True):
            if not written.exists():  # it has its name: back, so that the intent still holds
                name.replace(written)
                if old is not None:
                    old.replace(name)
        raise
    finally:
        (folder / INTENT).unlink()


def mend(parent: Path) -> None:
    """Completes or takes away what processes that are gone left in a folder."""
    for folder in parent.glob(f"{PREFIX}*"):
        with suppress(Busy, FileNotFoundError, PermissionError), locked(folder / LOCK):
            for written, name in _intended(folder):
                if (folder / written).exists():
                    (folder / written).replace(parent / name)
            shutil.rmtree(folder)
    for folder in parent.glob(f"{UNBORN}*"):
        with suppress(FileNotFoundError, PermissionError):
            if time.time() - folder.stat().st_mtime > OLD:
                shutil.rmtree(folder, ignore_errors=True)


def require_whole(path: Path) -> None:
    """Refuses a file of a set that is being renamed, or was when its process was killed.

    Raises `OSError` where it is one, and may be of another conversion than those beside it.
    """
    for folder in path.parent.glob(f"{PREFIX}*"):
        if any(name == path.name for _, name in _intended(folder)):
            raise OSError(
                errno.EAGAIN,
                "its conversion is under way or was broken off; run it again",
                str(path),
            )


def _intended(folder: Path) -> list[list[str]]:
    """Names in a workplace, and those that they are to have; none before that was written."""
    try:
        found: list[list[str]] = json.loads((folder / INTENT).read_text())
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return []
    return found


def _kept(name: Path, place: Path) -> Path | None:
    """What has a name now, under another as well; None where nothing has it."""
    try:
        os.link(name, place)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno not in NO_LINKS or name.is_dir():
            raise
        shutil.copy2(name, place)
    return place
