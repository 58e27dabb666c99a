"""Commands in this process, and arguments that several tests give them."""

import sys
from collections.abc import Callable
from typing import NamedTuple

import pytest

import qdesk

LOOSE = [
    *("--limits.max-drawdown", "none", "--limits.max-daily-loss", "none"),
    *("--limits.max-volatility", "none", "--limits.min-volatility", "none"),
    *("--limits.max-orders-per-minute", "none"),
]
TABULAR = ["--preset", "tabular", "--bars", "synthetic:ou?theta=0.05&sigma=0.01&seed=3&bars=6000"]


class Ended(NamedTuple):
    """How a command ended, as `subprocess.CompletedProcess` has it."""

    returncode: int
    stdout: str
    stderr: str


Command = Callable[..., Ended]


def said(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> tuple[str, str]:
    found = ended(capsys, *arguments)
    assert found.returncode == code
    return found.stdout, found.stderr


def said_anyhow(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[str, str]:
    """Whatever the exit code is."""
    return ended(capsys, *arguments)[1:]


def ended(capsys: pytest.CaptureFixture[str], *arguments: object, uri: str | None = None) -> Ended:
    """Runs a command here, with a tracking server in its environment where one is given."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["qdesk", *map(str, arguments)])
        if uri is not None:
            patch.setenv("MLFLOW_TRACKING_URI", uri)
        code = qdesk.main()
    return Ended(code, *capsys.readouterr())
