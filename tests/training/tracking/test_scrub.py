"""`qdesk tracking scrub`: what versions before stored with addresses goes, and all still verifies."""

import json
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from durable.lines import Lines
from durable.verified import write_verified
from tests.support.commands import said
from tests.support.planted import planted
from tests.support.run_journals import HEAD, entry
from tests.support.stores import fresh
from trading.journal import Journal, records
from training.checkpoints.checkpoint import STATE, Checkpoint
from training.tracking.journal import RunJournal
from training.tracking.store import Store
from training.tracking.tensorboard import TensorBoardLog

SERVER, BUCKET = "http://planted-user:planted@desk:5000", "s3://KEY:planted/a+b@bucket/x"


@pytest.fixture
def mlruns(tmp_path: Path) -> Path:
    """A store as a version before could have left it, credentials everywhere."""
    folder = fresh(tmp_path / "mlruns")
    client = Store(folder).client
    run = client.create_run(
        "0", run_name="old", tags={"command": f"qdesk train --checkpoints {BUCKET}"}
    )
    client.log_param(run.info.run_id, "tracking_uri", SERVER)
    box = RunJournal(folder / "journals" / ("a" * 32))
    box.append(entry("run", {**HEAD, "server": SERVER, "params": {"checkpoints.where": BUCKET}}))
    box.append(entry("points", {"step": 1, "metrics": {"train/loss": 0.5}}))
    box.append(entry("tags", {"tags": {"command": f"qdesk train {BUCKET}"}}))
    box.close()
    old = {"time": 1, "type": "session", "settings": {"tracking_uri": SERVER}, "instrument": "A"}
    (folder / "desks" / "old").mkdir(parents=True)
    (folder / "desks" / "old" / "journal.jsonl").write_text(json.dumps(old) + "\n")
    journal = Journal(folder / "desks" / "new" / "journal.jsonl")
    journal.append(old)
    journal.append({"time": 2, "type": "stop", "position": 0.0})
    journal.flush()
    journal.close()
    write_verified(
        folder / "checkpoints" / ("a" * 32) / "step-000000000001",
        STATE,
        {"weights": np.ones(3)},
        {"format": "qdesk-checkpoint/1", "step": 1, "checkpoints": {"where": BUCKET}},
    )
    board = TensorBoardLog(folder / "tensorboard" / "old")
    board.settings({"checkpoints.where": BUCKET, "tracking_uri": SERVER}, "old")
    board.flush()
    (folder / "artifacts" / "evaluation.json").write_text(json.dumps({"command": f"a {SERVER}"}))
    (folder / "artifacts" / "weights.bin").write_bytes(b"\x00\xff" * 10)
    return folder


def test_nothing_is_left_and_everything_verifies(
    mlruns: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert len(planted(mlruns)) >= 7
    out, err = said(capsys, "tracking", "scrub", "--mlruns", mlruns)
    assert err == ""
    assert "keys that were stored should be replaced" in out
    assert planted(mlruns) == []
    box = RunJournal(mlruns / "journals" / ("a" * 32), make=False)
    assert box.head is not None
    assert (box.head.server, box.damage) == ("http://desk:5000", [])
    assert box.head.params["checkpoints.where"] == "s3://bucket/x"
    box.append(entry("points", {"step": 2, "metrics": {"train/loss": 0.25}}))
    box.close()
    assert not [
        line for line in Lines(mlruns / "journals" / ("a" * 32) / "journal.jsonl") if line.fault
    ]
    for name, unchecked in (("old", 1), ("new", 0)):
        lines = Lines(mlruns / "desks" / name / "journal.jsonl")
        first, *_ = list(records(lines.path, lines))
        assert first["settings"] == {"tracking_uri": "http://desk:5000"}
        assert lines.unchecked == unchecked
    checkpoint = Checkpoint.load(mlruns / "checkpoints" / ("a" * 32) / "step-000000000001")
    assert checkpoint.manifest["checkpoints"] == {"where": "s3://bucket/x"}
    accumulator = EventAccumulator(str(mlruns / "tensorboard" / "old"))
    accumulator.Reload()
    assert accumulator.PluginTagToContent("hparams")
    client = Store(mlruns).client
    (run,) = client.search_runs(["0"])
    assert run.data.params == {"tracking_uri": "http://desk:5000"}
    assert run.data.tags["command"] == "qdesk train --checkpoints s3://bucket/x"
    out, _ = said(capsys, "tracking", "scrub", "--mlruns", mlruns)
    assert "0 cells of the database and 0 files" in out


def test_a_store_in_use_is_left_alone(mlruns: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = planted(mlruns)
    box = RunJournal(mlruns / "journals" / ("a" * 32), make=False)
    _, err = said(capsys, "tracking", "scrub", "--mlruns", mlruns, code=2)
    assert "a training writes here" in err
    box.close()
    journal = Journal(mlruns / "desks" / "new" / "journal.jsonl")
    _, err = said(capsys, "tracking", "scrub", "--mlruns", mlruns, code=2)
    assert "a desk trades here; stop it first" in err
    journal.close()
    assert planted(mlruns) == before
