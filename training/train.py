"""The wiring of training runs: from settings and data to sessions and a comparison."""

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from mlflow.exceptions import MlflowException
from rich.console import Console
from sqlalchemy.exc import SQLAlchemyError

from evaluation.baselines import buy_and_hold, flat
from evaluation.statistics import interquartile_mean
from training import console as screen
from training import labels
from training.data import TrainingData
from training.faults import CheckpointError, InUse, StoreLost
from training.keeper import Versions, measures_of
from training.resume import Start
from training.session import Session
from training.settings import TrainSettings
from training.stop import Stop
from training.tracking import Store


def train(
    runs: Sequence[tuple[TrainSettings, TrainingData]],
    console: Console,
    command: str,
    start: Start | None = None,
) -> signal.Signals | None:
    """Trains runs one after the other, the seeds of each at once, and prints a comparison.

    Args:
        runs: settings and the data that they name.
        console: to draw on.
        command: what was typed; it stands in each run's description.
        start: the checkpoint that the only run goes on from, if any.

    Returns:
        The signal that stopped it early, if one did.

    Raises:
        TrackingError: the store cannot be written.
        CheckpointError: checkpoints cannot be written.
        NoCheckpoint: a checkpoint is not one to go on from.
        StoreLost: the store can no longer be written.
        Diverged: a run's numbers are no longer finite.
    """
    group = f"{datetime.now(UTC):%Y%m%d-%H%M%S}"
    compared: dict[str, tuple[TrainingData, dict[str, dict[str, float]]]] = {}
    candidates = []
    undone = len(runs)
    with Stop() as stop:
        for settings, data in runs:
            store = Store(settings.mlruns, settings.experiment)
            with (
                _disk_trouble(settings.mlruns),
                Session(settings, data, store, group, command, console, start) as session,
            ):
                session.run(stop)
                ended = session.finish()
            undone -= session.ended
            if ended:
                title = labels.title(settings, data)
                _, rows = compared.setdefault(title, (data, {}))
                rows |= _rows(settings, data, ended)
                candidates.append(_candidate(ended))
            if stop.by:
                break
    for title, (data, rows) in compared.items():
        market = data.validation[data.train.settings.fill]
        for name, baseline in (("flat", flat), ("buy and hold", buy_and_hold)):
            rows[name] = measures_of(data, baseline(market))
        console.print(screen.comparison(title, rows))
    console.print(*candidates, sep="\n")
    return stop.by if undone else None


@contextmanager
def _disk_trouble(mlruns: Path) -> Iterator[None]:
    """Says in one sentence that the store cannot be written: the disk is full, or gone."""
    try:
        yield
    except (CheckpointError, InUse):
        raise
    except (MlflowException, SQLAlchemyError, OSError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise StoreLost(
            f"mlruns {mlruns}: cannot be written ({reason}); `qdesk train --resume latest` goes on "
            "from the last checkpoint"
        ) from error


def _candidate(ended: list[Versions]) -> str:
    """What became of the alias `candidate`."""
    name, number = ended[-1].candidate.name, ended[-1].candidate.version
    new = number in {versions.best.version.version for versions in ended}
    stays = "is" if new else "stays"
    why = "" if new else ", which did at least as well on these bars"
    return f"{name}@candidate {stays} v{number}{why}"


def _rows(
    settings: TrainSettings, data: TrainingData, ended: list[Versions]
) -> dict[str, dict[str, float]]:
    """Rows of the comparison: best and last of each seed, and what several seeds say together.

    That is the interquartile mean; of fewer than four it is the mean, and called so.
    """
    rows, lasts = {}, []
    for seed, versions in enumerate(ended, start=settings.seed):
        for which, each in (("best", versions.best), ("last", versions.last)):
            name = f"{settings.called} s{seed}, {which} v{each.version.version}"
            rows[name] = measures_of(data, each.validation)
        lasts.append(rows[name])
    if len(ended) > 1:
        middle = {key: interquartile_mean([row[key] for row in lasts]) for key in lasts[0]}
        numbers = f"v{ended[0].last.version.version}-{ended[-1].last.version.version}"
        middle_of = "IQM" if len(ended) > 3 else "mean"
        rows[f"{settings.called} {middle_of}, last {numbers}"] = {**middle, "ruined": 0.0}
    return rows
