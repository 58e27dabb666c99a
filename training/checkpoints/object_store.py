"""Checkpoints in object storage: any URL that fsspec knows, uploaded in the background.

A checkpoint is there once its manifest is, which is uploaded last; whoever lists a bucket sees no others.
"""

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import fsspec

from durable.addresses import take
from durable.errors import MissingExtra
from durable.files import whole_folder
from durable.retrying import RetryingWorker
from durable.verified import MANIFEST
from training.checkpoints.errors import BucketError

FIRST_PAUSE = 0.5  # s after the first attempt that failed


class Bucket:
    """Folders of folders of files under a URL: `<url>/<run>/<step>/<file>`.

    That is `s3://bucket/prefix`, `gs://...`, `abfs://...` or `file:///...`; where to find the server and
    who we are comes from the environment, as each provider has it.

    Raises:
        MissingExtra: a package is missing.
        BucketError: the URL is not one.
    """

    def __init__(self, url: str) -> None:
        url = take(url)
        self.url = url.rstrip("/")
        protocol = url.split("://", 1)[0]
        extra = {"s3a": "s3", "gcs": "gcs", "gs": "gcs", "abfs": "azure", "az": "azure"}
        try:
            options = {"auto_mkdir": True} if protocol == "file" else {}
            self._files, self._root = fsspec.core.url_to_fs(self.url, **options)
        except ImportError as error:
            raise MissingExtra(
                f"checkpoints in {url} need a package that is not installed here ({error}): pip install "
                f"'qdesk[{extra.get(protocol, protocol)}]'"
            ) from error
        except Exception as error:
            raise BucketError(
                f"checkpoints {url}: this is no URL that can be used ({error})"
            ) from error

    def names(self, *path: str) -> list[str]:
        """What a folder holds, sorted; nothing where there is no such folder."""
        found = self._listed(self._files.ls, *path)
        return sorted({name.rstrip("/").rsplit("/", 1)[-1] for name in found})

    def steps(self, run: str) -> list[str]:
        """Whole checkpoints of a run, sorted."""
        parts = [path.split("/") for path in self._listed(self._files.find, run)]
        return sorted(path[-2] for path in parts if path[-1] == MANIFEST)

    def manifest(self, run: str, step: str) -> dict[str, Any]:
        """As it stands there, unverified."""
        with self._answering():
            content = self._files.cat_file(self._path(run, step, MANIFEST))
        loaded: dict[str, Any] = json.loads(content)
        return loaded

    def upload(self, run: str, folder: Path) -> None:
        """Copies a folder there, its manifest last."""
        files = sorted(folder.iterdir(), key=lambda path: path.name == MANIFEST)
        for file in files:
            self._files.put_file(str(file), self._path(run, folder.name, file.name))

    def download(self, run: str, folder: Path, files: Sequence[str]) -> None:
        """Copies these files of a folder from there; it is here whole or not at all."""
        with whole_folder(folder) as temporary, self._answering():
            for name in files:  # a server that was killed may have left others beside them
                self._files.get_file(self._path(run, folder.name, name), str(temporary / name))

    def remove(self, run: str, step: str) -> None:
        """Takes a checkpoint away, its manifest first."""
        # One by one: not every server knows how to take several away at once.
        for name in sorted(self.names(run, step), key=lambda name: name != MANIFEST):
            self._files.rm_file(self._path(run, step, name))
        if self.url.startswith("file:"):
            self._files.rmdir(self._path(run, step))

    def _listed(self, look: Callable[..., Iterable[str]], *path: str) -> list[str]:
        with self._answering():
            self._files.invalidate_cache()
            try:
                return [str(name) for name in look(self._path(*path), detail=False)]
            except FileNotFoundError:
                return []

    @contextmanager
    def _answering(self) -> Iterator[None]:
        """Says in one sentence whatever a provider's library raises."""
        try:
            yield
        except Exception as error:
            reason = str(error).splitlines()[0] if str(error) else ""
            raise BucketError(
                f"checkpoints {self.url}: cannot be read ({type(error).__name__}: {reason}); credentials "
                "and endpoint come from the environment, as the provider has it"
            ) from error

    def _path(self, *parts: str) -> str:
        return "/".join((self._root, *parts))


class Uploads:
    """Uploads folders in the background, in their order, again and again until each has arrived.

    Training never waits: where more than `most` folders wait behind the one on its way, the oldest of
    them is left out, and said. After each upload `gone` says what is no longer to be in the bucket.
    """

    def __init__(
        self,
        bucket: Bucket,
        run: str,
        most: int,
        gone: Callable[[], Set[str]],
        tell: Callable[[str], None],
    ) -> None:
        self._bucket = bucket
        self._run = run
        self._most = most
        self._gone = gone
        self._tell = tell
        self._waiting: deque[Path] = deque()
        self._if_missing: set[Path] = set()
        self._failing = False
        self._worker = RetryingWorker("uploads", self._attempt, FIRST_PAUSE, idle=True).start()
        self._changed = self._worker.changed

    @property
    def waiting(self) -> set[str]:
        """Folders that have not arrived yet."""
        with self._changed:
            return {folder.name for folder in self._waiting}

    def put(self, folder: Path, if_missing: bool = False) -> None:
        """Has a whole folder uploaded, or only if missing there; it must stay while it is `waiting`."""
        with self._changed:
            self._waiting.append(folder)
            if if_missing:
                self._if_missing.add(folder)
            # The first may be on its way right now.
            left_out = self._waiting[1] if len(self._waiting) > self._most + 1 else None
            if left_out is not None:
                del self._waiting[1]
            if not self._failing:  # else the pause is kept
                self._worker.wake()
        if left_out is not None:
            self._tell(
                f"{self._bucket.url}: {self._most} checkpoints wait to be uploaded; {left_out.name} is "
                "left out"
            )

    def close(self, seconds: float) -> set[str]:
        """Waits until everything has arrived, at most so long, and returns what has not."""
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting, seconds)
            left = {folder.name for folder in self._waiting}
        self._worker.close(0.0)
        return left

    def _attempt(self) -> bool:
        """Uploads what waits, up to the first that cannot be."""
        while True:
            with self._changed:
                if not self._waiting or self._worker.closing:
                    return True
                folder = self._waiting[0]
            try:
                self._upload(folder)
            except Exception as error:
                self._say_once(folder, error)
                return False
            if self._failing:
                self._failing = False
                self._tell(f"{self._bucket.url}: uploads go on with {folder.name}")
            with self._changed:
                self._waiting.popleft()
                self._changed.notify_all()

    def _upload(self, folder: Path) -> None:
        if not folder.exists():
            return  # it was set aside meanwhile
        there = set(self._bucket.steps(self._run))
        if folder not in self._if_missing or folder.name not in there:
            self._bucket.upload(self._run, folder)
        self._if_missing.discard(folder)
        for step in there & self._gone():
            with suppress(Exception):  # it arrived; what stays too long goes after the next one
                self._bucket.remove(self._run, step)

    def _say_once(self, folder: Path, error: Exception) -> None:
        if not self._failing:
            self._failing = True
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            self._tell(
                f"{self._bucket.url}: {folder.name} cannot be uploaded ({reason}); trying again until it "
                "can, training goes on"
            )
