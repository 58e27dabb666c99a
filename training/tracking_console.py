"""What `qdesk tracking` does and says in the terminal."""

import argparse
from collections.abc import Callable
from pathlib import Path

from mlflow.exceptions import MlflowException
from rich.console import Console
from sqlalchemy.exc import SQLAlchemyError

from models.store import default_mlruns
from training.faults import InUse, TrackingError
from training.outbox import Outbox, head_of, journals, undelivered
from training.relocation import move
from training.shipper import needs_keras, send_what_was_left
from training.store import Store, reason_of


def tracking(arguments: list[str], console: Console, load_keras: Callable[[], None]) -> int:
    """Runs `qdesk tracking ...` and returns its exit code: 1 where something could not be sent.

    Args:
        arguments: of the command line.
        console: to print on.
        load_keras: imports what registering a network needs.

    Raises:
        TrackingError: there is no store here, or it cannot be used.
        StoreMoved: a store cannot be mended as asked.
        InUse: a training writes there.
        MissingExtra: registering a network needs a package that is not here.
        SystemExit: bad arguments, or `--help`.
    """
    options = parser().parse_args(arguments)

    def say(sentence: str) -> None:
        console.print(sentence, markup=False, highlight=False, soft_wrap=True)

    if options.command == "move":
        mended = move(options.old, options.new)
        say(f"{mended.paths:,} paths mended, in {', '.join(mended.tables)}")
        for place in mended.missing:
            say(f"missing: {place}")
        return 1 if mended.missing else 0
    if not options.mlruns.is_dir():
        raise TrackingError(f"mlruns {options.mlruns}: there is no such folder")
    left = [folder for folder in journals(options.mlruns) if undelivered(folder)]
    if options.command == "status":
        return _status(left, say)
    return _sync(left, options.mlruns, options.tracking_uri, say, load_keras)


def parser() -> argparse.ArgumentParser:
    """The arguments of `qdesk tracking`."""
    whole = argparse.ArgumentParser(
        prog="qdesk tracking", description="What trainings track, and where it is."
    )
    commands = whole.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, about in (
        ("sync", "send to MLflow what trainings could not send; end runs whose process is gone"),
        ("status", "what is not sent"),
    ):
        made = commands.add_parser(name, help=about, description=about)
        made.add_argument(
            "--mlruns",
            type=Path,
            default=default_mlruns(),
            help="folder of the tracking data (default: QDESK_MLRUNS, else mlruns)",
        )
        if name == "sync":
            made.add_argument(
                "--tracking-uri", help="of the server, where it has moved (default: as it was)"
            )
    about = "mend the absolute paths of a store that was moved from OLD to NEW"
    moved = commands.add_parser("move", help=about, description=about)
    moved.add_argument("old", type=Path, metavar="OLD", help="absolute path of mlruns before")
    moved.add_argument("new", type=Path, metavar="NEW", help="where it is now")
    return whole


def _status(left: list[Path], say: Callable[[str], None]) -> int:
    for folder in left:
        name = (head_of(folder) or {}).get("name", folder.name)
        try:
            box = Outbox(folder, make=False)
        except InUse:
            say(f"{name} {folder.name[:8]}: trains now, and sends by itself")
            continue
        said = str(box.unsent) if box.unsent else "how it ended"
        say(f"{name} {folder.name[:8]}: {said} not sent")
        box.close()
    if not left:
        say("everything is sent")
    return 0


def _sync(
    left: list[Path],
    mlruns: Path,
    uri: str | None,
    say: Callable[[str], None],
    load_keras: Callable[[], None],
) -> int:
    failed = 0
    for folder in left:
        name = f"{(head_of(folder) or {}).get('name', folder.name)} {folder.name[:8]}"
        try:
            box = Outbox(folder, make=False)
            unsent, networks = box.unsent, needs_keras(box)
            box.close()
            if networks:
                load_keras()
            if send_what_was_left(folder, mlruns, uri):
                say(f"{name}: sent {unsent}" if unsent else f"{name}: ended as KILLED")
                continue
            why = "files of it are not on disk"
        except InUse:
            say(f"{name}: trains now, and sends by itself")
            continue
        except (MlflowException, SQLAlchemyError, OSError) as error:
            if isinstance(error, TrackingError):
                raise
            server = uri or (head_of(folder) or {}).get("server")
            why = reason_of(error, Store(mlruns, server))
        failed += 1
        say(f"{name}: not sent ({why})")
    if not left:
        say("everything is sent already")
    return 1 if failed else 0
