"""Event logs from disk: files in, blocks of checked events out, bad lines named one by one.

A block is parsed at once. Only where that fails are its lines looked at singly, and whether a line is
good never depends on its neighbours: any division of a file into blocks gives the same events.
"""

import gzip
import json
import zlib
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, NamedTuple, cast

import numpy as np
import polars as pl
from backports import zstd

from market.events.formats import Csv, JsonLines, require_types, typed
from market.events.schema import NUMBERS, SCHEMA, EventsError, checked, faults, unit_of

BLOCK_BYTES = 16 * 2**20  # larger ones are given back to the system, and cost page faults each time
AHEAD = 2  # blocks parsed at once: one parser alone leaves a processor idle now and then
CACHED = 2**18  # bytes that the processor keeps close while they are counted
BLOCK_ROWS = 250_000  # of a Parquet file
LONGEST_LINE = 64 * 2**20
KEPT = 10_000  # bytes of a rejected line
PARTS = 16  # that a text which does not parse is divided into, until so few lines are left
FEW_LINES = 2000
EVENTS = pl.Schema(
    {
        "line": pl.Int64(),
        "ns": pl.Int64(),
        "kind": pl.UInt8(),
        **{name: SCHEMA[name] for name in ("instrument", "id", "side", *NUMBERS)},
        "depth_bid": pl.Float64(),
        "depth_ask": pl.Float64(),
        "levels_hash": pl.UInt64(),
    }
)
FORMATS = ".jsonl, .ndjson or .csv (plain, .gz or .zst), or .parquet"


class Rejected(NamedTuple):
    """A line that takes no part, and why."""

    file: str
    line: int
    fault: str
    reason: str
    content: str


@dataclass
class Block:
    """Consecutive lines of one file."""

    file: str  # its name
    first: int  # number of the first line
    lines: int  # how many there are
    contents: Callable[[Iterable[int]], dict[int, str]]  # the text of lines by their numbers
    blank: int = 0  # how many of them hold nothing
    # The good ones: what `market.events.schema.checked` leaves, less the text of time and type, and
    # `line`, numbers counted from 1 (of rows in a Parquet file).
    events: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=EVENTS))
    rejected: list[Rejected] = field(default_factory=list)  # the others
    units: set[str] = field(default_factory=set)  # the forms that times have

    def add(self, parsed: pl.DataFrame, numbers: Sequence[int]) -> None:
        """Checks what these lines were parsed to and keeps the good ones."""
        events = checked(parsed).with_columns(line=pl.Series(numbers, dtype=pl.Int64))
        if not events["good"].all():
            bad = events.filter(~pl.col("good"))
            contents = self.contents(bad["line"].to_list())
            for line, fault in zip(bad["line"], faults(bad).rows(), strict=True):
                self.rejected.append(Rejected(self.file, line, fault[0], fault[1], contents[line]))
            events = events.filter("good")
        self.units |= unit_of(events["time"])
        self.events.vstack(events.select(EVENTS.names()), in_place=True)


def event_blocks(
    paths: Iterable[Path], block_bytes: int = BLOCK_BYTES
) -> Generator[Block, None, None]:
    """Blocks of the files, in the order given; some are parsed ahead while others are worked on.

    Raises `EventsError` where a file is missing, damaged, or of no known form.
    """
    ahead: deque[Future[Block]] = deque()
    workers = ThreadPoolExecutor(AHEAD)
    try:
        for path in paths:
            for unparsed in _unparsed(path, block_bytes):
                ahead.append(workers.submit(unparsed))
                if len(ahead) > AHEAD:
                    yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        workers.shutdown(cancel_futures=True)


def _unparsed(path: Path, block_bytes: int) -> Iterator[Callable[[], Block]]:
    """What makes each block of a file, once called."""
    suffixes = [suffix for suffix in path.suffixes if suffix not in {".gz", ".zst"}]
    form = suffixes[-1] if suffixes else ""
    try:
        if form == ".parquet" and path.suffix == ".parquet":
            yield from _parquet_blocks(path)
        elif form in {".jsonl", ".ndjson"}:
            with _opened(path) as file:
                yield from _text_blocks(path, JsonLines(), file, block_bytes)
        elif form == ".csv":
            with _opened(path) as file:
                yield from _text_blocks(
                    path, Csv(path, file.readline(LONGEST_LINE)), file, block_bytes
                )
        else:
            raise EventsError(f"{path}: the name must end in {FORMATS}")
    except FileNotFoundError:
        raise EventsError(f"{path}: no such file") from None
    except (OSError, EOFError, zlib.error, zstd.ZstdError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise EventsError(f"{path}: cannot be read to its end ({reason})") from error


def _opened(path: Path) -> IO[bytes]:
    if path.suffix == ".gz":
        return cast(IO[bytes], gzip.open(path))
    if path.suffix == ".zst":
        return cast(IO[bytes], zstd.open(path))
    return path.open("rb")


def text_chunks(path: Path, file: IO[bytes], size: int) -> Iterator[bytes]:
    """Pieces that end with a line, no longer than `size` where lines are shorter."""
    buffer = bytearray(size)
    held = 0
    while True:
        if held == len(buffer):
            if held >= LONGEST_LINE:
                raise EventsError(f"{path}: a line is longer than 64 MiB; is this an event log?")
            buffer.extend(bytes(held))
        with memoryview(buffer) as view:
            read = file.readinto(view[held:])  # type: ignore[attr-defined]  # every file that is opened here has it
        start = held
        held = held + read
        end = buffer.rfind(b"\n", start, held) + 1 if read else held
        if end:
            yield bytes(memoryview(buffer)[:end])
            buffer[: held - end] = buffer[end:held]
            held -= end
        if not read:
            return


def _text_blocks(
    path: Path, form: "JsonLines | Csv", file: IO[bytes], block_bytes: int
) -> Iterator[Callable[[], Block]]:
    first = form.header_lines + 1
    for chunk in text_chunks(path, file, block_bytes):
        text = chunk.removeprefix(b"\xef\xbb\xbf") if first == 1 else chunk
        count = _line_count(text)
        yield partial(text_block, path, form, text, first, count)
        first += count


def text_block(path: Path, form: "JsonLines | Csv", text: bytes, first: int, count: int) -> Block:
    """Whole lines of a file as a block: `count` of them, the first being line number `first`."""
    block = Block(str(path), first, count, partial(_contents, text, first, count))
    parsed = _parsed(form.parse_block, text, count)
    if parsed is not None:
        block.add(parsed, range(first, first + count))
    else:
        salvage = _Salvage(form, block)
        salvage.parts(text, first, count)
        salvage.finish()
    return block


class _Salvage:
    """The good lines of a block that does not parse as a whole."""

    def __init__(self, form: "JsonLines | Csv", block: Block) -> None:
        self.form = form
        self.block = block
        self.parsed: list[tuple[pl.DataFrame, Sequence[int]]] = []

    def text(self, text: bytes, first: int, count: int) -> None:
        """Takes lines together if they let themselves, else in ever smaller parts."""
        parsed = _parsed(self.form.parse, text, count)
        if parsed is not None:
            self.parsed.append((parsed, range(first, first + count)))
        else:
            self.parts(text, first, count)

    def parts(self, text: bytes, first: int, count: int) -> None:
        """Takes lines that are known not to let themselves together."""
        if count <= FEW_LINES:
            self.lines(text.removesuffix(b"\n").split(b"\n"), first)
        else:
            ends = np.flatnonzero(np.frombuffer(text, np.uint8) == ord("\n")) + 1
            part = max(count // PARTS, FEW_LINES)
            start = 0
            for done in range(0, count, part):
                lines = min(part, count - done)
                end = int(ends[done + lines - 1]) if done + lines <= len(ends) else len(text)
                self.text(text[start:end], first + done, lines)
                start = end

    def lines(self, lines: list[bytes], first: int) -> None:
        """Takes the lines that look good together if they let themselves, all others alone."""
        written = {number: line for number, line in enumerate(lines, first) if line.strip()}
        self.block.blank += len(lines) - len(written)
        explained = {number: self.form.explain(line) for number, line in written.items()}
        likely = [number for number, explanation in explained.items() if explanation is None]
        joined = b"\n".join(written[number] for number in likely)
        parsed = _parsed(self.form.parse, joined, len(likely))
        if parsed is not None:
            self.parsed.append((parsed, likely))
        for number in explained if parsed is None else explained.keys() - likely:
            alone = _parsed(self.form.parse, written[number], 1)
            if alone is not None:
                self.parsed.append((alone, [number]))
            else:
                fault, reason = explained[number] or ("malformed", "its fields cannot be read")
                content = _as_text(written[number])
                self.block.rejected.append(
                    Rejected(self.block.file, number, fault, reason, content)
                )

    def finish(self) -> None:
        """Checks what was parsed."""
        numbers = [number for _, numbers in self.parsed for number in numbers]
        if numbers:
            self.block.add(pl.concat([frame for frame, _ in self.parsed]), numbers)
            self.block.events = self.block.events.sort("line")


def _parsed(parse: Callable[[bytes], pl.DataFrame], text: bytes, count: int) -> pl.DataFrame | None:
    """One event a line, or nothing."""
    try:
        parsed = parse(text)
    except pl.exceptions.PolarsError:
        return None
    return parsed if parsed.height == count else None


def _line_count(text: bytes) -> int:
    codes = np.frombuffer(text, np.uint8)
    parts = (codes[start : start + CACHED] for start in range(0, len(codes), CACHED))
    ends = sum(np.count_nonzero(part == ord("\n")) for part in parts)
    return int(ends) + (not text.endswith(b"\n"))


def _contents(text: bytes, first: int, count: int, numbers: Iterable[int]) -> dict[int, str]:
    """Lines by number, found from the end, where those lie that are asked for most."""
    found: dict[int, str] = {}
    wanted = set(numbers)
    end = len(text) - text.endswith(b"\n")
    number = first + count - 1
    while len(found) < len(wanted):
        start = text.rfind(b"\n", 0, end) + 1
        if number in wanted:
            found[number] = _as_text(text[start:end])
        end = start - 1
        number = number - 1
    return found


def _as_text(line: bytes) -> str:
    """A rejected line as it is kept: the beginning of it where it is long."""
    if len(line) > KEPT:
        return line[:KEPT].decode(errors="backslashreplace") + "…"
    return line.decode(errors="backslashreplace").rstrip("\r")


def _parquet_blocks(path: Path) -> Iterator[Callable[[], Block]]:
    try:
        table = pl.scan_parquet(path, glob=False)
        require_types(path, table.collect_schema())
        first = 1
        for rows in table.collect_batches(chunk_size=BLOCK_ROWS, maintain_order=True):
            yield partial(_row_block, path, rows, first)
            first += rows.height
    except pl.exceptions.PolarsError as error:
        raise EventsError(
            f"{path}: cannot be read as Parquet: {str(error).splitlines()[0]}"
        ) from error


def _row_block(path: Path, rows: pl.DataFrame, first: int) -> Block:
    block = Block(str(path), first, rows.height, partial(_row_contents, rows, first))
    block.add(typed(rows), range(first, first + rows.height))
    return block


def _row_contents(rows: pl.DataFrame, first: int, numbers: Iterable[int]) -> dict[int, str]:
    wanted = list(numbers)
    picked = rows[[number - first for number in wanted]].iter_rows(named=True)
    return {
        number: json.dumps(row, default=str) for number, row in zip(wanted, picked, strict=True)
    }
