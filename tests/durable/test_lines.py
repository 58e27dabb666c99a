"""Lines with checksums: every change shows, and what a version before wrote is still read."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable.lines import BLOCK, Lines, ending, fits, seal, sealed

RECORDS: list[dict[str, Any]] = [
    {"n": 1, "text": "a"},
    {"n": 2, "list": [1.5, None]},
    {"n": 3, "crc": "mine"},
    {"n": 4},
]

KNOWN = [{name: value for name, value in each.items() if name != "crc"} for each in RECORDS]


def written(records: Sequence[object], before: int = 0) -> list[bytes]:
    lines = []
    for record in records:
        line, before = seal(orjson.dumps(record), before)
        lines.append(line)
    return lines


def read(path: Path, content: bytes) -> Lines:
    path.write_bytes(content)
    return Lines(path)


def test_the_checksum_is_that_of_the_standard() -> None:
    """CRC-32 of ISO-HDLC; its check value is that of the nine digits (Cook, catalogue of CRCs)."""
    line, checksum = seal(b"123456789}", 0)
    assert (line, checksum) == (b'123456789,"crc":"cbf43926"}\n', 0xCBF43926)
    assert sealed(line) == checksum
    assert fits(line, 0)
    assert fits(line.rstrip(), 0)
    assert not fits(line, 1)


def test_what_was_written_comes_back(tmp_path: Path) -> None:
    lines = read(tmp_path / "file", b"".join(written(RECORDS[:2])))
    assert [(each.number, each.record, each.fault) for each in lines] == [
        (1, RECORDS[0], None),
        (2, RECORDS[1], None),
    ]
    assert (lines.unchecked, lines.torn, lines.unended) == (0, b"", False)
    assert lines.checksum == sealed(written(RECORDS[:2])[1])


@pytest.mark.parametrize("line", [0, 1, 2])
def test_a_line_that_is_missing_doubled_or_moved_shows_at_the_next(
    tmp_path: Path, line: int
) -> None:
    lines = written(RECORDS)
    gone = [*lines[:line], *lines[line + 1 :]]
    doubled = [*lines[: line + 1], *lines[line:]]
    moved = [*lines[:line], lines[line + 1], lines[line], *lines[line + 2 :]]
    for content, first in ((gone, line + 1), (doubled, line + 2), (moved, line + 1)):
        found = [each for each in read(tmp_path / "file", b"".join(content)) if each.fault]
        assert found[0].number == first
        assert "its checksum does not fit" in str(found[0].fault)
        assert all(each.record == {} for each in found)


@pytest.mark.parametrize("place", range(sum(map(len, written(RECORDS[:2])))))
def test_no_flipped_bit_passes(tmp_path: Path, place: int) -> None:
    """A fault that is said, at the line or at the one behind it; the rest reads as it was."""
    content = b"".join(written(RECORDS))
    for bit in range(8):
        changed = bytearray(content)
        changed[place] ^= 1 << bit
        lines = read(tmp_path / "file", bytes(changed))
        faults = [each.number for each in lines if each.fault]
        assert faults
        for each in lines:
            # A first line whose own seal is hit counts as one of before: its record stands, with more.
            if each.fault is None:
                known = KNOWN[each.record["n"] - 1]
                assert {name: each.record.get(name) for name in known} == known


def test_lines_of_before_are_counted_up_to_the_first_with_a_checksum(tmp_path: Path) -> None:
    old = [orjson.dumps(each) + b"\n" for each in RECORDS[:2]]
    lines = read(tmp_path / "file", b"".join([*old, *written(RECORDS[3:] * 2)]))
    assert [each.fault for each in lines] == [None] * 4
    assert lines.unchecked == 2
    lines = read(tmp_path / "file", b"".join([*written(RECORDS[:1]), *old, *written(RECORDS[:1])]))
    faults = [each.fault for each in lines]
    assert faults[:3] == [None, *["its checksum is missing"] * 2]
    assert "does not fit" in str(faults[3])


@pytest.mark.parametrize(("line", "reason"), [(b"{", "no JSON"), (b"[1]", "no JSON object")])
def test_a_line_of_before_that_is_none_is_named(tmp_path: Path, line: bytes, reason: str) -> None:
    (found,) = read(tmp_path / "file", line + b"\n")
    assert found.fault == f"it is {reason}"


def test_a_last_line_is_torn_or_lacks_its_newline_alone(tmp_path: Path) -> None:
    *before, last = written(RECORDS)
    for size in range(len(last) + 1):
        lines = read(tmp_path / "file", b"".join(before) + last[:size])
        whole = size >= len(last) - 1
        assert [each.fault for each in lines] == [None] * (4 if whole else 3)
        assert lines.torn == (b"" if whole else last[:size])
        assert lines.unended is (size == len(last) - 1)
    lines = read(tmp_path / "file", b"".join(before) + last[:-1] + b"\r")
    assert [each.fault for each in lines][3] == "its end was changed after it was written"
    assert lines.unended


@pytest.mark.parametrize("length", [1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK])
@pytest.mark.parametrize("many", [0, 1, 2])
def test_the_end_is_found_however_long_the_last_lines_are(
    tmp_path: Path, length: int, many: int
) -> None:
    *before, last = written([{"text": "x" * length}] * (many + 1))
    path = tmp_path / "file"
    for torn in (b"", last[: len(last) // 2], last[:-1]):
        path.write_bytes(b"".join(before) + torn)
        file = os.open(path, os.O_RDONLY)
        try:
            found = ending(file)
        finally:
            os.close(file)
        assert found.size == len(b"".join(before))
        assert found.checksum == (sealed(before[-1]) if before else 0)
        assert (found.torn, found.whole) == (torn, torn == last[:-1])


def test_no_more_is_read_at_once_than_a_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system gives no more than 2 GiB at once: the end of a larger file would be cut off."""
    path = tmp_path / "file"
    path.write_bytes(b"".join(written([{"text": "x" * 1000}] * 200)))
    asked: list[int] = []
    pread = os.pread

    def seen(file: int, size: int, place: int) -> bytes:
        asked.append(size)
        return pread(file, size, place)

    monkeypatch.setattr("durable.lines.os.pread", seen)
    file = os.open(path, os.O_RDONLY)
    try:
        assert ending(file).size == path.stat().st_size
    finally:
        os.close(file)
    assert max(asked) == BLOCK == 65_536


@given(
    st.dictionaries(st.text(), st.none() | st.floats() | st.text(), min_size=1),
    st.integers(0, 2**32 - 1),
)
def test_a_seal_fits_its_line_alone(record: dict[str, object], before: int) -> None:
    line, checksum = seal(orjson.dumps(record), before)
    assert fits(line, before)
    assert not fits(line, before ^ 1)
    assert orjson.loads(line)["crc"] == f"{checksum:08x}"
