"""Credentials that versions before stored with addresses are taken out of a store.

Checksums of what is changed are made anew, so that it verifies as before. TensorBoard's files have
lengths inside of lengths: there credentials become as many letters x.
"""

import io
import shutil
import sqlite3
import struct
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import orjson

from durable.addresses import HELD, hidden
from durable.errors import InUse
from durable.files import whole_file
from durable.lines import Lines, seal, sealed
from durable.locks import Busy, locked
from durable.verified import MANIFEST, rewrite_manifest
from evaluation.ledger import ASKED, CHECKSUM, OPENED, PRINT, checksum_of
from training.tracking.journal import DELIVERED
from training.tracking.relocation import changing, no_training, text_columns

TEXT = {".json", ".jsonl", ".html", ".txt", ".csv", ".md", ".toml", ".yaml", ".yml", ""}
LONGEST = 64 << 20  # bytes of a file of text that is looked into
HEADER = 12  # bytes before a record of TensorBoard's: its length, and a checksum of that


class Scrubbed(NamedTuple):
    """What was changed."""

    cells: int  # of the database
    files: list[Path]


def scrub(mlruns: Path) -> Scrubbed:
    """Takes credentials out of every address in a store's database, journals, checkpoints and logs.

    Raises:
        InUse: a training or a desk writes there.
        OSError, sqlite3.Error: something cannot be read or written; what was changed by then stays so.
    """
    with no_training(mlruns), ExitStack() as desks:
        journals = [
            *mlruns.glob("desks/*/journal.jsonl"),
            *mlruns.glob("backtests/*/journal.jsonl"),
        ]
        for journal in sorted(journals):
            try:
                desks.enter_context(locked(journal))
            except Busy as error:
                raise InUse(f"{journal.parent}: a desk trades here; stop it first") from error
        cells = _database(mlruns / "mlflow.db")
        return Scrubbed(cells, [path for path in _files(mlruns) if _changed(path)])


def _files(mlruns: Path) -> Iterator[Path]:
    for path in sorted(mlruns.rglob("*")):
        if path.is_file() and not path.is_symlink() and not path.name.startswith("mlflow.db"):
            yield path


def _changed(path: Path) -> bool:
    """Whether a file held credentials, which it no longer does."""
    content = _events(path.read_bytes()) if "tfevents" in path.name else _text(path)
    if content is None:
        return False
    if path.name == MANIFEST:
        rewrite_manifest(path, orjson.loads(content))
        return True
    with whole_file(path) as temporary:
        temporary.write_bytes(content)
        shutil.copymode(path, temporary)
    return True


def _text(path: Path) -> bytes | None:
    """A file of text without credentials; None where there are none in it."""
    if path.suffix not in TEXT or path.stat().st_size > LONGEST:
        return None
    try:
        text = path.read_bytes().decode()
    except UnicodeDecodeError:
        return None
    if hidden(text) == text:
        return None
    if path.name == "journal.jsonl":
        return _journal(path)
    if path.name == DELIVERED:
        known = orjson.loads(hidden(text))
        known.pop("crc", None)
        return seal(orjson.dumps(known), 0)[0]
    return hidden(text).encode()


def _journal(path: Path) -> bytes:
    """A journal with new checksums; a line that was damaged stays so."""
    made: list[bytes] = []
    checksum = 0
    lines = Lines(path)
    raw = path.read_bytes().splitlines(keepends=True)
    for line in lines:
        old = raw[line.number - 1]
        if line.fault is not None:
            text = old.decode(errors="surrogateescape")
            made.append(hidden(text).encode(errors="surrogateescape"))
            checksum = checksum if sealed(old) is None else sealed(old) or 0
            continue
        record = orjson.dumps(orjson.loads(hidden(orjson.dumps(line.record).decode())))
        if sealed(old) is None:
            made.append(record + b"\n")
        else:
            line_made, checksum = seal(record, checksum)
            made.append(line_made)
    return b"".join(made)


def _events(content: bytes) -> bytes | None:
    """A file of TensorBoard's records; None where there is nothing to take out."""
    if b"://" not in content:
        return None
    from tensorboard.summary.writer.record_writer import RecordWriter

    made = io.BytesIO()
    start = 0
    changed = False
    writer = RecordWriter(made)
    while start + HEADER <= len(content):
        (length,) = struct.unpack("<Q", content[start : start + 8])
        data = content[start + HEADER : start + HEADER + length]
        if len(data) < length:
            break  # torn
        text = data.decode("latin-1")
        masked = HELD.sub(lambda found: _letters(found[0], found[1] or found[2]), text)
        changed |= masked != text
        writer.write(masked.encode("latin-1"))
        start += HEADER + length + 4
    return made.getvalue() + content[start:] if changed else None


def _letters(whole: str, scheme: str) -> str:
    return f"{scheme}{'x' * (len(whole) - len(scheme) - 1)}@"


def _database(path: Path) -> int:
    if not path.is_file():
        return 0
    cells = 0
    with changing(path) as connection:
        connection.execute("PRAGMA secure_delete = ON")  # what is freed is overwritten
        connection.create_function("hidden", 1, lambda text: hidden(str(text)))
        for table, column in text_columns(connection, all_of_them=True):
            done = connection.execute(
                f'UPDATE "{table}" SET "{column}" = hidden("{column}") '  # noqa: S608
                f'WHERE "{column}" LIKE \'%://%@%\' AND hidden("{column}") <> "{column}"'
            )
            cells += done.rowcount
        if cells:
            _reseal_openings(connection)
    return cells


def _reseal_openings(connection: sqlite3.Connection) -> None:
    """Makes the checksums of the ledger of held-back bars anew."""
    rows = connection.execute(
        "SELECT run_uuid, key, value FROM tags WHERE key IN (?, ?, ?, ?)",
        (OPENED, ASKED, PRINT, CHECKSUM),
    )
    runs: dict[str, dict[str, str]] = {}
    for run, key, value in rows.fetchall():
        runs.setdefault(run, {})[key] = value
    for run, tags in runs.items():
        opening = tags.get(OPENED, tags.get(ASKED))
        if CHECKSUM in tags and opening is not None and PRINT in tags:
            connection.execute(
                "UPDATE tags SET value = ? WHERE run_uuid = ? AND key = ?",
                (checksum_of(opening, tags[PRINT]), run, CHECKSUM),
            )
