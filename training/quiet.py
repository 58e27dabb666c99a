"""TensorFlow's import, without what its C++ says before any of its log levels can be set."""

import os
import sys
import tempfile
from importlib import import_module

CHATTER = ("WARNING: All log messages before absl", "I0000 ", "To enable the following")


def import_tensorflow() -> None:
    """Imports TensorFlow, passing on what it writes to stderr but for notices about hardware."""
    if "tensorflow" in sys.modules:
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as caught:
        os.dup2(caught.fileno(), 2)
        try:
            import_module("tensorflow")
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            caught.seek(0)
            for line in caught.read().decode(errors="replace").splitlines():
                if not line.startswith(CHATTER):
                    print(line, file=sys.stderr)  # noqa: T201 - it was meant for there
