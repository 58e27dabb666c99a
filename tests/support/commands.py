"""Commands in this process, and arguments that several tests give them."""

import sys

import pytest

import qdesk

LOOSE = [
    *("--limits.max-drawdown", "none", "--limits.max-daily-loss", "none"),
    *("--limits.max-volatility", "none", "--limits.min-volatility", "none"),
    *("--limits.max-orders-per-minute", "none"),
]


def said(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> tuple[str, str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["qdesk", *map(str, arguments)])
        assert qdesk.main() == code
    out, err = capsys.readouterr()
    return out, err


def said_anyhow(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[str, str]:
    """Whatever the exit code is."""
    import qdesk

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["qdesk", *map(str, arguments)])
        qdesk.main()
    out, err = capsys.readouterr()
    return out, err


TABULAR = ["--preset", "tabular", "--bars", "synthetic:ou?theta=0.05&sigma=0.01&seed=3&bars=6000"]
