"""The journals of a folder's runs, looked at without opening them."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec
import orjson

from durable.lines import fits, sealed
from training.tracking.entries import Begun
from training.tracking.journal import JOURNAL, delivery_of

JOURNALS = "journals"  # the folder of all runs' journals in that of the tracking data


def journals(mlruns: Path) -> Iterator[Path]:
    """The folders of all runs' journals, the oldest first."""
    found = []
    for path in (mlruns.resolve() / JOURNALS).glob(f"*/{JOURNAL}"):
        with suppress(OSError):  # another process took it away
            found.append((path.stat().st_ctime, path.parent))
    return iter([folder for _, folder in sorted(found)])


def head_of(folder: Path) -> Begun | None:
    """What the run of a journal is, read without opening it; None where that is not to be had."""
    with suppress(OSError, ValueError, msgspec.MsgspecError), (folder / JOURNAL).open("rb") as file:
        line = file.readline()
        if sealed(line) is None or fits(line, 0):
            return msgspec.json.decode(line, type=Begun)
    return None


def heads(mlruns: Path) -> Iterator[Begun]:
    """What the runs of all journals are, the oldest first."""
    return (head for folder in journals(mlruns) if (head := head_of(folder)))


def undelivered(folder: Path) -> bool:
    """Whether a journal that nobody writes may hold something that is not sent, by a short look."""
    known = delivery_of(folder)
    with suppress(OSError, ValueError, LookupError, TypeError, AttributeError):
        with (folder / JOURNAL).open("rb") as file:
            file.seek(max(os.fstat(file.fileno()).st_size - 2**16, 0))
            before, last = [b"", *file.read().splitlines()][-2:]
        if sealed(last) is not None and not fits(last, sealed(before) or 0):
            return True
        end = orjson.loads(last)
        return bool(end.get("kind") != "end" or end["n"] > known.get("up_to", 0))
    return True


def run_known_as(mlruns: Path, which: str) -> list[str]:
    """Ids of the runs whose id, here or in MLflow, begins so."""
    found = []
    for folder in journals(mlruns):
        names = (folder.name, str(delivery_of(folder).get("learned", {}).get("run_id")))
        if any(name.startswith(which) for name in names):
            found.append(folder.name)
    return found
