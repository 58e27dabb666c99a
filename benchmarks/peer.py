"""A peer in a process and an environment of its own, told over a pipe what to run."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any, Self

HERE = Path(__file__).parent
PYTHON = HERE.parent / ".venv-peers/bin/python"


class Peer:
    """Runs a script of this folder with a piece of work, and talks to it in lines of JSON.

    Attributes:
        versions: of the peer's packages, the script's first line.
    """

    def __init__(self, script: str, work: dict[str, Any]) -> None:
        self._process = subprocess.Popen(
            [PYTHON, HERE / script, json.dumps(work)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(HERE.parent)},
        )
        self._name = script
        self.versions: dict[str, str] = self.read()

    def run(self, iterations: int) -> float:
        """Seconds for some iterations."""
        return float(self.ask(iterations)["seconds"])

    def ask(self, what: Any) -> dict[str, Any]:
        """An answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{json.dumps(what)}\n")
        self._process.stdin.flush()
        return self.read()

    def read(self) -> dict[str, Any]:
        """The next line."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self._name}: the process ended; see its error above")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Ends the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
