"""TensorFlow's import: without its chatter, and with the settings that training needs."""

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path

from durable.errors import MissingExtra

CHATTER = ("WARNING: All log messages before absl", "I0000 ", "To enable the following")
NEEDED_BY_NETWORKS = ("tensorflow", "keras")  # packages
NEEDED = {"backend": "tensorflow", "floatx": "float32"}  # of Keras's own settings


def import_tensorflow() -> None:
    """Imports TensorFlow and Keras, passing on what they write to stderr but for notices about hardware.

    Keras's settings are those that training needs, whatever its configuration file or the
    environment say; where those say otherwise, that is said once. Raises `MissingExtra` where it
    cannot be imported, though it is installed.
    """
    if "tensorflow" in sys.modules and "keras" in sys.modules:
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    others = _other_settings()
    try:
        with _caught_stderr(), _own_keras():
            import_module("tensorflow")
            import_module("keras")
    except (ImportError, OSError) as error:
        raise MissingExtra(
            f"TensorFlow is installed here, but cannot be imported ({_reason(error)}); tables train "
            "without it"
        ) from error
    for source, name, value in others:
        note = f"note: {source} sets Keras's {name} to {value}; qdesk trains with {NEEDED[name]}"
        print(note, file=sys.stderr)  # noqa: T201 - whoever set it should know


def _other_settings() -> list[tuple[str, str, str]]:
    """Settings of Keras that are not those that are needed: where they are, which, and what they say."""
    found = []
    home = Path(os.environ.get("KERAS_HOME") or os.path.expanduser("~/.keras"))  # noqa: PTH111 - raises nothing
    with suppress(OSError, ValueError):
        settings = json.loads((home / "keras.json").read_text())
        if isinstance(settings, dict):
            found += [
                (str(home / "keras.json"), n, str(settings.get(n, v))) for n, v in NEEDED.items()
            ]
    if named := os.environ.get("KERAS_BACKEND"):
        found = [each for each in found if each[1] != "backend"]  # the variable counts for Keras
        found.append(("KERAS_BACKEND", "backend", named))
    return [each for each in found if each[2] != NEEDED[each[1]]]


@contextmanager
def _own_keras() -> Iterator[None]:
    """Has Keras find no configuration but the one that is needed."""
    before = os.environ.get("KERAS_HOME")
    os.environ["KERAS_BACKEND"] = NEEDED["backend"]
    with tempfile.TemporaryDirectory() as home:
        os.environ["KERAS_HOME"] = home
        try:
            yield
        finally:
            if before is None:
                del os.environ["KERAS_HOME"]
            else:
                os.environ["KERAS_HOME"] = before


@contextmanager
def _caught_stderr() -> Iterator[None]:
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as caught:
        os.dup2(caught.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            caught.seek(0)
            for line in caught.read().decode(errors="replace").splitlines():
                if not line.startswith(CHATTER):
                    print(line, file=sys.stderr)  # noqa: T201 - it was meant for there


def _reason(error: Exception) -> str:
    """What an import failed of, in a line; TensorFlow puts a whole traceback into its error."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    named = [line for line in lines if "Error: " in line] or lines or [type(error).__name__]
    return named[0].partition("Error: ")[2] or named[0]
