"""Exact checkpoints of a training: saved whole, verified, kept few, found again.

`<root>/<run id>/step-000000012000/` holds `state.safetensors`, every array that training goes on from,
and `manifest.json`, which says what it is. `root` is `checkpoints` in the folder of the tracking data, or
what `--checkpoints` names. A run's `lock` keeps a second trainer out.
"""

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, Self

from models.sealed import MANIFEST, TEMPORARY, Arrays, Damaged, read_manifest, seal, unseal
from training.checkpoint_settings import CheckpointSettings
from training.faults import CheckpointError, InUse, NoCheckpoint
from training.object_store import Bucket, Uploads

FORMAT = "qdesk-checkpoint/1"
STATE = "state.safetensors"
UPLOAD_SECONDS = 300.0  # how long a training's end waits for what was not uploaded yet

Tell = Callable[[str], None]


class Checkpoint(NamedTuple):
    """One that was loaded and verified."""

    folder: Path
    manifest: dict[str, Any]
    arrays: Arrays

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Reads and verifies a checkpoint.

        Raises:
            Damaged: it is not what was saved.
        """
        manifest, arrays = unseal(folder, STATE)
        if manifest.get("format") != FORMAT:
            raise Damaged(
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
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._descriptor = _lock(folder, attempts=3)
            for left in folder.glob(f"{TEMPORARY}*"):  # by a process that was killed
                shutil.rmtree(left)
        except InUse:
            raise
        except OSError as error:
            reason = error.strerror or str(error)
            raise CheckpointError(f"checkpoints {folder}: cannot be written ({reason})") from error

    def close(self) -> None:
        """Lets others in; a second time it does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class Checkpoints:
    """The checkpoints of one training, used as a context.

    Args:
        lock: of its folder; closed with the context.
        settings: how many to keep, and where.
        every: iterations between two.
        tell: takes a sentence for the user.
    """

    def __init__(
        self, lock: RunLock, settings: CheckpointSettings, every: int, tell: Tell = print
    ) -> None:
        self.folder, self.settings, self.every, self._tell = lock.folder, settings, every, tell
        self._lock = lock
        self._uploads: Uploads | None = None
        self._scores: dict[int, float | None] = {}

    def __enter__(self) -> Self:
        """Begins to keep what is saved; what was never uploaded is uploaded now."""
        for step, folder in _steps(self.folder).items():
            with suppress(Damaged):
                self._scores[step] = read_manifest(folder, STATE).get("score")
        if self.settings.url is not None:
            bucket = Bucket(self.settings.url)
            self._uploads = Uploads(
                bucket, self.folder.name, self.settings.queue, self._kept_names, self._tell
            )
            there = set()
            with suppress(Exception):  # a server that is down now may be up later
                there = set(bucket.steps(self.folder.name))
            for step in sorted(self._scores):
                if _name(step) not in there:
                    self._uploads.put(self.folder / _name(step))
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if self._uploads is not None:
                wait = 0.0 if kind is not None else UPLOAD_SECONDS
                if kind is None and self._uploads.waiting:
                    self._tell(f"waiting for {self.settings.url}")
                left = self._uploads.close(wait)
                if left:
                    self._tell(
                        f"{self.settings.url}: {', '.join(sorted(left))} did not arrive; they are in "
                        f"{self.folder}, and resuming uploads them"
                    )
        finally:
            self._lock.close()

    def due(self, step: int, score: float | None = None) -> bool:
        """Whether to save now: after `every` iterations, at the best validation so far, at the first.

        Args:
            step: iterations done.
            score: on validation, where there was one at this very step; higher is better.
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
        known = {"format": FORMAT, "step": step, "score": score, "saved_at": _now()}
        folder = self.folder / _name(step)
        seal(folder, STATE, arrays, {**known, **manifest})
        self._scores[step] = score
        if self._uploads is not None:
            self._uploads.put(folder)
        self._prune()

    def _kept(self) -> set[int]:
        steps = sorted(self._scores)
        scored = [step for step in steps if self._scores[step] is not None]
        best = sorted(scored, key=lambda step: (-(self._scores[step] or 0.0), step))
        return {*steps[-self.settings.keep_last :], *best[: self.settings.keep_best]}

    def _kept_names(self) -> set[str]:
        return {_name(step) for step in self._kept()} | self._waiting()

    def _waiting(self) -> set[str]:
        return self._uploads.waiting if self._uploads is not None else set()

    def _prune(self) -> None:
        for step in self._scores.keys() - self._kept():
            folder = self.folder / _name(step)
            if folder.name not in self._waiting():
                gone = folder.with_name(f"{TEMPORARY}gone-{folder.name}")
                with suppress(FileNotFoundError):
                    folder.rename(gone)  # never seen half
                shutil.rmtree(gone, ignore_errors=True)
                del self._scores[step]


def newest(folder: Path, bucket: Bucket | None, tell: Tell, aside: bool = True) -> Checkpoint:
    """The newest good checkpoint of a run, here or in a bucket; it is here afterwards.

    Args:
        folder: of the run.
        bucket: where else to look.
        tell: takes a sentence for each that is damaged.
        aside: whether to rename those that are damaged; only who holds the lock may.

    Raises:
        NoCheckpoint: there is none that is good.
    """
    here = {path.name for path in _steps(folder).values()}
    there = set(bucket.steps(folder.name)) if bucket is not None else set()
    for name in sorted(here | there, reverse=True):
        if name in here:
            try:
                return Checkpoint.load(folder / name)
            except Damaged as error:
                tell(f"damaged: {error}{_set_aside(folder / name) if aside else ''}")
            except OSError as error:
                tell(f"{folder / name}: cannot be read ({error.strerror}); it stays where it is")
        if name in there and bucket is not None:
            bucket.download(folder.name, folder / name, (STATE, MANIFEST))
            try:
                return Checkpoint.load(folder / name)
            except Damaged as error:
                tell(f"damaged in {bucket.url}: {error}")
                shutil.rmtree(folder / name)
    looked = f"{folder}{f' and {bucket.url}/{folder.name}' if bucket else ''}"
    raise NoCheckpoint(f"{looked}: there is no checkpoint that can be used")


def find(which: str, root: Path, bucket: Bucket | None) -> Path:
    """The folder of the run, or of the one checkpoint, that is to be resumed.

    Args:
        which: `latest`, a run's id (its first characters do), or the path of either folder.
        root: where checkpoints are.
        bucket: where else to look for ids and the latest.

    Raises:
        NoCheckpoint: there is none such.
    """
    path = Path(which)
    if path.is_dir() and (_steps(path) or (path / "manifest.json").exists()):
        return path.resolve()
    runs = {folder.name for folder in root.iterdir() if folder.is_dir()} if root.is_dir() else set()
    runs |= set(bucket.names()) if bucket is not None else set()
    known = {run: _newest_known(root / run, bucket) for run in sorted(runs)}
    known = {run: manifest for run, manifest in known.items() if manifest}
    looked = f"{root}{f' and {bucket.url}' if bucket else ''}"
    if not known:
        raise NoCheckpoint(f"{which}: {looked} holds no checkpoint")
    if which == "latest":
        return root / max(known, key=lambda run: str(known[run].get("saved_at")))
    fitting = [
        run
        for run, manifest in known.items()
        if any(name.startswith(which) for name in (run, *manifest.get("run_ids", [])))
    ]
    if len(fitting) != 1:
        many = "no run" if not fitting else f"more than one run ({', '.join(fitting)})"
        raise NoCheckpoint(
            f"{which}: {many} in {looked} has this id; give a run's id, latest, or a folder"
        )
    return root / fitting[0]


def _newest_known(folder: Path, bucket: Bucket | None) -> dict[str, Any]:
    """A manifest of a run's newest checkpoint, unverified where it is in a bucket."""
    for step in sorted(_steps(folder).values(), reverse=True):
        with suppress(Damaged, OSError):
            return read_manifest(step, STATE)
    if bucket is not None:
        for name in reversed(bucket.steps(folder.name)):
            with suppress(ValueError):
                return bucket.manifest(folder.name, name)
    return {}


def in_use(folder: Path) -> bool:
    """Whether a process trains this run, on this host."""
    try:
        os.close(_lock(folder))
    except InUse:
        return True
    except OSError:
        return False
    return False


def _lock(folder: Path, attempts: int = 1) -> int:
    """An open file that no other process can lock until this one closes it, or dies."""
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
    for attempt in range(1, attempts + 1):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if attempt == attempts:
                owner = os.read(descriptor, 100).decode(errors="replace").strip()
                os.close(descriptor)
                raise InUse(f"{folder}: process {owner} trains this run; stop it first") from None
            time.sleep(0.1)  # `in_use` may have it for a moment
    os.truncate(descriptor, 0)
    os.write(descriptor, f"{os.getpid()}\n".encode())
    return descriptor


def _set_aside(folder: Path) -> str:
    """Renames a damaged checkpoint, so that it is not looked at again, and says so."""
    aside = folder.with_name(f"damaged-{folder.name}")
    try:
        shutil.rmtree(aside, ignore_errors=True)
        folder.rename(aside)
    except OSError as error:
        return f" (it cannot be set aside: {error.strerror})"
    return f" (set aside as {aside.name})"


def _steps(folder: Path) -> dict[int, Path]:
    found = folder.glob("step-*") if folder.is_dir() else ()
    return {int(path.name[5:]): path for path in sorted(found) if path.name[5:].isdigit()}


def _name(step: int) -> str:
    return f"step-{step:012d}"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")
