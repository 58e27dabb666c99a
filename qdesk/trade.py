"""`qdesk paper`, `backtest`, `kill` and `resume`: what they say in the terminal."""

import argparse
import getpass
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from durable.addresses import hidden
from durable.settings import BadSettings
from durable.terminal import say
from market.findings import amount
from models.places import default_mlruns
from trading import paper as desks
from trading.journal import JournalLost, last_position
from trading.latch import Latch
from trading.paper import SessionResult, desk_name
from trading.settings import BacktestSettings, PaperSettings, load, parser_for
from trading.startup import JOURNAL

MOST_UNBELIEVED = 0.05  # share of the bars that a backtest may pass over


def paper(arguments: list[str], console: Console) -> int:
    """Runs `qdesk paper ...` and returns its exit code; raises what `paper` does."""
    settings = load(PaperSettings, "paper", arguments)
    tell = partial(say, console)
    with _lost("paper"):
        if console.is_terminal:
            with console.status("") as line:
                result = desks.paper(settings, tell, lambda text: line.update(Text(text)))
        else:
            result = desks.paper(settings, tell, lambda _: None)
    _print(result, console)
    if result.stopped_by is not None:
        return 128 + result.stopped_by
    return 0 if result.desk.account.state == "ACTIVE" else 1


def backtest(arguments: list[str], console: Console) -> int:
    """Runs `qdesk backtest ...` and returns its exit code; raises what `backtest` does."""
    settings = load(BacktestSettings, "backtest", arguments)
    with _lost("backtest"):
        result = desks.backtest(settings, partial(say, console))
    _print(result, console)
    account = result.desk.account
    seen = account.bars + account.unbelieved
    if account.unbelieved > MOST_UNBELIEVED * seen:
        say(
            console,
            f"{account.unbelieved:,} of {seen:,} bars were not believed, more than "
            f"{MOST_UNBELIEVED:.0%}: this backtest says little; `qdesk data check` looks at the bars, "
            "--limits.price-collar sets how far a price may move",
        )
        return 1
    return 0 if account.state == "ACTIVE" else 1


@contextmanager
def _lost(command: str) -> Iterator[None]:
    """Says of a journal that can no longer be written what has become of its desk."""
    try:
        yield
    except JournalLost as error:
        sentence = f"qdesk {command}: {error}; the desk is HALTED and holds its position"
        raise JournalLost(sentence) from error


def kill(arguments: list[str], console: Console) -> int:
    """Runs `qdesk kill ...`: the kill switch of desks, whether their processes live or not."""
    options = kill_parser().parse_args(arguments)
    failed = 0
    for folder in _folders(options):
        try:
            Latch(folder).kill(hidden(f"{options.reason} ({getpass.getuser()})"))
        except OSError as error:  # the others are to be stopped all the same
            failed += 1
            say(console, f"{folder}: NOT stopped ({error.strerror or error})")
            continue
        held = last_position(folder / JOURNAL)
        position = f" A position of {held:+g} is open." if held else ""
        say(console, f"{folder}: HALTED. Nothing is sent before `qdesk resume`.{position}")
    return 1 if failed else 0


def resume(arguments: list[str], console: Console) -> int:
    """Runs `qdesk resume ...`: sets a desk free, by hand and with a reason."""
    options = resume_parser().parse_args(arguments)
    if not options.reason.strip():
        raise BadSettings("qdesk resume: --reason is empty; it is what the journal will say")
    for folder in _folders(options):
        try:
            Latch(folder).resume(hidden(f"{options.reason} ({getpass.getuser()})"))
        except OSError as error:
            raise BadSettings(
                f"{folder}: NOT set free ({error.strerror or error}); it stays as it was, or HALTED"
            ) from error
        say(console, f"{folder}: ACTIVE again from the next bar, or the next start.")
    return 0


paper_parser = partial(parser_for, PaperSettings, "paper")
backtest_parser = partial(parser_for, BacktestSettings, "backtest")


def kill_parser() -> argparse.ArgumentParser:
    """The arguments of `qdesk kill`."""
    parser = _parser_of_desks("kill", "Stop the orders of one desk or of all, now.")
    parser.add_argument("--reason", default="by hand", help="what the journal will say")
    return parser


def resume_parser() -> argparse.ArgumentParser:
    """The arguments of `qdesk resume`."""
    parser = _parser_of_desks("resume", "Set a desk free that was killed, halted or reducing.")
    parser.add_argument("--reason", required=True, help="what the journal will say")
    return parser


def _parser_of_desks(command: str, about: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"qdesk {command}", description=about)
    parser.add_argument(
        "model", nargs="?", help="as `qdesk paper` was given it, or any part of a desk's name"
    )
    parser.add_argument("--desk", type=Path, help="or the desk's folder")
    parser.add_argument("--all", action="store_true", help="or every desk under --mlruns")
    parser.add_argument(
        "--mlruns", type=Path, default=default_mlruns(), help="(default: QDESK_MLRUNS, else mlruns)"
    )
    return parser


def _folders(options: argparse.Namespace) -> list[Path]:
    """The folders of the desks that are meant.

    Raises:
        BadSettings: none is named, or none or several are found; the message lists those that exist.
    """
    named = (options.model is not None, options.desk is not None, options.all)
    if sum(named) != 1:
        raise BadSettings(
            "name either the model that trades, or the --desk where it does, or --all"
        )
    desks = options.mlruns / "desks"
    if options.desk is not None:
        if not options.desk.is_dir():
            raise BadSettings(f"{options.desk}: no desk is here; {_listed(desks)}")
        return [options.desk]
    exist = _desks(desks)
    if options.all:
        if not exist:
            raise BadSettings(_listed(desks))
        return exist
    wanted = desk_name(options.model)
    exact = [folder for folder in exist if folder.name == wanted]
    part = [folder for folder in exist if wanted.lower() in folder.name.lower()]
    found = exact or part
    if len(found) != 1:
        several = f"{len(found)} desks have that in their name" if found else "no desk is called so"
        raise BadSettings(f"{options.model}: {several}; {_listed(desks)}")
    return found


def _desks(folder: Path) -> list[Path]:
    return sorted(each for each in folder.glob("*") if each.is_dir())


def _listed(folder: Path) -> str:
    names = ", ".join(each.name for each in _desks(folder))
    return f"desks in {folder}: {names}" if names else f"there are no desks in {folder}"


def _print(result: SessionResult, console: Console) -> None:
    account = result.desk.account
    summary = result.summary
    facts = [("position", f"{account.position:+g}")]
    if account.cash is not None:
        facts.append(("equity", amount(account.equity)))
    facts += summary.reasons()
    if result.rejections.by_fault:
        counts = ", ".join(f"{name} {n:,}" for name, n in result.rejections.by_fault.most_common())
        facts.append(("events passed over", counts))
    facts += [("state", summary.state(account)), ("journal", str(result.journal))]
    rows = summary.rows()
    wide = max(len(name) for name, *_ in (*facts, *rows))
    figures = Table(box=None, padding=(0, 2, 0, 0), show_header=summary.continued)
    figures.add_column(min_width=wide)
    if summary.continued:
        figures.add_column("this session", justify="right")
    figures.add_column("whole life", justify="right")
    for name, session, life in rows:
        figures.add_row(name, *([session] if summary.continued else []), life)
    console.print(figures, highlight=False)
    for name, value in facts:
        say(console, f"{name:<{wide}}  {value}")
