"""What ends a training, turns it back or warns: divergence, patience, Q-values, disks."""

import resource
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.commands import said
from tests.support.kills import client_of, fingerprint, training
from tests.support.stores import fresh
from tests.support.trained import MARKET, SMALL, Trained, runs_of
from training.checkpoints.checkpoint import newest
from training.checkpoints.errors import NoCheckpoint
from training.tracking.store import RUN
from training.tracking.tracker import CHECKPOINTS


def test_patience_ends_a_training_for_good(trained: Trained) -> None:
    arguments = [*SMALL, "--steps", "20000", "--evaluate-every", "500", "--patience", "2"]
    trained(*arguments, "--network.kind", "linear", "--learner.learning-rate", "1e-9")
    (run,) = runs_of(trained)
    assert run.info.status == "FINISHED"
    saved = newest(Path(run.data.tags[CHECKPOINTS]), None, print)
    assert saved.step < 20000
    best = saved.manifest["kept"][0]["best"]["origin"]["step"]
    assert saved.step == best + 2 * 500
    with pytest.raises(
        NoCheckpoint, match=rf"has ended after {saved.step:,} iterations; go on.*\d$"
    ):
        trained("--resume", "latest")
    assert [run.info.status for run in runs_of(trained)] == ["FINISHED"]
    trained("--preset", "tabular", "--bars", MARKET, "--steps", "1000", stop_at=400)
    (_, other) = runs_of(trained)
    said = (
        f"saved at iteration 400; go on: qdesk train --resume {other.data.tags[RUN][:8]} --mlruns"
    )
    assert said in trained.said.getvalue()
    left = rf"not at their end are {other.data.tags[RUN][:8]} \(saved at 400 of 1,000\)$"
    with pytest.raises(NoCheckpoint, match=left):
        trained("--resume", run.info.run_id)


def test_divergence_goes_back_once_with_half_the_rate(trained: Trained) -> None:
    """Weights spoilt after a checkpoint, as a flipped bit in memory would."""
    spoilt: list[int] = []

    def spoil(loop: Any, *arguments: Any) -> Any:
        if loop.iteration >= 1000 and not spoilt:
            spoilt.append(loop.iteration)
            weight = next(iter(loop.learner.online.variables.values()))
            weight.assign(np.full(weight.shape, np.nan))
        return run(loop, *arguments)

    from training.learning.loop import TrainingLoop

    run = TrainingLoop.run
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingLoop, "run", spoil)
        trained(*SMALL, "--steps", "2000", "--on-divergence", "rollback", "--log-every", "100")
    (tracked,) = runs_of(trained)
    assert tracked.info.status == "FINISHED"
    said = tracked.data.tags["rolled_back"]
    assert said == "from iteration 1100 to 1000, learning rate now 0.0005"
    assert "went back from iteration 1100 to 1000" in " ".join(trained.said.getvalue().split())
    saved = newest(Path(tracked.data.tags[CHECKPOINTS]), None, print)
    assert saved.step == 2000
    assert saved.manifest["rolled_back"]
    assert float(saved.arrays["agents/optimizer/adam/learning_rate"]) == pytest.approx(5e-4)
    with client_of(trained.mlruns) as client:
        steps = [p.step for p in client.get_metric_history(tracked.info.run_id, "train/loss")]
    assert steps == list(range(300, 2001, 100))  # learning starts after 250


@pytest.mark.parametrize("way", ["fail", "rollback"])
def test_divergence_ends_as_failed_with_the_step_named(trained: Trained, way: str) -> None:
    wild = ["--learner.optimizer", "sgd", "--learner.learning-rate", "1e6"]
    again = ", again after going back to a checkpoint" if way == "rollback" else ""
    with pytest.raises(FloatingPointError, match=rf"diverged by iteration \d+: .*{again}$"):
        trained(*SMALL, "--steps", "2000", *wild, "--on-divergence", way)
    (run,) = runs_of(trained)
    assert run.info.status == "FAILED"
    assert newest(Path(run.data.tags[CHECKPOINTS]), None, print).step < 2000  # and still good


def test_q_values_beyond_what_rewards_explain_are_a_warning(trained: Trained) -> None:
    wild = [
        "--learner.optimizer",
        "sgd",
        "--learner.learning-rate",
        "0.05",
        "--learner.gamma",
        "0.3",
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.session.explained_q", lambda *_: 1e-3)
        trained(*SMALL, "--steps", "1000", *wild)
    (run,) = runs_of(trained)
    assert run.data.metrics["guard/q_over_explained"] > 1
    said = " ".join(trained.said.getvalue().split())
    assert said.count("times the largest that rewards can explain") == 1


def test_a_checkpoint_that_cannot_be_written_is_said_and_training_goes_on(
    trained: Trained,
) -> None:
    from durable.verified import write_verified

    def full(folder: Path, *arguments: Any) -> Any:
        if folder.name == "step-000000000600":
            raise OSError(28, "No space left on device")
        return write_verified(folder, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.checkpoints.checkpoint.write_verified", full)
        trained(
            *SMALL, "--steps", "1000", "--checkpoints.every", "200", "--checkpoints.keep-last", "9"
        )
    (run,) = runs_of(trained)
    said = " ".join(trained.said.getvalue().split())
    assert "no checkpoint of iteration 600" in said
    assert "(No space left on device); training goes on" in said
    assert run.info.status == "FINISHED"
    assert newest(Path(run.data.tags[CHECKPOINTS]), None, print).step == 1000


@pytest.mark.parametrize("steps", [2000, pytest.param(20_000, marks=pytest.mark.slow)])
def test_a_full_disk_under_the_store_holds_nothing_up_and_loses_nothing(
    trained: Trained, steps: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """A limit of the size of files stands in for it; once there is room, what is missing is sent."""
    trained("--preset", "tabular", "--steps", "100", "--name", "before")
    room = (trained.mlruns / "mlflow.db").stat().st_size + 40_000
    full = subprocess.run(
        training("tabular", steps, trained.mlruns),
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (room, room)),
    )
    assert (full.returncode, full.stderr) == (0, "")
    assert f"all of it is in {trained.mlruns}/journals. Send it: qdesk tracking sync" in full.stdout
    said(capsys, "tracking", "sync", "--mlruns", trained.mlruns)
    whole = fresh(trained.mlruns.parent / "whole")
    said(capsys, *training("tabular", steps, whole)[1:])
    with client_of(trained.mlruns) as client:
        for run in client.search_runs(["1"], "params.steps = '100'"):
            client.set_terminated(run.info.run_id, "KILLED")
    assert fingerprint(trained.mlruns) == fingerprint(whole)


def test_what_is_neither_sent_nor_written_is_said_to_be_lost(tmp_path: Path) -> None:
    """A disk that takes 4 kB a file, and a server that is not there."""
    (tmp_path / "mlruns").mkdir()
    full = subprocess.run(
        [*training("tabular", 1000, tmp_path / "mlruns"), "--tracking-uri", "http://127.0.0.1:9"],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (8000, 8000)),
    )
    assert full.returncode == 1, full.stdout
    assert "entries of the runs' journals are lost, with all that they track" in full.stderr
    assert full.stderr.count("\n") == 1
    assert "Validation on btcusd_30m" in full.stdout  # it trained to its end all the same
