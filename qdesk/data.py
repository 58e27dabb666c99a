"""What `qdesk data` says in the terminal."""

import argparse
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from durable.stopping import terminable
from durable.terminal import plain, say
from market.bars import BarsError, carried_note
from market.check import check
from market.events.convert import MAX_REJECTED, Conversion, convert, spoken
from market.events.journal import convert_journal, is_journal
from market.events.schema import EventsError
from market.findings import Report

EVERY = "1s, 30m, 4h, 1d, or '500 trades', or '12.5 volume'"


@terminable()  # what is half written is taken away first
def run(arguments: list[str], console: Console) -> int:
    """Runs `qdesk data ...` and returns its exit code."""
    options = parser().parse_args(arguments)
    if options.command == "check":
        return max(_check(path, console) for path in options.path)
    out = options.out or options.events[0].parent / f"{_stem(options.events[0])}.bars.csv"
    if is_journal(options.events[0]):
        return _journal(options, out, console)
    result = convert(
        options.events,
        options.every or "1m",
        out,
        empty=options.empty,
        instrument=options.instrument,
        max_rejected=options.max_rejected,
    )
    _print_conversion(result, console)
    return 0


def _journal(options: argparse.Namespace, out: Path, console: Console) -> int:
    """Bars and transitions of a trading journal."""
    path, *others = options.events
    if others:
        raise EventsError(f"{path}: a journal is converted alone")
    if options.every is not None:
        raise EventsError(
            f"{path}: a journal has bars of its own; leave --every {options.every} out"
        )
    table = convert_journal(path, out)
    lines = _grid("journal", str(path))
    lines.add_row("bars seen", f"{len(table):,}")
    lines.add_row("transitions", f"{table['reward'].count():,}")
    lines.add_row("written", str(out))
    console.print(lines)
    return 0


def _check(path: str, console: Console) -> int:
    """Reports on one file, so that a bad one does not hide the others."""
    try:
        report = check(path)
    except (BarsError, EventsError) as error:
        print(plain(str(error)), file=sys.stderr)
        return 2
    _print_report(report, console)
    return 2 if report.refusal else 0


def parser() -> argparse.ArgumentParser:
    """The arguments of `qdesk data`."""
    whole = argparse.ArgumentParser(
        prog="qdesk data", description="Event logs, bars, and whether either can be trusted."
    )
    commands = whole.add_subparsers(dest="command", metavar="COMMAND", required=True)
    _add_convert(commands.add_parser("convert", help="make an event log into bars"))
    to_csv = commands.add_parser("event-log-to-csv", help="the same, into a CSV file")
    _add_convert(to_csv, out_of_events=True)
    checks = commands.add_parser("check", help="report gaps, duplicates, outliers, bad lines")
    checks.add_argument(
        "path", nargs="+", help="bars, as `qdesk train --bars` names them, or an event log"
    )
    checks.epilog = "Exit code 2 where one cannot be used as it is."
    return whole


def _add_convert(parser: argparse.ArgumentParser, *, out_of_events: bool = False) -> None:
    parser.add_argument(
        "events", nargs="+", type=Path, help="JSON Lines or CSV (plain, .gz, .zst), or Parquet"
    )
    parser.add_argument("--every", help=f"when a bar ends: {EVERY} (default: 1m)")
    parser.add_argument(
        "--out",
        type=Path,
        required=not out_of_events,
        help=".parquet or .csv; {instrument} in it is the instrument's name"
        + (" (default: NAME.bars.csv beside the events)" if out_of_events else ""),
    )
    parser.add_argument(
        "--empty",
        choices=["carry", "skip"],
        default="carry",
        help="bars without trades carry the last price forward, marked, or are left out (default: "
        "carry). Closures have no bars either way: silences of more than half an hour; where bars are "
        "longer, of more than one bar; where they last more than four hours, of any",
    )
    parser.add_argument("--instrument", help="the only one to make bars of")
    parser.add_argument(
        "--max-rejected",
        type=float,
        default=MAX_REJECTED,
        metavar="SHARE",
        help=f"share of bad lines above which no bars are written (default: {MAX_REJECTED:g})",
    )


def _stem(path: Path) -> str:
    name = path.name
    for suffix in reversed(path.suffixes):
        if suffix in {".gz", ".zst", ".jsonl", ".ndjson", ".csv", ".parquet"}:
            name = name.removesuffix(suffix)
    return name


def _print_conversion(result: Conversion, console: Console) -> None:
    lines = _grid("lines", f"{result.lines:,}")
    for kind, count in result.events.most_common():
        use = "" if kind in {"trade", "quote", "book"} else "unused"
        lines.add_row(f"  {kind}", f"{count:,}", use)
    for fault, count in result.rejected.most_common():
        lines.add_row(f"  rejected: {fault}", f"{count:,}")
    if result.blank:
        lines.add_row("  blank", f"{result.blank:,}", "not rejected")
    lines.add_row("times in", spoken(result.units))
    console.print(lines)
    for written in result.written:
        console.print()
        bars = _grid("instrument", written.instrument)
        bars.add_row("bars", f"{written.bars:,}")
        if written.carried:
            share = f"carried forward, {written.carried / written.bars:.0%}"
            bars.add_row("  without trades", f"{written.carried:,}", share)
        bars.add_row("closes", f"{written.first} to {written.last}")
        bars.add_row("columns", ", ".join(written.columns))
        bars.add_row("written to", str(written.path))
        console.print(bars)
        if note := carried_note(str(written.path), written.carried / written.bars):
            say(console, f"note: {note}")
    if result.rejected_path:
        console.print(f"\nrejected lines are in {result.rejected_path}", soft_wrap=True)


def _print_report(report: Report, console: Console) -> None:
    head = _grid(report.kind, report.source)
    head.add_row("rows" if report.kind == "bars" else "lines", f"{report.rows:,}")
    head.add_row("period", report.period)
    for name, text in report.contents.items():
        head.add_row(name, text)
    console.print(head)
    found = Table(box=None, pad_edge=False, header_style="bold")
    found.add_column("looked for")
    found.add_column("found", justify="right")
    found.add_column("examples")
    for finding in report.findings:
        count = Text(f"{finding.count:,}", "bold red" if finding.count and finding.fault else "")
        notes = [finding.note] if finding.note else []
        examples = [*notes, *finding.examples] if finding.count else []
        found.add_row(finding.name, count, "\n".join(examples))
    console.print()
    console.print(found)
    if report.refusal:
        refusal = Text.assemble(("\ncannot be used:", "bold red"), f" {report.refusal}")
        console.print(refusal, soft_wrap=True)
    console.print()


def _grid(name: str, text: str) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_row(name, Text(text, "bold"))
    return grid
