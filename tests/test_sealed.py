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

from models.sealed import MANIFEST, Damaged, NotFinite, read_manifest, seal, unseal

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
    seal(tmp_path / "sealed", FILE, ARRAYS, {"step": 7, "settings": {"name": "é"}})
    return tmp_path / "sealed"


def test_what_was_sealed_comes_back(folder: Path) -> None:
    manifest, arrays = unseal(folder, FILE)
    assert manifest["step"] == 7
    assert manifest["settings"] == {"name": "é"}
    assert read_manifest(folder, FILE) == manifest
    assert arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(arrays[name], array)
    assert [path.name for path in folder.parent.iterdir()] == ["sealed"]


def test_a_folder_is_replaced_whole(folder: Path) -> None:
    seal(folder, FILE, {"other": np.ones(2)}, {"step": 8})
    assert unseal(folder, FILE).manifest["step"] == 8
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
        seal(around / "sealed", FILE, ARRAYS, {"step": 7})
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
            seal(tmp_path / "sealed", FILE, {"weights": np.array([1, bad])}, {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", [FILE, MANIFEST])
def test_a_file_cut_short_is_refused(folder: Path, name: str) -> None:
    """At every sixteenth of its length."""
    whole = (folder / name).read_bytes()
    for part in range(16):
        (folder / name).write_bytes(whole[: len(whole) * part // 16])
        with pytest.raises(Damaged, match=name):
            unseal(folder, FILE)
    (folder / name).write_bytes(whole)
    unseal(folder, FILE)


def test_flipped_bits_are_refused(folder: Path) -> None:
    """200 of them, anywhere in either file, each alone."""
    expected = unseal(folder, FILE)
    refused = 0
    for flip in range(200):
        path = folder / (FILE if flip % 2 else MANIFEST)
        whole = path.read_bytes()
        bit = int(RANDOM.integers(8 * len(whole)))
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            found = unseal(folder, FILE)
        except Damaged as error:
            assert str(folder) in str(error)
            refused += 1
        else:  # the space between two JSON tokens, made another space
            assert path.name == MANIFEST
            assert found.manifest == expected.manifest
        path.write_bytes(whole)
    assert refused > 190
    unseal(folder, FILE)


def test_a_full_disk_leaves_what_was_there(folder: Path) -> None:
    """A limit of the size of files stands in for it: the write fails in the middle."""
    code = """
import resource, sys
import numpy as np
from pathlib import Path
from models.sealed import seal
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    seal(Path(sys.argv[1]), "state.safetensors", {"ring": np.zeros(10**6)}, {"step": 8})
except OSError as error:
    print(error)
"""
    run = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True)
    assert "File too large" in run.stdout, run.stderr
    assert unseal(folder, FILE).manifest["step"] == 7
    assert [path.name for path in folder.parent.iterdir()] == ["sealed"]


WRITE_FOREVER = """
import sys
import numpy as np
from pathlib import Path
from models.sealed import seal
step = 0
while True:
    folder = Path(sys.argv[1]) / f"step-{step % 3}"
    seal(folder, "state.safetensors", {"a": np.full(10**5, step)}, {"step": step})
    print(step, flush=True)
    step += 1
"""


def test_killed_while_writing_nothing_half_is_seen(tmp_path: Path) -> None:
    torn = 0
    for delay in RANDOM.uniform(0, 0.03, 15):
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
                manifest, arrays = unseal(path, FILE)
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
from models.sealed import seal
arrays = {name: np.ones(25_000_000, np.float32) for name in "ab"}
seal(Path(sys.argv[1]) / "small", "s", {"a": np.ones(3)}, {})
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
seal(Path(sys.argv[1]) / "large", "s", arrays, {})
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    run = subprocess.run(
        [sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True
    )
    assert int(run.stdout) * 1024 < 0.2 * 200_000_000


def test_a_manifest_that_names_another_form_is_refused(folder: Path) -> None:
    from models.sealed import _digest

    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["arrays"]["weights"] = ["float32", [5, 3]]
    manifest["sha256"] = _digest(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(Damaged, match=r"weights is \['float32', \[3, 5\]\]; it must be"):
        unseal(folder, FILE)


@pytest.mark.parametrize("more", [-1, 1])
def test_a_size_that_is_not_the_files_is_refused(folder: Path, more: int) -> None:
    """Under a sha256 that is right: both must be."""
    from models.sealed import _digest

    manifest = json.loads((folder / MANIFEST).read_text())
    size = manifest["files"][FILE]["bytes"]
    manifest["files"][FILE]["bytes"] += more
    manifest["sha256"] = _digest(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(Damaged, match=rf"{FILE}: {size:,} bytes; there must be {size + more}"):
        unseal(folder, FILE)


def test_a_device_or_a_pipe_is_no_file(folder: Path) -> None:
    (folder / FILE).unlink()
    os.mkfifo(folder / FILE)
    with pytest.raises(Damaged, match="there is no such file"):
        unseal(folder, FILE)
