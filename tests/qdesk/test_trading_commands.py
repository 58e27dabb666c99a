"""`qdesk backtest`, `paper`, `kill` and `resume` as typed, and a journal that trains an agent."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from rich.console import Console

from market.bars import load_bars
from market.events.journal import is_journal
from market.source import bars_from
from market.synthetic import RandomWalk
from qdesk.data import run
from tests.support.commands import LOOSE, said
from tests.support.desks import bundle_for
from tests.support.parity import bars_named
from tests.support.synthetic_events import write_event_log
from tests.support.trained import SMALL, Trained, runs_of
from trading.journal import records

WALK = "synthetic:walk?sigma=0.01&seed=5&bars=1500"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    made = bundle_for(
        RandomWalk(sigma=0.01).bars(500, seed=5), seed=8, settings={"learner": {"gamma": 0.9}}
    )
    folder = tmp_path / "bundle"
    folder.mkdir()
    made.save_into(folder)
    return folder


def test_both_engines_say_the_same(
    tmp_path: Path, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = {}
    for engine in ("simulated", "nautilus"):
        where = tmp_path / engine
        out, err = said(
            capsys, "backtest", bundle, "--bars", WALK, "--engine", engine, "--fees", "5bp",
            "--desk", where, *LOOSE,
        )  # fmt: skip
        assert err == ""
        assert "ACTIVE" in out
        fills = [each for each in records(where / "journal.jsonl") if each["type"] == "fill"]
        found[engine] = fills
        for each in fills[:20]:
            assert each["cost"] == pytest.approx(0.0005 * each["price"] * each["size"], abs=1e-6)
    assert len(found["simulated"]) > 20
    for one, other in zip(found["simulated"], found["nautilus"], strict=True):
        assert (one["side"], one["size"], one["time"]) == tuple(
            other[name] for name in ("side", "size", "time")
        )
        assert one["price"] == pytest.approx(other["price"], rel=1e-8)


def test_latency_fills_at_the_next_open(
    tmp_path: Path, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said(
        capsys, "backtest", bundle, "--bars", WALK, "--engine", "nautilus", "--latency", "250ms",
        "--desk", tmp_path / "d", *LOOSE,
    )  # fmt: skip
    found = list(records(tmp_path / "d" / "journal.jsonl"))
    opens = {each["closed"]: each["open"] for each in found if each["type"] == "bar"}
    times = sorted(opens)
    sent = {each["order"]: each["time"] for each in found if each.get("status") == "sent"}
    fills = [each for each in found if each["type"] == "fill"]
    assert len(fills) > 20
    for fill in fills:
        after = times[times.index(sent[fill["order"]]) + 1]
        assert fill["price"] == pytest.approx(opens[after], rel=1e-8)


def test_an_event_log_with_books_is_traded_in_the_engine(
    tmp_path: Path, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "log.jsonl"
    write_event_log(log, 20_000, seed=2, instrument="MADE", mean_pause=0.05)
    arguments = ["--events", str(log), "--every", "5s", "--trade.quantity", "0.1", *LOOSE]
    said(
        capsys, "backtest", bundle, *arguments, "--engine", "nautilus", "--desk", tmp_path / "a",
        "--policy.max-feature", "1e9", "--latency", "50ms",
    )  # fmt: skip
    said(
        capsys, "paper", bundle, *arguments, "--desk", tmp_path / "b", "--policy.max-feature", "1e9"
    )
    seen = {}
    for name in ("a", "b"):
        found = list(records(tmp_path / name / "journal.jsonl"))
        assert any(each["type"] == "fill" for each in found)
        seen[name] = [each["close"] for each in found if each["type"] == "bar"]
        assert not any("refused" in each for each in found if each["type"] == "bar")
    out = tmp_path / "converted.parquet"
    said(capsys, "data", "convert", log, "--every", "5s", "--out", out)
    assert seen["a"] == seen["b"] == pl.read_parquet(out)["close"].to_list()


def test_standard_input_is_traded_and_bad_lines_are_passed_over(
    tmp_path: Path, bundle: Path
) -> None:
    log = tmp_path / "log.jsonl"
    write_event_log(log, 5_000, seed=2, instrument="MADE", mean_pause=0.05)
    lines = log.read_bytes().splitlines(keepends=True)
    lines[100:100] = [b"not json\n", lines[3], b'{"time":1,"type":"trade","instrument":"MADE"}\n']
    arguments = ["--events", "-", "--every", "5s", "--pace", "max", "--trade.quantity", "0.1"]
    command = [sys.executable, "-m", "qdesk", "paper", str(bundle), *arguments, *LOOSE]
    done = subprocess.run(
        [*command, "--desk", str(tmp_path / "d"), "--policy.max-feature", "1e9"],
        input=b"".join(lines), capture_output=True, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.count(b"passed over: line ") == 3
    found = list(records(tmp_path / "d" / "journal.jsonl"))
    out = tmp_path / "converted.parquet"
    data_rows = [each["close"] for each in found if each["type"] == "bar"]
    assert run(["convert", str(log), "--every", "5s", "--out", str(out)], Console(quiet=True)) == 0
    assert data_rows == pl.read_parquet(out)["close"].to_list()


def test_nothing_is_decided_on_live_input_from_the_past(tmp_path: Path, bundle: Path) -> None:
    """Standard input is live unless told otherwise: prices of 2020 are years old by the clock."""
    log = tmp_path / "log.jsonl"
    write_event_log(log, 5_000, seed=2, instrument="MADE", mean_pause=0.05)
    command = [
        sys.executable,
        "-m",
        "qdesk",
        "paper",
        str(bundle),
        "--events",
        "-",
        "--every",
        "5s",
    ]
    done = subprocess.run(
        [*command, "--desk", str(tmp_path / "d"), "--policy.max-feature", "1e9", *LOOSE],
        input=log.read_bytes(), capture_output=True, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"")
    found = list(records(tmp_path / "d" / "journal.jsonl"))
    kinds = {each["type"] for each in found}
    assert "bar" in kinds
    assert not kinds & {"order", "fill", "decision"}
    assert [each["type"] for each in found].count("gap") == 1


@pytest.mark.parametrize(
    "arguments, code, sentence",
    [
        (["paper", "X"], 2, "qdesk paper: give either --bars or --events"),
        (["paper", "qdesk-none", "--bars", WALK], 2, "qdesk-none: no model that can be trusted"),
        (["paper", "BUNDLE", "--bars", "nothing.csv"], 2, "nothing.csv"),
        (["paper", "BUNDLE", "--events", "nothing.jsonl"], 2, "nothing.jsonl: no such file"),
        (["paper", "BUNDLE", "--events", "-", "--every", "soon"], 2, "--every is 'soon'"),
        (
            ["paper", "SPREAD", "--bars", WALK],
            2,
            "qdesk-test needs bid, ask, which these bars do not have",
        ),
        (["paper", "BUNDLE", "--bars", WALK, "--pace", "fast"], 2, "qdesk paper: pace is 'fast'"),
        (
            ["paper", "BUNDLE", "--bars", WALK, "--limits.max-position", "-1"],
            2,
            "qdesk paper: limits.max_position is '-1' (--limits.max-position on the command line): "
            "input should be greater than 0",
        ),
        (["paper", "BUNDLE", "--bars", WALK, "--limit.x", "1"], 2, "see `qdesk paper --help`"),
        (
            ["backtest", "BUNDLE", "--bars", WALK, "--latency", "250ms"],
            2,
            "--latency does nothing without --engine nautilus",
        ),
        (["backtest", "BUNDLE", "--events", "-"], 2, "a backtest reads a file"),
        (["kill"], 2, "name either the model that trades, or the --desk"),
        (["kill", "--desk", "nowhere"], 2, "nowhere: no desk is here"),
        (["resume", "--desk", ".", "--reason", " "], 2, "--reason is empty"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_sentence(
    tmp_path: Path,
    bundle: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    code: int,
    sentence: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    places = {"BUNDLE": str(bundle), "SPREAD": str(bundle / "spread")}
    if "SPREAD" in arguments:
        (bundle / "spread").mkdir()
        bundle_for(bars_named("quotes"), ("spread",)).save_into(bundle / "spread")
    given = [places.get(each, each) for each in arguments]
    out, err = said(capsys, *given, code=code)
    assert out == ""
    assert sentence in err
    assert err.count("\n") == 1
    assert {each.name for each in tmp_path.iterdir()} == {"bundle"}


def test_a_config_file_and_the_seed_variables(
    tmp_path: Path,
    bundle: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = tmp_path / "desk.toml"
    config.write_text("pace = 'max'\n[limits]\nmax_position = 0.5\n[policy]\nexplore = true\n")
    monkeypatch.setenv("DQN_EPSILON_START", "0.5")
    monkeypatch.setenv("DQN_EPSILON_MIN", "0.4")
    said(
        capsys, "paper", bundle, "--bars", WALK, "--config", config, "--limits.max-order-quantity",
        "0.7", "--trade.quantity", "0.5", "--desk", tmp_path / "d", *LOOSE, "--limits.max-faults", "none",
    )  # fmt: skip
    found = list(records(tmp_path / "d" / "journal.jsonl"))
    settings = found[0]["settings"]
    assert settings["limits"]["max_position"] == 0.5
    assert settings["limits"]["max_order_quantity"] == 0.7
    assert settings["epsilon"]["start"] == 0.5
    decisions = [each for each in found if each["type"] == "decision"]
    explored = np.mean([each.get("explored", False) for each in decisions])
    assert 0.43 < explored < 0.5  # it decays from 0.5 by 0.9999 a decision
    sizes = {each["size"] for each in found if each["type"] == "fill"}
    assert sizes == {0.5}
    config.write_text("limits = 3\n[nonsense]\n")
    _, err = said(capsys, "paper", bundle, "--bars", WALK, "--config", config, code=2)
    assert err.count("\n") == 1


def test_a_journal_trains_an_agent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], trained: Trained
) -> None:
    """The walk-through of docs/trading.md: train, trade on paper, convert, train on what was seen."""
    trained("--preset", "linear", "--steps", "500", *SMALL[:4])
    desk, out = tmp_path / "desk", tmp_path / "seen.parquet"
    said(
        capsys, "paper", "qdesk-linear@candidate", "--bars", SMALL[1], "--mlruns", trained.mlruns,
        "--desk", desk, *LOOSE, "--limits.price-collar", "none", "--policy.max-feature", "1e6",
        "--trade.cash", "100000",
    )  # fmt: skip
    journal = desk / "journal.jsonl"
    assert is_journal(journal)
    said(capsys, "data", "convert", journal, "--out", out)
    found = pl.read_parquet(out)
    original = bars_from(SMALL[1]).table
    assert found["close"].to_list() == original["close"].to_list()
    assert load_bars(out).table["time"].to_list() == original["time"].to_list()
    whole = found.filter(pl.col("reward").is_not_null())
    assert len(whole) == len(found) - 2  # the first bar has no features, the last no next one
    assert set(whole["discount"]) == {0.99}
    told = list(records(journal))
    decided = [each for each in told if each["type"] == "decision"]
    assert whole["state"][5].to_list() == decided[5]["state"]
    assert whole["next_state"][5].to_list() == decided[6]["state"]
    assert whole["reward"].sum() == pytest.approx(decided[-1]["equity"] - decided[0]["equity"])
    trained("--preset", "linear", "--steps", "500", "--bars", str(out), *SMALL[2:4])
    run = runs_of(trained)[-1]
    assert run.data.params["bars"] == str(out)
    said(capsys, "data", "check", journal)
    out_csv = tmp_path / "seen.csv"
    said(capsys, "data", "convert", journal, "--out", out_csv)
    assert load_bars(out_csv).table["close"].to_list() == original["close"].to_list()
    _, err = said(capsys, "data", "convert", journal, "--every", "5m", "--out", out, code=2)
    assert "a journal has bars of its own" in err


def test_trading_needs_no_tensorflow(tmp_path: Path, bundle: Path) -> None:
    """With an import of TensorFlow made to fail, paper and the engine work, and load nothing of it."""
    broken = tmp_path / "broken"
    for name in ("tensorflow", "keras"):
        (broken / name).mkdir(parents=True)
        (broken / name / "__init__.py").write_text("raise ImportError('no TensorFlow here')\n")
    code = (
        "import sys, qdesk\n"
        f"sys.path.insert(0, {str(broken)!r})\n"
        "codes = []\n"
        "for command in (['paper'], ['backtest', '--engine', 'nautilus']):\n"
        f"    sys.argv = ['qdesk', command[0], {str(bundle)!r}, '--bars', {WALK!r}, '--desk',"
        f" {str(tmp_path)!r} + command[0], *command[1:], *{LOOSE!r}]\n"
        "    codes.append(qdesk.main())\n"
        "print(codes, {'tensorflow', 'keras', 'mlflow', 'matplotlib'} & set(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    assert done.stdout.splitlines()[-1] == "[0, 0] set()"
