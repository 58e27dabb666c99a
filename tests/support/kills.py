"""Trainings as processes, killed and resumed, and what they left behind."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
from mlflow import MlflowClient
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray

from durable.files import TEMPORARY
from models.store import SERVER
from training.checkpoints.checkpoint import newest
from training.tracking.journals import JOURNALS, undelivered
from training.tracking.store import RUN
from training.tracking.tracker import CHECKPOINTS

QDESK = Path(sys.executable).with_name("qdesk")
SHORT = {"linear": 20_000, "two_layer": 20_000, "rainbow": 20_000, "tabular": 10_000}
# As often as can be and large, so that many moments are those of a checkpoint being written.
OFTEN = ["--checkpoints.every", "100", "--log-every", "100", "--evaluate-every", "1000"]
LARGE = ["--replay.capacity", "1000000"]
SECONDS = {"tabular": 1.5}  # after its first line, in which a training is killed
OTHERS_SECONDS = 5.0


def training(variant: str, steps: int, store: Path, *more: str) -> list[str]:
    """The command of a short training."""
    command = [str(QDESK), "train", "--preset", variant, "--steps", str(steps), *OFTEN]
    command += [] if variant == "tabular" else LARGE
    return [*command, *more, "--mlruns", str(store)]


def resuming(store: Path) -> list[str]:
    """The command that goes on with what was trained last."""
    return [str(QDESK), "train", "--resume", "latest", "--mlruns", str(store)]


def killed(command: list[str], seconds: float) -> bool:
    """Runs a command and kills it so long after its first line; returns whether it was still training.

    A process that was killed when all was done is told by the next: there is nothing to resume.
    """
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        process.stdout.readline()
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        pass
    finally:
        process.kill()
        _, said = process.communicate()
    if process.returncode == 2 and "has ended" in said:
        return False
    if process.returncode not in (0, -9):
        raise RuntimeError(f"{command} ended with {process.returncode}: {said}")
    return process.returncode == -9


def fingerprint(store: Path) -> dict[str, Any]:
    """What a finished training left: equal fingerprints are equal bits.

    Of metrics all but `perf/` and `system/`, which the machine decides, each point once, in MLflow and in
    TensorBoard. Nothing may be left to be sent.
    """
    with client_of(store) as client:
        runs = client.search_runs(["1"])
        (run,) = [run for run in runs if run.info.status == "FINISHED"]
        # One that was killed before its first checkpoint was begun again, and closed by that.
        assert {other.info.status for other in runs if other is not run} <= {"KILLED"}
        points = [
            (point.key, point.step, point.value)
            for key in run.data.metrics
            if not key.startswith("system/")  # only now and then
            for point in client.get_metric_history(run.info.run_id, key)
        ]
        versions = [
            (int(version.tags["step"]), version.tags["weights_sha256"])
            for version in client.search_model_versions(f"run_id = '{run.info.run_id}'")
        ]
    mine = run.data.tags[RUN]
    assert not undelivered(store / JOURNALS / mine)
    (folder,) = (store / "tensorboard").glob(f"*-{mine[:8]}")
    events = EventAccumulator(str(folder), size_guidance={"tensors": 0})
    events.Reload()
    curves = [
        (tag, event.step, float(make_ndarray(event.tensor_proto)))
        for tag in events.Tags()["tensors"]
        if tag.startswith(("train/", "eval/", "perf/", "guard/"))
        for event in events.Tensors(tag)
    ]
    arrays = newest(Path(run.data.tags[CHECKPOINTS]), None, print).arrays
    state = hashlib.sha256()
    for name in sorted(arrays):
        if name.split("/")[0] in ("agents", "kept"):
            state.update(name.encode() + arrays[name].tobytes())
    return {
        "state": state.hexdigest(),
        "points": sorted(point for point in points if "perf/" not in point[0]),
        "times": sorted(point[:2] for point in points),
        "curves": sorted(point for point in curves if "perf/" not in point[0]),
        "curve_times": sorted(point[:2] for point in curves),
        "versions": sorted(versions),
    }


@contextmanager
def client_of(store: Path) -> Iterator[MlflowClient]:
    """A client of a store that was trained into."""
    before = mlflow.get_tracking_uri()
    named = os.environ.get(SERVER)
    mlflow.set_tracking_uri(f"sqlite:///{store}/mlflow.db")
    try:
        yield MlflowClient()
    finally:
        mlflow.set_tracking_uri(before)
        os.environ.pop(SERVER, None)  # it was set as well
        if named is not None:
            os.environ[SERVER] = named


def study(variant: str, steps: int, kills: int, folder: Path, seed: int) -> dict[str, Any]:
    """Kills trainings so often, each resumed until it has ended.

    Returns:
        How many trainings it took, how many kills fell into the writing of a checkpoint, and how many of
        the trainings differ from the one that was left alone, by part of the fingerprint.
    """
    draw = np.random.default_rng(seed)
    alone = folder / "alone"
    subprocess.run(training(variant, steps, alone), check=True, capture_output=True)
    expected = fingerprint(alone)
    result: dict[str, Any] = {"kills": 0, "trainings": 0, "while_writing": 0, "differ": {}}
    ended = False
    while result["kills"] < kills or not ended:
        store = folder / f"killed-{result['trainings']}"
        if not any((store / "checkpoints").glob("*/step-*")):
            command = training(variant, steps, store)
        else:
            command = resuming(store)
        within = SECONDS.get(variant, OTHERS_SECONDS) if result["kills"] < kills else 600
        ended = not killed(command, draw.uniform(0, within) if within < 600 else within)
        if ended:
            found = fingerprint(store)
            for part in expected:
                if found[part] != expected[part]:
                    result["differ"][part] = result["differ"].get(part, 0) + 1
            result["trainings"] += 1
        else:
            result["kills"] += 1
            left = (store / "checkpoints").glob(f"*/{TEMPORARY}*")
            result["while_writing"] += any(left)
    return result
