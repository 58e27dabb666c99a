"""`qdesk evaluate`: what it takes, does and says in the terminal."""

import argparse
import logging
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import ValidationError
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from durable.settings import Fault
from durable.stopping import terminable
from durable.terminal import say
from evaluation.assessment import Figures, Findings
from evaluation.errors import BadEvaluation
from evaluation.evaluate import Evaluated, evaluate
from evaluation.gate import Policy, passed
from evaluation.judging import conditions_of
from evaluation.material import Request
from evaluation.report import formatted, misleading, page, verdict
from evaluation.walk_forward import WalkForwardSettings
from models.places import default_mlruns
from models.promotion import Condition
from models.store import opened, store_arguments
from qdesk.models import conditions_table
from training.tracking.origin import code_version
from training.walk_forward import train_window

SHOWN = (
    ("net return", "net_return", "{:+.1%}"),
    ("Sharpe", "sharpe", "{:+.2f}"),
    ("drawdown", "max_drawdown", "{:.1%}"),
    ("trades", "trades", "{:,.0f}"),
    ("costs", "cost", "{:.1%}"),
)


@terminable("; agents that were trained are kept")
def run(arguments: Sequence[str], console: Console) -> int:
    """Runs `qdesk evaluate ...` and returns its exit code."""
    options = parser().parse_args(arguments)
    policy = Policy.load(options.policy)
    request = _request(options, arguments)
    folder = (options.mlruns or default_mlruns()) / "evaluations"
    if options.report is not None and (
        options.report.is_dir() or not options.report.parent.is_dir()
    ):
        raise BadEvaluation(f"--report {options.report}: give a file in a folder that is there")
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=20), MofNCompleteColumn())
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    with opened(options) as client:
        with Progress(
            *columns, TimeElapsedColumn(), console=console, disable=not console.is_terminal
        ) as bar:
            task = bar.add_task("agents trained", total=None, visible=False)

            def show(done: int, of: int) -> None:
                bar.update(task, completed=done, total=of, visible=True)
                if done == 0 and not console.is_terminal:
                    console.print(f"{request.name}: training {of} agents", highlight=False)

            evaluated = evaluate(client, request, train_window, code_version(), folder, show)
        conditions = conditions_of(evaluated, policy)
        report = page(evaluated, conditions)
        kind = "walk-forward" if request.walk_forward else evaluated.own.findings.kind
        number = evaluated.evaluation.version
        file = f"{request.name}-v{number}-{kind}.html"
        client.log_text(evaluated.run_id, report, "report.html")
        client.log_text(evaluated.trained_by, report, f"reports/{file}")  # where people look
        client.set_model_version_tag(
            request.name, number, f"report/{kind}", f"runs:/{evaluated.trained_by}/reports/{file}"
        )
    if not options.quiet:
        _print(console, evaluated, conditions)
    path = options.report or folder / file
    _write(path, report)
    say(console, f"report: {path}")
    return 0


def parser() -> argparse.ArgumentParser:
    """The arguments of `qdesk evaluate`."""
    made = argparse.ArgumentParser(
        prog="qdesk evaluate",
        description="Judge a registered version: is it any good, and may it become champion?",
        parents=[store_arguments()],
    )
    made.add_argument("name", help="of the registered model, as `qdesk models list` has it")
    made.add_argument("version", nargs="?", default="candidate", help="a number or an alias")
    made.add_argument(
        "--split",
        choices=("validation", "test", "train"),
        default="validation",
        help="bars that the version itself is judged on; test is opened once",
    )
    made.add_argument(
        "--bars", help="judge the version on other bars: a sample, a file, synthetic:…"
    )
    made.add_argument("--in-sample", action="store_true", help="judge bars that it was trained on")
    made.add_argument("--again", metavar="REASON", help="open held-back bars once more")
    made.add_argument(
        "--walk-forward",
        action="store_true",
        help="train anew in windows, judge on what follows each",
    )
    for name, field in WalkForwardSettings.model_fields.items():
        flag = _flag(name)
        if field.annotation is bool:
            made.add_argument(flag, dest=name, action="store_true", help=field.description)
        else:
            about = f"{field.description} (default: {field.default})"
            made.add_argument(flag, dest=name, type=type(field.default), help=about)
    made.add_argument("--workers", type=int, default=2, help="processes that train (default: 2)")
    made.add_argument(
        "--policy", type=Path, help="TOML file of the gate's conditions (default: all)"
    )
    made.add_argument("--report", type=Path, help="where to write the page")
    made.add_argument("--quiet", action="store_true", help="say only where the page is")
    return made


def _request(options: argparse.Namespace, arguments: Sequence[str]) -> Request:
    made = parser()
    divided = None
    given = {name: getattr(options, name) for name in WalkForwardSettings.model_fields}
    changed = {n: value for n, value in given.items() if value is not None and value is not False}
    if options.walk_forward:
        try:
            divided = WalkForwardSettings(**changed)
        except ValidationError as error:
            fault = Fault.of(error)
            made.error(f"{_flag(fault.path)}: {fault.sentence}")
    elif changed:
        made.error(f"{_flag(next(iter(changed)))} does nothing without --walk-forward")
    if options.bars is not None and options.split != "validation":
        made.error(
            f"--split {options.split} is a part of the version's own bars; leave it or --bars out"
        )
    if options.walk_forward and (options.bars is not None or options.split != "validation"):
        made.error(
            "--walk-forward goes with the validation split; judge other bars in another call"
        )
    if options.again is not None and options.split != "test" and options.bars is None:
        made.error("--again is for bars that are held back: with --split test, or --bars")
    if options.workers < 1:
        made.error(f"--workers is {options.workers}; it must be at least 1")
    return Request(
        options.name,
        options.version,
        options.split,
        options.bars,
        divided,
        options.in_sample,
        options.again,
        options.workers,
        shlex.join(["qdesk", "evaluate", *arguments]),
    )


def _write(path: Path, page: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page)
    except OSError as error:
        raise BadEvaluation(
            f"report {path}: cannot be written ({error.strerror}); MLflow has it"
        ) from error


def _flag(name: str) -> str:
    return "--train-share" if name == "train" else f"--{name}"


def _print(console: Console, evaluated: Evaluated, conditions: Sequence[Condition]) -> None:
    evaluation = evaluated.evaluation
    for found in filter(None, [evaluation.walk_forward, evaluation.own]):
        console.print(_track(found))
        if (said := misleading(found)) is not None:
            console.print(said, style="yellow", highlight=False)
            console.print(_equity_sized(found))
        console.print()
    for note in evaluation.notes:
        say(console, f"note: {note}")
    console.print(conditions_table(conditions))
    answer = ("Yes.", "green bold") if passed(conditions) else ("No.", "red bold")
    if evaluation.walk_forward is None:
        answer = ("Not judged.", "bold")
    words = verdict(conditions, evaluation.walk_forward)
    console.print(Text.assemble(answer, f" {words}"), highlight=False)


def _track(found: Findings) -> Table:
    sample = ", IN SAMPLE" if found.in_sample else ""
    several = len(found.seeds) > 1
    seeds = f", {len(found.seeds)} seeds, {len(found.windows[0])} windows" if several else ""
    title = (
        f"{found.kind}{sample} on {found.bars.split('/')[0]}, {found.first[:10]} to {found.last[:10]}"
        f"{seeds}\n{found.calendar}; fills at {found.fill}, sizing {found.sizing}, {found.costs}"
    )
    agent = found.measures[found.typical]
    return _policies(title, {"typical seed" if several else "agent": agent, **found.baselines})


def _equity_sized(found: Findings) -> Table:
    title = f"the same positions as shares of the account, sizing equity; {found.costs}"
    return _policies(title, found.equity_sized or {})


def _policies(title: str, rows: Mapping[str, Figures]) -> Table:
    """Figures of policies side by side."""
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, show_edge=False)
    table.padding = (0, 0, 0, 1)
    table.add_column("policy")
    for heading, _, _ in SHOWN:
        table.add_column(heading, justify="right", no_wrap=True)
    for name, measures in rows.items():
        label = f"{name} †" if measures["ruined"] else name
        cells = [formatted(measures[key], form) for _, key, form in SHOWN]
        table.add_row(label, *cells)
    if any(measures["ruined"] for measures in rows.values()):
        table.caption = "† ruined: equity fell to the floor, flat since; ratios are undefined"
        table.caption_justify = "left"
    return table
