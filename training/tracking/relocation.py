"""A store that was moved: paths in its database that still lead to where it was are mended."""

import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import NamedTuple

from durable.errors import InUse
from training.tracking.errors import StoreMoved
from training.tracking.journal import RunJournal
from training.tracking.journals import journals

HISTORY = {"params", "metrics", "alembic_version"}  # what was, stays


class Mended(NamedTuple):
    """What was changed."""

    paths: int
    tables: list[str]
    missing: list[str]  # of artifacts that are not where they now should be


def move(old: Path, new: Path) -> Mended:
    """Makes every path in `new/mlflow.db` that begins with `old` begin with `new`; all of them or none.

    Direct SQLite keeps absolute paths of artifacts, so that a folder that was moved, or is mounted
    elsewhere, has runs and models whose files are not found. The old folder need not be there any more.

    Raises:
        StoreMoved: there is no store, or nothing in it leads to the old folder.
        InUse: a training writes there.
    """
    database = new / "mlflow.db"
    if not database.is_file():
        raise StoreMoved(
            f"{new}: there is no mlflow.db here; give the folder that the store is in now"
        )
    if not old.is_absolute():
        raise StoreMoved(f"{old}: give the absolute path that the store had")
    with no_training(new):
        return _mended(database, str(old).rstrip("/"), str(new.resolve()))


def _mended(database: Path, before: str, after: str) -> Mended:
    try:
        with changing(database) as connection:
            changed: dict[str, int] = {}
            for table, column in text_columns(connection):
                for prefix, became in ((before, after), (f"file://{before}", f"file://{after}")):
                    done = connection.execute(
                        f'UPDATE "{table}" SET "{column}" = ? || substr("{column}", ?) '  # noqa: S608
                        f'WHERE "{column}" = ? OR substr("{column}", 1, ?) = ?',
                        (became, len(prefix) + 1, prefix, len(prefix) + 1, f"{prefix}/"),
                    )
                    changed[table] = changed.get(table, 0) + done.rowcount
            places = _places(connection)
            if not any(changed.values()):
                seen = sorted({p.partition("/artifacts")[0] for p in places if "/artifacts" in p})
                raise StoreMoved(
                    f"{database}: no path begins with {before}"
                    + (f"; there are {', '.join(seen[:3])}" if seen else "")
                )
    except sqlite3.Error as error:
        raise StoreMoved(f"{database}: cannot be changed ({error}); nothing was") from error
    missing = [place for place in places if place.startswith(after) and not Path(place).exists()]
    return Mended(sum(changed.values()), sorted(t for t, n in changed.items() if n), missing)


@contextmanager
def changing(database: Path) -> Iterator[sqlite3.Connection]:
    """A transaction on a database: all of it is done, or where something is raised none."""
    uri = f"{database.absolute().as_uri()}?mode=rw"
    with closing(sqlite3.connect(uri, uri=True, timeout=5)) as connection:
        connection.isolation_level = None
        connection.execute("BEGIN IMMEDIATE")
        yield connection
        connection.execute("COMMIT")


@contextmanager
def no_training(mlruns: Path) -> Iterator[None]:
    """Keeps trainings that could be resumed out. Raises `InUse` where one writes there."""
    with ExitStack() as stack:
        for folder in journals(mlruns):
            try:
                stack.callback(RunJournal(folder, make=False).close)
            except InUse as error:
                raise InUse(
                    f"{mlruns}: a training writes here ({folder.name}); stop it first"
                ) from error
            except OSError:
                continue  # it cannot be written anyway
        yield


def text_columns(
    connection: sqlite3.Connection, all_of_them: bool = False
) -> Iterator[tuple[str, str]]:
    """Columns of text; all of them, or those that say where something is."""
    tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    for (table,) in tables:
        if (table in HISTORY and not all_of_them) or table.startswith("sqlite_"):
            continue
        for _, column, kind, *_ in connection.execute(f'PRAGMA table_info("{table}")').fetchall():
            if "CHAR" in kind.upper() or "TEXT" in kind.upper():
                yield table, column


def _places(connection: sqlite3.Connection) -> list[str]:
    """Where artifacts of models, and of experiments with runs, are; a folder is made for the first."""
    found = connection.execute(
        "SELECT artifact_location FROM experiments "
        "WHERE experiment_id IN (SELECT experiment_id FROM runs) "
        "UNION SELECT artifact_location FROM logged_models"
    )
    return [str(place) for (place,) in found if place]
