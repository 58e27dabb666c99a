"""Lines of JSON or CSV as events: read by the million, or, where that fails, looked at one by one."""

import csv
import io
import json
import math
from pathlib import Path

import polars as pl

from market.events.schema import LEVELS_ARE, NUMBERS, SCHEMA, SHOWN, EventsError, shortened

NEEDED = ("time", "type", "instrument")
NUMBER_TYPES = {int, float, type(None)}


class JsonLines:
    """One JSON object a line."""

    header_lines = 0

    def __init__(self) -> None:
        self.integer_times = True  # so far
        self.decoder = json.JSONDecoder(parse_constant=_Constant)

    def parse_block(self, text: bytes) -> pl.DataFrame:
        """The same events as `parse`, sooner where times are integers."""
        if self.integer_times:
            try:
                return pl.read_ndjson(text, schema=SCHEMA | {"time": pl.Int64()})
            except pl.exceptions.PolarsError:  # either a bad line or other times
                events = self.parse(text)
                self.integer_times = False
                return events
        return self.parse(text)

    def parse(self, text: bytes) -> pl.DataFrame:
        """Events of `SCHEMA`; raises where a line is none."""
        return pl.read_ndjson(text, schema=SCHEMA)

    def explain(self, line: bytes) -> tuple[str, str] | None:
        """Fault and reason where the line is likely bad; None where it looks good."""
        try:
            event = self.decoder.decode(line.decode())
        except UnicodeDecodeError as error:
            return "wrong encoding", f"not UTF-8 text: {error.reason} at byte {error.start + 1}"
        except (ValueError, RecursionError) as error:
            at = f" at character {error.pos + 1}" if isinstance(error, json.JSONDecodeError) else ""
            return "malformed", f"not JSON: {getattr(error, 'msg', error)}{at}"
        if not isinstance(event, dict):
            return "malformed", "not a JSON object"
        if (fault := _fault_of_fields(event)) is None and (b"NaN" in line or b"Infinity" in line):
            return "malformed", "not JSON, which has no NaN and no Infinity"
        return fault


def _fault_of_fields(event: dict[str, object]) -> tuple[str, str] | None:
    for name in NUMBERS:
        value = event.get(name)
        if value is None or (type(value) in NUMBER_TYPES and math.isfinite(value)):  # type: ignore[arg-type]
            continue
        shown = value if isinstance(value, _Constant) else json.dumps(value)
        shown = shown if len(shown) <= SHOWN else f"{shown[:SHOWN]}…"
        return "bad value", f"{name} is {shown}; it must be a finite number"
    return None if _are_rows(event.get("levels")) else ("bad value", LEVELS_ARE)


def _are_rows(levels: object) -> bool:
    """Whether levels can be read; whether they are right is for the rules to say."""
    if levels is None:
        return True
    if not isinstance(levels, list):
        return False
    return all(
        row is None or (isinstance(row, list) and all(type(value) in NUMBER_TYPES for value in row))
        for row in levels
    )


class _Constant(str):
    """NaN or Infinity, which JSON does not have."""


class Csv:
    """A header, then one event a line; `levels` holds JSON."""

    header_lines = 1

    def __init__(self, path: Path, header: bytes) -> None:
        self.header = header.removeprefix(b"\xef\xbb\xbf").rstrip(b"\r\n") + b"\n"
        try:
            names = next(csv.reader([self.header.decode()]), [])
        except (UnicodeDecodeError, csv.Error) as error:
            raise EventsError(f"{path}: the header is not CSV in UTF-8 ({error})") from None
        self.fields = len(names)
        missing = [name for name in NEEDED if name not in names]
        if missing:
            raise EventsError(
                f"{path}: the header lacks {', '.join(missing)}; the first line of a CSV event log "
                f"names its columns, of which {', '.join(NEEDED)} are needed"
            )

    def parse(self, text: bytes) -> pl.DataFrame:
        """Events of `SCHEMA`; raises where a line is none."""
        if text.count(b'"') % 2:
            raise pl.exceptions.ComputeError("a quotation mark without its pair")
        rows = pl.read_csv(io.BytesIO(self.header + text), infer_schema=False)
        empty = pl.all().is_null() | (pl.all().str.strip_chars() == "")
        if rows.select(pl.all_horizontal(empty).any()).item():
            raise pl.exceptions.ComputeError("a line that holds nothing")
        return typed(rows)

    parse_block = parse

    def explain(self, line: bytes) -> tuple[str, str] | None:
        """Fault and reason where the line is likely bad; None where it looks good."""
        try:
            cells = next(csv.reader([line.decode()]), [])
        except UnicodeDecodeError as error:
            return "wrong encoding", f"not UTF-8 text: {error.reason} at byte {error.start + 1}"
        except csv.Error as error:
            return "malformed", f"not CSV: {error}"
        if line.count(b'"') % 2:
            return "malformed", "a quotation mark without its pair"
        if not any(cell.strip() for cell in cells):
            return "malformed", "every field is empty"
        if len(cells) > self.fields:
            return "malformed", f"{len(cells)} fields where the header has {self.fields}"
        return None


def require_types(path: Path, schema: pl.Schema) -> None:
    """Refuses a Parquet file whose columns cannot hold events.

    Raises `EventsError`: names the column, its type and what it must be.
    """
    missing = [name for name in NEEDED if name not in schema]
    if missing:
        found = ", ".join(schema.names())
        raise EventsError(f"{path}: column {', '.join(missing)} is missing; found {found}")
    rows_of_numbers = (pl.List, pl.Array)
    for name, dtype in schema.items():
        text = dtype in (pl.String, pl.Null) or isinstance(dtype, pl.Categorical | pl.Enum)
        if name == "time":
            good = text or dtype.is_integer() or dtype in (pl.Datetime, pl.Date)
            wanted = "timestamps, integers or ISO-8601 text"
        elif name in NUMBERS:
            good = text or dtype.is_numeric()
            wanted = "numbers"
        elif name == "levels":
            inner = dtype.inner if isinstance(dtype, rows_of_numbers) else None
            value = inner.inner if isinstance(inner, rows_of_numbers) else None
            good = text or (value is not None and value.is_numeric())
            wanted = "lists of lists of numbers, or JSON of them"
        elif name in SCHEMA:
            good = text or dtype.is_integer()
            wanted = "text"
        else:
            continue
        if not good:
            raise EventsError(f"{path}: column {name} is {dtype}; it must hold {wanted}")


def typed(rows: pl.DataFrame) -> pl.DataFrame:
    """Columns of any type as those of `SCHEMA`; `unread` says what could not be."""
    columns = []
    lost = []
    for name, dtype in SCHEMA.items():
        if name not in rows.columns:
            columns.append(pl.lit(None, dtype).alias(name))
            continue
        column = rows[name]
        if name == "time" and (column.dtype == pl.Int64 or column.dtype.is_temporal()):
            columns.append(pl.lit(column))
            continue
        if name == "levels" and column.dtype == pl.String:
            read = _decoded(column)
        else:
            read = column.cast(dtype, strict=False)
        columns.append(pl.lit(read))
        if name in NUMBERS or name == "levels":
            was_lost = column.is_not_null() & read.is_null()
            sentence = pl.lit(LEVELS_ARE)
            if name in NUMBERS:
                shown = shortened(pl.lit(column.cast(pl.String)))
                sentence = pl.format(f"{name} is {{}}; it must be a number", shown)
            lost.append(pl.when(was_lost).then(sentence))
    unread = pl.coalesce(lost) if lost else pl.lit(None, pl.String)
    return rows.select(*columns, unread=unread)


def _decoded(levels: pl.Series) -> pl.Series:
    """Levels from JSON, null where it is none."""
    try:
        return levels.str.json_decode(SCHEMA["levels"])
    except pl.exceptions.PolarsError:
        good = []
        for text in levels:
            try:
                good.append(text if text is not None and _are_rows(json.loads(text)) else None)
            except (ValueError, RecursionError):
                good.append(None)
        return pl.Series(levels.name, good, pl.String).str.json_decode(SCHEMA["levels"])
