"""MLflow and TensorBoard behind one `log(metrics, step)`."""

import fcntl
import functools
import json
import logging
import math
import os
import platform
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Self

import mlflow
import numpy as np
from matplotlib.figure import Figure
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import (
    MLFLOW_DATASET_CONTEXT,
    MLFLOW_GIT_COMMIT,
    MLFLOW_RUN_NOTE,
    MLFLOW_SOURCE_NAME,
    MLFLOW_SOURCE_TYPE,
    MLFLOW_USER,
)
from sqlalchemy.exc import SQLAlchemyError
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.image.metadata import create_summary_metadata
from tensorboard.plugins.scalar.summary_v2 import scalar_pb
from tensorboard.util.tensor_util import make_tensor_proto

from market.bars import Bars
from models.registry import NOT_THERE, user
from training.checkpoint import in_use
from training.event_file import EventFile
from training.faults import TrackingError
from training.history import Point

CHECKPOINTS = "checkpoints"  # the tag that says where a run's checkpoints are on its host
FLUSH_SECONDS = 2.0  # how far the MLflow UI may lag behind; sending every point alone is slow


class Store:
    """The tracking data of a folder: `mlflow.db`, `artifacts/` and `tensorboard/`.

    Args:
        folder: created where it is missing.
        experiment: MLflow experiment, created where it is missing.

    Raises:
        TrackingError: the folder cannot be written, or holds no store that can be opened.
    """

    def __init__(self, folder: Path, experiment: str) -> None:
        self.folder = folder.resolve()
        # What a fresh database goes through, and that pip is missing from .venv, helps nobody.
        logging.getLogger("alembic").setLevel(logging.WARNING)
        logging.getLogger("mlflow").setLevel(logging.ERROR)
        # What this one logs is raised as well.
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
        try:
            for part in ("artifacts", "tensorboard"):
                (self.folder / part).mkdir(parents=True, exist_ok=True)
                with tempfile.TemporaryFile(dir=self.folder / part):
                    pass  # it can be written
            with _locked(self.folder):
                # Global as well: creating a model version makes a client of its own inside MLflow.
                mlflow.set_tracking_uri(f"sqlite:///{self.folder}/mlflow.db")
                self.client = MlflowClient()
                self.experiment_id = self._experiment(experiment)
                self._close_the_dead()
        except (OSError, MlflowException, SQLAlchemyError) as error:
            reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
            raise TrackingError(f"mlruns {folder}: cannot be used ({reason})") from error

    @contextmanager
    def create_run(
        self, name: str, params: Mapping[str, str], tags: Mapping[str, str], description: str
    ) -> Iterator[Run]:
        """A new run; others take it for one of a dead process only after the context was left.

        Args:
            name: of the run, in MLflow and TensorBoard.
            params: all settings by their dotted path.
            tags: whatever runs are grouped and searched by.
            description: Markdown, shown at the top of the run's page.
        """
        with _locked(self.folder):
            run = self.client.create_run(
                self.experiment_id,
                run_name=name,
                tags={**_origin(), **tags, MLFLOW_RUN_NOTE: description},
            )
            try:
                params_ = [Param(key, value) for key, value in params.items()]
                self.client.log_batch(run.info.run_id, params=params_)
                yield run
            except BaseException:
                self.client.set_terminated(run.info.run_id, "FAILED")
                raise

    def find_run(self, run_id: str) -> Run | None:
        """A run of this store that was not deleted."""
        try:
            run = self.client.get_run(run_id)
        except MlflowException as error:
            if error.error_code not in NOT_THERE:
                raise
            return None
        return run if run.info.lifecycle_stage == "active" else None

    def _close_the_dead(self) -> None:
        """Ends runs that a process on this host left RUNNING when it was killed."""
        running = self.client.search_runs(
            [experiment.experiment_id for experiment in self.client.search_experiments()],
            f"attributes.status = 'RUNNING' and tags.host = '{platform.node()}'",
        )
        for run in running:
            folder = run.data.tags.get(CHECKPOINTS)
            if folder is not None and not in_use(Path(folder)):
                self.client.set_tag(run.info.run_id, "ended", "its process was gone")
                self.client.set_terminated(run.info.run_id, "KILLED")

    def _experiment(self, name: str) -> str:
        found = self.client.get_experiment_by_name(name)
        if found is None:
            return self.client.create_experiment(name, artifact_location=f"{self.folder}/artifacts")
        if found.lifecycle_stage != "active":
            raise MlflowException(f"experiment {name} was deleted: restore it, or name another")
        return str(found.experiment_id)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keeps other processes out: several creating a fresh database at once break it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


class Tracker:
    """One run in a store, used as a context.

    Left by an exception the run is FAILED, left by `KeyboardInterrupt` or after `killed()` it is
    KILLED, else FINISHED.

    Args:
        store: where to.
        run: made by `Store.create_run`, or found there.

    Attributes:
        history: all that was logged, in its order.
    """

    def __init__(self, store: Store, run: Run) -> None:
        self.client = store.client
        self.run_id: str = run.info.run_id
        self.folder = store.folder / "tensorboard" / f"{run.info.run_name}-{self.run_id[:8]}"
        self.history: list[Point] = []
        self._pending: list[Metric] = []
        self._stored: dict[tuple[str, int], int] = {}  # the time of what MLflow has from before
        self._flushed = time.monotonic()
        self._killed = False
        try:
            self._writer = EventFile(self.folder)
        except BaseException:
            self.client.set_terminated(self.run_id, "FAILED")
            raise

    def log(self, metrics: Mapping[str, float], step: int, model_id: str | None = None) -> None:
        """Records metrics at a step; those that are not finite (no value yet) are left out.

        Args:
            metrics: by name; `/` makes a section.
            step: iterations done.
            model_id: the checkpoint that they were measured on.
        """
        now = int(time.time() * 1000)
        for name, value in metrics.items():
            if math.isfinite(value):
                self._add(Point(name, value, self._stored.get((name, step), now), step), model_id)
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self.flush()

    def _add(self, point: Point, model_id: str | None = None) -> None:
        self.history.append(point)
        self._writer.add(scalar_pb(point.name, point.value), point.step, point.time / 1000)
        # MLflow forgets nothing: what was logged after the checkpoint that training goes on from is
        # not sent again, but for a model's sake, and then with its time, which makes it the same row.
        if model_id is not None or (point.name, point.step) not in self._stored:
            metric = Metric(point.name, point.value, point.time, point.step, model_id=model_id)
            self._pending.append(metric)

    def go_back(self, history: Sequence[Point], repeats: bool = True) -> None:
        """Makes the run what it was at a checkpoint: its curves have no gap, and no point twice.

        Args:
            history: what the checkpoint knew.
            repeats: whether what follows gives the same values again; else MLflow, which forgets nothing,
                gets them beside those that it has.
        """
        self.flush()
        known = self.client.get_run(self.run_id).data.metrics
        points = [p for name in known for p in self.client.get_metric_history(self.run_id, name)]
        self._stored = {(point.key, point.step): point.timestamp for point in points}
        old = [path for path in self.folder.iterdir() if ".tfevents." in path.name]
        self._writer.close()
        self._writer = EventFile(self.folder)
        self.history = []
        for point in history:
            self._add(point)
        if not repeats:
            self._stored = {}
        self.flush()
        for path in old:  # the new file has it all
            path.unlink()

    def log_data(self, bars: Bars, source: str, context: str) -> None:
        """Records bars as an input of the run."""
        times = bars.table["time"]
        columns = [{"name": "time", "type": "datetime"}]
        columns += [{"name": name, "type": "double"} for name in bars.table.columns[1:]]
        profile = {"num_rows": len(bars), "first": str(times.first()), "last": str(times.last())}
        dataset = Dataset(
            name=bars.name,
            digest=bars.content_hash[:32],  # MLflow keeps at most 36 characters
            source_type="local",
            source=json.dumps({"uri": source}),
            schema=json.dumps({"mlflow_colspec": columns}),
            profile=json.dumps(profile),
        )
        tag = InputTag(MLFLOW_DATASET_CONTEXT, context)
        self.client.log_inputs(self.run_id, [DatasetInput(dataset, [tag])])

    def log_figure(self, name: str, figure: Figure, step: int) -> None:
        """Records a figure as `figures/<name>.png` and as a TensorBoard image."""
        self.client.log_figure(self.run_id, figure, f"figures/{name}.png")
        png = BytesIO()
        figure.savefig(png, format="png")
        width, height = (str(round(size * figure.dpi)) for size in figure.get_size_inches())
        parts = np.array([width.encode(), height.encode(), png.getvalue()], object)
        summary = Summary()
        summary.value.add(
            tag=name,
            tensor=make_tensor_proto(parts),
            metadata=create_summary_metadata(display_name="", description=""),
        )
        self._writer.add(summary, step)

    def flush(self) -> None:
        """Sends what is pending."""
        self._writer.flush()
        for start in range(0, len(self._pending), 1000):  # MLflow's limit for one batch
            self.client.log_batch(self.run_id, self._pending[start : start + 1000])
        self._pending.clear()
        self._flushed = time.monotonic()

    def killed(self) -> None:
        """Marks the run as stopped from outside."""
        self._killed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        status = "FINISHED" if kind is None else "FAILED"
        if self._killed or kind is KeyboardInterrupt:
            status = "KILLED"
        try:
            self.flush()
            self._writer.close()
        finally:
            self.client.set_terminated(self.run_id, status)


@functools.cache
def code_version() -> str:
    """The commit of this checkout, with `-dirty` where tracked files differ; else the release."""
    git = ["git", "-C", str(Path(__file__).parent)]
    with suppress(OSError, subprocess.CalledProcessError):
        tracked = subprocess.run(
            [*git, "ls-files", "--error-unmatch", __file__], capture_output=True, check=False
        )
        if tracked.returncode == 0:
            commit = subprocess.check_output([*git, "rev-parse", "HEAD"], text=True).strip()
            changed = subprocess.check_output([*git, "status", "--porcelain", "-uno"], text=True)
            return commit + ("-dirty" if changed else "")
    return version("qdesk")


def _origin() -> dict[str, str]:
    code = code_version()
    return {
        MLFLOW_GIT_COMMIT: code.removesuffix("-dirty"),
        MLFLOW_SOURCE_NAME: "qdesk train",
        MLFLOW_SOURCE_TYPE: "LOCAL",
        MLFLOW_USER: user(),
        "code_version": code,
        "host": platform.node(),
        "platform": platform.platform(),
        "cpus": str(os.cpu_count()),
        **{package: _version_of(package) for package in ("tensorflow", "keras", "numpy")},
    }


def _version_of(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"
