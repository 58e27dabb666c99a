"""From what a user asked to resume to the checkpoint, the settings and the lock to go on with."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from durable.command_line import Given, from_tree
from durable.errors import InUse
from durable.verified import MANIFEST, CorruptError, read_manifest
from models.configuration import completed, flatten
from training.checkpoints.checkpoint import (
    AGENTS,
    STATE,
    Checkpoint,
    RunLock,
    Tell,
    newest,
    part,
    steps_in,
)
from training.checkpoints.errors import BucketError, CheckpointError, NoCheckpoint
from training.checkpoints.object_store import Bucket
from training.data import TrainingData
from training.describe import identity
from training.learning.agent import State, require_fits
from training.settings import TrainSettings
from training.sources import given_by_user, settings_of
from training.tracking.journals import run_known_as

# What a fork may not change, and why.
FORKS_KEEP = {
    "seed": "a fork continues with the random numbers of its parent",
    "seeds": "a fork continues with the random numbers of its parent",
    "replay.prefill": "a fork begins where its parent stood, a new run with what desks lived",
}


class Start(NamedTuple):
    """Where a training goes on."""

    checkpoint: Checkpoint
    lock: RunLock | None  # of the run that is resumed; a fork leaves its parent's alone
    elsewhere: Mapping[int, float | None]  # scores of the run's checkpoints in a bucket, by step

    @property
    def run_ids(self) -> list[str]:
        """MLflow runs of the training that was saved, one for each seed."""
        return list(self.checkpoint.manifest["run_ids"])

    def close(self) -> None:
        """Lets others have the run."""
        if self.lock is not None:
            self.lock.close()

    def require_fits(self, present: State) -> None:
        """Refuses a checkpoint of other agents than those that are to go on.

        Raises `NoCheckpoint` where the first array that differs.
        """
        try:
            require_fits(present, part(self.checkpoint.arrays, AGENTS))
        except ValueError as error:
            raise NoCheckpoint(f"{self.checkpoint.folder}: {error}") from error

    def require_unfinished(self, settings: TrainSettings, ends: Sequence[str | None]) -> None:
        """Refuses a training of which nothing is left to do.

        `ends` says how its runs ended, None for those that have not, as far as is known. Raises
        `NoCheckpoint`: names it, and those that have not ended.
        """
        manifest = self.checkpoint.manifest
        step = self.checkpoint.step
        finished = all(end == "FINISHED" for end in ends)
        if not finished or not (manifest["ended"] or step >= settings.steps):
            return
        others = unfinished(self.checkpoint.folder.parents[1])
        raise NoCheckpoint(
            f"run {self.run_ids[0]} has ended after {step:,} iterations; go on from it as a new run with "
            f"--fork --steps, above {step}"
            + (f"; not at their end are {', '.join(others)}" if others else "")
        )


def resumed(arguments: list[str], tell: Tell) -> tuple[TrainSettings, Start] | None:
    """The settings and the start that `--resume` asks for; None where it is not there.

    Settings are those of the checkpoint; what the environment and the command line say must agree with
    them, unless the run is forked.

    Raises:
        NoCheckpoint: there is none, or the settings differ from it.
        InUse: another process trains the run.
        BadSettings: a key is unknown or a value out of range.
    """
    given = given_by_user(arguments)
    which = given["resume"].value if "resume" in given else None
    if which is None:
        return None
    try:
        return _resumed(which, given, tell)
    except (CheckpointError, InUse, BucketError):
        raise
    except OSError as error:
        raise NoCheckpoint(f"{which}: cannot be read ({error.strerror})") from error


def _resumed(which: str, given: Mapping[str, Given], tell: Tell) -> tuple[TrainSettings, Start]:
    places = ("resume", "fork", "mlruns", "checkpoints.where")
    asked = settings_of({path: given[path] for path in places if path in given})
    where = asked.checkpoints
    bucket = Bucket(where.url) if where.url else None
    known_as = run_known_as(asked.mlruns, which)
    folder = find(which, where.root(asked.mlruns), bucket, known_as)
    exact = (folder / MANIFEST).exists()
    run = folder.parent if exact else folder
    lock = None if asked.fork else RunLock(run)
    try:
        if exact:
            checkpoint = Checkpoint.load(folder)
        else:
            checkpoint = newest(run, bucket, tell, aside=lock is not None)
        saved = {
            **checkpoint.manifest["settings"],
            "checkpoints": checkpoint.manifest["checkpoints"],
        }
        settings = settings_of({**from_tree(saved, str(checkpoint.folder)), **given})
        _require_same(checkpoint, settings, asked.fork)
    except BaseException:
        if lock is not None:
            lock.close()
        raise
    elsewhere = scores_in(bucket, run.name) if bucket is not None and lock is not None else {}
    return settings, Start(checkpoint, lock, elsewhere)


def require_same_data(start: Start, settings: TrainSettings, data: TrainingData) -> None:
    """Refuses other bars than those that the checkpoint's replay and streams point into.

    Raises `NoCheckpoint` where what differs, there and here.
    """
    there = start.checkpoint.manifest
    was = _comparable(there["settings"])
    now = _comparable(settings.tree())
    said = there["settings"]["market"]["episode_bars"]
    was["market.episode_bars"] = str(_episode_bars(said, data))
    now["market.episode_bars"] = str(data.train.episode_bars)
    for name in ("market.scheme", "market.episode_bars", "market.sizing"):
        if was[name] != now[name]:
            raise NoCheckpoint(
                f"{start.checkpoint.folder}: {name} is {was[name]} in the checkpoint and {now[name]} "
                "now; replay and streams would mean something else"
            )
    for name, here in identity(data).items():
        if here != there[name]:
            raise NoCheckpoint(
                f"{start.checkpoint.folder}: {name} is {there[name]} in the checkpoint and {here} with "
                f"--bars {settings.bars}; replay and streams mean nothing on other bars, splits or "
                "features"
            )


def _episode_bars(said: int | None, data: TrainingData) -> int:
    """What a checkpoint's setting comes to on these bars."""
    market = data.train.settings.model_copy(update={"episode_bars": said})
    return replace(data.train, settings=market).episode_bars


def _comparable(tree: Mapping[str, Any]) -> dict[str, str]:
    """Settings by dotted path, as those of all versions can be compared."""
    return completed(flatten(tree))


def _require_same(checkpoint: Checkpoint, settings: TrainSettings, fork: bool) -> None:
    was = _comparable(checkpoint.manifest["settings"])
    now = _comparable(settings.tree())
    if fork:
        if settings.steps <= checkpoint.step:
            raise NoCheckpoint(
                f"steps is {settings.steps}, but the checkpoint has done {checkpoint.step} already; set "
                "--steps above that"
            )
        for name, why in FORKS_KEEP.items():
            if was[name] != now[name]:
                raise NoCheckpoint(
                    f"{name} is {was[name]} in the checkpoint and {now[name]} here; {why}"
                )
        return
    # What an episode's length comes to is compared once the bars are known.
    open_now = "none" in (was["market.episode_bars"], now["market.episode_bars"])
    known_later = ("bars", "market.episode_bars") if open_now else ("bars",)
    differ = [name for name in was if name not in known_later and was[name] != now.get(name)]
    if differ:
        shown = ", ".join(
            f"{name} is {was[name]} there and {now.get(name)} here" for name in differ
        )
        raise NoCheckpoint(
            f"{checkpoint.folder}: settings differ from the checkpoint's: {shown}; resume without "
            "them, or add --fork to start a new run from it"
        )


def find(which: str, root: Path, bucket: Bucket | None, known_as: Sequence[str] = ()) -> Path:
    """The folder of the run, or of the one checkpoint, that is to be resumed.

    That is `latest`, a run's id (its first characters do), or the path of either folder; `known_as`
    has the runs that MLflow knows by such an id. Raises `NoCheckpoint` where there is none such.
    """
    path = Path(which)
    if not which:
        raise NoCheckpoint("--resume is empty; give a run's id, latest, or a folder")
    if "/" in which and not path.is_dir():
        raise NoCheckpoint(f"{which}: there is no such folder")
    if path.is_dir() and (steps_in(path) or (path / MANIFEST).exists()):
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
        if any(
            name.startswith(which) or name in known_as
            for name in (run, *manifest.get("run_ids", []))
        )
    ]
    if len(fitting) != 1:
        many = "no run" if not fitting else f"more than one run ({', '.join(fitting)})"
        raise NoCheckpoint(
            f"{which}: {many} in {looked} has this id; give a run's id, latest, or a folder"
        )
    return root / fitting[0]


def unfinished(root: Path) -> list[str]:
    """Trainings that were saved before their end, as a user would name them, the newest first."""
    runs = [folder for folder in root.iterdir() if folder.is_dir()] if root.is_dir() else []
    known = [(_newest_known(folder, None), folder.name) for folder in runs]
    left = [(str(each["saved_at"]), each, run) for each, run in known if each and not each["ended"]]
    return [
        f"{run[:8]} (saved at {each['step']:,} of {each['settings']['steps']:,})"
        for _, each, run in sorted(left, key=lambda one: one[0], reverse=True)
    ]


def _newest_known(folder: Path, bucket: Bucket | None) -> dict[str, Any]:
    """A manifest of a run's newest checkpoint, unverified where it is in a bucket."""
    for step in sorted(steps_in(folder).values(), reverse=True):
        with suppress(CorruptError, OSError):
            return read_manifest(step, STATE)
    if bucket is not None:
        for name in reversed(bucket.steps(folder.name)):
            with suppress(ValueError):
                return bucket.manifest(folder.name, name)
    return {}


def scores_in(bucket: Bucket, run: str) -> dict[int, float | None]:
    """Scores of a run's checkpoints in a bucket, by step."""
    return {int(name[5:]): bucket.manifest(run, name).get("score") for name in bucket.steps(run)}
