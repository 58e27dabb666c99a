"""The run of one agent: what it is called, how it is tracked, which versions come of it."""

from typing import NamedTuple

from rich.console import Console

from training import describe
from training.data import TrainingData
from training.learning.agent import Agents
from training.observers.versions import Description, Judge, VersionRecorder
from training.resume import Start
from training.settings import TrainSettings
from training.tracking.journal import RunJournal
from training.tracking.store import Store
from training.tracking.tracker import CHECKPOINTS, Tracker
from training.tracking.uploader import Uploader


class SeedRun(NamedTuple):
    """One agent of a training.

    Attributes:
        name: of its run.
        tracker: of its run.
        recorder: of its versions.
    """

    name: str
    tracker: Tracker
    recorder: VersionRecorder


class Invocation(NamedTuple):
    """How trainings were asked for.

    Attributes:
        command: what was typed; it stands in each run's description.
        group: of the runs that it made.
        console: to draw on.
    """

    command: str
    group: str
    console: Console


class Beginning(NamedTuple):
    """What the runs of a training have in common.

    Attributes:
        settings: of the training.
        data: that they name.
        store: to track in.
        uploader: sends there what is tracked.
        invocation: how it was asked for.
        checkpoints: their folder, for people.
        start: the checkpoint to continue from, if any.
    """

    settings: TrainSettings
    data: TrainingData
    store: Store
    uploader: Uploader
    invocation: Invocation
    checkpoints: str
    start: Start | None

    def run_of(self, agents: Agents, index: int, journal: RunJournal) -> SeedRun:
        """Begins the run of an agent, or continues the one in its journal."""
        settings = self.settings
        data = self.data
        seed = agents.seeds[index]
        name = f"{settings.model_name}-{data.bars.name}-s{seed}"
        tags = describe.tags(settings, data, seed, self.invocation.group)
        summary = describe.summary(settings, data, seed, self.invocation.command)
        info = describe.run_of(
            settings,
            data,
            seed,
            name,
            {**tags, **self._link(index), CHECKPOINTS: self.checkpoints},
            describe.description(summary, describe.resuming(journal.run, settings)),
        )
        begins = journal.head is None
        resumed = self.start is not None and self.start.lock is not None
        # Where a run is resumed whose journal does not begin here, that is on another machine.
        elsewhere = resumed and begins
        tracker = Tracker(self.store, journal, info, self.uploader, may_exist_on_server=elsewhere)
        if begins:
            tracker.log_data(data.split.train, settings.bars, "training")
            tracker.log_data(data.split.validation, settings.bars, "validation")
        label = Description(tags, describe.origin(settings, data, seed, journal.run), summary)
        judge = Judge(data, data.validation[settings.market.fill], settings.agent.cvar)
        return SeedRun(name, tracker, VersionRecorder(agents, index, judge, tracker, label))

    def _link(self, index: int) -> dict[str, str]:
        """Tags that lead from a new run to the one it began with."""
        if self.start is None or not self.settings.fork:
            return {}
        parent = self.start.run_ids[min(index, len(self.start.run_ids) - 1)]
        return {"forked_from": parent, "forked_from_step": str(self.start.checkpoint.step)}
