"""TensorBoard's side of a run: scalars, histograms, figures, and the table of settings (HParams).

Written without TensorFlow, so that tables can be trained where it is missing, and without ever raising: a
disk that is full for a while leaves a gap in no curve.
"""

import io
import itertools
import os
import platform
import struct
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import ArrayLike
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.compat.proto.types_pb2 import DT_FLOAT
from tensorboard.compat.tensorflow_stub.errors import DataLossError, OutOfRangeError
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import PyRecordReader_New
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar import metadata as layout_metadata
from tensorboard.plugins.histogram.summary_v2 import histogram_pb
from tensorboard.plugins.hparams import api_pb2
from tensorboard.plugins.hparams import metadata as hparams_metadata
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo
from tensorboard.plugins.hparams.summary_v2 import HParam, Metric, hparams_config_pb, hparams_pb
from tensorboard.plugins.image.metadata import create_summary_metadata
from tensorboard.plugins.scalar.summary_v2 import scalar_pb
from tensorboard.summary.writer.record_writer import RecordWriter
from tensorboard.util.tensor_util import make_tensor_proto

from durable.files import whole_file
from durable.growing_file import GrowingFile
from training.tracking.history import Point
from training.tracking.machine import SYSTEM

MARK = ".tfevents."  # in the name of every file of events
LAYOUT = "layout.qdesk"  # how the name of the one file of settings and charts ends
BUCKETS = 30
SAMPLE = 1024  # of a histogram: its bars, and the values that it is drawn from
METRICS = (
    ("eval/validation/net_return", "net return on validation"),
    ("eval/validation/sharpe", "Sharpe ratio on validation"),
    ("eval/validation/max_drawdown", "largest drawdown on validation"),
    ("train/reward", "reward"),
    ("train/loss", "loss"),
)
CHARTS = {  # patterns of tags by title
    "learning": {
        "loss": r"train/loss",
        "reward": r"train/reward",
        "epsilon": r"train/epsilon",
        "TD error": r"train/td_error",
        "gradient norm": r"train/gradient_norm",
        "Q-values": r"train/q_mean",
    },
    "validation": {
        "net return": r"eval/validation/net_return.*",
        "Sharpe ratio": r"eval/validation/sharpe",
        "drawdown": r"eval/validation/max_drawdown",
        "trading": r"eval/validation/(position_changes|turnover|exposure)",
    },
    "speed": {
        "iterations a second": r"perf/iterations_per_second",
        "machine, %": r"system/.*_percentage",
    },
}
SCALAR = TensorShapeProto()
SCALAR_METADATA = scalar_pb("", 0.0).value[0].metadata
COUNT = itertools.count()  # a process may write several files of one run


class TensorBoardLog:
    """The TensorBoard log of one run. Nothing raises: what cannot be written waits, or is left out."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file: GrowingFile | None = None
        self._pending: list[bytes] = []
        self._old: list[Path] = []  # that the present file replaces, once it is written
        self._begin()

    @property
    def fault(self) -> OSError | None:
        """Why the log cannot be written, if it cannot."""
        return self._fault if self._file is None else self._file.fault

    def scalars(self, points: Sequence[Point]) -> None:
        """Adds values of metrics at one step and time."""
        summary = Summary()
        for point in points:  # as TensorBoard's `scalar_pb` makes it, in a fifth of the time
            tensor = TensorProto(dtype=DT_FLOAT, tensor_shape=SCALAR, float_val=[point.value])
            summary.value.add(tag=point.name, metadata=SCALAR_METADATA, tensor=tensor)
        if points:
            self._add(summary, points[0].step, points[0].time / 1000)

    def histogram(self, name: str, values: ArrayLike, step: int) -> None:
        """Adds a histogram of values of any shape; of many, of an even sample of them."""
        flat = np.asarray(values, np.float64).ravel()
        self._add(histogram_pb(name, flat[:: -(-len(flat) // SAMPLE) or 1], BUCKETS), step)

    def image(self, name: str, png: bytes, step: int) -> None:
        """Adds a picture."""
        width, height = struct.unpack(">II", png[16:24])
        parts = np.array([str(width).encode(), str(height).encode(), png], object)
        metadata = create_summary_metadata(display_name="", description="")
        self._add(_summary(name, metadata, make_tensor_proto(parts)), step)

    def settings(self, settings: Mapping[str, str], trial: str) -> None:
        """Adds the run to the table of settings, once a run."""
        typed = {name: _typed(value) for name, value in settings.items()}
        self._add(hparams_pb(typed, trial), 0)

    def ended(self, status: str) -> None:
        """Says in the table of settings how the run ended."""
        good = status == "FINISHED"
        kind = api_pb2.STATUS_SUCCESS if good else api_pb2.STATUS_FAILURE
        info = SessionEndInfo(status=kind, end_time_secs=time.time())
        metadata = hparams_metadata.create_summary_metadata(
            HParamsPluginData(session_end_info=info)
        )
        tag = hparams_metadata.SESSION_END_INFO_TAG
        self._add(_summary(tag, metadata, hparams_metadata.NULL_TENSOR), 0)

    def go_back(self, history: Iterable[Point], step: int) -> None:
        """Writes the log anew as it was at a step: no curve has a gap, and no point is there twice.

        The history is all points up to then; later histograms and figures are left out.
        """
        self.flush()
        old = [path for path in self.folder.glob(f"*{MARK}*") if path.is_file()]
        kept = list(_drawings(old, step))
        if self._file is not None:
            self._file.close()
        self._file = None
        self._begin()
        for event in kept:
            self._record(event)
        for _, points in itertools.groupby(history, lambda point: (point.step, point.time)):
            self.scalars(list(points))
        self._old = old
        self.flush()

    def flush(self) -> None:
        """Hands everything added so far to the operating system, as far as it takes it."""
        if self._file is None:
            self._begin()
        if self._file is not None and self._file.flush():
            for path in self._old:  # the new file has it all
                with suppress(OSError):
                    path.unlink()
            self._old = []

    def close(self) -> None:
        """Flushes, and ends the file."""
        self.flush()
        if self._file is not None:
            self._file.close()

    def _begin(self) -> None:
        now = time.time()
        name = f"events.out.tfevents.{now:.0f}.{platform.node()}.{os.getpid()}.{next(COUNT)}.qdesk"
        self._fault: OSError | None = None
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._file = GrowingFile(self.folder / name)
        except OSError as error:
            self._fault = error
            return
        self._file.add(_record(_first_event(now)))
        for record in self._pending:
            self._file.add(record)
        self._pending.clear()

    def _add(self, summary: Summary, step: int, wall_time: float | None = None) -> None:
        self._record(Event(wall_time=wall_time or time.time(), step=step, summary=summary))

    def _record(self, event: Event) -> None:
        if self._file is None:
            self._pending.append(_record(event))
        else:
            self._file.add(_record(event))


def lay_out(folder: Path, runs: Sequence[Mapping[str, str]]) -> None:
    """Writes the one file that says what TensorBoard's table of settings and charts show.

    It lies in the folder of all runs' logs; the settings in which these runs differ become columns.
    """
    names = dict.fromkeys(name for run in runs for name in run)
    differ = [name for name in names if len({run.get(name) for run in runs}) > 1]
    metrics = [Metric(name, display_name=shown) for name, shown in METRICS]
    layout = layout_pb2.Layout()
    for title, charts in CHARTS.items():
        category = layout.category.add(title=title)
        for name, tag in charts.items():
            category.chart.add(title=name, multiline={"tag": [tag]})
    summary = _summary(
        layout_metadata.CONFIG_SUMMARY_TAG,
        layout_metadata.create_summary_metadata(),
        make_tensor_proto(layout.SerializeToString()),
    )
    config = hparams_config_pb([HParam(name) for name in differ or ["network.kind"]], metrics)
    now = time.time()
    before = list(folder.glob(f"*.{LAYOUT}"))
    events = [_first_event(now)]
    events += [Event(wall_time=now, step=0, summary=each) for each in (summary, config)]
    new = folder / f"events.out{MARK}{now * 1000:.0f}.{LAYOUT}"
    with suppress(OSError):  # it can be read without
        with whole_file(new, awaited=False) as temporary:
            temporary.write_bytes(b"".join(map(_record, events)))
        for old in before:
            if old != new:
                old.unlink(missing_ok=True)


def _drawings(paths: Sequence[Path], step: int) -> Iterator[Event]:
    """Histograms, pictures and readings of the machine in files of events, up to a step, each once."""
    seen = set()
    for path in sorted(paths):
        reader = PyRecordReader_New(str(path))
        with suppress(OutOfRangeError, DataLossError, OSError, DecodeError):  # its end, torn or not
            while True:
                reader.GetNext()
                event = Event.FromString(reader.record())
                for value in event.summary.value:
                    plugin = value.metadata.plugin_data.plugin_name
                    drawn = plugin in ("histograms", "images") or value.tag.startswith(SYSTEM)
                    key = value.tag, event.step
                    if drawn and event.step <= step and key not in seen:
                        seen.add(key)
                        yield event


def _summary(tag: str, metadata: SummaryMetadata, tensor: TensorProto) -> Summary:
    return Summary(value=[Summary.Value(tag=tag, metadata=metadata, tensor=tensor)])


def _first_event(now: float) -> Event:
    """What every file of events begins with."""
    return Event(wall_time=now, file_version="brain.Event:2")


def _record(event: Event) -> bytes:
    buffer = io.BytesIO()
    RecordWriter(buffer).write(event.SerializeToString())
    return buffer.getvalue()


def _typed(value: str) -> str | float | bool:
    """A setting as a number or a truth value where it is one: HParams sorts and filters by those."""
    if value in ("True", "False"):
        return value == "True"
    with suppress(ValueError):
        return float(value)
    return value
