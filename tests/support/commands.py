"""Commands in this process, and arguments that several tests give them."""

import sys

import pytest

import qdesk

LOOSE = [
    *("--limits.max-drawdown", "none", "--limits.max-daily-loss", "none"),
    *("--limits.max-volatility", "none", "--limits.min-volatility", "none"),
    *("--limits.max-orders-per-minute", "none"),
]
TABULAR = ["--preset", "tabular", "--bars", "synthetic:ou?theta=0.05&sigma=0.01&seed=3&bars=6000"]


def said(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> tuple[str, str]:
    found, *streams = _run(capsys, *arguments)
    assert found == code
    return streams[0], streams[1]


def said_anyhow(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[str, str]:
    """Whatever the exit code is."""
    return _run(capsys, *arguments)[1:]


def _run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["qdesk", *map(str, arguments)])
        code = qdesk.main()
    out, err = capsys.readouterr()
    return code, out, err
