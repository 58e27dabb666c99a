"""Lines of JSON or CSV as events: read by the million, or, where that fails, looked at one by one."""

import csv
import io
import json
from pathlib import Path

import polars as pl

from market.events import NUMBERS, SCHEMA, EventsError

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
            return "malformed", f"not JSON: {error}"
        if not isinstance(event, dict):
            return "malformed", "not a JSON object"
        for name in NUMBERS:
            value = event.get(name)
            if type(value) not in NUMBER_TYPES:
                shown = value if isinstance(value, _Constant) else json.dumps(value)
                return "bad value", f"{name} is {shown}; it must be a finite number"
        if b"NaN" in line or b"Infinity" in line:
            return "malformed", "not JSON, which has no NaN and no Infinity"
        return None


class _Constant(str):
    """NaN or Infinity, which JSON does not have."""


class Csv:
    """A header, then one event a line; `levels` holds JSON."""

    header_lines = 1

    def __init__(self, path: Path, header: bytes) -> None:
        self.header = header.removeprefix(b"\xef\xbb\xbf").rstrip(b"\r\n") + b"\n"
        try:
            names = next(csv.reader([self.header.decode()]), [])
        except UnicodeDecodeError:
            names = []
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


def typed(rows: pl.DataFrame) -> pl.DataFrame:
    """Columns of any type as those of `SCHEMA`; `unread` says what could not be."""
    columns, lost = [], []
    for name, dtype in SCHEMA.items():
        if name not in rows.columns:
            columns.append(pl.lit(None, dtype).alias(name))
        elif name == "time" and (rows[name].dtype == pl.Int64 or rows[name].dtype.is_temporal()):
            columns.append(pl.col(name))
        elif name == "levels" and rows[name].dtype == pl.String:
            columns.append(pl.col(name).str.json_decode(dtype))
        else:
            columns.append(pl.col(name).cast(dtype, strict=False))
            if name in NUMBERS:
                sentence = pl.format(
                    f"{name} is {{}}; it must be a number", pl.col(name).cast(pl.String)
                )
                was_lost = (
                    pl.col(name).is_not_null() & pl.col(name).cast(dtype, strict=False).is_null()
                )
                lost.append(pl.when(was_lost).then(sentence))
    unread = pl.coalesce(lost) if lost else pl.lit(None, pl.String)
    return rows.select(*columns, unread=unread)
