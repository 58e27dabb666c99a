"""TensorBoard's log: what its own reader finds in it, after going back and after a full disk."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from tensorboard.plugins.scalar.summary_v2 import scalar_pb
from tensorboard.util.tensor_util import make_ndarray

from tests.support.faults import disk_ends_at
from training.tracking.history import Point
from training.tracking.tensorboard import TensorBoardLog, lay_out

NOW = 1_700_000_000_000


def read(folder: Path) -> EventAccumulator:
    found = EventAccumulator(str(folder), size_guidance={"tensors": 0})
    found.Reload()
    return found


def curve(folder: Path, name: str) -> list[tuple[int, float]]:
    return [(e.step, float(make_ndarray(e.tensor_proto))) for e in read(folder).Tensors(name)]


def steps(folder: Path, name: str) -> list[int]:
    return [event.step for event in read(folder).Tensors(name)]


def hparams(folder: Path, tag: str) -> Any:
    content = read(folder).SummaryMetadata(tag).plugin_data.content
    return HParamsPluginData.FromString(content)


@pytest.fixture
def board(tmp_path: Path) -> Iterator[TensorBoardLog]:
    made = TensorBoardLog(tmp_path / "run")
    yield made
    made.close()


def png() -> bytes:
    import io

    figure, file = Figure(figsize=(2, 1), dpi=50), io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def test_histograms_figures_and_settings(board: TensorBoardLog) -> None:
    values = np.arange(100_000.0)
    board.histogram("weights/kernel", values.reshape(100, 1000), 5)
    board.histogram("weights/bias", np.zeros(64), 5)
    board.image("figures/equity", png(), 5)
    board.settings({"learner.gamma": "0.99", "network.dueling": "True", "bars": "x"}, "run1")
    board.ended("KILLED")
    board.flush()
    (event,) = read(board.folder).Tensors("weights/kernel")
    buckets = make_ndarray(event.tensor_proto)
    assert buckets.shape == (30, 3)
    assert buckets[0, 0] == 0
    assert buckets[-1, 1] > 0.999 * 1e5
    assert buckets[:, 2].sum() == pytest.approx(1024, rel=0.05)
    assert abs(buckets[:, 2] - buckets[0, 2]).max() <= 1  # an even sample
    (image,) = read(board.folder).Tensors("figures/equity")
    width, height, content = make_ndarray(image.tensor_proto)
    assert (width, height, content[:4]) == (b"100", b"50", b"\x89PNG")
    start = hparams(board.folder, "_hparams_/session_start_info").session_start_info
    assert start.hparams["learner.gamma"].number_value == 0.99
    assert start.hparams["network.dueling"].bool_value is True
    assert start.hparams["bars"].string_value == "x"
    assert hparams(board.folder, "_hparams_/session_end_info").session_end_info.status == 2


def test_a_scalar_is_as_tensorboard_makes_it(board: TensorBoardLog) -> None:
    board.scalars([Point("train/loss", 1.25, NOW, 7)])
    board.flush()
    (event,) = read(board.folder).Tensors("train/loss")
    (made,) = scalar_pb("train/loss", 1.25).value
    assert event.tensor_proto == made.tensor
    assert read(board.folder).SummaryMetadata("train/loss") == made.metadata
    assert (event.step, event.wall_time) == (7, NOW / 1000)


def test_going_back_keeps_what_was_drawn_until_then(board: TensorBoardLog) -> None:
    points = [Point("train/loss", step / 2, NOW + step, step) for step in (10, 20, 30)]
    for point in points:
        board.scalars([point])
        board.histogram("weights/kernel", np.ones(3), point.step)
        board.scalars([Point("system/cpu", 5.0, NOW, point.step)])
    board.image("figures/equity", png(), 20)
    board.go_back(points[:2], 20)
    assert curve(board.folder, "train/loss") == [(10, 5), (20, 10)]
    assert steps(board.folder, "weights/kernel") == [10, 20]
    assert steps(board.folder, "figures/equity") == [20]
    assert curve(board.folder, "system/cpu") == [(10, 5), (20, 5)]
    board.go_back(points[:1], 10)
    assert curve(board.folder, "train/loss") == [(10, 5)]
    assert steps(board.folder, "weights/kernel") == [10]
    assert len(list(board.folder.iterdir())) == 1


def test_a_torn_log_gives_what_was_whole(board: TensorBoardLog) -> None:
    for step in (1, 2):
        board.histogram("weights/kernel", np.ones(3), step)
    board.flush()
    (path,) = board.folder.iterdir()
    path.write_bytes(path.read_bytes()[:-20])
    board.go_back([], 9)
    assert steps(board.folder, "weights/kernel") == [1]


def test_a_full_disk_leaves_no_gap(board: TensorBoardLog) -> None:
    board.flush()
    (path,) = board.folder.iterdir()
    with disk_ends_at(path.stat().st_size + 11):
        for step in range(5):
            board.scalars([Point("train/loss", step, NOW, step)])
            board.flush()
        assert board.fault is not None
    board.flush()
    assert board.fault is None
    assert curve(board.folder, "train/loss") == [(step, step) for step in range(5)]


def test_a_folder_that_cannot_be_made_raises_nothing_and_is_tried_again(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("in the way")
    board = TensorBoardLog(tmp_path / "run")
    board.scalars([Point("train/loss", 1.0, NOW, 1)])
    board.flush()
    assert board.fault is not None
    (tmp_path / "run").unlink()
    board.close()
    assert curve(tmp_path / "run", "train/loss") == [(1, 1)]


def test_one_layout_with_the_settings_that_differ(tmp_path: Path) -> None:
    runs = [{"a": "1", "b": "x", "c": "same"}, {"a": "2", "b": "x", "c": "same", "d": "new"}]
    lay_out(tmp_path, runs[:1])
    lay_out(tmp_path, runs)
    assert len(list(tmp_path.iterdir())) == 1
    (event,) = read(tmp_path).Tensors("custom_scalars__config__")
    layout = Layout.FromString(make_ndarray(event.tensor_proto).item())
    assert [category.title for category in layout.category] == ["learning", "validation", "speed"]
    experiment = hparams(tmp_path, "_hparams_/experiment").experiment
    assert [info.name for info in experiment.hparam_infos] == ["a", "d"]
    shown = [info.name.tag for info in experiment.metric_infos]
    assert shown[:2] == ["eval/validation/net_return", "eval/validation/sharpe"]
