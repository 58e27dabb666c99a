"""From what a user asked to resume to the checkpoint, the settings and the lock to go on with."""

import argparse
import os
from pathlib import Path
from typing import NamedTuple

from training.checkpoint import Checkpoint, RunLock, Tell, find, newest
from training.checkpoint_settings import CheckpointSettings
from training.data import TrainingData
from training.faults import NoCheckpoint
from training.labels import identity
from training.object_store import Bucket
from training.settings import TrainSettings, flatten
from training.sources import load_from

FORKS_KEEP = ("data_hash", "train_hash", "features_hash", "reward_scale")


class Start(NamedTuple):
    """Where a training goes on."""

    checkpoint: Checkpoint
    lock: RunLock | None  # of the run that is resumed; a fork leaves its parent's alone

    @property
    def run_ids(self) -> list[str]:
        """MLflow runs of the training that was saved, one for each seed."""
        return list(self.checkpoint.manifest["run_ids"])

    def close(self) -> None:
        """Lets others have the run."""
        if self.lock is not None:
            self.lock.close()

    def ended(self, settings: TrainSettings) -> bool:
        """Whether there is nothing left to train."""
        return bool(self.checkpoint.manifest["ended"]) or self.checkpoint.step >= settings.steps


def resumed(arguments: list[str], tell: Tell) -> tuple[TrainSettings, Start] | None:
    """The settings and the start that `--resume` asks for; None where it is not there.

    Settings are those of the checkpoint; what the environment and the command line say must agree with
    them, unless the run is forked.

    Raises:
        NoCheckpoint: there is none, or the settings differ from it.
        InUse: another process trains the run.
        BadSettings: a key is unknown or a value out of range.
    """
    asked = _asked(arguments)
    if asked.resume is None:
        return None
    where = CheckpointSettings(where=asked.where)
    bucket = Bucket(where.url) if where.url else None
    folder = find(asked.resume, where.root(Path(asked.mlruns)), bucket)
    exact = (folder / "manifest.json").exists()
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
        settings = load_from(saved, str(checkpoint.folder), arguments)
        _require_same(checkpoint, settings, asked.fork)
    except BaseException:
        if lock is not None:
            lock.close()
        raise
    return settings, Start(checkpoint, lock)


def require_same_data(start: Start, settings: TrainSettings, data: TrainingData) -> None:
    """Refuses other bars than those that the checkpoint's replay and streams point into.

    Raises:
        NoCheckpoint: what differs, there and here.
    """
    here, there = identity(data), start.checkpoint.manifest
    for name in FORKS_KEEP:
        if here[name] != there[name]:
            raise NoCheckpoint(
                f"{start.checkpoint.folder}: {name} is {there[name]} in the checkpoint and "
                f"{here[name]} with --bars {settings.bars}; replay and streams mean nothing on other "
                "bars, splits or features"
            )
    for name in ("scheme", "episode_bars"):
        was, now = there["settings"]["market"][name], getattr(settings.market, name)
        if was != now:
            raise NoCheckpoint(
                f"{start.checkpoint.folder}: market.{name} is {was} in the checkpoint and {now} now; "
                "replay and streams would mean something else"
            )


def _require_same(checkpoint: Checkpoint, settings: TrainSettings, fork: bool) -> None:
    if fork:
        if settings.steps <= checkpoint.step:
            raise NoCheckpoint(
                f"steps is {settings.steps}, but the checkpoint has done {checkpoint.step} already; set "
                "--steps above that"
            )
        return
    # As it stands there: another object of settings would take in the environment.
    was, now = flatten(checkpoint.manifest["settings"]), flatten(settings.tree())
    differ = [name for name in was if name != "bars" and was[name] != now.get(name)]
    if differ:
        shown = ", ".join(
            f"{name} is {was[name]} there and {now.get(name)} here" for name in differ
        )
        raise NoCheckpoint(
            f"{checkpoint.folder}: settings differ from the checkpoint's: {shown}; resume without "
            "them, or add --fork to start a new run from it"
        )


def _asked(arguments: list[str]) -> argparse.Namespace:
    """What must be known before settings can be loaded."""
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    environment = os.environ.get
    early.add_argument("--resume", default=environment("QDESK_RESUME"))
    early.add_argument("--mlruns", default=environment("QDESK_MLRUNS", "mlruns"))
    early.add_argument(
        "--checkpoints",
        "--checkpoints.where",
        dest="where",
        default=environment("QDESK_CHECKPOINTS__WHERE"),
    )
    early.add_argument("--fork", action=argparse.BooleanOptionalAction, default=False)
    return early.parse_known_args(arguments)[0]
