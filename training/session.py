"""One training from start or checkpoint to its end: a loop over logged points, and what observes them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import numpy as np
from rich.console import Console

from training import describe, screen
from training.checkpoints.checkpoint import AGENTS, Checkpoint, Checkpoints, RunLock, part
from training.data import TrainingData
from training.learn import learn, validate_all
from training.learning.agent import Agents
from training.observers.checkpointing import Checkpointing
from training.observers.early_stopping import EarlyStopping
from training.observers.metrics import Metrics
from training.observers.observer import Observer
from training.observers.q_guard import QGuard, explained_q
from training.observers.recording import Recording
from training.observers.rollback import Rollback
from training.observers.versions import BestAndLast
from training.resume import Start
from training.seed_run import Invocation, SeedRun, open_run
from training.settings import TrainSettings
from training.stop import Stop
from training.tracking.journal import RunJournal
from training.tracking.machine import Machine
from training.tracking.origin import code_version
from training.tracking.store import Store
from training.tracking.tracker import new_run, open_journal
from training.tracking.uploader import Uploader


class Session:
    """A training that is open; `open_session` makes one."""

    def __init__(
        self,
        settings: TrainSettings,
        data: TrainingData,
        agents: Agents,
        runs: Sequence[SeedRun],
        checkpoints: Checkpoints,
        console: Console,
    ) -> None:
        self.agents = agents
        self._settings = settings
        self._validation = data.validation[settings.market.fill]
        self._runs = runs
        self._checkpoints = checkpoints
        self._console = console
        tell = screen.teller(console)
        self._tell = tell
        trackers = [run.tracker for run in runs]
        recorders = [run.recorder for run in runs]
        about = {
            "run_ids": [tracker.run_id for tracker in trackers],
            "settings": settings.tree(),
            "checkpoints": settings.checkpoints.model_dump(mode="json"),
            **describe.identity(data),
            "code_version": code_version(),
        }
        most = explained_q(settings, data.train, data.reward_scale)
        streams = settings.agent.replay.streams
        self._stopping = EarlyStopping(settings, recorders)
        self.checkpointing = Checkpointing(
            agents, checkpoints, about, self._stopping, tell, scored=data.chooses
        )
        asked_for = settings.on_divergence == "rollback"
        self._rollback = Rollback(self.checkpointing, trackers, tell, asked_for)
        # In this order: what a point says is logged before it is known whether it is the last; what is
        # registered then knows; and a checkpoint has all of it.
        self._observers: list[Observer] = [
            Metrics(agents, trackers, streams, Machine(settings.mlruns)),
            QGuard(most, trackers, tell),
            self._stopping,
            Recording(recorders, self._stopping),
            self.checkpointing,
        ]
        self.checkpointing.observers = [*self._observers, self._rollback]

    @property
    def ended(self) -> bool:
        """Whether there is nothing left to train."""
        return self._stopping.ended

    def run(self, stop: Stop, backlog: Callable[[], str]) -> None:
        """Trains to the end, or until a stop, and saves; `backlog` says what tracking has not sent.

        Raises:
            Diverged: numbers are no longer finite, and going back was not asked for or did not help.
        """
        shown = self._runs[0].name
        if len(self._runs) > 1:
            shown += f" to s{self.agents.seeds[-1]}"
        begun_at = self.agents.iteration
        with screen.progress(self._console, shown, self._settings.steps, backlog, begun_at) as show:
            while not self.ended and stop.by is None:
                try:
                    self._learn(stop, show)
                except FloatingPointError as error:
                    self._rollback.on_divergence(error)
        for run in self._runs:
            if fault := run.tracker.board_fault:
                self._tell(f"warning: {run.tracker.folder}: cannot be written ({fault.strerror})")
        if not self.ended:
            self._save_at_stop()

    def _learn(self, stop: Stop, show: screen.Show) -> None:
        points = learn(self.agents, self._validation, self._settings, lambda: stop.by is not None)
        for point in points:
            for observer in self._observers:
                observer.on_point(point)
            show(point.step, point.windows, point.iterations_per_second)
            if self.ended:
                return

    def finish(self) -> list[BestAndLast]:
        """Proposes and draws the best of each seed; nothing where training was stopped at once."""
        if any(run.recorder.last is None for run in self._runs):
            return []
        return [run.recorder.finish(run.name) for run in self._runs]

    def resume(self, checkpoint: Checkpoint) -> None:
        """Goes on with the same runs where a checkpoint ended."""
        self.checkpointing.go_back(checkpoint)
        for run in self._runs:
            run.tracker.set_tags(resumed_from_step=str(checkpoint.step))
        was = checkpoint.manifest["code_version"]
        now = code_version()
        if was != now:
            self._tell(f"note: this checkpoint was made by code {was}, and this is {now}")

    def fork(self, checkpoint: Checkpoint) -> None:
        """Goes on from a checkpoint as another run, under settings of its own."""
        state = dict(part(checkpoint.arrays, AGENTS))
        state["window/began"] = np.array(checkpoint.step)
        state["window/sums"] = np.zeros_like(state["window/sums"])
        self.agents.restore(state)
        if self._settings.agent.learning_rate is not None:
            self.agents.set_learning_rate(self._settings.agent.learning_rate)
        self.checkpointing.save()

    def _save_at_stop(self) -> None:
        """Saves the very state that a signal stopped training in, and registers what was learned."""
        step = self.agents.iteration
        self._checkpoints.hurry()
        if not self._checkpoints.has(step):
            self.checkpointing.save()
        if step:
            validations = validate_all(self.agents, self._validation)
            for run, validation in zip(self._runs, validations, strict=True):
                run.recorder.keep_at_stop(step, validation.result)
        for run in self._runs:
            run.tracker.killed()
        command = describe.resuming(self._runs[0].tracker.run_id, self._settings)
        self._tell(f"saved at iteration {step:,}; go on: {command}")


@contextmanager
def open_session(
    settings: TrainSettings,
    data: TrainingData,
    store: Store,
    uploader: Uploader,
    invocation: Invocation,
    start: Start | None = None,
) -> Iterator[Session]:
    """Begins the runs of a training, or continues those of a checkpoint.

    Raises:
        NoCheckpoint: the run to be resumed has ended, or the checkpoint does not fit the settings.
        CheckpointError: checkpoints cannot be written.
    """
    seeds = range(settings.seed, settings.seed + settings.seeds)
    agents = settings.agent.agents(data.train, seeds, data.reward_scale, settings.model_name)
    tell = screen.teller(invocation.console)
    runs: list[SeedRun] = []
    with ExitStack() as stack:
        if start is not None:
            stack.callback(start.close)
            start.require_fits(agents.state())
        lock = start.lock if start is not None else None
        resumed = lock is not None
        journals = []
        for run in start.run_ids if start is not None and resumed else [new_run() for _ in seeds]:
            journals.append(open_journal(settings.mlruns, run))
            stack.callback(_close_if_unused, journals[-1], runs)
            for sentence in journals[-1].damage:
                tell(sentence)
        if start is not None and lock is not None:
            ends = [_how_it_ended(journal, store, settings) for journal in journals]
            start.require_unfinished(settings, ends)
        else:
            lock = RunLock(settings.checkpoints.root(settings.mlruns) / journals[0].run)
        every = settings.checkpoint_interval
        elsewhere = start.elsewhere if start is not None else {}
        checkpoints = stack.enter_context(
            Checkpoints(lock, settings.checkpoints, every, tell, elsewhere)
        )
        folder = str(checkpoints.folder)
        for index, journal in enumerate(journals):
            run_of_seed = open_run(
                settings, data, agents, index, journal, store, uploader, invocation, folder, start
            )
            stack.enter_context(run_of_seed.tracker)
            runs.append(run_of_seed)
        session = Session(settings, data, agents, runs, checkpoints, invocation.console)
        if start is None:
            if data.lived is not None:
                agents.learn_from(data.lived)
            session.checkpointing.save()
        elif resumed:
            session.resume(start.checkpoint)
        else:
            session.fork(start.checkpoint)
        yield session


def _close_if_unused(journal: RunJournal, runs: Sequence[SeedRun]) -> None:
    """Once there are runs, who sends the journals closes them."""
    if not runs:
        journal.close()


def _how_it_ended(journal: RunJournal, store: Store, settings: TrainSettings) -> str | None:
    """By the journal, or where that is not here by MLflow."""
    if journal.head is not None:
        return journal.ended
    return store.status_of(journal.run, settings.experiment)
