"""`qdesk runs`: what it does and says in the terminal."""

import argparse
import csv
import os
import re
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import compress
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Run
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from durable.terminal import plain, say
from models.store import opened, store_arguments
from training.tracking.errors import NoRun
from training.tracking.runs import (
    METRICS,
    Figure,
    best,
    configurations,
    differing,
    find,
    id_of,
    named,
    value_of,
)

TAGS = ("group", "algorithm", "network", "bars", "seed")
FACTS = ("name", "run", "status", "began, UTC", "took", *TAGS)  # columns of every list
PERCENT = ("net_return", "max_drawdown", "position_changes", "cost", "exposure")
NET_RETURN, SHARPE = METRICS[:2]
WIDE = 150  # columns of a terminal from which on a list shows everything; the CSV file always does
WIDE_ONLY = {"began, UTC", "took", *TAGS} - {"group"}  # most of it is in name and group

Rows = Sequence[Sequence[str]]


def run(arguments: list[str], console: Console) -> int:
    """Runs `qdesk runs ...` and returns its exit code."""
    options = parser().parse_args(arguments)
    piped = console.file is sys.stdout and not sys.stdout.isatty()
    if piped and "COLUMNS" not in os.environ:  # a pipe has room
        console.width = WIDE
    with opened(options) as client:
        columns, rows, said = COMMANDS[options.command](client, options)
    if options.csv is not None:
        _write(options.csv, columns, rows)
    kept = [console.width >= WIDE or name not in WIDE_ONLY for name in columns]
    table = Table(box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for name in compress(columns, kept):
        wraps = options.command == "compare" or name == "name"
        table.add_column(name, overflow="fold", no_wrap=not wraps)
    for row in rows:
        table.add_row(*map(Text, compress(row, kept)))
    console.print(table)
    console.print(said, highlight=False)
    if options.csv is not None:
        say(console, f"written to {options.csv}")
    return 0


def parser() -> argparse.ArgumentParser:
    """The arguments of `qdesk runs`."""
    whole = argparse.ArgumentParser(prog="qdesk runs", description="Trainings, side by side.")
    commands = whole.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def add(name: str, about: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=about, description=about, parents=[store_arguments()])
        made.add_argument("--experiment", default="qdesk", help="MLflow's (default: qdesk)")
        made.add_argument("--csv", type=Path, metavar="FILE", help="write the table there as well")
        return made

    listed = add("list", "trainings, the newest first")
    ranked = add("best", "trainings by a metric, the best first")
    for each, most in ((listed, 20), (ranked, 10)):
        for tag in TAGS:
            each.add_argument(f"--{tag}", help=f"only those of this {tag}")
        each.add_argument("--most", type=_positive, default=most, help=f"rows (default: {most})")
    ranked.add_argument(
        "--metric", default=NET_RETURN, help=f"its last value (default: {NET_RETURN})"
    )
    ranked.add_argument("--lowest", action="store_true", help="the lowest value is the best")
    compare = add(
        "compare", "configurations: settings that differ, metrics with intervals over seeds"
    )
    compare.add_argument(
        "names",
        nargs="*",
        metavar="RUN",
        help="groups, runs' names, or ids as they begin (default: the newest group)",
    )
    compare.add_argument(
        "--metric", action="append", help="instead of the usual ones; may be given several times"
    )
    return whole


def _list(client: MlflowClient, options: argparse.Namespace) -> tuple[list[str], Rows, str]:
    found = find(client, options.experiment, _filters(options), most=options.most)
    if not found:
        raise NoRun(f"{options.experiment}: no run fits; `qdesk train` makes some")
    return [*FACTS, "return", "Sharpe"], [_row(run) for run in found], LAST


def _best(client: MlflowClient, options: argparse.Namespace) -> tuple[list[str], Rows, str]:
    metric = options.metric
    tags = _filters(options)
    found = best(client, options.experiment, tags, metric, options.lowest, options.most)
    columns = ["", metric.rpartition("/")[2], *FACTS]
    rows = [[str(n), _cell(run, metric), *_row(run)[:-2]] for n, run in enumerate(found, start=1)]
    said = LAST if metric.startswith("eval/validation/") else f"{metric}: its last value"
    return columns, rows, said


def _compare(client: MlflowClient, options: argparse.Namespace) -> tuple[list[str], Rows, str]:
    found = configurations(named(client, options.experiment, options.names))
    columns = ["", *(each.name for each in found)]
    rows = [
        ["runs", *(str(len(each.runs)) for each in found)],
        ["seeds", *(_seeds(each.runs) for each in found)],
        *([name, *values] for name, values in differing(found)),
    ]
    known = {name for each in found for run in each.runs for name in run.data.metrics}
    for metric in options.metric or [name for name in METRICS if name in known]:
        if metric not in known:
            raise NoRun(
                f"{metric}: none of these runs has this metric; there are {', '.join(sorted(known))}"
            )
        rows.append([metric, *(_figure(metric, each.figure(metric)) for each in found)])
    said = (
        "Metrics: mean of the middle half of the seeds' last values (of fewer than four, of all), and a "
        "95% bootstrap interval over seeds. Settings that all share are left out. "
    )
    return columns, rows, said + LAST


LAST = (
    "Validation figures are those of the last agent, on bars that checkpoints are chosen on: expect less "
    "on others."
)
FIGURE = re.compile(r"-|([+-]?[\d,.]+(e[+-]?\d+)?%?)( \[[+-]?[\d,.e+-]+%? to [+-]?[\d,.e+-]+%?\])?")
COMMANDS = {"list": _list, "best": _best, "compare": _compare}


def shown(metric: str, value: float) -> str:
    """A value of a metric as a person reads it."""
    if metric.rpartition("/")[2].startswith(PERCENT):
        return f"{value:+.1%}" if "return" in metric else f"{value:.2%}"
    return f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.4g}"


def _figure(metric: str, figure: Figure | None) -> str:
    if figure is None:
        return "-"
    mean = shown(metric, figure.mean)
    if figure.low is None or figure.high is None:
        return mean
    return f"{mean} [{shown(metric, figure.low)} to {shown(metric, figure.high)}]"


def _row(run: Run) -> list[str]:
    info = run.info
    tags = run.data.tags
    began = datetime.fromtimestamp(info.start_time / 1000, UTC)
    took = "-" if not info.end_time else _took((info.end_time - info.start_time) / 1000)
    return [
        str(info.run_name),
        id_of(run),
        str(info.status),
        f"{began:%Y-%m-%d %H:%M}",
        took,
        *(tags.get(tag, "-") for tag in TAGS),
        *(_cell(run, metric) for metric in (NET_RETURN, SHARPE)),
    ]


def _cell(run: Run, metric: str) -> str:
    value = value_of(run, metric)
    return "-" if value is None else shown(metric, value)


def _took(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _filters(options: argparse.Namespace) -> dict[str, str]:
    given = {tag: getattr(options, tag) for tag in TAGS}
    return {tag: value for tag, value in given.items() if value is not None}


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def guarded(cell: str) -> str:
    """A cell that no spreadsheet takes for a formula, nor a terminal for its own."""
    text = plain(cell)
    return f"'{text}" if text.startswith(tuple("=+-@")) and not FIGURE.fullmatch(text) else text


def _seeds(runs: Sequence[Run]) -> str:
    """The seeds of runs: numbers first, as numbers."""
    return ", ".join(sorted((run.data.tags.get("seed", "-") for run in runs), key=_in_order))


def _in_order(seed: str) -> tuple[bool, int, str]:
    number = seed.isascii() and seed.isdigit()
    return (False, int(seed), "") if number else (True, 0, seed)


def _write(path: Path, columns: Sequence[str], rows: Rows) -> None:
    try:
        with path.open("w", newline="") as file:
            csv.writer(file).writerows(
                [[guarded(cell) for cell in row] for row in [columns, *rows]]
            )
    except OSError as error:
        raise NoRun(f"--csv {path}: cannot be written ({error.strerror})") from error
