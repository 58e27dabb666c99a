"""One training from start or checkpoint to its end: agents of all seeds, each tracked as a run."""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple, Self

import numpy as np
from rich.console import Console

from evaluation.measures import Backtest
from models.sealed import NotFinite
from training import describe as labels
from training import screen
from training.checkpoints.checkpoint import Checkpoint, Checkpoints, RunLock, newest, part
from training.checkpoints.errors import NoCheckpoint
from training.data import TrainingData
from training.guards import QGuard, explained_q
from training.learn import Progress, learn, validate_all
from training.learning.agent import Diverged
from training.resume import AGENTS, Start, resuming
from training.settings import TrainSettings
from training.stop import Stop
from training.tracking.history import packed, unpacked
from training.tracking.journal import RunJournal
from training.tracking.machine import Machine
from training.tracking.origin import code_version
from training.tracking.store import Store
from training.tracking.tracker import CHECKPOINTS, Tracker, new_run, open_journal
from training.tracking.uploader import Uploader
from training.versions import Description, Keeper, Validation, Versions


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


class Session:
    """A training, used as a context.

    Args:
        settings: of the training.
        data: what they name.
        store: to track in.
        shipper: sends there what is tracked.
        invocation: how it was asked for.
        start: the checkpoint to go on from, if any.

    Attributes:
        ended: whether there is nothing left to train.

    Raises:
        NoCheckpoint: the run to be resumed has ended, or the checkpoint does not fit the settings.
        CheckpointError: checkpoints cannot be written.
    """

    def __init__(
        self,
        settings: TrainSettings,
        data: TrainingData,
        store: Store,
        shipper: Uploader,
        invocation: Invocation,
        start: Start | None = None,
    ) -> None:
        self.settings = settings
        self.data = data
        self.store = store
        self.start = start
        self._shipper = shipper
        self._group = invocation.group
        self._command = invocation.command
        self._console = invocation.console
        self.market = data.validation[settings.market.fill]
        seeds = range(settings.seed, settings.seed + settings.seeds)
        self.agents = settings.agent.agents(
            data.train, seeds, data.reward_scale, settings.model_name
        )
        self._guard = QGuard(explained_q(settings, data.train, data.reward_scale))
        self.names = [
            f"{settings.model_name}-{data.bars.name}-s{seed}" for seed in self.agents.seeds
        ]
        self._machine = Machine(settings.mlruns)
        self._trackers: list[Tracker] = []
        self._keepers: list[Keeper] = []
        self.checkpoints: Checkpoints = None  # type: ignore[assignment] # once entered there are
        self._stack = ExitStack()
        self.ended = self._rolled_back = False

    def __enter__(self) -> Self:
        with self._stack:
            self._open()
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *fault: Any) -> None:
        self._stack.__exit__(*fault)

    def run(self, stop: Stop) -> None:
        """Trains to the end, or until a stop, and saves.

        Raises:
            Diverged: numbers are no longer finite, and going back was not asked for or did not help.
        """
        shown = self.names[0]
        if len(self.names) > 1:
            shown += f" to s{self.agents.seeds[-1]}"
        begun_at = self.agents.iteration
        steps = self.settings.steps
        with screen.progress(
            self._console, shown, steps, lambda: self._shipper.lags, begun_at
        ) as show:
            while not self.ended and stop.by is None:
                try:
                    for point in learn(
                        self.agents, self.market, self.settings, lambda: stop.by is not None
                    ):
                        self._record(point)
                        show(point.step, point.windows, point.iterations_a_second)
                        if self.ended:
                            break
                except FloatingPointError as error:
                    self._roll_back(error)
        for tracker in self._trackers:
            if fault := tracker.board_fault:
                self.tell(f"warning: {tracker.folder}: cannot be written ({fault.strerror})")
        if not self.ended:
            self._save_at_stop()

    def finish(self) -> list[Versions]:
        """Proposes and draws the best of each seed; nothing where training was stopped at once."""
        if any(keeper.last is None for keeper in self._keepers):
            return []
        return [keeper.finish(name) for keeper, name in zip(self._keepers, self.names, strict=True)]

    def tell(self, sentence: str) -> None:
        """Shows the user a sentence."""
        self._console.print(sentence, highlight=False, soft_wrap=True)

    def _open(self) -> None:
        """Begins the runs, or goes on with them where the checkpoint ended, if there is one."""
        start = self.start
        if start is not None:
            self._stack.callback(start.close)
            start.require_fits(self.agents.state())
        if start is not None and start.lock is not None:
            boxes = [self._journal(run) for run in start.run_ids]
            ends = [self._how_it_ended(box) for box in boxes]
            start.require_unfinished(self.settings, ends)
            self._keep_checkpoints(start.lock)
        else:
            boxes = [self._journal(new_run()) for _ in self.agents.seeds]
            root = self.settings.checkpoints.root(self.settings.mlruns)
            self._keep_checkpoints(RunLock(root / boxes[0].run))
        for index, (seed, box) in enumerate(zip(self.agents.seeds, boxes, strict=True)):
            self._open_run(index, seed, box)
        if start is None:
            self.save(None)
        elif start.lock is not None:
            self._go_back(start.checkpoint)
            self._say_resumed(start.checkpoint)
        else:
            self._fork(start.checkpoint)

    def _journal(self, run: str) -> RunJournal:
        """A run's journal; closed again where the training does not come to be."""
        box = open_journal(self.settings.mlruns, run)
        for sentence in box.damage:
            self.tell(sentence)
        self._stack.callback(lambda: None if self._trackers else box.close())
        return box

    def _how_it_ended(self, box: RunJournal) -> str | None:
        """By the journal, or where that is not here by MLflow."""
        if box.head is not None:
            return box.ended
        return self.store.status_of(box.run, self.settings.experiment)

    def _keep_checkpoints(self, lock: RunLock) -> None:
        settings = self.settings
        elsewhere = self.start.elsewhere if self.start is not None else {}
        every = settings.checkpoint_interval
        kept = Checkpoints(lock, settings.checkpoints, every, self.tell, elsewhere)
        self.checkpoints = self._stack.enter_context(kept)

    def _say_resumed(self, checkpoint: Checkpoint) -> None:
        for tracker in self._trackers:
            tracker.set_tags(resumed_from_step=str(checkpoint.step))
        was = checkpoint.manifest["code_version"]
        now = code_version()
        if was != now:
            self.tell(f"note: this checkpoint was made by code {was}, and this is {now}")

    def _open_run(self, index: int, seed: int, box: RunJournal) -> None:
        settings = self.settings
        data = self.data
        tags = labels.tags(settings, data, seed, self._group)
        what = labels.about(settings, data, seed, self._command)
        about = labels.run_of(
            settings,
            data,
            seed,
            self.names[index],
            {**tags, **self._link(index), CHECKPOINTS: str(self.checkpoints.folder)},
            labels.description(what, resuming(box.run, settings)),
        )
        begins = box.head is None
        resumed = self.start is not None and self.start.lock is not None
        # Where a run is resumed whose journal does not begin here, that is on another machine.
        tracker = Tracker(self.store, box, about, self._shipper, adopts=resumed and begins)
        self._stack.enter_context(tracker)
        if begins:
            tracker.log_data(data.split.train, settings.bars, "training")
            tracker.log_data(data.split.validation, settings.bars, "validation")
        origin = labels.origin(settings, data, seed, box.run)
        cvar = settings.agent.cvar
        label = Description(tags, origin, what)
        judged = Validation(data, self.market, cvar)
        keeper = Keeper(self.agents, index, judged, tracker, label)
        self._trackers.append(tracker)
        self._keepers.append(keeper)

    def _link(self, index: int) -> dict[str, str]:
        """Tags that lead from a new run to the one it began with."""
        if self.start is None or not self.settings.fork:
            return {}
        parent = self.start.run_ids[min(index, len(self.start.run_ids) - 1)]
        return {"forked_from": parent, "forked_from_step": str(self.start.checkpoint.step)}

    def _record(self, point: Progress) -> None:
        """Logs a point, registers and saves what is due at it."""
        step = point.step
        rate = point.iterations_a_second
        machine = self._machine.reading()
        for tracker, window in zip(self._trackers, point.windows, strict=True):
            metrics = {f"train/{key}": value for key, value in window._asdict().items()}
            metrics["perf/iterations_per_second"] = rate
            metrics["perf/env_steps_per_second"] = rate * self.settings.agent.replay.streams
            tracker.log(metrics, step)
            tracker.log_machine(machine, step)
        score = None
        if point.validations is not None and point.q_values is not None:
            shares = self._guard.shares(point.q_values)
            if warning := self._guard.warning(step, shares):
                self.tell(warning)
            for index, tracker in enumerate(self._trackers):
                tracker.log({"guard/q_over_explained": shares[index]}, step)
                tracker.log_learned(self.agents.weights(index), point.q_values[index], step)
            self.ended = step == self.settings.steps or self._out_of_patience(
                step, point.validations
            )
            for keeper, validation in zip(self._keepers, point.validations, strict=True):
                keeper.judge(step, validation, self.ended)
            if self.data.chooses:  # else no checkpoint is kept for what it did
                score = float(np.mean([each.measures["net_return"] for each in point.validations]))
        if self.ended or self.checkpoints.due(step, score):
            self.save(score)

    def _out_of_patience(self, step: int, validations: Sequence[Backtest]) -> bool:
        if self.settings.patience is None:
            return False
        wait = self.settings.patience * self.settings.evaluate_interval
        pairs = zip(self._keepers, validations, strict=True)
        return all(keeper.since_best(step, validation) >= wait for keeper, validation in pairs)

    def save(self, score: float | None) -> None:
        """Saves a checkpoint; where that fails training goes on, and the one before stays."""
        step = self.agents.iteration
        arrays = {f"{AGENTS}{name}": array for name, array in self.agents.state().items()}
        kept = []
        metrics = []
        for index, (tracker, keeper) in enumerate(zip(self._trackers, self._keepers, strict=True)):
            tracker.flush()  # what a checkpoint knows, the journal has
            names, history = packed(tracker.history)
            known, held = keeper.state()
            arrays |= {f"metrics/{index}/{name}": array for name, array in history.items()}
            arrays |= {f"kept/{index}/{name}": array for name, array in held.items()}
            metrics.append(names)
            kept.append(known)
        manifest = {
            "run_ids": [tracker.run_id for tracker in self._trackers],
            "settings": self.settings.tree(),
            "checkpoints": self.settings.checkpoints.model_dump(mode="json"),
            **labels.identity(self.data),
            "code_version": code_version(),
            "ended": self.ended,
            "rolled_back": self._rolled_back,
            "metrics": metrics,
            "kept": kept,
        }
        try:
            self.checkpoints.save(step, arrays, manifest, score)
        except NotFinite as error:
            raise Diverged(f"training diverged by iteration {step}: {error}") from error
        except OSError as error:
            reason = error.strerror or str(error)
            self.tell(
                f"warning: no checkpoint of iteration {step}: {self.checkpoints.folder} cannot be "
                f"written ({reason}); training goes on, those before it are as they were"
            )

    def _save_at_stop(self) -> None:
        """Saves the very state that a signal stopped training in, and registers what was learned."""
        step = self.agents.iteration
        self.checkpoints.hurry()
        if not self.checkpoints.has(step):
            self.save(None)
        if step:
            results, _ = validate_all(self.agents, self.market)
            for keeper, validation in zip(self._keepers, results, strict=True):
                keeper.keep_at_stop(step, validation)
        for tracker in self._trackers:
            tracker.killed()
        command = resuming(self._trackers[0].run_id, self.settings)
        self.tell(f"saved at iteration {step:,}; go on: {command}")

    def _go_back(self, checkpoint: Checkpoint, repeats: bool = True) -> None:
        """Makes everything what it was at a checkpoint."""
        manifest = checkpoint.manifest
        arrays = checkpoint.arrays
        self.checkpoints.set_aside_after(checkpoint.step)
        self.agents.restore(part(arrays, AGENTS))
        for index, (tracker, keeper) in enumerate(zip(self._trackers, self._keepers, strict=True)):
            history = unpacked(manifest["metrics"][index], part(arrays, f"metrics/{index}/"))
            tracker.go_back(history, checkpoint.step, repeats)
            keeper.restore(manifest["kept"][index], part(arrays, f"kept/{index}/"))
        self.ended = manifest["ended"]
        self._rolled_back = manifest["rolled_back"]

    def _fork(self, checkpoint: Checkpoint) -> None:
        """Goes on from a checkpoint as another run, under settings of its own."""
        state = dict(part(checkpoint.arrays, AGENTS))
        state["window/began"] = np.array(checkpoint.step)
        state["window/sums"] = np.zeros_like(state["window/sums"])
        self.agents.restore(state)
        if self.settings.agent.learning_rate is not None:
            self.agents.set_learning_rate(self.settings.agent.learning_rate)
        self.save(None)

    def _roll_back(self, error: FloatingPointError) -> None:
        """Goes back to the last checkpoint with half the learning rate, once.

        Raises:
            Diverged: it was done before, or is not asked for.
        """
        at = self.agents.iteration
        if self.settings.on_divergence != "rollback" or self._rolled_back:
            again = ", again after going back to a checkpoint" if self._rolled_back else ""
            raise Diverged(f"{error}{again}") from error
        try:
            checkpoint = newest(self.checkpoints.folder, None, self.tell)
        except NoCheckpoint as none:
            raise Diverged(f"{error}; and {none}") from error
        self._go_back(checkpoint, repeats=False)
        rate = self.agents.learning_rate / 2
        self.agents.set_learning_rate(rate)
        self._rolled_back = True
        said = f"from iteration {at} to {checkpoint.step}, learning rate now {rate:g}"
        for tracker in self._trackers:
            tracker.set_tags(rolled_back=said)
        self.tell(f"warning: {error}; went back {said}")
        self.save(None)
