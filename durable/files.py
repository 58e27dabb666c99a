"""Files and folders that are there whole or not at all, and what a power cut must not take away."""

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TEMPORARY = ".writing-"  # what a name begins with until what it stands for is whole
REPLACED = f"{TEMPORARY}old-"  # before a folder's name while another takes it


def sync(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on the disk; raises `OSError`."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def whole_file(path: Path, awaited: bool = True) -> Iterator[Path]:
    """A name to write a file under; it takes its place, with a file's that is there, once it is whole.

    Unless it is `awaited`, it may not be on the disk yet. Raises `OSError` where it cannot be
    written; a file that was there is as it was, and nothing else is left.
    """
    temporary = path.with_name(f"{TEMPORARY}{path.name}-{os.getpid()}-{threading.get_ident()}")
    try:
        yield temporary
        if awaited:
            sync(temporary)
        temporary.replace(path)
        if awaited:
            sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def whole_folder(folder: Path, awaited: bool = True) -> Iterator[Path]:
    """An empty folder to write into; it takes its place, with a folder's that is there, once it is whole.

    It is to hold files alone; folders around it are made. For `awaited` see `whole_file`. Raises
    `OSError` where it cannot be written; nothing of it is left.
    """
    temporary = folder.with_name(f"{TEMPORARY}{folder.name}-{os.getpid()}")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        yield temporary
        if awaited:
            for path in (*temporary.iterdir(), temporary):
                sync(path)
        old = folder.with_name(f"{REPLACED}{folder.name}")
        if folder.exists():
            folder.rename(old)  # a folder that is not empty cannot be renamed onto
        temporary.rename(folder)
        if awaited:
            sync(folder.parent)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def tidy(around: Path) -> None:
    """Mends what a killed process left: unwritten folders go, one that was being replaced comes back.

    Only whoever keeps others from writing there may do this.
    """
    for left in around.glob(f"{TEMPORARY}*"):
        name = left.name.removeprefix(REPLACED)
        if left.name.startswith(REPLACED) and not (around / name).exists():
            left.rename(around / name)
        elif left.is_dir():
            shutil.rmtree(left)
        else:
            left.unlink()
