"""Sealed folders: whole or not there, and nothing that was damaged is read."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from durable.files import tidy
from durable.verified import (
    MANIFEST,
    MAX_MANIFEST_BYTES,
    READ_AT_ONCE,
    CorruptError,
    NotFinite,
    read_manifest,
    read_verified,
    sha256_of,
    write_verified,
)

FILE = "state.safetensors"
RANDOM = np.random.default_rng(3)
ARRAYS: dict[str, Any] = {
    "ring": RANDOM.integers(0, 2**31, (40, 1, 4)).astype(np.int32),
    "weights": RANDOM.normal(size=(3, 5)).astype(np.float32),
    "transposed": RANDOM.normal(size=(4, 6)).T,
    "counter": np.array(7),
    "generator": np.array([2**64 - 1, 3], np.uint64),
    "nothing": np.zeros((0, 3), np.float32),
    "flags": np.array([True, False]),
    "positions": np.array([-1, 0, 1], np.int8),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_verified(tmp_path / "sealed", FILE, ARRAYS, {"step": 7, "settings": {"name": "é"}})
    return tmp_path / "sealed"


def test_what_was_sealed_comes_back(folder: Path) -> None:
    manifest, arrays = read_verified(folder, FILE)
    assert manifest["step"] == 7
    assert manifest["settings"] == {"name": "é"}
    assert read_manifest(folder, FILE) == manifest
    assert arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(arrays[name], array)
    assert [path.name for path in folder.parent.iterdir()] == ["sealed"]


def test_a_folder_is_replaced_whole(folder: Path) -> None:
    write_verified(folder, FILE, {"other": np.ones(2)}, {"step": 8})
    assert read_verified(folder, FILE).manifest["step"] == 8
    assert [path.name for path in folder.parent.iterdir()] == ["sealed"]


def test_all_is_on_the_disk_before_it_has_its_name_and_the_name_is_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both files, then the folder that names them, then the rename, then the folder around."""
    done: list[tuple[str, ...]] = []
    fsync, rename = os.fsync, os.rename

    def synced(descriptor: int) -> None:
        done.append(("sync", Path(f"/proc/self/fd/{descriptor}").readlink().name))
        fsync(descriptor)

    def renamed(before: Any, after: Any) -> None:
        done.append(("rename", Path(before).name, Path(after).name))
        rename(before, after)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "rename", renamed)
    around = tmp_path / "around"
    written = f".writing-sealed-{os.getpid()}"
    for replaced in (False, True):
        done.clear()
        write_verified(around / "sealed", FILE, ARRAYS, {"step": 7})
        files = {("sync", FILE), ("sync", MANIFEST)}
        assert set(done[:2]) == files
        assert done[2:] == [
            ("sync", written),
            *([("rename", "sealed", ".writing-old-sealed")] if replaced else []),
            ("rename", written, "sealed"),
            ("sync", "around"),
        ]


def test_what_is_not_finite_is_not_written(tmp_path: Path) -> None:
    for bad in (np.nan, np.inf):
        with pytest.raises(NotFinite, match="weights holds numbers"):
            write_verified(tmp_path / "sealed", FILE, {"weights": np.array([1, bad])}, {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", [FILE, MANIFEST])
def test_a_file_cut_short_is_refused(folder: Path, name: str) -> None:
    """At every sixteenth of its length."""
    whole = (folder / name).read_bytes()
    for part in range(16):
        (folder / name).write_bytes(whole[: len(whole) * part // 16])
        with pytest.raises(CorruptError, match=name):
            read_verified(folder, FILE)
    (folder / name).write_bytes(whole)
    read_verified(folder, FILE)


def test_flipped_bits_are_refused(folder: Path) -> None:
    """200 of them, anywhere in either file, each alone."""
    expected = read_verified(folder, FILE)
    refused = 0
    rng = np.random.default_rng(3)
    for flip in range(200):
        path = folder / (FILE if flip % 2 else MANIFEST)
        whole = path.read_bytes()
        bit = int(rng.integers(8 * len(whole)))
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            found = read_verified(folder, FILE)
        except CorruptError as error:
            assert str(folder) in str(error)
            refused += 1
        else:  # the space between two JSON tokens, made another space
            assert path.name == MANIFEST
            assert found.manifest == expected.manifest
        path.write_bytes(whole)
    assert refused > 190
    read_verified(folder, FILE)


def test_a_full_disk_leaves_what_was_there(folder: Path) -> None:
    """A limit of the size of files stands in for it: the write fails in the middle."""
    code = """
import resource, sys
import numpy as np
from pathlib import Path
from durable.verified import write_verified
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    write_verified(Path(sys.argv[1]), "state.safetensors", {"ring": np.zeros(10**6)}, {"step": 8})
except OSError as error:
    print(error)
"""
    run = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True)
    assert "File too large" in run.stdout, run.stderr
    assert read_verified(folder, FILE).manifest["step"] == 7
    assert [path.name for path in folder.parent.iterdir()] == ["sealed"]


WRITE_FOREVER = """
import sys
import numpy as np
from pathlib import Path
from durable.verified import write_verified
step = 0
while True:
    folder = Path(sys.argv[1]) / f"step-{step % 3}"
    write_verified(folder, "state.safetensors", {"a": np.full(10**5, step)}, {"step": step})
    print(step, flush=True)
    step += 1
"""


def test_killed_while_writing_nothing_half_is_seen(tmp_path: Path) -> None:
    torn = 0
    for delay in np.random.default_rng(3).uniform(0, 0.03, 15):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITE_FOREVER, tmp_path], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        for _ in range(4):
            process.stdout.readline()
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        for path in tmp_path.iterdir():
            if path.name.startswith("step-"):
                manifest, arrays = read_verified(path, FILE)
                assert (arrays["a"] == manifest["step"]).all()
            else:
                torn += 1
                assert path.name.startswith(".writing-")
    assert torn  # some were indeed killed in the middle


def test_writing_takes_no_second_copy(tmp_path: Path) -> None:
    code = """
import resource, sys
import numpy as np
from pathlib import Path
from durable.verified import write_verified
arrays = {name: np.ones(25_000_000, np.float32) for name in "ab"}
write_verified(Path(sys.argv[1]) / "small", "s", {"a": np.ones(3)}, {})
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
write_verified(Path(sys.argv[1]) / "large", "s", arrays, {})
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    run = subprocess.run(
        [sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True
    )
    assert int(run.stdout) * 1024 < 0.2 * 200_000_000


def test_a_manifest_that_names_another_form_is_refused(folder: Path) -> None:
    from durable.verified import _digest

    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["arrays"]["weights"] = ["float32", [5, 3]]
    manifest["sha256"] = _digest(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(CorruptError, match=r"weights is \['float32', \[3, 5\]\]; it must be"):
        read_verified(folder, FILE)


@pytest.mark.parametrize("more", [-1, 1])
def test_a_size_that_is_not_the_files_is_refused(folder: Path, more: int) -> None:
    """Under a sha256 that is right: both must be."""
    from durable.verified import _digest

    manifest = json.loads((folder / MANIFEST).read_text())
    size = manifest["files"][FILE]["bytes"]
    manifest["files"][FILE]["bytes"] += more
    manifest["sha256"] = _digest(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(CorruptError, match=rf"{FILE}: {size:,} bytes; there must be {size + more}"):
        read_verified(folder, FILE)


def test_what_is_small_is_read_once_and_what_is_large_piece_by_piece(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bytes that were hashed are those that are parsed, where they fit into memory twice."""
    expected = read_verified(folder, FILE)
    size = (folder / FILE).stat().st_size
    pieces: list[Path] = []

    def seen(path: Path) -> str:
        pieces.append(path)
        return sha256_of(path)

    monkeypatch.setattr("durable.verified.sha256_of", seen)
    assert READ_AT_ONCE == 67_108_864
    for limit, times in ((READ_AT_ONCE, 0), (size, 0), (size - 1, 1)):
        monkeypatch.setattr("durable.verified.READ_AT_ONCE", limit)
        pieces.clear()
        manifest, arrays = read_verified(folder, FILE)
        assert manifest == expected.manifest
        for name, array in arrays.items():
            np.testing.assert_array_equal(array, expected.arrays[name])
        assert pieces == [folder / FILE] * times


def test_a_long_manifest_is_read_up_to_a_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "sealed"
    write_verified(path, FILE, {"a": np.ones(2)}, {"text": "x" * 10**6})
    assert len(read_manifest(path, FILE)["text"]) == 10**6
    assert MAX_MANIFEST_BYTES == 67_108_864
    size = (path / MANIFEST).stat().st_size
    monkeypatch.setattr("durable.verified.MAX_MANIFEST_BYTES", size)
    read_manifest(path, FILE)
    monkeypatch.setattr("durable.verified.MAX_MANIFEST_BYTES", size - 1)
    with pytest.raises(CorruptError, match=rf"{size:,} bytes are too many for a manifest"):
        read_manifest(path, FILE)


def test_only_a_folder_with_its_two_files_is_read(folder: Path) -> None:
    around = folder.parent
    (around / "link").symlink_to(folder)
    (around / "file").write_text("")
    for name, reason in (
        ("link", "there is no such folder; it is a symbolic link"),
        ("file", "file: there is no such folder$"),
        ("none", "none: there is no such folder$"),
    ):
        with pytest.raises(CorruptError, match=reason):
            read_manifest(around / name, FILE)
    (folder / "more").write_text("")
    with pytest.raises(CorruptError, match="more does not belong here"):
        read_manifest(folder, FILE)
    (folder / "more").unlink()
    (folder / FILE).unlink()
    with pytest.raises(CorruptError, match=f"{FILE}: there is no such file$"):
        read_manifest(folder, FILE)


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"files": None}, "names the files none; it must name"),
        ({"files": {}}, "names the files ; it must name"),
        ({"files": {FILE: {}, "other": {}}}, f"names the files {FILE}, other; it must name"),
        ({"files": {FILE: None}}, "does not state bytes and sha256"),
        ({"files": {FILE: {"bytes": 1}}}, "does not state bytes and sha256"),
        ({"files": {FILE: {"sha256": ""}}}, "does not state bytes and sha256"),
        ({"arrays": []}, "does not list the arrays"),
    ],
)
def test_a_manifest_must_state_its_file_and_arrays(
    folder: Path, change: dict[str, Any], reason: str
) -> None:
    from durable.verified import _digest

    manifest = json.loads((folder / MANIFEST).read_text()) | change
    manifest["sha256"] = _digest(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(CorruptError, match=reason):
        read_manifest(folder, FILE)


def test_both_files_may_be_read_by_whoever_may_read_the_other(folder: Path) -> None:
    assert (folder / FILE).stat().st_mode == (folder / MANIFEST).stat().st_mode


def test_what_a_killed_process_left_is_mended(folder: Path) -> None:
    """One that was being replaced comes back, unless it is there; what was being written goes."""
    around = folder.parent
    (around / ".writing-other-77").mkdir()
    (around / ".writing-other-77" / FILE).write_bytes(b"half")
    folder.rename(around / ".writing-old-sealed")
    tidy(around)
    assert [path.name for path in around.iterdir()] == ["sealed"]
    before = read_verified(folder, FILE).manifest
    (around / ".writing-old-sealed").mkdir()
    tidy(around)
    assert [path.name for path in around.iterdir()] == ["sealed"]
    assert read_verified(folder, FILE).manifest == before


def test_a_device_or_a_pipe_is_no_file(folder: Path) -> None:
    (folder / FILE).unlink()
    os.mkfifo(folder / FILE)
    with pytest.raises(CorruptError, match="there is no such file"):
        read_verified(folder, FILE)


def test_a_manifest_may_say_more_and_in_any_order(tmp_path: Path) -> None:
    """So that a later version may state more of its file, and another tool may sort the manifest."""
    from durable.verified import _digest

    folder = tmp_path / "some" / "where" / "sealed"
    write_verified(folder, FILE, ARRAYS, {"step": 7})
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(dict(reversed(list(manifest.items())))))
    assert read_manifest(folder, FILE) == manifest
    manifest["files"][FILE]["sha512"] = "7"
    manifest["sha256"] = _digest(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest, sort_keys=True))
    read_verified(folder, FILE)
