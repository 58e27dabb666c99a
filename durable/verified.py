"""Sealed folders: a manifest and one file of arrays, whole or not there at all, verified before use.

Checkpoints of a training and bundles of trained models are such folders: `manifest.json`, which a person
can read, and a safetensors file. The manifest holds the file's size and sha256, every array's type and
shape, and a sha256 of its own.
"""

import hashlib
import json
import shutil
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, load_file, save_file

from durable.files import whole_file, whole_folder

MANIFEST = "manifest.json"
MAX_MANIFEST_BYTES = 64 * 2**20
READ_AT_ONCE = 64 * 2**20  # bytes

Arrays = Mapping[str, NDArray[Any]]


class CorruptError(ValueError):
    """A folder is not what was sealed. The message names folder, file and fault."""

    exit_code = 2


class NotFinite(ValueError):
    """Arrays hold numbers that are not finite, and are not worth keeping. The message names one."""


class VerifiedFolder(NamedTuple):
    """What a folder holds."""

    manifest: dict[str, Any]
    arrays: dict[str, NDArray[Any]]


def write_verified(folder: Path, file: str, arrays: Arrays, manifest: Mapping[str, Any]) -> None:
    """Writes a folder that is there whole or not at all, whatever happens in between.

    It is written under a temporary name beside its own, synced to the disk, renamed, and the folder
    around it synced. A folder of that name is replaced; missing folders around it are made. Arrays are
    written as they lie in memory, without a copy. `manifest` is what is known of them, as JSON has it.

    Raises:
        NotFinite: an array is not finite; nothing was written.
        OSError: it cannot be written; nothing of it is left.
    """
    require_finite(arrays)
    with whole_folder(folder) as temporary:
        write_into(temporary, file, arrays, manifest)


def write_into(
    folder: Path, file: str, arrays: Arrays, manifest: Mapping[str, Any]
) -> dict[str, Any]:
    """As `write_verified`, into a folder that is there; returns the manifest."""
    path = folder / file
    try:
        save_file({name: _contiguous(array) for name, array in arrays.items()}, path)
    except SafetensorError as error:  # the disk is full, say
        raise OSError(f"{path}: {error}") from error
    table = {name: [str(array.dtype), list(array.shape)] for name, array in arrays.items()}
    files = {file: {"sha256": sha256_of(path), "bytes": path.stat().st_size}}
    whole = {**manifest, "files": files, "arrays": table}
    whole["sha256"] = _digest(whole)
    (folder / MANIFEST).write_text(json.dumps(whole, indent=1) + "\n")
    shutil.copymode(folder / MANIFEST, path)  # safetensors lets nobody else read what it writes
    return whole


def rewrite_manifest(path: Path, manifest: dict[str, Any]) -> None:
    """Writes a changed manifest in place of one, whole, with the sha256 that it has now."""
    manifest["sha256"] = _digest(manifest)
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(manifest, indent=1) + "\n")


def read_manifest(folder: Path, file: str) -> dict[str, Any]:
    """The manifest of a folder, verified but for the arrays.

    Raises:
        CorruptError: it is not what was sealed.
        OSError: it cannot be read.
    """
    if folder.is_symlink() or not folder.is_dir():
        raise CorruptError(f"{folder}: there is no such folder" + _or_link(folder))
    for entry in sorted(folder.iterdir()):
        if entry.name not in (MANIFEST, file):
            raise CorruptError(
                f"{folder}: {entry.name} does not belong here; only {MANIFEST} and {file} do"
            )
    for name in (MANIFEST, file):
        path = folder / name
        if not path.exists() or not stat.S_ISREG(path.lstat().st_mode):
            raise CorruptError(f"{path}: there is no such file" + _or_link(path))
    path = folder / MANIFEST
    if path.stat().st_size > MAX_MANIFEST_BYTES:
        raise CorruptError(f"{path}: {path.stat().st_size:,} bytes are too many for a manifest")
    try:
        manifest = json.loads(path.read_bytes())
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise CorruptError(f"{path}: this is not JSON ({error})") from error
    if not isinstance(manifest, dict) or manifest.get("sha256") != _digest(manifest):
        raise CorruptError(f"{path}: it does not have the sha256 that it states")
    files = manifest.get("files")
    if not isinstance(files, dict) or list(files) != [file]:
        named = ", ".join(files) if isinstance(files, dict) else "none"
        raise CorruptError(f"{path}: it names the files {named}; it must name {file} alone")
    stated = files[file]
    if not isinstance(stated, dict) or not stated.keys() >= {"bytes", "sha256"}:
        raise CorruptError(f"{path}: it does not state bytes and sha256 of {file}")
    if not isinstance(manifest.get("arrays"), dict):
        raise CorruptError(f"{path}: it does not list the arrays of {file}")
    return manifest


def read_verified(folder: Path, file: str) -> VerifiedFolder:
    """What a folder holds; nothing is parsed before its sha256 was compared, and nothing is unpickled.

    Raises:
        CorruptError: it is not what was sealed, or its numbers are not finite.
        OSError: it cannot be read.
    """
    manifest = read_manifest(folder, file)
    path = folder / file
    stated = manifest["files"][file]
    if path.stat().st_size != stated["bytes"]:
        raise CorruptError(
            f"{path}: {path.stat().st_size:,} bytes; there must be {stated['bytes']}"
        )
    # What is small is read once, so that the very bytes that were hashed are parsed.
    content = path.read_bytes() if path.stat().st_size <= READ_AT_ONCE else None
    found = sha256_of(path) if content is None else hashlib.sha256(content).hexdigest()
    if found != stated["sha256"]:
        raise CorruptError(f"{path}: it does not have the sha256 that {MANIFEST} states")
    try:
        arrays = load_file(path) if content is None else load(content)
    except SafetensorError as error:
        raise CorruptError(f"{path}: this is not a safetensors file ({error})") from error
    forms = {name: [str(array.dtype), list(array.shape)] for name, array in arrays.items()}
    listed = manifest["arrays"]
    for name in sorted(forms.keys() | listed.keys()):
        if forms.get(name) != listed.get(name):
            raise CorruptError(
                f"{path}: {name} is {forms.get(name)}; it must be {listed.get(name)}"
            )
    try:
        require_finite(arrays)
    except NotFinite as error:
        raise CorruptError(f"{path}: {error}") from error
    return VerifiedFolder(manifest, arrays)


def require_finite(arrays: Arrays) -> None:
    """Refuses numbers that are not finite.

    Raises `NotFinite`: names the first array that holds one.
    """
    for name, array in arrays.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise NotFinite(f"{name} holds numbers that are not finite")


def sha256_of(path: Path) -> str:
    """Of a file, read piece by piece."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _contiguous(array: NDArray[Any]) -> NDArray[Any]:
    """The array, or a copy where it does not lie in one piece."""
    return array if array.flags.c_contiguous else array.copy(order="C")


def _digest(manifest: dict[str, Any]) -> str:
    """Of everything in a manifest but this very digest."""
    rest = {name: value for name, value in manifest.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _or_link(path: Path) -> str:
    return "; it is a symbolic link" if path.is_symlink() else ""
