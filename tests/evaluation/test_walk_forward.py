"""Windows against a library, jobs that survive, and no look ahead."""

import os
import signal
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from skfolio.model_selection import WalkForward

from evaluation.walk_forward import (
    CHOICE,
    Job,
    JobFailed,
    Outcome,
    WalkForwardSettings,
    Window,
    joined,
    run_jobs,
    windows,
)
from market.bars import BarsError
from market.source import bars_from
from training.settings import TrainSettings
from training.sources import load_settings
from training.walk_forward import train_window


@given(
    bars=st.integers(500, 5000),
    gap=st.integers(0, 60),
    count=st.integers(1, 6),
    expanding=st.booleans(),
    embargo=st.integers(0, 20),
)
def test_windows_cover_the_end_without_overlap(
    bars: int, gap: int, count: int, expanding: bool, embargo: int
) -> None:
    settings = WalkForwardSettings(windows=count, expanding=expanding, embargo=embargo)
    try:
        made = windows(bars, gap, settings)
    except BarsError:
        assert bars * 0.4 / count < 32 or bars * 0.6 < 32 + gap + embargo
        return
    assert [window.number for window in made] == list(range(1, count + 1))
    assert made[0].judged[0] == round(bars * 0.6)
    assert made[-1].judged[1] == bars - 1  # the last bar is where the last step ends
    for before, after in pairwise(made):
        assert before.judged[1] == after.judged[0]
    for window in made:
        assert 0 <= window.fit[0] < window.fit[1] == window.judged[0] - gap - embargo
        length = window.fit[1] - window.fit[0]
        assert window.fit[0] == 0 if expanding else length == made[0].fit[1]


@pytest.mark.parametrize("expanding", [False, True])
def test_windows_are_those_of_skfolio(expanding: bool) -> None:
    made = windows(1002, 10, WalkForwardSettings(train=0.6, windows=4, expanding=expanding))
    theirs = WalkForward(
        test_size=100, train_size=601 - 10, purged_size=10, expand_train=expanding
    ).split(np.zeros((1002, 1)))
    for window, (train, test) in zip(made, theirs, strict=True):
        assert window.fit == (train[0], train[-1] + 1)
        assert window.judged == (test[0], test[-1] + 1)


def test_too_few_bars_are_refused() -> None:
    with pytest.raises(
        BarsError, match=r"200 bars are too few for 4 windows: window 1 would train on"
    ):
        windows(200, 48, WalkForwardSettings())
    with pytest.raises(BarsError, match="train on 0 and"):
        windows(200, 48, WalkForwardSettings(windows=1, embargo=300))


CALLS: list[int] = []


def job_of(seed: int, **changes: Any) -> Job:
    job = Job({"steps": 7}, seed, Window(1, (0, 50), (60, 63)), "hash", "code")
    return job._replace(**changes)


def by_seed(job: Job) -> Outcome:
    CALLS.append(job.seed)
    return Outcome(np.full((3, 3), job.seed % 3 - 1, np.int8), job.seed, 0.5)


def fails_at_three(job: Job) -> Outcome:
    if job.seed == 3:
        raise BarsError("window 1: no such thing")
    return by_seed(job)


def is_killed(job: Job) -> Outcome:
    os.kill(os.getpid(), signal.SIGKILL)
    return by_seed(job)


def test_what_is_done_is_not_done_again(tmp_path: Path) -> None:
    CALLS.clear()
    jobs = [job_of(seed) for seed in range(1, 5)]
    with pytest.raises(BarsError):
        list(run_jobs(jobs, fails_at_three, tmp_path, workers=1))
    assert CALLS == [1, 2]
    (tmp_path / jobs[1].key / CHOICE).write_bytes(b"spoilt")
    found = {job.seed: outcome for job, outcome in run_jobs(jobs, by_seed, tmp_path, workers=1)}
    assert CALLS == [1, 2, 2, 3, 4]
    for seed, outcome in found.items():
        np.testing.assert_array_equal(outcome.choice, np.full((3, 3), seed % 3 - 1))
        assert (outcome.step, outcome.net_return) == (seed, 0.5)
    assert joined([found[1], found[2]]).shape == (6, 3)


def test_a_key_is_of_all_that_decides_a_job() -> None:
    jobs = [
        job_of(1),
        job_of(2),
        job_of(1, settings={"steps": 8}),
        job_of(1, window=Window(2, (0, 50), (60, 63))),
        job_of(1, window=Window(1, (0, 49), (60, 63))),
        job_of(1, data_hash="other"),
        job_of(1, code="other"),
    ]
    assert len({job.key for job in jobs}) == len(jobs)
    assert job_of(1).key == job_of(1).key


def test_processes_share_the_work(tmp_path: Path) -> None:
    jobs = [job_of(seed) for seed in range(1, 7)]
    found = {
        job.seed: outcome.step for job, outcome in run_jobs(jobs, by_seed, tmp_path, workers=2)
    }
    assert found == {seed: seed for seed in range(1, 7)}
    with pytest.raises(BarsError, match="no such thing"):
        list(run_jobs([job_of(3), job_of(9)], fails_at_three, tmp_path / "other", workers=2))


def test_a_process_that_is_gone_is_said(tmp_path: Path) -> None:
    with pytest.raises(JobFailed, match="was gone, most likely for want of memory"):
        list(run_jobs([job_of(1), job_of(2)], is_killed, tmp_path, workers=2))
    assert not list(tmp_path.iterdir())


def written(path: Path, change_after: int | None = None) -> str:
    """1,500 bars in a file; those after a row can be others."""
    table = bars_from("synthetic:ou?seed=4&bars=1500").table
    if change_after is not None:
        other = bars_from("synthetic:walk?seed=9&bars=1500&sigma=0.05").table
        table = pl.concat([table[: change_after + 1], other[change_after + 1 :]])
    table.write_parquet(path)
    return str(path)


def trained_on(bars: str, window: Window, seed: int = 1) -> Outcome:
    arguments = (
        "--preset tabular --steps 300 --features log_price,zscore_20 --market.episode-bars 100"
    )
    (settings,) = load_settings([*arguments.split(), "--bars", bars])
    return train_window(Job(settings.tree(), seed, window, bars_from(bars).content_hash, "code"))


def test_bars_after_a_window_change_nothing_in_it(tmp_path: Path) -> None:
    window = Window(1, (0, 700), (748, 900))
    one = trained_on(written(tmp_path / "a.parquet"), window)
    other = trained_on(written(tmp_path / "b.parquet", 900), window)
    np.testing.assert_array_equal(one.choice, other.choice)
    assert one[1:] == other[1:]
    assert one.choice.shape == (900 - 748, 3)
    judged = trained_on(written(tmp_path / "c.parquet", 747), window)  # only what is judged differs
    assert judged[1:] == one[1:]
    assert (judged.choice != one.choice).any()


def test_bars_before_a_window_change_nothing_in_it(tmp_path: Path) -> None:
    """Fitted on the stretch alone: a rolling window forgets."""
    whole = written(tmp_path / "a.parquet")
    table = pl.read_parquet(whole)
    table[200:].write_parquet(tmp_path / "late.parquet")
    early = trained_on(whole, Window(1, (200, 900), (948, 1100)))
    late = trained_on(str(tmp_path / "late.parquet"), Window(1, (0, 700), (748, 900)))
    np.testing.assert_array_equal(early.choice, late.choice)


def test_seeds_differ_and_repeat(tmp_path: Path) -> None:
    bars, window = written(tmp_path / "a.parquet"), Window(1, (0, 700), (748, 900))
    one, two, again = (trained_on(bars, window, seed) for seed in (1, 2, 1))
    np.testing.assert_array_equal(one.choice, again.choice)
    assert (one.choice != two.choice).any()


def test_the_environment_has_no_say(monkeypatch: pytest.MonkeyPatch) -> None:
    (settings,) = load_settings(["--preset", "tabular"])
    monkeypatch.setenv("QDESK_STEPS", "5")
    monkeypatch.setenv("DQN_EPSILON_START", "0.5")
    again = TrainSettings.of({**settings.tree(), "seed": 7})
    assert again.tree() == {**settings.tree(), "seed": 7}


def test_other_bars_under_the_same_name_are_refused(tmp_path: Path) -> None:
    bars = written(tmp_path / "a.parquet")
    (settings,) = load_settings(["--preset", "tabular", "--bars", bars])
    job = Job(settings.tree(), 1, Window(1, (0, 700), (748, 900)), "another", "code")
    with pytest.raises(BarsError, match="its content is no longer that of another"):
        train_window(job)
