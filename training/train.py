"""The wiring of training runs: from settings and data to sessions and a comparison."""

import shlex
import signal
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from evaluation.baselines import buy_and_hold, flat
from evaluation.statistics import interquartile_mean
from training import describe as labels
from training import screen
from training.checkpoints.checkpoint import Tell
from training.checkpoints.errors import NoCheckpoint
from training.data import TrainingData
from training.observers.versions import BestAndLast, measures_of
from training.resume import Start
from training.seed_run import Invocation
from training.session import open_session
from training.settings import TrainSettings
from training.stop import Stop
from training.tracking.errors import StoreLost
from training.tracking.journals import JOURNALS, head_of, heads
from training.tracking.store import Store
from training.tracking.tensorboard import lay_out
from training.tracking.uploader import END_SECONDS, STOP_SECONDS, Uploader

Done = tuple[TrainSettings, TrainingData, list[BestAndLast]]  # a training, and what each seed made


def train(
    runs: Sequence[tuple[TrainSettings, TrainingData]],
    console: Console,
    command: str,
    start: Start | None = None,
) -> signal.Signals | None:
    """Trains runs one after the other, the seeds of each at once, and prints a comparison.

    The only run goes on from a start, if there is one. Returns the signal that stopped it early, if one
    did.

    Raises:
        TrackingError: the store cannot be written.
        CheckpointError: checkpoints cannot be written.
        NoCheckpoint: a checkpoint is not one to go on from.
        StoreLost: what was tracked could neither be sent nor written.
        Diverged: a run's numbers are no longer finite.
    """
    invocation = Invocation(command, f"{datetime.now(UTC):%Y%m%d-%H%M%S}", console)
    done: list[Done] = []
    undone = len(runs)
    tell = screen.teller(console)
    with Stop() as stop, Uploader() as uploader:
        try:
            for settings, data in runs:
                for note in data.notes:
                    tell(f"note: {note}")
                store = Store(settings.mlruns, _server(settings, start, tell))
                store.require_experiment(settings.experiment)
                lay_out(store.folder / "tensorboard", _settings_of(store.folder, runs))
                with open_session(settings, data, store, uploader, invocation, start) as session:
                    uploader.add_orphans(settings.mlruns)
                    session.run(stop, lambda: uploader.backlog)
                    ended = session.finish()
                undone -= session.ended
                if ended:
                    done.append((settings, data, ended))
                if stop.by:
                    break
        except BaseException as error:
            now = isinstance(error, KeyboardInterrupt)  # a second signal
            if isinstance(error, NoCheckpoint):  # one that has ended may not have sent all of it
                uploader.add_orphans(runs[0][0].mlruns)
            _sent(uploader, stop, tell, runs[0][0].mlruns, 0.0 if now else STOP_SECONDS)
            raise
        patience = STOP_SECONDS if stop.by else END_SECONDS
        _sent(uploader, stop, tell, runs[0][0].mlruns, patience, lambda: _compare(done, console))
    return stop.by if undone else None


def _server(settings: TrainSettings, start: Start | None, tell: Tell) -> str | None:
    """The server to track with: a run that is gone on with stays where it is."""
    if start is None or start.lock is None:
        return settings.tracking_uri
    head = head_of(settings.mlruns / JOURNALS / start.run_ids[0])
    if head is None or head.server == settings.tracking_uri:
        return settings.tracking_uri
    tell(f"note: this run is tracked at {head.server or settings.mlruns}, and goes on there")
    return head.server


def _sent(
    uploader: Uploader,
    stop: Stop,
    tell: Tell,
    mlruns: Path,
    patience: float,
    then: Callable[[], None] = lambda: None,
) -> None:
    """Waits for what is not sent yet, does what is to be done then, and says what is left.

    Raises `StoreLost` where something is neither sent nor on disk.
    """
    stopped = stop.count
    arrived = uploader.flush(patience, lambda: stop.count > stopped)
    then()
    if uploader.unended:
        runs = ", ".join(run[:8] for run in uploader.unended)
        tell(
            f"not ended in MLflow yet, their processes being gone ({uploader.why_unended}): {runs}; the "
            "next start tries again"
        )
    if arrived:
        return
    left = uploader.unsent
    if left.lost:
        raise StoreLost(
            f"mlruns {mlruns}: cannot be written; {left.lost:,} entries of the runs' journals are lost, "
            "with all that they track"
        )
    flags = [] if str(mlruns) == "mlruns" else ["--mlruns", str(mlruns)]
    command = shlex.join(["qdesk", "tracking", "sync", *flags])
    tell(
        f"{left} not sent to MLflow ({uploader.why}); all of it is in {mlruns / JOURNALS}. Send it: "
        + command
    )


def _settings_of(
    folder: Path, runs: Sequence[tuple[TrainSettings, TrainingData]]
) -> list[dict[str, str]]:
    """Settings of all runs whose journals are in a folder, and of those that are to begin."""
    trees = [head.params for head in heads(folder)]
    trees += [{**settings.flat(), "seed": str(settings.seed)} for settings, _ in runs]
    hidden = ("mlruns", "checkpoints.", "reward_scale", "tracking_uri", "preset", "name")
    return [
        {name: value for name, value in tree.items() if not name.startswith(hidden)}
        for tree in trees
    ]


def _compare(done: Sequence[Done], console: Console) -> None:
    """Prints what came of the runs, beside the baselines on the same bars."""
    compared: dict[str, dict[str, dict[str, float]]] = {}
    baselines: dict[str, dict[str, dict[str, float]]] = {}
    for settings, data, ended in done:
        title = labels.title(settings, data)
        market = data.validation[settings.market.fill]
        compared.setdefault(title, {}).update(_rows(settings, data, ended))
        baselines[title] = {
            "flat": measures_of(data, flat(market)),
            "buy and hold": measures_of(data, buy_and_hold(market)),
        }
    for title, rows in compared.items():
        console.print(screen.comparison(title, rows | baselines[title]))
    candidates = [said for *_, ended in done if (said := _candidate(ended))]
    if candidates:
        console.print(*candidates, sep="\n")


def _candidate(ended: Sequence[BestAndLast]) -> str:
    """What became of the alias `candidate`; nothing before MLflow has said so.

    Each seed proposes its best for itself, in whatever order the journals arrive: what counts is the best
    of them all.
    """
    said = [versions.tracker.candidate for versions in ended]
    known = [each for each in said if each is not None]
    if len(known) < len(said):
        return ""
    gained = {
        versions.tracker.version_of(versions.best.key): versions.best.validation.measures[
            "net_return"
        ]
        for versions in ended
        if versions.best is not None
    }
    before = next((each.before for each in known if each.before not in {None, *gained}), None)
    ours = [each for each in known if each.version in gained]
    last = max(ours, key=lambda each: gained[each.version]) if ours else known[-1]
    if last.version is None:
        return f"{last.name} has no candidate: {last.reason}"
    if last.version == before:
        return f"{last.name}@candidate stays v{last.version}: {last.reason}"
    reasons = [each.reason for each in known if each.version == last.version and each.reason]
    why = f": {max(reasons, key=len)}" if reasons else ""
    was = "" if before is None else f"; it was v{before}"
    return f"{last.name}@candidate is v{last.version}{was}{why}"


def _rows(
    settings: TrainSettings, data: TrainingData, ended: Sequence[BestAndLast]
) -> dict[str, dict[str, float]]:
    """Rows of the comparison: best and last of each seed, and what several seeds say together.

    That is the interquartile mean; of fewer than four it is the mean, and called so.
    """
    rows = {}
    lasts = []
    for seed, versions in enumerate(ended, start=settings.seed):
        for which, each in (("best", versions.best), ("last", versions.last)):
            if each is None:
                continue
            number = versions.tracker.version_of(each.key)
            called = f"at {each.step:,}" if number is None else f"v{number}"
            name = f"{settings.model_name} s{seed}, {which} {called}"
            rows[name] = measures_of(data, each.validation)
        lasts.append(rows[name])
    if len(ended) > 1:
        middle = {key: interquartile_mean([row[key] for row in lasts]) for key in lasts[0]}
        middle_of = "IQM" if len(ended) > 3 else "mean"
        numbers = [each.tracker.version_of(each.last.key) for each in (ended[0], ended[-1])]
        called = "" if None in numbers else f" v{numbers[0]}-{numbers[1]}"
        rows[f"{settings.model_name} {middle_of}, last{called}"] = {**middle, "ruined": 0.0}
    return rows
