"""`qdesk data`: what it prints, its exit codes, and that a signal leaves nothing behind."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import qdesk
from market.bars import load_bars
from tests.support.synthetic_events import write_event_log


def run(*arguments: object) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["qdesk", "data", *map(str, arguments)])
        patch.setenv("COLUMNS", "80")
        return qdesk.main()


def test_convert_says_what_became_of_every_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log, out = tmp_path / "log.jsonl", tmp_path / "bars.parquet"
    write_event_log(log, 3000, seed=1, faults={"duplicate": 0.01}, mean_pause=0.5)
    assert run("convert", log, "--out", out, "--max-rejected", "0.02") == 0
    said = capsys.readouterr().out
    lines = len(log.read_text().splitlines())
    assert f"lines                  {lines:,}" in said
    numbers = re.findall(r"^  ([a-z: ]+?) +([\d,]+)", said, re.MULTILINE)
    assert sum(int(count.replace(",", "")) for _, count in numbers) == lines
    assert "BTCUSD" in said
    assert "nanoseconds" in said
    assert "bars.parquet.rejected.jsonl" in said
    assert max(len(line) for line in said.splitlines()[:-1]) <= 80
    assert len(load_bars(out)) > 20
    assert run("convert", log, "--out", out) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "--max-rejected is 0.10%" in error


def test_event_log_to_csv_writes_beside_the_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_event_log(tmp_path / "log.jsonl", 2000, seed=1, mean_pause=0.5)
    assert run("event-log-to-csv", tmp_path / "log.jsonl") == 0
    assert len(load_bars(tmp_path / "log.bars.csv")) > 10
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.bars.csv", "log.jsonl"]
    (tmp_path / "log.bars.csv").unlink()
    text = [
        f"{event['time']},{event['type']},{event['instrument']},{event['price']},{event['size']}"
        for event in map(json.loads, (tmp_path / "log.jsonl").read_text().splitlines())
        if event["type"] == "trade"
    ]
    (tmp_path / "day.csv").write_text("\n".join(["time,type,instrument,price,size", *text]))
    assert run("event-log-to-csv", tmp_path / "day.csv", "--every", "5m") == 0
    assert len(load_bars(tmp_path / "day.bars.csv")) > 2


def test_check_reports_and_says_by_its_code_whether_data_can_be_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("check", "btcusd_30m", "eurusd_1h") == 0
    said = capsys.readouterr().out
    assert "35,019" in said
    assert re.search(r"^gaps +9 +bars missing: 22", said, re.MULTILINE)
    table = load_bars("eurusd_1h").table
    table.vstack(table[:1]).write_csv(tmp_path / "twice.csv")
    assert run("check", tmp_path / "twice.csv") == 2
    said = " ".join(capsys.readouterr().out.split())
    assert "duplicate times 1 row 6226" in said
    assert "cannot be used: " in said
    assert run("check", tmp_path / "none.csv", "eurusd_1h") == 2  # and still reports on the other
    said, error = capsys.readouterr()
    assert "no such file" in error
    assert error.count("\n") == 1
    assert "6,225" in said


@pytest.mark.parametrize("arguments", [[], ["convert"], ["convert", "x.jsonl"], ["fly"]])
def test_arguments_that_are_none(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        run(*arguments)
    assert stopped.value.code == 2
    assert "usage: qdesk data" in capsys.readouterr().err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_nothing_half_written(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    log = tmp_path / "log.jsonl"
    os.mkfifo(log)
    process = subprocess.Popen(
        [sys.executable, "-m", "qdesk", "data", "convert", log, "--out", tmp_path / "out.csv"],
        stderr=subprocess.PIPE,
        text=True,
    )
    with log.open("wb"):  # waits until the conversion reads
        assert len(list(tmp_path.glob(".converting-*"))) == 1
        process.send_signal(number)
        _, error = process.communicate()
    assert process.returncode == code
    assert sorted(error.splitlines()) == [
        f"qdesk data: {number.name}: stopping; once more ends it at once",
        f"qdesk data: stopped by {number.name}",
    ]
    assert list(tmp_path.iterdir()) == [log]
