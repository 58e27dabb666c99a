"""Going on from a checkpoint: exactly, after a kill and after a signal; forks; and what is refused."""

import os
import signal
import subprocess
from pathlib import Path

import numpy as np
import orjson
import pytest

from durable.lines import seal
from market.bars import load_bars
from tests.support.commands import said
from tests.support.kills import client_of, fingerprint, resuming, study, training
from tests.support.stores import fresh
from tests.support.trained import SMALL, Trained, learn_until, refused, runs_of
from training.checkpoints.checkpoint import STATE, RunLock, newest
from training.checkpoints.errors import NoCheckpoint
from training.resume import resumed
from training.stop import Stop
from training.tracking.journal import DELIVERED
from training.tracking.journals import JOURNALS
from training.tracking.store import RUN
from training.tracking.tracker import CHECKPOINTS

STEPS = 3000


@pytest.mark.parametrize(
    "variant, kills", [pytest.param("rainbow", 2, marks=pytest.mark.slow), ("tabular", 2)]
)
def test_killed_at_random_moments_it_ends_as_if_left_alone(
    tmp_path: Path, variant: str, kills: int
) -> None:
    """State, metrics, curves and versions, bit for bit. `make study-kills` does it 50 times each."""
    result = study(variant, 4000, kills, tmp_path, seed=2)
    assert result["kills"] == kills
    assert result["trainings"] >= 1
    assert result["differ"] == {}


def test_killed_at_its_very_end_it_is_refused_and_what_was_not_sent_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its journal has its end, which MLflow never heard of: there is nothing to train, only to send."""
    store = fresh(tmp_path / "mlruns")
    said(capsys, *training("tabular", STEPS, store)[1:])
    expected = fingerprint(store)
    (path,) = store.glob(f"{JOURNALS}/*/{DELIVERED}")
    delivered = orjson.loads(path.read_bytes())
    delivered["up_to"] -= 2  # the description and the end
    del delivered["crc"]
    path.write_bytes(seal(orjson.dumps(delivered), 0)[0])
    with client_of(store) as client:
        (run,) = client.search_runs(["1"])
        client.update_run(run.info.run_id, "RUNNING")
    _, error = said(capsys, *resuming(store)[1:], code=2)
    assert "has ended after 3,000 iterations" in error
    assert fingerprint(store) == expected


def test_stopped_and_resumed_it_ends_as_if_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Stopped between two logged points: no point is missing, moved, or there twice."""
    alone, stopped = fresh(tmp_path / "alone"), fresh(tmp_path / "stopped")
    few = ("--log-every", "20000", "--evaluate-every", "20000", "--checkpoints.every", "20000")
    slowly = ("--replay.streams", "64")
    said(capsys, *training("tabular", 22_000, alone, *few, *slowly)[1:])
    process = subprocess.Popen(
        training("tabular", 22_000, stopped, *few, *slowly),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.readline()
    try:
        process.wait(0.5)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)
    _, error = process.communicate()
    assert process.returncode == 143
    assert sorted(error.splitlines()) == [
        "qdesk train: SIGTERM: stopping; once more ends it at once",
        "qdesk train: stopped by SIGTERM after a last checkpoint",
    ]
    with client_of(stopped) as client:
        (run,) = client.search_runs(["1"])
        assert run.info.status == "KILLED"
        saved = newest(Path(run.data.tags[CHECKPOINTS]), None, print)
        assert saved.step % 20_000
        (version,) = [
            each
            for each in client.search_model_versions(f"run_id = '{run.info.run_id}'")
            if each.tags["step"] == str(saved.step)
        ]
        sound = [
            each
            for each in client.search_model_versions(f"name = '{version.name}'")
            if each.tags["ruined"] == "no"
        ]
        best = max(sound, key=lambda each: float(each.tags["net_return"]), default=None)
        aliases = client.get_registered_model(version.name).aliases
        wanted = {} if best is None else {"candidate": str(best.version)}
        assert {name: str(number) for name, number in aliases.items()} == wanted
    said(capsys, *resuming(stopped)[1:])
    expected, found = fingerprint(alone), fingerprint(stopped)
    assert set(expected["versions"]) == set(found["versions"]) - {
        (saved.step, version.tags["weights_sha256"])
    }
    for part in ("state", "points", "times", "curves", "curve_times"):
        assert found[part] == expected[part], part


@pytest.mark.parametrize(
    "every, last", [pytest.param("5000", 0, marks=pytest.mark.slow), ("900", 900)]
)
def test_what_was_logged_and_registered_after_the_checkpoint_is_not_done_twice(
    tmp_path: Path, every: str, last: int
) -> None:
    """A crash well after the last checkpoint, everything flushed: MLflow knows more than it."""
    arguments = [*SMALL, "--steps", "2000", "--log-every", "50", "--evaluate-every", "100"]
    arguments += ["--checkpoints.keep-best", "0", "--checkpoints.every"]
    alone = Trained(tmp_path / "alone")
    alone(*arguments, "900")
    expected = fingerprint(alone.mlruns)
    crashed = Trained(tmp_path / every)
    with pytest.MonkeyPatch.context() as patch:
        fault = RuntimeError("the power went")
        patch.setattr("training.session.learn", learn_until(1650, fault))
        with pytest.raises(RuntimeError, match="the power went"):
            crashed(*arguments, every)
    (run,) = runs_of(crashed)
    assert run.info.status == "FAILED"
    with client_of(crashed.mlruns) as client:
        known = client.get_metric_history(run.info.run_id, "train/loss")
        assert known[-1].step == 1650
        registered = client.search_model_versions(f"run_id = '{run.info.run_id}'")
    assert len(registered) == sum(step <= 1650 for step, _ in expected["versions"]) > 0
    saved = newest(Path(run.data.tags[CHECKPOINTS]), None, print)
    assert saved.step == last
    assert bool(saved.manifest["kept"][0]) == (last > 0)  # a best to be taken back
    crashed("--resume", "latest")
    assert fingerprint(crashed.mlruns) == expected


def test_seeds_and_soft_targets_go_on_exactly(tmp_path: Path) -> None:
    arguments = [*SMALL, "--steps", str(STEPS), "--seeds", "2", "--learner.tau", "0.01"]
    arguments += ["--checkpoints.every", "300"]
    alone, stopped = Trained(tmp_path / "alone"), Trained(tmp_path / "stopped")
    alone(*arguments)
    assert stopped(*arguments, stop_at=1000) == signal.SIGTERM
    assert {run.info.status for run in runs_of(stopped)} == {"KILLED"}
    stopped("--resume", "latest")
    for ours, theirs in zip(runs_of(alone), runs_of(stopped), strict=True):
        assert theirs.info.status == "FINISHED"
        assert ours.data.params["seed"] == theirs.data.params["seed"]
        expected, found = (
            newest(Path(run.data.tags[CHECKPOINTS]), None, print).arrays for run in (ours, theirs)
        )
        assert expected.keys() == found.keys()
        for name in expected:
            times = name.endswith("/time") or (name.endswith("/value") and "metrics/" in name)
            if not times:
                np.testing.assert_array_equal(found[name], expected[name], name)


def test_a_fork_is_a_run_of_its_own_under_new_settings(trained: Trained) -> None:
    trained(*SMALL, "--steps", "1500")
    (parent,) = runs_of(trained)
    fork = ["--resume", parent.info.run_id[:10], "--fork", "--steps", "2500"]
    trained(*fork, "--learner.learning-rate", "0.0001", "--market.fee-rate", "0.002")
    after, child = runs_of(trained)
    assert after.info.run_id == parent.info.run_id
    assert after.data.metrics == parent.data.metrics
    assert child.data.tags["forked_from"] == parent.data.tags[RUN]
    assert child.data.tags["forked_from_step"] == "1500"
    assert child.data.params["learner.learning_rate"] == "0.0001"
    with client_of(trained.mlruns) as client:
        steps = [p.step for p in client.get_metric_history(child.info.run_id, "train/loss")]
    assert steps[0] > 1500
    assert steps[-1] == 2500
    parents = newest(Path(parent.data.tags[CHECKPOINTS]), None, print)
    childs = newest(Path(child.data.tags[CHECKPOINTS]), None, print)
    assert (parents.step, childs.step) == (1500, 2500)
    rate = "agents/optimizer/adam/learning_rate"
    assert float(childs.arrays[rate]) == pytest.approx(1e-4)
    assert float(parents.arrays[rate]) == pytest.approx(1e-3)


def test_a_fork_begins_as_its_parent_ended(trained: Trained) -> None:
    """Extending a training by a fork gives the weights of one that was as long from the start."""
    every = ("--log-every", "100", "--evaluate-every", "500")
    trained(*SMALL, "--steps", "1000", *every)
    trained("--resume", "latest", "--fork", "--steps", "2000")
    whole = Trained(trained.mlruns.parent / "whole")
    whole(*SMALL, "--steps", "2000", *every)
    fork, expected = (
        newest(Path(runs_of(each)[-1].data.tags[CHECKPOINTS]), None, print).arrays
        for each in (trained, whole)
    )
    for name in expected:
        if name.startswith("agents/"):
            np.testing.assert_array_equal(fork[name], expected[name], name)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of a tabular training that was stopped at step 400 of 1000."""
    trained = Trained(tmp_path_factory.mktemp("stopped"))
    bars = trained.mlruns.parent / "bars.csv"
    load_bars("eurusd_1h").table.head(4000).write_csv(bars)
    trained("--preset", "tabular", "--bars", str(bars), "--steps", "1000", stop_at=400)
    return trained.mlruns


def test_settings_that_differ_are_refused_with_the_difference(
    stopped: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    error = refused(capsys, stopped, "--resume", "latest", "--tabular.bins", "5", "--seed", "1")
    assert "settings differ from the checkpoint's: tabular.bins is 10 there and 5 here;" in error
    assert "seed" not in error.split("differ")[1]
    monkeypatch.setenv("QDESK_LEARNER__GAMMA", "0.5")
    error = refused(capsys, stopped, "--resume", "latest")
    assert "learner.gamma is 0.99 there and 0.5 here" in error
    monkeypatch.delenv("QDESK_LEARNER__GAMMA")
    error = refused(capsys, stopped, "--resume", "latest", "--preset", "linear")
    assert "preset is tabular there and linear here" in error


def test_other_bars_are_refused_also_for_a_fork(
    stopped: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    other = tmp_path / "other.csv"
    load_bars("eurusd_1h").table.head(3999).write_csv(other)
    for fork in ((), ("--fork", "--steps", "2000")):
        error = refused(capsys, stopped, "--resume", "latest", *fork, "--bars", str(other))
        assert "data_hash is" in error
        assert "replay and streams mean nothing on other bars" in error
    error = refused(
        capsys, stopped, *("--resume", "latest", "--fork", "--steps", "2000"),
        *("--market.episode-bars", "50"),
    )  # fmt: skip
    assert "market.episode_bars is 1000 in the checkpoint and 50 now" in error
    moved = tmp_path / "moved.csv"
    moved.write_bytes((stopped.parent / "bars.csv").read_bytes())
    found = resumed(["--resume", "latest", "--bars", str(moved), "--mlruns", str(stopped)], print)
    assert found is not None  # the same bars elsewhere
    assert found[0].bars == str(moved)
    assert found[1].lock is not None
    found[1].lock.close()


def test_a_fork_asked_for_by_the_environment_is_one(
    stopped: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("QDESK_FORK", "true")
    monkeypatch.setenv("QDESK_STEPS", "300")
    error = refused(capsys, stopped, "--resume", "latest")
    assert "steps is 300, but the checkpoint has done 400 already" in error
    monkeypatch.setenv("QDESK_STEPS", "2000")
    assert "seed is 1 in the checkpoint and 9 here" in refused(
        capsys, stopped, "--resume", "latest", "--seed", "9"
    )
    monkeypatch.delenv("QDESK_FORK")
    preset = tmp_path / "mine.toml"
    preset.write_text('resume = "latest"\n')
    assert "resume is no setting of a preset" in refused(capsys, stopped, "--preset", str(preset))
    assert "cannot be read (File name too long)" in refused(capsys, stopped, "--resume", "x" * 300)


def test_what_is_not_there_or_in_use_is_refused(
    stopped: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert "nosuchrun: no run in" in refused(capsys, stopped, "--resume", "nosuchrun")
    assert "--resume is empty" in refused(capsys, stopped, "--resume", "")
    assert "no/such: there is no such folder" in refused(capsys, stopped, "--resume", "no/such")
    error = refused(capsys, tmp_path / "empty", "--resume", "latest")
    assert "holds no checkpoint" in error
    assert not (tmp_path / "empty").exists()
    error = refused(capsys, stopped, "--fork")
    assert "fork is set without resume" in error
    error = refused(capsys, stopped, "--resume", "latest", "--fork", "--steps", "300")
    assert "steps is 300, but the checkpoint has done 400 already" in error
    (folder,) = (stopped / "checkpoints").iterdir()
    lock = RunLock(folder)
    error = refused(capsys, stopped, "--resume", "latest")
    lock.close()
    assert f"process {os.getpid()} trains this run; stop it first" in error


def test_a_state_that_does_not_fit_is_refused_and_the_run_is_left(stopped: Path) -> None:
    trained = Trained(stopped.parent)
    before = [run.info.status for run in runs_of(trained)]
    with pytest.raises(NoCheckpoint, match=r"the state holds .* as 0/streams; .* need"):
        trained("--resume", "latest", "--fork", "--steps", "2000", "--replay.streams", "4")
    assert [run.info.status for run in runs_of(trained)] == before


def test_the_damaged_newest_is_named_and_the_one_before_resumed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = Trained(tmp_path)
    arguments = ["--preset", "tabular", "--steps", "1000", "--checkpoints.every", "100"]
    trained(*arguments, stop_at=400)
    (folder,) = (trained.mlruns / "checkpoints").iterdir()
    path = max(folder.glob("step-*")) / STATE
    path.write_bytes(path.read_bytes()[:-100])
    printed, _ = said(capsys, *resuming(trained.mlruns)[1:])
    assert f"damaged: {path}: " in printed
    assert "from 300 on" in printed
    whole = Trained(tmp_path / "whole")
    whole(*arguments)
    expected, found = fingerprint(whole.mlruns), fingerprint(trained.mlruns)
    # The version that the stop at 400 registered is the only thing more.
    assert set(expected.pop("versions")) <= set(found.pop("versions"))
    assert found == expected


def test_runs_of_dead_processes_are_closed_at_the_next_start(tmp_path: Path) -> None:
    mlruns = tmp_path / "mlruns"
    process = subprocess.Popen(
        training("tabular", 100_000, mlruns), stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.readline()
    trained = Trained(tmp_path)
    try:
        trained("--preset", "tabular", "--steps", "300")
        assert [run.info.status for run in runs_of(trained)] == ["RUNNING", "FINISHED"]
    finally:
        process.kill()
        process.communicate()
    trained("--preset", "tabular", "--steps", "300", "--seed", "2")
    dead, *_ = runs_of(trained)
    assert dead.info.status == "KILLED"
    assert dead.data.tags["ended"] == "its process was gone"


def test_a_second_signal_ends_at_once() -> None:
    with Stop() as stop:
        signal.raise_signal(signal.SIGTERM)
        assert stop.by == signal.SIGTERM
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
