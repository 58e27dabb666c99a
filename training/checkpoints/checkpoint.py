"""Exact checkpoints of a training: saved whole, verified, kept few, found again.

`<root>/<run id>/step-000000012000/` holds `state.safetensors`, every array that training goes on from,
and `manifest.json`, which says what it is. `root` is `checkpoints` in the folder of the tracking data, or
what `--checkpoints` names. A run's `lock` keeps a second trainer out.
"""

import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, Self

from durable.errors import InUse
from durable.files import TEMPORARY, tidy
from durable.locks import Busy, locked
from durable.verified import (
    MANIFEST,
    Arrays,
    CorruptError,
    read_manifest,
    read_verified,
    write_verified,
)
from training.checkpoints.errors import BucketError, CheckpointError, NoCheckpoint
from training.checkpoints.object_store import Bucket, Uploads
from training.checkpoints.settings import CheckpointSettings

FORMAT = "qdesk-checkpoint/1"
STATE = "state.safetensors"
AGENTS = "agents/"  # what the names of arrays of learning begin with
LOCK_SECONDS = 0.2  # for a trainer that was killed just now to be gone
UPLOAD_SECONDS = 300.0  # that a training's end waits for what is not uploaded yet
STOP_SECONDS = 8.0  # that a stop does

Tell = Callable[[str], None]


class Checkpoint(NamedTuple):
    """One that was loaded and verified."""

    folder: Path
    manifest: dict[str, Any]
    arrays: Arrays

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Reads and verifies a checkpoint. Raises `CorruptError` where it is not what was saved."""
        manifest, arrays = read_verified(folder, STATE)
        if manifest.get("format") != FORMAT:
            raise CorruptError(
                f"{folder}: its format is {manifest.get('format')!r}; this version reads {FORMAT!r}"
            )
        return cls(folder, manifest, arrays)

    @property
    def step(self) -> int:
        """Iterations done."""
        return int(self.manifest["step"])


class RunLock:
    """A run's folder, made where it is missing, that no other process can train on.

    Raises:
        InUse: another process has it.
        CheckpointError: it cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._held = ExitStack()
        file = folder / "lock"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._held.enter_context(locked(file, LOCK_SECONDS))
            file.write_text(f"{os.getpid()}\n")
            tidy(folder)
        except Busy:
            owner = file.read_text(errors="replace").strip()
            raise InUse(f"{folder}: process {owner} trains this run; stop it first") from None
        except OSError as error:
            self._held.close()
            reason = error.strerror or str(error)
            raise CheckpointError(f"checkpoints {folder}: cannot be written ({reason})") from error

    def close(self) -> None:
        """Lets others in; a second time it does nothing."""
        self._held.close()


class Checkpoints:
    """The checkpoints of one training, saved `every` so many iterations; used as a context.

    The context closes the lock of their folder. `elsewhere` has the scores of those in a bucket, by step.
    """

    def __init__(
        self,
        lock: RunLock,
        settings: CheckpointSettings,
        every: int,
        tell: Tell = print,
        elsewhere: Mapping[int, float | None] | None = None,
    ) -> None:
        self.folder = lock.folder
        self.settings = settings
        self.every = every
        self._tell = tell
        self._lock = lock
        self._uploads: Uploads | None = None
        self._scores = dict(elsewhere or {})
        self._gone: frozenset[str] = frozenset()
        self._patience = UPLOAD_SECONDS

    def __enter__(self) -> Self:
        """Begins to keep what is saved; what was never uploaded is uploaded now."""
        here = steps_in(self.folder)
        for step, folder in here.items():
            with suppress(CorruptError, OSError):
                self._scores[step] = read_manifest(folder, STATE).get("score")
        if self.settings.url is not None:
            bucket = Bucket(self.settings.url)
            self._uploads = Uploads(
                bucket, self.folder.name, self.settings.queue, self._not_kept, self._tell
            )
            for step in sorted(here.keys() & self._scores.keys()):
                self._uploads.put(here[step], if_missing=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if self._uploads is not None:
                wait = 0.0 if kind is not None else self._patience
                if kind is None and self._uploads.waiting:
                    self._tell(f"waiting for {self.settings.url}")
                left = self._uploads.close(wait)
                self._prune()
                if left:
                    self._tell(
                        f"{self.settings.url}: {', '.join(sorted(left))} did not arrive; they are in "
                        f"{self.folder}, and resuming uploads them"
                    )
        finally:
            self._lock.close()

    def hurry(self) -> None:
        """Someone waits for the process to end: uploads get seconds, not minutes."""
        self._patience = STOP_SECONDS

    def has(self, step: int) -> bool:
        """Whether a checkpoint of this step is here."""
        return (self.folder / _name(step) / MANIFEST).exists()

    def set_aside_after(self, step: int) -> None:
        """Renames those after a step that training goes back to; they are made anew, and count anew."""
        self._scores = {old: score for old, score in self._scores.items() if old <= step}
        for later, folder in steps_in(self.folder).items():
            if later > step:
                aside = folder.with_name(f"before-going-back-{folder.name}")
                shutil.rmtree(aside, ignore_errors=True)
                folder.rename(aside)

    def due(self, step: int, score: float | None = None) -> bool:
        """Whether to save now: after `every` iterations, at the best validation so far, at the first.

        The score is that on validation, where there was one at this very step; higher is better.
        """
        known = [each for each in self._scores.values() if each is not None]
        best = score is not None and self.settings.keep_best and score > max(known, default=-1e300)
        last = max((old for old in self._scores if old < step), default=-self.every)
        return bool(best or step // self.every > last // self.every)

    def save(
        self, step: int, arrays: Arrays, manifest: Mapping[str, Any], score: float | None = None
    ) -> None:
        """Saves a checkpoint, and takes away those that are no longer to be kept.

        Raises:
            NotFinite: the state is not worth keeping.
            OSError: it cannot be written; those before it are as they were.
        """
        score = self._scores.get(step) if score is None else score  # it may be saved a second time
        now = datetime.now(UTC).isoformat(timespec="microseconds")
        known = {"format": FORMAT, "step": step, "score": score, "saved_at": now}
        folder = self.folder / _name(step)
        write_verified(folder, STATE, arrays, {**known, **manifest})
        self._scores[step] = score
        self._gone -= {folder.name}
        if self._uploads is not None:
            self._uploads.put(folder)
        self._prune()

    def _not_kept(self) -> set[str]:
        """Names of those that a bucket need not hold; asked by another thread."""
        return {_name(step) for step in dict(self._scores).keys() - self._kept()} | self._gone

    def _kept(self) -> set[int]:
        scores = dict(self._scores)
        steps = sorted(scores)
        scored = [step for step in steps if scores[step] is not None]
        best = sorted(scored, key=lambda step: (-(scores[step] or 0.0), step))
        return {*steps[-self.settings.keep_last :], *best[: self.settings.keep_best]}

    def _prune(self) -> None:
        waiting = self._uploads.waiting if self._uploads is not None else set()
        for step in self._scores.keys() - self._kept():
            folder = self.folder / _name(step)
            if folder.name not in waiting:
                gone = folder.with_name(f"{TEMPORARY}gone-{folder.name}")
                with suppress(FileNotFoundError):
                    folder.rename(gone)  # never seen half
                shutil.rmtree(gone, ignore_errors=True)
                del self._scores[step]
                self._gone |= {folder.name}


def newest(folder: Path, bucket: Bucket | None, tell: Tell, aside: bool = True) -> Checkpoint:
    """The newest good checkpoint of a run, here or in a bucket; it is here afterwards.

    Each that is damaged is told, and with `aside` renamed, which only the holder of the lock may
    do. Raises `NoCheckpoint` where there is none that is good.
    """
    here = {path.name for path in steps_in(folder).values()}
    there = set(bucket.steps(folder.name)) if bucket is not None else set()
    for name in sorted(here | there, reverse=True):
        if name in here:
            try:
                return Checkpoint.load(folder / name)
            except CorruptError as error:
                tell(f"damaged: {error}{_set_aside(folder / name) if aside else ''}")
            except OSError as error:
                tell(f"{folder / name}: cannot be read ({error.strerror}); it stays where it is")
        if name in there and bucket is not None:
            try:
                bucket.download(folder.name, folder / name, (STATE, MANIFEST))
                return Checkpoint.load(folder / name)
            except CorruptError as error:
                tell(f"damaged in {bucket.url}: {error}")
                shutil.rmtree(folder / name)
            except BucketError as error:
                tell(f"{name}: {error}")
    looked = f"{folder}{f' and {bucket.url}/{folder.name}' if bucket else ''}"
    raise NoCheckpoint(f"{looked}: there is no checkpoint that can be used")


def _set_aside(folder: Path) -> str:
    """Renames a damaged checkpoint, so that it is not looked at again, and says so."""
    aside = folder.with_name(f"damaged-{folder.name}")
    try:
        shutil.rmtree(aside, ignore_errors=True)
        folder.rename(aside)
    except OSError as error:
        return f" (it cannot be set aside: {error.strerror})"
    return f" (set aside as {aside.name})"


def prefixed(arrays: Arrays, prefix: str) -> Arrays:
    """The arrays with this before their names; `part` takes them back."""
    return {f"{prefix}{name}": array for name, array in arrays.items()}


def part(arrays: Arrays, prefix: str) -> Arrays:
    """The arrays whose names begin so, without that."""
    return {n.removeprefix(prefix): a for n, a in arrays.items() if n.startswith(prefix)}


def steps_in(folder: Path) -> dict[int, Path]:
    """The checkpoints in a run's folder, whole or damaged, by step."""
    found = folder.glob("step-*") if folder.is_dir() else ()
    return {int(path.name[5:]): path for path in sorted(found) if path.name[5:].isdigit()}


def _name(step: int) -> str:
    return f"step-{step:012d}"
