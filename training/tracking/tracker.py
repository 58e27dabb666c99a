"""A run as it is tracked: one `log(metrics, step)` for MLflow and TensorBoard, and nothing in the way.

What is logged goes to the run's journal (`journal.py`), from where a background thread (`uploader.py`)
sends it to MLflow (`delivery.py`), and to TensorBoard's log (`tensorboard.py`). None of it waits or
raises, whatever becomes of a server or a disk.
"""

import io
import json
import math
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

from matplotlib.figure import Figure
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE
from numpy.typing import NDArray

from durable.errors import InUse
from market.bars import CARRIED, Bars
from models.bundle import Bundle
from training.tracking.entries import (
    Artifact,
    Begun,
    Data,
    End,
    Points,
    Proposed,
    Registered,
    Resumed,
    Tags,
)
from training.tracking.errors import TrackingError
from training.tracking.history import Point
from training.tracking.journal import RunJournal
from training.tracking.journals import JOURNALS
from training.tracking.origin import origin
from training.tracking.store import Store
from training.tracking.tensorboard import TensorBoardLog
from training.tracking.uploader import Uploader

JOURNAL_SECONDS = 5.0  # that another training may take to send what is left of a journal
CHECKPOINTS = "checkpoints"  # the tag that says where a run's checkpoints are on its host


class RunInfo(NamedTuple):
    """What a run is."""

    name: str  # in MLflow and TensorBoard
    experiment: str  # MLflow's
    params: Mapping[str, str]  # all settings by their dotted path
    tags: Mapping[str, str]  # what runs are grouped and searched by
    description: str  # Markdown, shown at the top of the run's page


def new_run() -> str:
    """An id for a run. It is ours, so that no server is needed to begin; MLflow's has it as a tag."""
    return uuid.uuid4().hex


def open_journal(folder: Path, run: str) -> RunJournal:
    """The journal of a run, begun where it is missing.

    Raises:
        InUse: another process has it.
        TrackingError: it cannot be written.
    """
    deadline = time.monotonic() + JOURNAL_SECONDS
    while True:
        try:
            return RunJournal(folder.resolve() / JOURNALS / run)
        except InUse:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        except OSError as error:
            raise TrackingError(f"mlruns {folder}: cannot be used ({error.strerror})") from error


class Candidate(NamedTuple):
    """The alias `candidate` after a training."""

    name: str  # of the registered model
    version: str | None  # None where there is no candidate
    before: str | None = None  # the one before; journals of before that was kept lack it
    reason: str = ""


class Tracker:
    """One run, used as a context.

    Left by an exception the run is FAILED, left by `KeyboardInterrupt` or after `killed()` it is
    KILLED, else FINISHED. A journal that another process began is continued, and keeps what it said of
    the run; the server may have the run from another machine.
    """

    def __init__(
        self,
        store: Store,
        journal: RunJournal,
        about: RunInfo,
        uploader: Uploader,
        may_exist_on_server: bool = False,
    ) -> None:
        self.run_id = journal.run
        self.history = list[Point]()  # all that was logged, in its order
        self._journal = journal
        self._killed = False
        self._points_of_before: dict[tuple[str, int], tuple[int, float]] = {}
        self._beside = False  # whether points lie beside others of the same step
        if journal.head is None:
            journal.append(
                Begun(
                    name=about.name,
                    experiment=about.experiment,
                    params=dict(about.params),
                    tags={**origin(), **about.tags, MLFLOW_RUN_NOTE: about.description},
                    description=about.description,
                    started=int(time.time() * 1000),
                    server=store.server,
                    adopts=may_exist_on_server,
                    owner=new_run(),
                )
            )
        if journal.head is not None and (may_exist_on_server or journal.reopened):
            journal.append(Resumed(owner=journal.head.owner))
        self.folder = store.folder / "tensorboard" / f"{about.name}-{self.run_id[:8]}"
        self._board = TensorBoardLog(self.folder)
        self._settings = dict(about.params)
        self._board.settings(self._settings, self.folder.name)
        self._board.flush()
        uploader.add(store, journal)

    def log(
        self,
        metrics: Mapping[str, float],
        step: int,
        version: str | None = None,
        data: Bars | None = None,
    ) -> None:
        """Records metrics at a step; those that are not finite (no value yet) are left out.

        A `/` in a name makes a section. `version` is the key of the model version that they were measured
        on, `data` the bars.
        """
        now = int(time.time() * 1000)
        finite = {name: float(value) for name, value in metrics.items() if math.isfinite(value)}
        # What was logged after the checkpoint that training goes on from is in the journal.
        before = self._points_of_before
        new = {name: value for name, value in finite.items() if (name, step) not in before}
        points = [
            Point(name, value, now if name in new else before[name, step][0], step)
            for name, value in finite.items()
        ]
        self.history += points
        self._board.scalars(points)
        if new:
            entry = Points(step=step, metrics=new, time=now, version=version, beside=self._beside)
            if data is not None:
                entry.data = (data.name, _digest(data))
            self._journal.append(entry)
        self._board.flush()

    def log_machine(self, reading: Mapping[str, float], step: int) -> None:
        """Records how busy the machine is; that is no part of what a checkpoint knows."""
        now = int(time.time() * 1000)
        before = self._points_of_before
        read = {n: v for n, v in reading.items() if (n, step) not in before}
        if read:
            self._journal.append(Points(step=step, metrics=read, time=now))
            self._board.scalars([Point(name, value, now, step) for name, value in read.items()])

    def log_learned(
        self, weights: Mapping[str, NDArray[Any]], q_values: NDArray[Any] | None, step: int
    ) -> None:
        """Records how weights, and Q-values of a validation, are distributed, in TensorBoard alone."""
        for name, each in weights.items():
            self._board.histogram(f"weights/{name}", each, step)
        if q_values is not None:
            self._board.histogram("validation/q_values", q_values, step)

    def log_data(self, bars: Bars, source: str, context: str) -> None:
        """Records bars as an input of the run."""
        times = bars.table["time"]
        columns = [{"name": "time", "type": "datetime"}]
        columns += [
            {"name": name, "type": "boolean" if name == CARRIED else "double"}
            for name in bars.table.columns[1:]
        ]
        profile = {"num_rows": len(bars), "first": str(times.first()), "last": str(times.last())}
        self._journal.append(
            Data(
                name=bars.name,
                digest=_digest(bars),
                source_type="local",
                source=json.dumps({"uri": source, "sha256": bars.content_hash}),
                schema=json.dumps({"mlflow_colspec": columns}),
                profile=json.dumps(profile),
                context=context,
            )
        )

    def log_figure(self, name: str, figure: Figure, step: int) -> None:
        """Records a figure as `figures/<name>.png` and as a TensorBoard image."""
        png = io.BytesIO()
        figure.savefig(png, format="png", pil_kwargs={"compress_level": 1})  # the time matters
        self._board.image(f"figures/{name}", png.getvalue(), step)
        self.log_file(f"figures/{name}.png", png.getvalue())

    def log_table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Records a table as `<name>.json`, which MLflow's evaluation page shows."""
        content = json.dumps({"columns": list(columns), "data": [list(row) for row in rows]})
        self.log_file(f"{name}.json", content.encode(), table=True)

    def log_file(self, path: str, content: bytes, table: bool = False) -> None:
        """Records a file under a path among the run's artifacts."""
        folder, _, name = path.rpartition("/")
        self._journal.append(
            Artifact(folder=folder, table=table), lambda into: (into / name).write_bytes(content)
        )

    def set_tags(self, **tags: str) -> None:
        """Sets tags of the run."""
        self._journal.append(Tags(tags=tags))

    def describe(self, description: str) -> None:
        """Replaces what is shown at the top of the run's page."""
        self._journal.append(Tags(tags={MLFLOW_RUN_NOTE: description}))

    def register(self, bundle: Bundle, tags: Mapping[str, str], description: str) -> str:
        """Has a bundle become a model version, once; returns the key that it is known by here."""
        key = f"{bundle.manifest.origin.step}-{bundle.weights_sha256[:16]}"
        if key not in self._journal.versions:
            entry = Registered(key=key, tags=dict(tags), description=description)
            self._journal.append(entry, bundle.save_into)
        return key

    def propose(self, key: str) -> None:
        """Has a version compared with all that were judged alike, so that the best is the candidate."""
        self._journal.append(Proposed(key=key))

    def version_of(self, key: str) -> str | None:
        """The number that MLflow gave a version, or None where it does not have it yet."""
        known = self._journal.answers.get("versions", {}).get(key)
        return None if known is None else str(known["version"])

    @property
    def candidate(self) -> Candidate | None:
        """What became of the candidate after `propose`, or None before MLflow has said so."""
        known = self._journal.answers.get("candidate")
        return None if known is None else Candidate(**known)

    @property
    def board_fault(self) -> OSError | None:
        """Why TensorBoard's log cannot be written, if it cannot."""
        return self._board.fault

    def go_back(self, history: Sequence[Point], step: int, repeats: bool = True) -> None:
        """Makes the run what it was at a checkpoint: its curves have no gap, and no point twice.

        The history is what the checkpoint knew. Where what follows does not repeat the same values,
        MLflow, which forgets nothing, gets them beside those that it has.
        """
        known = dict(self._journal.points)
        self.history = list(history)
        missing: dict[tuple[int, int], dict[str, float]] = {}
        for point in history:  # after a power cut the checkpoint may know more than the journal
            if (point.name, point.step) not in known:
                missing.setdefault((point.step, point.time), {})[point.name] = point.value
        for (at_step, at), metrics in missing.items():
            self._journal.append(Points(step=at_step, metrics=metrics, time=at))
        self._points_of_before = known if repeats else {}
        self._beside = not repeats
        self._board.go_back(history, step)
        self._board.settings(self._settings, self.folder.name)

    def flush(self) -> None:
        """Hands everything to the operating system, as far as it takes it."""
        self._journal.flush()
        self._board.flush()

    def killed(self) -> None:
        """Marks the run as stopped from outside."""
        self._killed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        status = "FINISHED" if kind is None else "FAILED"
        if self._killed or kind is KeyboardInterrupt:
            status = "KILLED"
        self._journal.append(End(status=status))
        self._board.ended(status)
        self._board.close()


def _digest(bars: Bars) -> str:
    return bars.content_hash[:32]  # MLflow keeps at most 36 characters
