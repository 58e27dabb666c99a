"""`qdesk train`: settings and data are checked before TensorFlow is loaded or anything written."""

import shlex

from rich.console import Console

from durable.errors import require_packages
from durable.stopping import Stopped
from models.places import require_database, require_writable
from training.checkpoints.object_store import Bucket
from training.data import TrainingData, with_lived
from training.quiet import import_tensorflow
from training.resume import Start, require_same_data, resumed
from training.settings import TrainSettings
from training.sources import load_settings, parser

__all__ = ["parser", "prepared", "run"]
NEEDED = ("mlflow", "tensorboard")


def run(arguments: list[str], console: Console) -> int:
    """Runs `qdesk train ...` and returns its exit code."""
    runs, start = prepared(arguments, console)
    networks = any("tensorflow" in settings.agent.packages for settings, _ in runs)
    with console.status("loading TensorFlow and MLflow" if networks else "loading MLflow"):
        if networks:
            import_tensorflow()
        from training.train import train
    stopped_by = train(runs, console, shlex.join(["qdesk", "train", *arguments]), start)
    if stopped_by is not None:
        raise Stopped(
            f"qdesk train: stopped by {stopped_by.name} after a last checkpoint", stopped_by
        )
    return 0


def prepared(
    arguments: list[str], console: Console
) -> tuple[list[tuple[TrainSettings, TrainingData]], Start | None]:
    """Settings, their data, and where to go on, all checked; raises what `run` does of bad input."""
    goes_on = resumed(arguments, lambda sentence: console.print(sentence, soft_wrap=True))
    start = goes_on and goes_on[1]
    trees = load_settings(arguments) if goes_on is None else [goes_on[0]]
    needed = [*dict.fromkeys(package for each in trees for package in each.agent.packages), *NEEDED]
    require_packages("qdesk train", needed)
    for settings in trees:
        require_writable(settings.mlruns)
        require_database(settings.mlruns)
    for url in {settings.checkpoints.url for settings in trees} - {None}:
        Bucket(str(url))  # what it needs is there
    try:
        runs = [(settings, TrainingData.of(settings)) for settings in trees]
        if start is not None:
            require_same_data(start, *runs[0])
        else:
            runs = [(settings, with_lived(settings, data)) for settings, data in runs]
    except BaseException:
        if start is not None:
            start.close()
        raise
    return runs, start
