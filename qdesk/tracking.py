"""`qdesk tracking`: what it does and says in the terminal."""

import argparse
import sqlite3
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path

from mlflow.exceptions import MlflowException
from rich.console import Console
from sqlalchemy.exc import SQLAlchemyError

from durable.errors import InUse, MissingExtra, require_packages
from durable.terminal import say
from models.places import default_mlruns
from training.quiet import NEEDED_BY_NETWORKS, import_tensorflow
from training.tracking.errors import TrackingError
from training.tracking.journal import RunJournal
from training.tracking.journals import head_of, journals, undelivered
from training.tracking.relocation import move
from training.tracking.scrub import scrub
from training.tracking.store import reason_of
from training.tracking.uploader import needs_keras, send_what_was_left

Tell = Callable[[str], None]


def run(arguments: list[str], console: Console) -> int:
    """Runs `qdesk tracking ...` and returns its exit code: 1 where something could not be sent.

    Raises:
        TrackingError: there is no store here, or it cannot be used.
        StoreMoved: a store cannot be mended as asked.
        InUse: a training writes there.
        MissingExtra: registering a network needs a package that is not here.
        SystemExit: bad arguments, or `--help`.
    """
    options = parser().parse_args(arguments)
    tell = partial(say, console)
    if options.command == "move":
        mended = move(options.old, options.new)
        tell(f"{mended.paths:,} paths mended, in {', '.join(mended.tables)}")
        for place in mended.missing:
            tell(f"missing: {place}")
        return 1 if mended.missing else 0
    if not options.mlruns.is_dir():
        raise TrackingError(f"mlruns {options.mlruns}: there is no such folder")
    if options.command == "scrub":
        try:
            done = scrub(options.mlruns)
        except InUse:
            raise
        except (OSError, sqlite3.Error) as error:
            raise TrackingError(
                f"mlruns {options.mlruns}: cannot be cleaned ({error}); end what uses it, and try again"
            ) from error
        for path in done.files:
            tell(f"cleaned: {path}")
        tell(
            f"{done.cells:,} cells of the database and {len(done.files):,} files had credentials in "
            "addresses, and have none any more. What a server or a bucket holds is to be cleaned there; "
            "keys that were stored should be replaced"
        )
        return 0
    left = [folder for folder in journals(options.mlruns) if undelivered(folder)]
    if options.command == "status":
        return _status(left, tell)
    return _sync(left, options.mlruns, options.tracking_uri, tell)


def parser() -> argparse.ArgumentParser:
    """The arguments of `qdesk tracking`."""
    whole = argparse.ArgumentParser(
        prog="qdesk tracking", description="What trainings track, and where it is."
    )
    commands = whole.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, about in (
        ("sync", "send to MLflow what trainings could not send; end runs whose process is gone"),
        ("status", "what is not sent"),
        ("scrub", "take out credentials that versions before stored with addresses"),
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


def _status(left: list[Path], tell: Tell) -> int:
    none = True
    for folder in left:
        name = _name(folder)
        try:
            with closing(RunJournal(folder, make=False)) as journal:
                for sentence in journal.damage:
                    tell(f"{name}: {sentence}")
                if journal.head is None and not journal.unsent:
                    continue
                said = str(journal.unsent) if journal.unsent else "how it ended"
                tell(f"{name}: {said} not sent")
        except InUse:
            tell(f"{name}: trains now, and sends by itself")
        except OSError as error:
            tell(f"{name}: cannot be read ({error.strerror})")
        none = False
    if none:
        tell("everything is sent")
    return 0


def _sync(left: list[Path], mlruns: Path, uri: str | None, tell: Tell) -> int:
    failed = False
    missing: MissingExtra | None = None
    for folder in left:
        name = _name(folder)
        try:
            with closing(RunJournal(folder, make=False)) as journal:
                for sentence in journal.damage:
                    tell(f"{name}: {sentence}")
                if journal.head is None and not journal.unsent:
                    continue  # it never began
                unsent = journal.unsent
                if needs_keras(journal):
                    require_packages("registering a network", NEEDED_BY_NETWORKS)
                    import_tensorflow()
                send_what_was_left(journal, mlruns, uri)
                tell(f"{name}: sent {unsent}" if unsent else f"{name}: ended")
                for number, why in journal.answers.get("refused", []):
                    tell(f"{name}: MLflow refuses entry {number} of its journal ({why})")
        except InUse:
            tell(f"{name}: trains now, and sends by itself")
        except MissingExtra as error:
            missing = error
            tell(f"{name}: not sent ({error})")
        except TrackingError:
            raise
        except (MlflowException, SQLAlchemyError, sqlite3.Error, OSError) as error:
            head = head_of(folder)
            server = uri or (head.server if head else None)
            tell(f"{name}: not sent ({reason_of(error, server or str(mlruns))})")
            failed = True
    if not left:
        tell("everything is sent already")
    if missing is not None:
        raise missing
    return 1 if failed else 0


def _name(folder: Path) -> str:
    head = head_of(folder)
    return f"{head.name if head else folder.name} {folder.name[:8]}"
