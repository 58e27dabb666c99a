"""The door: the `qdesk` command and its subcommands, thin.

Exit codes: 0 done, 1 failed, 2 bad input, 3 missing dependency, 4 the gate said no or nothing was ever
promoted, 130 and 143 stopped by a signal.
"""

import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from training.data import TrainingData
    from training.resume import Start
    from training.settings import TrainSettings

USAGE = """usage: qdesk COMMAND [OPTIONS]

commands:
  train    train Q-networks or tables on bars, track them, register their checkpoints
  data     make event logs into bars; check either
  evaluate judge a version: backtest, walk-forward, statistics, a report that can say no
  runs     list and compare trainings, rank them by a metric
  models   list, compare, verify, promote and roll back what was trained
  tracking send what a tracking server missed; mend a store that was moved
  paper    trade a model version on paper, behind safety switch and risk engine
  backtest the same over recorded bars, in NautilusTrader's engine too
  kill     stop a desk's orders; resume sets it free

`qdesk COMMAND --help` lists a command's options; `qdesk --version` prints the version."""

NEEDED = ("mlflow", "tensorboard")
NEEDED_BY_NETWORKS = ("tensorflow", "keras")


def main() -> int:
    """Runs a command and returns its exit code."""
    from durable.addresses import BadAddress, take_all, take_from_environment

    arguments = sys.argv[1:]
    try:
        if arguments[:1] not in (["kill"], ["resume"]):  # nothing keeps a desk from being stopped
            arguments = take_all(arguments)
            take_from_environment()
    except BadAddress as error:
        return _fail(str(error), 2)
    command = arguments[0] if arguments else "--help"
    if command in COMMANDS:
        from durable.stopping import acknowledged

        try:
            with acknowledged(command):
                return COMMANDS[command](arguments[1:])
        except KeyboardInterrupt:
            return _fail(f"qdesk {command}: stopped by SIGINT", 130)
    if command in {"-h", "--help"}:
        print(USAGE)
        return 0
    if command == "--version":
        print(f"qdesk {version('qdesk')}")
        return 0
    return _fail(f"{command} is not a command of qdesk; see `qdesk --help`", 2)


def _train(arguments: list[str]) -> int:
    from durable.terminal import Terminal
    from market.bars import BarsError
    from models.places import BadPlace
    from models.sealed import Damaged
    from models.tabular import TooManyCells
    from training import faults
    from training.sources import BadSettings

    console = Terminal()
    bad = (
        BadSettings,
        BarsError,
        TooManyCells,
        Damaged,
        BadPlace,
        faults.NoCheckpoint,
        faults.InUse,
    )
    unusable = (faults.CheckpointError, faults.BucketError, faults.TrackingError)
    try:  # bad input is refused before TensorFlow is loaded or anything written
        runs, start = _prepared(arguments, console)
        stopped_by = _train_on(runs, start, shlex.join(["qdesk", "train", *arguments]), console)
    except faults.MissingExtra as error:
        return _fail(str(error), 3)
    except (*bad, *unusable) as error:
        return _fail(str(error), 2)
    except (FloatingPointError, faults.StoreLost) as error:  # training diverged; the disk is full
        return _fail(str(error), 1)
    if stopped_by is None:
        return 0
    stop = f"qdesk train: stopped by {stopped_by.name} after a last checkpoint"
    return _fail(stop, 128 + stopped_by)


def _prepared(
    arguments: list[str], console: "Console"
) -> "tuple[list[tuple[TrainSettings, TrainingData]], Start | None]":
    """Settings, their data, and where to go on, all checked."""
    from models.places import require_database, require_writable
    from training.data import TrainingData
    from training.faults import MissingExtra
    from training.object_store import Bucket
    from training.resume import require_same_data, resumed
    from training.sources import load_settings

    goes_on = resumed(arguments, lambda sentence: console.print(sentence, soft_wrap=True))
    start = goes_on and goes_on[1]
    trees = load_settings(arguments) if goes_on is None else [goes_on[0]]
    needed = (NEEDED_BY_NETWORKS if _networks(trees) else ()) + NEEDED
    missing = " ".join(package for package in needed if find_spec(package) is None)
    if missing:
        raise MissingExtra(
            f"qdesk train needs {missing}, not installed here: pip install {missing}"
        )
    for settings in trees:
        require_writable(settings.mlruns)
        require_database(settings.mlruns)
    for url in {settings.checkpoints.url for settings in trees} - {None}:
        Bucket(str(url))  # what it needs is there
    try:
        runs = [(settings, TrainingData.of(settings)) for settings in trees]
        if start is not None:
            require_same_data(start, *runs[0])
    except BaseException:
        if start is not None:
            start.close()
        raise
    return runs, start


def _networks(trees: "list[TrainSettings]") -> bool:
    return any(settings.network.kind != "tabular" for settings in trees)


def _data(arguments: list[str]) -> int:
    from durable.terminal import Terminal
    from market.bars import BarsError
    from market.console import data
    from market.events import EventsError

    with _terminable():  # what is half written is taken away first
        try:
            return data(arguments, Terminal())
        except (BarsError, EventsError) as error:
            return _fail(str(error), 2)
        except _Terminated:
            return _fail("qdesk data: stopped by SIGTERM", 143)


def _models(arguments: list[str]) -> int:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    if find_spec("mlflow") is None:
        return _fail("qdesk models needs mlflow, not installed here: pip install mlflow", 3)
    from durable.locks import Busy
    from durable.terminal import Terminal
    from evaluation.console import gate
    from evaluation.faults import BadEvaluation
    from evaluation.gate import BadPolicy
    from models.console import models
    from models.promotion import GateSaidNo
    from models.promotion_records import NoReason, NoVersion
    from models.sealed import Damaged

    try:
        return models(arguments, Terminal(), gate)
    except GateSaidNo as error:
        return _fail(str(error), 4)
    except (NoVersion, NoReason, Damaged, BadPolicy, BadEvaluation, Busy) as error:
        return _fail(str(error), 2)


def _runs(arguments: list[str]) -> int:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    if find_spec("mlflow") is None:
        return _fail("qdesk runs needs mlflow, not installed here: pip install mlflow", 3)
    from durable.terminal import Terminal
    from models.promotion_records import NoVersion
    from training.faults import NoRun
    from training.runs_console import WIDE, runs

    wide = None if sys.stdout.isatty() or "COLUMNS" in os.environ else WIDE  # a pipe has room
    try:
        return runs(arguments, Terminal(width=wide))
    except (NoVersion, NoRun) as error:
        return _fail(str(error), 2)


def _tracking(arguments: list[str]) -> int:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    if find_spec("mlflow") is None:
        return _fail("qdesk tracking needs mlflow, not installed here: pip install mlflow", 3)
    from durable.terminal import Terminal
    from training.faults import InUse, MissingExtra, StoreMoved, TrackingError
    from training.tracking_console import tracking

    def load_keras() -> None:
        missing = " ".join(package for package in NEEDED_BY_NETWORKS if find_spec(package) is None)
        if missing:
            raise MissingExtra(
                f"registering a network needs {missing}, not installed here: pip install {missing}"
            )
        from training.quiet import import_tensorflow

        import_tensorflow()

    try:
        return tracking(arguments, Terminal(), load_keras)
    except MissingExtra as error:
        return _fail(str(error), 3)
    except (TrackingError, StoreMoved, InUse) as error:
        return _fail(str(error), 2)


def _trade(command: str, function: str) -> Callable[[list[str]], int]:
    """One of the commands of trading, none of which loads TensorFlow."""

    def run(arguments: list[str]) -> int:
        from durable.terminal import Terminal
        from market.bars import BarsError
        from market.events import EventsError
        from trading import console
        from trading.journal import JournalError, JournalLost
        from trading.paper import NeedsNautilus
        from trading.settings import BadCommand
        from trading.startup import NotPromoted

        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        try:
            code: int = getattr(console, function)(arguments, Terminal())
        except NeedsNautilus as error:
            return _fail(str(error), 3)
        except (BadCommand, BarsError, EventsError, JournalError) as error:
            return _fail(str(error), 2)
        except NotPromoted as error:
            return _fail(str(error), 4)
        except JournalLost as error:  # which is an OSError, too
            sentence = f"qdesk {command}: {error}; the desk is HALTED and holds its position"
            return _fail(sentence, 1)
        except OSError as error:
            return _fail(f"qdesk {command}: {error}", 1)
        return code

    return run


def _evaluate(arguments: list[str]) -> int:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    if find_spec("mlflow") is None:
        return _fail("qdesk evaluate needs mlflow, not installed here: pip install mlflow", 3)
    from durable.locks import Busy
    from durable.terminal import Terminal
    from evaluation.console import run
    from evaluation.faults import BadEvaluation
    from evaluation.gate import BadPolicy
    from evaluation.walk_forward import JobFailed
    from market.bars import BarsError
    from models.promotion_records import NoVersion
    from models.sealed import Damaged
    from training.faults import MissingExtra
    from training.origin import code_version
    from training.windows import train_window

    with _terminable():
        try:
            return run(arguments, Terminal(), train_window, code_version())
        except (NoVersion, Damaged, BarsError, BadEvaluation, BadPolicy, Busy) as error:
            return _fail(str(error), 2)
        except MissingExtra as error:
            return _fail(str(error), 3)
        except (JobFailed, FloatingPointError) as error:
            return _fail(str(error), 1)
        except _Terminated:
            return _fail(
                "qdesk evaluate: stopped by SIGTERM; agents that were trained are kept", 143
            )


class _Terminated(BaseException):
    """SIGTERM came."""


@contextmanager
def _terminable() -> Iterator[None]:
    """Makes SIGTERM an exception, so that whoever is at work can tidy up."""

    def stop(*_: object) -> None:
        raise _Terminated

    handler = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, handler)


def _train_on(
    runs: "list[tuple[TrainSettings, TrainingData]]",
    start: "Start | None",
    command: str,
    console: "Console",
) -> signal.Signals | None:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    networks = _networks([settings for settings, _ in runs])
    from training.quiet import import_tensorflow

    with console.status("loading TensorFlow and MLflow" if networks else "loading MLflow"):
        if networks:
            import_tensorflow()
        from training.train import train
    return train(runs, console, command, start)


def _fail(sentence: str, code: int) -> int:
    from durable.addresses import hidden
    from durable.terminal import plain

    print(plain(hidden(sentence)), file=sys.stderr)
    return code


COMMANDS = {
    "train": _train,
    "data": _data,
    "evaluate": _evaluate,
    "runs": _runs,
    "models": _models,
    "tracking": _tracking,
    "paper": _trade("paper", "run_paper"),
    "backtest": _trade("backtest", "run_backtest"),
    "kill": _trade("kill", "kill"),
    "resume": _trade("resume", "resume"),
}

if __name__ == "__main__":
    sys.exit(main())
