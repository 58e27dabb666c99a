"""The run of one agent: what it is called, how it is tracked, which versions come of it."""

from typing import NamedTuple

from rich.console import Console

from training import describe
from training.data import TrainingData
from training.learning.agent import Agents
from training.observers.versions import VersionRecorder
from training.resume import Start
from training.settings import TrainSettings
from training.tracking.journal import RunJournal
from training.tracking.store import Store
from training.tracking.tracker import CHECKPOINTS, RunInfo, Tracker
from training.tracking.uploader import Uploader


class SeedRun(NamedTuple):
    """One agent of a training."""

    name: str
    tracker: Tracker
    recorder: VersionRecorder


class Invocation(NamedTuple):
    """How trainings were asked for."""

    command: str  # what was typed; it stands in each run's description
    group: str  # of the runs that it made
    console: Console


def open_run(
    settings: TrainSettings,
    data: TrainingData,
    agents: Agents,
    index: int,
    journal: RunJournal,
    store: Store,
    uploader: Uploader,
    invocation: Invocation,
    checkpoints: str,
    start: Start | None,
) -> SeedRun:
    """Begins the run of the agent of this index, or continues the one in its journal."""
    seed = agents.seeds[index]
    name = f"{settings.model_name}-{data.bars.name}-s{seed}"
    tags = describe.tags(settings, data, seed, invocation.group)
    about = describe.summary(settings, data, seed, invocation.command)
    scale = {"reward_scale": f"{data.reward_scale:.9g}", "seed": str(seed)}
    info = RunInfo(
        name,
        settings.experiment,
        {**settings.flat(), **scale},
        {**tags, **_link(settings, start, index), CHECKPOINTS: checkpoints},
        f"{about}\n\nGo on with it, should it stop:\n\n    {describe.resuming(journal.run, settings)}",
    )
    begins = journal.head is None
    resumed = start is not None and start.lock is not None
    # Where a run is resumed whose journal does not begin here, that is on another machine.
    elsewhere = resumed and begins
    tracker = Tracker(store, journal, info, uploader, may_exist_on_server=elsewhere)
    if begins:
        tracker.log_data(data.split.train, settings.bars, "training")
        tracker.log_data(data.split.validation, settings.bars, "validation")
    recorder = VersionRecorder(agents, index, settings, data, tracker, tags, about)
    return SeedRun(name, tracker, recorder)


def _link(settings: TrainSettings, start: Start | None, index: int) -> dict[str, str]:
    """Tags that lead from a new run to the one it began with."""
    if start is None or not settings.fork:
        return {}
    parent = start.run_ids[min(index, len(start.run_ids) - 1)]
    return {"forked_from": parent, "forked_from_step": str(start.checkpoint.step)}
