"""What `qdesk paper`, `backtest`, `kill` and `resume` say in the terminal."""

import argparse
import getpass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from trading.latch import Latch
from trading.paper import Told, backtest, desk_name, paper
from trading.settings import BacktestSettings, BadCommand, PaperSettings, load


def run_paper(arguments: list[str], console: Console) -> int:
    """Runs `qdesk paper ...` and returns its exit code; raises what `paper` does."""
    settings = load(PaperSettings, "paper", arguments)

    def say(sentence: str) -> None:
        console.print(sentence, highlight=False, markup=False, soft_wrap=True)

    if console.is_terminal:
        with console.status("") as line:
            told = paper(settings, say, line.update)
    else:
        told = paper(settings, say, lambda _: None)
    _print(told, console)
    if told.stopped_by is not None:
        return 128 + told.stopped_by
    return 0 if told.desk.book.state == "ACTIVE" else 1


def run_backtest(arguments: list[str], console: Console) -> int:
    """Runs `qdesk backtest ...` and returns its exit code; raises what `backtest` does."""
    settings = load(BacktestSettings, "backtest", arguments)
    told = backtest(
        settings,
        lambda sentence: console.print(sentence, highlight=False, markup=False, soft_wrap=True),
    )
    _print(told, console)
    return 0 if told.desk.book.state == "ACTIVE" else 1


def kill(arguments: list[str], console: Console) -> int:
    """Runs `qdesk kill ...`: the kill switch of a desk, whether its process lives or not."""
    options = kill_parser().parse_args(arguments)
    folder = _folder(options)
    Latch(folder).kill(f"{options.reason} ({getpass.getuser()})")
    console.print(
        f"{folder}: HALTED. Nothing is sent before `qdesk resume`.", highlight=False, soft_wrap=True
    )
    return 0


def resume(arguments: list[str], console: Console) -> int:
    """Runs `qdesk resume ...`: sets a desk free, by hand and with a reason."""
    options = resume_parser().parse_args(arguments)
    if not options.reason.strip():
        raise BadCommand("qdesk resume: --reason is empty; it is what the journal will say")
    folder = _folder(options)
    Latch(folder).resume(f"{options.reason} ({getpass.getuser()})")
    console.print(
        f"{folder}: ACTIVE again from the next bar, or the next start.",
        highlight=False,
        soft_wrap=True,
    )
    return 0


def kill_parser() -> argparse.ArgumentParser:
    """The arguments of `qdesk kill`."""
    parser = argparse.ArgumentParser(prog="qdesk kill", description="Stop a desk's orders, now.")
    _which(parser)
    parser.add_argument("--reason", default="by hand", help="what the journal will say")
    return parser


def resume_parser() -> argparse.ArgumentParser:
    """The arguments of `qdesk resume`."""
    parser = argparse.ArgumentParser(
        prog="qdesk resume", description="Set a desk free that was killed, halted or reducing."
    )
    _which(parser)
    parser.add_argument("--reason", required=True, help="what the journal will say")
    return parser


def _which(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", nargs="?", help="as `qdesk paper` was given it")
    parser.add_argument("--desk", type=Path, help="or the desk's folder")
    parser.add_argument("--mlruns", type=Path, default=Path("mlruns"), help="(default: mlruns)")


def _folder(options: argparse.Namespace) -> Path:
    if (options.model is None) == (options.desk is None):
        raise BadCommand("name either the model that trades, or the --desk where it does")
    folder: Path = options.desk or options.mlruns / "desks" / desk_name(options.model)
    if not folder.is_dir():
        raise BadCommand(f"{folder}: no desk is here; `qdesk paper` makes one")
    return folder


def _print(told: Told, console: Console) -> None:
    book, summary = told.desk.book, told.summary
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    rows = [
        ("bars", f"{book.bars:,}"),
        ("decisions", f"{book.decisions:,}"),
        ("orders", f"{book.orders:,}, {list(book.ended.values()).count('filled'):,} filled"),
        ("position", f"{book.position:+g}"),
    ]
    if summary.net_return is not None:
        rows += [
            ("equity", f"{book.equity:,.4f}"),
            ("net return", f"{summary.net_return:+.2%}"),
            ("largest drawdown", f"{summary.drawdown:.2%}"),
        ]
    state = book.state if book.state == "ACTIVE" else f"{book.state}: {book.reason}"
    rows += [("state", state), ("journal", str(told.journal))]
    for name, value in rows:
        table.add_row(name, value)
    console.print(table, highlight=False, soft_wrap=True)
