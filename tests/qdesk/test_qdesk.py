"""The door: what `qdesk` refuses, in one sentence each, and its exit codes."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import qdesk
from market.bars import load_bars

ROWS = 3000


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> pl.DataFrame:
    path = tmp_path_factory.mktemp("good") / "good.csv"
    load_bars("eurusd_1h").table.head(ROWS).write_csv(path)
    return pl.read_csv(path, infer_schema=False)


def spoiled(good: pl.DataFrame, column: str, value: str | None) -> pl.DataFrame:
    at = pl.int_range(pl.len()) == 1000
    return good.with_columns(
        pl.when(at).then(pl.lit(value)).otherwise(pl.col(column)).alias(column)
    )


BAD_BARS = {
    "empty file": (None, "{path}: the file is empty"),
    "missing column": (lambda g: g.drop("high"), "{path}: column high is missing"),
    "NaN price": (lambda g: spoiled(g, "close", "NaN"), "{path} row 1001: close is"),
    "price of zero": (lambda g: spoiled(g, "open", "0"), "{path} row 1001: open is 0.0"),
    "duplicate time": (lambda g: spoiled(g, "time", g["time"][999]), "{path} row 1001: time"),
    "unsorted time": (lambda g: spoiled(g, "time", g["time"][0]), "{path} row 1001: time"),
    "high below low": (lambda g: spoiled(g, "high", "0.5"), "{path} row 1001: high is 0.5"),
    "too few bars": (
        lambda g: g.head(3),
        "bars/validation: 3 bars leave 0 for this part after a gap of 48",
    ),
}


@pytest.mark.parametrize("change, message", BAD_BARS.values(), ids=BAD_BARS)
def test_bad_bars_are_one_sentence_and_nothing_is_written(
    good: pl.DataFrame,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[pl.DataFrame], pl.DataFrame] | None,
    message: str,
) -> None:
    path = tmp_path / "bars.csv"
    path.write_text(change(good).write_csv() if change else "")
    refused(["--bars", str(path)], message.format(path=path), tmp_path, capsys)


STILL = "still.csv"  # written by the test
BAD_ARGUMENTS = {
    "missing file": (["--bars", "no.csv"], "bars no.csv: no such file"),
    "no steps": (["--steps", "0"], "steps is '0'"),
    "gamma above one": (["--learner.gamma", "1.5"], "learner.gamma is '1.5'"),
    "gamma below zero": (["--learner.gamma", "-0.5"], "learner.gamma is '-0.5'"),
    "steps that learn nothing": (
        ["--steps", "250"],
        "steps is 250 and ends before learning begins",
    ),
    "preset without a name": (["--preset="], "--preset needs a name"),
    "infinite cost": (["--market.half-spread", "inf"], "market.half_spread is 'inf'"),
    "price that never changes": (
        ["--bars", STILL, "--no-features.scale"],
        "the price never changes",
    ),
    "table past a million cells": (
        [
            "--preset",
            "tabular",
            "--features.names",
            "price_change,log_price",
            "--tabular.bins",
            "9999",
        ],
        "tabular.bins is 9999, features 2 and tables 1: 99,980,001 cells",
    ),
    "unknown flag": (["--stepz", "5"], "unrecognized arguments: --stepz 5"),
}


@pytest.mark.parametrize("arguments, message", BAD_ARGUMENTS.values(), ids=BAD_ARGUMENTS)
def test_bad_arguments_are_one_sentence_and_nothing_is_written(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    times = load_bars("eurusd_1h").table.head(4000).select("time")
    times.with_columns(
        *(pl.lit(5.0).alias(name) for name in ("open", "high", "low", "close", "volume"))
    ).write_csv(STILL)
    refused(arguments, message, tmp_path, capsys)


def refused(
    arguments: list[str], message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            sys, "argv", ["qdesk", "train", *arguments, "--mlruns", str(folder / "mlruns")]
        )
        assert qdesk.main() == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert err.count("\n") == 1
    assert not (folder / "mlruns").exists()


def test_a_store_that_is_no_database_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mlflow.db").write_text("no database at all" * 100)
    monkeypatch.setattr(
        sys, "argv", ["qdesk", "train", "--steps", "300", "--mlruns", str(tmp_path)]
    )
    assert qdesk.main() == 2
    err = capsys.readouterr().err
    assert err.startswith(f"{tmp_path}/mlflow.db: is no SQLite database; put it back from a backup")
    assert err.count("\n") == 1


@pytest.mark.parametrize("part", ["artifacts", "tensorboard"])
def test_a_store_with_a_file_in_the_way_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    (tmp_path / part).write_text("in the way")
    monkeypatch.setattr(
        sys, "argv", ["qdesk", "train", "--steps", "300", "--mlruns", str(tmp_path)]
    )
    assert qdesk.main() == 2
    assert capsys.readouterr().err == f"mlruns {tmp_path}: cannot be used (File exists)\n"
    assert not (tmp_path / "mlflow.db").exists()


def test_an_unwritable_store_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    store = tmp_path / "file" / "mlruns"
    monkeypatch.setattr(sys, "argv", ["qdesk", "train", "--steps", "300", "--mlruns", str(store)])
    assert qdesk.main() == 2
    assert capsys.readouterr().err == f"mlruns {store}: cannot be used (Not a directory)\n"


@pytest.mark.parametrize("missing", [["tensorflow"], ["mlflow"], ["tensorflow", "keras", "mlflow"]])
def test_a_missing_package_is_one_sentence(tmp_path: Path, missing: list[str]) -> None:
    """In an installation that really lacks it: every package but the missing ones, by link."""
    site = tmp_path / "site"
    site.mkdir()
    for entry in Path(np.__file__).parents[1].iterdir():
        if not any(entry.name == name or entry.name.startswith(f"{name}-") for name in missing):
            (site / entry.name).symlink_to(entry)
    root = Path(qdesk.__file__).parents[1]
    run = subprocess.run(
        [sys.executable, "-S", "-m", "qdesk", "train", "--mlruns", tmp_path / "mlruns"],
        env={**os.environ, "PYTHONPATH": f"{site}:{root}"},
        capture_output=True,
        text=True,
        check=False,
    )
    names = " ".join(missing)
    assert run.returncode == 3
    assert run.stdout == ""
    assert run.stderr == f"qdesk train needs {names}, not installed here: pip install {names}\n"
    assert not (tmp_path / "mlruns").exists()


def test_the_door_itself(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for arguments, code, text in (
        ([], 0, "usage: qdesk COMMAND"),
        (["--help"], 0, "usage: qdesk COMMAND"),
        (["--version"], 0, "qdesk 0.1.0"),
        (["fly"], 2, "fly is not a command of qdesk"),
    ):
        monkeypatch.setattr(sys, "argv", ["qdesk", *arguments])
        assert qdesk.main() == code
        assert text in "".join(capsys.readouterr())
