"""Walk-forward: train on a stretch of time, judge on the next, move on; every window from scratch.

Seeds and windows are a list of jobs. What a job is worth keeping for, the choices of the agent that it
trained, is written under the job's key: a run that was stopped goes on where it was, and a cluster could
take the place of the processes here without a change to the jobs.
"""

import hashlib
import json
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import batched, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from durable.settings import Settings
from durable.verified import CorruptError, read_verified, write_verified
from evaluation.choosing import FEWEST
from market.bars import BarsError

CHOICE = "choice.safetensors"
# A compiled program keeps pieces of memory for as long as its process lives, of which Linux allows 65,530
# (vm.max_map_count): with enough trainings they are used up, and the process is gone. The pool's own
# limit of tasks hangs in Python 3.12.1, https://github.com/python/cpython/issues/115634.
JOBS_A_PROCESS = 20
LOOK_EVERY = 0.25  # s between two looks whether a stop is wanted


class WalkForwardSettings(Settings):
    """How time is divided."""

    windows: int = Field(4, ge=1, le=1000, description="windows, each judged on the bars after it")
    seeds: int = Field(5, ge=1, le=1000, description="agents trained in each window")
    train: float = Field(
        0.6, gt=0, lt=1, description="share of the bars before the first judged one"
    )
    expanding: bool = Field(
        False, description="train on all bars before, not on as many as at first"
    )
    embargo: int = Field(
        0, ge=0, description="bars left out before each judged stretch, beyond split.gap"
    )


class Window(NamedTuple):
    """A stretch to train on and one to be judged on, in rows of the bars."""

    number: int  # from 1
    fit: tuple[int, int]  # from (inclusive) to (exclusive), the choice of a checkpoint included
    judged: tuple[int, int]  # from the bar of the first decision to the bar of the last earnings


class Job(NamedTuple):
    """One agent to be trained in one window."""

    settings: dict[str, Any]  # of the training, as JSON has them
    seed: int
    window: Window
    data_hash: str  # of the bars that rows are counted in
    code: str  # version of the code that trains

    @property
    def key(self) -> str:
        """The same for the same job, and for no other."""
        return hashlib.sha256(json.dumps(self, sort_keys=True).encode()).hexdigest()[:32]


class Outcome(NamedTuple):
    """What a job gave."""

    choice: NDArray[np.int8]  # (steps, 3), see `greedy_choice`
    step: int  # iterations of the checkpoint that did best on the end of the stretch trained on
    net_return: float  # there


Train = Callable[[Job], Outcome]


class JobFailed(RuntimeError):
    """A job ended without an outcome, for no fault of its input. The message says why."""

    exit_code = 1


def windows(bars: int, gap: int, settings: WalkForwardSettings) -> list[Window]:
    """Divides bars into windows; the judged stretches follow each other and end with the bars.

    Between a stretch trained on and the judged one lie `gap` and the embargo, so that no feature
    window and no held position of one reaches into the other. Raises `BarsError` where a window
    would have too few bars.
    """
    first = round(bars * settings.train)
    edges = np.linspace(first, bars - 1, settings.windows + 1).round().astype(int).tolist()
    purged = gap + settings.embargo
    made = [
        Window(number, (0 if settings.expanding else start - first, start - purged), (start, stop))
        for number, (start, stop) in enumerate(pairwise(edges), start=1)
    ]
    for window in made:
        judged = window.judged[1] - window.judged[0]
        fitted = window.fit[1] - window.fit[0]
        if judged < FEWEST or fitted < FEWEST:
            raise BarsError(
                f"{bars:,} bars are too few for {settings.windows} windows: window {window.number} would "
                f"train on {max(fitted, 0):,} and be judged on {judged:,}; each must be at least "
                f"{FEWEST}; bring more bars or ask for fewer windows"
            )
    return made


def run_jobs(
    jobs: Sequence[Job], train: Train, folder: Path, workers: int
) -> Iterator[tuple[Job, Outcome]]:
    """Runs what is not done yet, and yields every job with its outcome as soon as it is known.

    `train` is a function of a module, which other processes can import; outcomes are kept in the
    folder. With one worker, jobs run in this process. Raises `JobFailed` where a process was gone,
    most likely for want of memory.
    """
    undone = []
    for job in jobs:
        outcome = _kept(folder / job.key)
        if outcome is None:
            undone.append(job)
        else:
            yield job, outcome
    workers = min(workers, len(undone))
    if workers <= 1:
        for job in undone:
            yield job, _keep(folder / job.key, train(job))
        return
    context = multiprocessing.get_context("spawn")  # TensorFlow and polars do not survive a fork
    for part in batched(undone, workers * JOBS_A_PROCESS):
        with ProcessPoolExecutor(workers, context, in_worker) as pool:
            futures = {pool.submit(train, job): job for job in part}
            try:
                for future in _as_completed(futures):
                    job = futures[future]
                    yield job, _keep(folder / job.key, future.result())
            except BrokenProcessPool as error:
                raise JobFailed(
                    "a process of the walk-forward was gone, most likely for want of memory; what is "
                    "done is kept, so run the same command again, with --workers 1"
                ) from error
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
                if not all(future.done() for future in futures):
                    for process in multiprocessing.active_children():
                        process.terminate()


def _as_completed(futures: Iterable["Future[Outcome]"]) -> Iterator["Future[Outcome]"]:
    """Futures as they are done. Polars has a handler of its own: Ctrl-C ends no wait without end."""
    left = set(futures)
    while left:
        done, left = wait(left, LOOK_EVERY, FIRST_COMPLETED)
        yield from done


def joined(outcomes: Sequence[Outcome]) -> NDArray[np.int8]:
    """The choices of consecutive windows as one; each takes over the position of the one before."""
    return np.concatenate([outcome.choice for outcome in outcomes])


def _kept(folder: Path) -> Outcome | None:
    if not folder.is_dir():
        return None
    try:
        sealed = read_verified(folder, CHOICE)
    except (CorruptError, OSError):
        return None  # it is made anew
    return Outcome(sealed.arrays["choice"], sealed.manifest["step"], sealed.manifest["net_return"])


def _keep(folder: Path, outcome: Outcome) -> Outcome:
    known = {"step": outcome.step, "net_return": outcome.net_return}
    try:
        write_verified(folder, CHOICE, {"choice": outcome.choice}, known)
    except OSError as error:
        if _kept(folder) is None:  # nor has another evaluation written the same
            raise JobFailed(f"{folder}: cannot be written ({error.strerror or error})") from error
    return outcome


def in_worker() -> None:
    """Each process has one core's work; a Ctrl-C is for the one that waits for them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS"):
        os.environ[name] = "1"
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
