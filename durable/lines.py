"""Files of JSON lines that only grow, each line with a checksum, so that no change goes unseen.

A line ends in `"crc":"xxxxxxxx"}`: the CRC-32 of all that stands before in the line, begun with the
checksum of the line before (0 of the first). A flipped bit shows in its line, a line that was taken away
or put in between at the line behind it. Lines that versions of before wrote have no checksum: they are
read and counted, up to the first line that has one.
"""

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import orjson

SEAL = re.compile(rb',"crc":"([0-9a-f]{8})"}\n?\Z')
SEALED = len(b',"crc":"00000000"}')  # bytes at a line's end
BLOCK = 1 << 16  # bytes that are looked at together, from the end of a file


class Line(NamedTuple):
    """One line of a file."""

    number: int  # from 1 on
    record: dict[str, Any]  # without its checksum; empty where there is a fault
    fault: str | None  # why it cannot be trusted


class Ending(NamedTuple):
    """How a file ends."""

    size: int  # bytes, of the lines that are whole
    checksum: int  # of the last one
    torn: bytes  # what stands behind them
    whole: bool  # of a line that lacks nothing but its newline


def seal(line: bytes, before: int) -> tuple[bytes, int]:
    """A line with its checksum and newline, and the checksum; see `seal_all`."""
    return seal_all((line,), before)


def seal_all(lines: Iterable[bytes], before: int) -> tuple[bytes, int]:
    """Lines with their checksums and newlines, one behind the other, and the last one's checksum.

    Each is a JSON object with at least one member, without a newline; `before` is the checksum of the
    line before them, 0 of the first.
    """
    sealed_lines = []
    checksum = before
    for line in lines:
        body = line[:-1]
        checksum = crc32(body, checksum)
        sealed_lines.append(b'%b,"crc":"%08x"}\n' % (body, checksum))
    return b"".join(sealed_lines), checksum


def sealed(line: bytes) -> int | None:
    """The checksum that a line carries, None where it has none."""
    found = SEAL.search(line, max(len(line) - SEALED - 1, 0))
    return None if found is None else int(found[1], 16)


def fits(line: bytes, before: int) -> bool:
    """Whether a line is what it was when it was written behind one with a checksum."""
    line = line.removesuffix(b"\n")
    return len(line) > SEALED and sealed(line) == crc32(line[:-SEALED], before)


class Lines:
    """The lines of a file, in order; a torn last line is left out.

    Raises `OSError`: when iterated over, the file cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.unchecked = 0  # lines without a checksum, before the first with one
        self.checksum = 0  # what the next line that is added is to be begun with
        self.torn = b""  # what stands at the end without being a line
        self.unended = False  # whether the last line lacks its newline, and no more
        self._checked = False

    def __iter__(self) -> Iterator[Line]:
        with self.path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    changed = fits(line[:-1], self.checksum)
                    self.unended = changed or fits(line, self.checksum)
                    if changed:
                        yield Line(number, {}, "its end was changed after it was written")
                    if changed or not self.unended:
                        self.torn = line
                        return
                yield self._read(number, line)

    def _read(self, number: int, line: bytes) -> Line:
        checksum = sealed(line)
        before = self.checksum
        if checksum is None:
            if self._checked:
                return Line(number, {}, "its checksum is missing")
            self.unchecked += 1
        else:
            self._checked = True
            self.checksum = checksum
            if not fits(line, before):
                what = "it, or the line before it, was changed after it was written"
                return Line(number, {}, f"its checksum does not fit: {what}")
        try:
            record = orjson.loads(line)
        except ValueError:
            return Line(number, {}, "it is no JSON")
        if not isinstance(record, dict):
            return Line(number, {}, "it is no JSON object")
        record.pop("crc", None)
        return Line(number, record, None)


def ending(file: int) -> Ending:
    """How a file that is open ends, without reading more than its last line.

    Raises `OSError` where it cannot be read.
    """
    size = os.fstat(file).st_size
    tail = b""
    while size > 0:
        start = max(size - BLOCK, 0)
        block = os.pread(file, size - start, start)
        end = block.rfind(b"\n") + 1
        tail = block[end:] + tail
        size = start + end
        if end:
            break
    last = os.pread(file, min(size, SEALED + 1), max(size - SEALED - 1, 0))
    checksum = sealed(last) or 0
    return Ending(size, checksum, tail, bool(tail) and fits(tail, checksum))
