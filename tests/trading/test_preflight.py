"""Before the first decision: the market of training, limits that allow a position, features in range."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from durable.settings import BadSettings
from market.bars import Bars
from market.synthetic import RandomWalk
from models.manifest import TrainedMarket
from tests.support.bars import bars_of
from tests.support.commands import LOOSE, said
from tests.support.desks import bundle_for
from tests.support.trained import SMALL, Trained
from trading.journal import records
from trading.preflight import MarketFacts, blocked, differences
from trading.risk import Limits
from trading.settings import BacktestSettings
from trading.settings import load as load_settings_of

WALK = "synthetic:walk?sigma=0.01&seed=5&bars=400"
BTC = TrainedMarket(
    instrument="btcusd_30m", interval=1800.0, calendar="24/7", lowest=3000.0, highest=19_000.0,
    ranges={"log_price": [-2.0, 2.0]},
)  # fmt: skip
NONE = MarketFacts(None, None, None, None)


@pytest.mark.parametrize(
    "facts, found",
    [
        (NONE, []),
        (NONE._replace(instrument="BTC-USD"), []),
        (NONE._replace(instrument="btcusd_1h"), []),
        (NONE._replace(instrument="eurusd_1h"), ["instrument eurusd_1h, trained on btcusd_30m"]),
        (NONE._replace(interval=3600.0), ["bars of 3600 s, trained on bars of 1800 s"]),
        (NONE._replace(by_time=False), ["bars by trades or volume, trained on bars of 1800 s"]),
        (NONE._replace(instrument="30m"), ["instrument 30m, trained on btcusd_30m"]),
        (
            NONE._replace(instrument="\u884c\u60c5"),
            ["instrument \u884c\u60c5, trained on btcusd_30m"],
        ),
        (NONE._replace(calendar="sessions"), ["calendar sessions, trained on 24/7"]),
        (NONE._replace(closes=np.array([96_000.0])), []),
        (NONE._replace(closes=np.array([1.1])), ["prices around 1.1, trained on 3000 to 19000"]),
        (NONE._replace(closes=np.array([2e5])), ["prices around 200000, trained on 3000 to 19000"]),
    ],
)
def test_a_market_that_differs_from_training_is_named(facts: MarketFacts, found: list[str]) -> None:
    assert differences(BTC, facts) == found


@pytest.fixture
def hourly(tmp_path: Path) -> Path:
    """A bundle of a model that was trained on 30-minute bars of BTC/USD."""
    walk = RandomWalk(sigma=0.01).bars(500, seed=5)
    made = bundle_for(walk, seed=8)
    origin = made.manifest.origin.model_copy(update={"market": BTC})
    manifest = made.manifest.model_copy(update={"origin": origin})
    folder = tmp_path / "bundle"
    folder.mkdir()
    type(made)(manifest, made.weights).save_into(folder)
    return folder


def test_a_model_of_bitcoin_does_not_trade_the_euro_without_a_word(
    tmp_path: Path, hourly: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["backtest", hourly, "--bars", "eurusd_1h", "--desk", tmp_path / "desk"]
    out, err = said(capsys, *arguments, code=2)
    assert out == ""
    assert err.count("\n") == 1
    for each in (
        "instrument eurusd_1h",
        "bars of 3600 s",
        "calendar sessions",
        "prices around 1.1",
    ):
        assert each in err
    assert "--accept-other-market" in err
    assert not (tmp_path / "desk").exists()
    out, err = said(capsys, *arguments, "--accept-other-market", code=0)
    assert err == ""
    assert "another market than in training: instrument eurusd_1h" in out
    assert "accepted" in out


def test_the_same_market_trades_without_a_word(
    tmp_path: Path, hourly: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, _ = said(
        capsys, "backtest", hourly, "--bars", "btcusd_30m", "--desk", tmp_path / "desk",
        code=1,
    )  # fmt: skip
    assert "bars not believed" not in out
    assert "another market" not in out
    assert "could not be checked" not in out


def test_a_live_market_is_looked_at_with_its_first_price(tmp_path: Path, hourly: Path) -> None:
    lines = "".join(
        json.dumps(
            {
                "time": (1_700_000_000 + 1800 * n) * 1000,
                "type": "trade",
                "instrument": "BTC-USD",
                "price": 1.1,
                "size": 1.0,
            }
        )
        + "\n"
        for n in range(3)
    )
    done = subprocess.run(
        [sys.executable, "-m", "qdesk", "paper", str(hourly), "--events", "-", "--every", "30m",
         "--instrument", "BTC-USD", "--pace", "max", "--desk", str(tmp_path / "desk")],
        input=lines, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2
    assert "prices around 1.1, trained on 3000 to 19000" in done.stderr
    kinds = {each["type"] for each in records(tmp_path / "desk" / "journal.jsonl")}
    assert kinds == {"session"}


def test_the_instrument_that_events_state_is_compared(
    tmp_path: Path, hourly: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "log.jsonl"
    event = {"type": "trade", "instrument": "EUR/USD", "price": 5000.0, "size": 1.0}
    times = [(1_700_000_000 + 900 * n) * 1000 for n in range(40)]
    log.write_text("".join(json.dumps(event | {"time": time}) + "\n" for time in times))
    for command in ("backtest", "paper"):
        given = [command, hourly, "--events", log, "--every", "30m", "--desk", tmp_path / command]
        _, err = said(capsys, *given, code=2)
        assert "instrument EUR/USD, trained on btcusd_30m" in err


def without_facts(tmp_path: Path) -> Path:
    """A bundle that does not say which market it was trained on."""
    folder = tmp_path / "bundle"
    folder.mkdir()
    bundle_for(RandomWalk(sigma=0.01).bars(500, seed=5), seed=8).save_into(folder)
    return folder


def test_a_bundle_without_facts_trades_and_it_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = without_facts(tmp_path)
    out, _ = said(capsys, "backtest", folder, "--bars", WALK, "--desk", tmp_path / "d", code=1)
    assert "does not say which market it was trained on, so that could not be checked" in out


def test_training_writes_the_market_and_the_ranges_of_features_into_the_bundle(
    tmp_path: Path, trained: Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    """And a feature that leaves its range is said once, and counted."""
    trained("--preset", "linear", "--steps", "500", *SMALL[:4])
    desk = tmp_path / "desk"
    given = ["paper", "qdesk-linear@candidate", "--mlruns", trained.mlruns, "--desk", desk]
    out, _ = said(capsys, *given, "--bars", SMALL[1], *LOOSE, "--trade.cash", "100000")
    assert "another market" not in out
    (session,) = [each for each in records(desk / "journal.jsonl") if each["type"] == "session"]
    assert session["costs"]["fee_rate"] == 0.001
    assert session["limits"]["stale_seconds"] == 180
    _, err = said(capsys, *given[:-1], tmp_path / "other", "--bars", "eurusd_1h", code=2)
    assert "bars of 3600 s, trained on bars of 60 s" in err


def test_a_feature_far_outside_its_range_in_training_is_said_once_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    walk = RandomWalk(sigma=0.01).bars(500, seed=5)
    made = bundle_for(walk, seed=8)
    facts = TrainedMarket(
        instrument="walk", interval=60.0, calendar="24/7", lowest=50.0, highest=200.0,
        ranges={"price_change": [-1.0, 1.0]},
    )  # fmt: skip
    origin = made.manifest.origin.model_copy(update={"market": facts})
    folder = tmp_path / "bundle"
    folder.mkdir()
    manifest = made.manifest.model_copy(update={"origin": origin})
    type(made)(manifest, made.weights).save_into(folder)
    rng = np.random.default_rng(3)
    close = 100 * np.exp(np.cumsum(rng.normal(0, 0.01, 300)))
    close[100:] *= 1.045  # once by 4.5 deviations more than usual
    bars = bars_of(np.append(close[:1], close[:-1]), close)
    path = tmp_path / "walk.parquet"
    bars.table.write_parquet(path)
    out, _ = said(
        capsys, "backtest", folder, "--bars", path, "--desk", tmp_path / "d",
        "--limits.max-drawdown", "none", "--limits.max-daily-loss", "none",
    )  # fmt: skip
    assert out.count("price_change is far outside its range in training") == 1
    assert "features outside their range in training  price_change 1 decisions" in out


def test_events_of_a_second_instrument_end_it_on_record(tmp_path: Path) -> None:
    """The position stays, is said, and stands in the journal with the reason."""
    folder = without_facts(tmp_path)
    close = RandomWalk(sigma=0.01).bars(200, seed=5).table["close"]
    events = [
        {"time": 1_700_000_000_000 + 60_000 * n, "type": "trade", "instrument": "A", "price": price}
        for n, price in enumerate(close)
    ]
    events.append({**events[-1], "instrument": "B"})
    lines = "".join(json.dumps({**each, "size": 1.0}) + "\n" for each in events)
    desk = tmp_path / "desk"
    done = subprocess.run(
        [sys.executable, "-m", "qdesk", "paper", str(folder), "--events", "-", "--every", "1m",
         "--pace", "max", "--desk", str(desk), "--policy.max-feature", "1e9", *LOOSE],
        input=lines, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 2
    assert "of A and B; name the one to trade with --instrument" in done.stderr
    last = list(records(desk / "journal.jsonl"))[-1]
    assert last["type"] == "stop"
    assert last["position"] != 0
    assert last["reason"] == done.stderr.removesuffix("\n")
    assert f"a position of {last['position']:+g} is still open" in done.stdout


# --- limits that never let a position be opened ----------------------------------------------


def steady(path: Path, price: float, last: float | None = None) -> Path:
    noise = np.random.default_rng(1).normal(0, 0.01, 200)
    close = np.linspace(price, last or price, 200) * np.exp(noise)
    bars_of(np.append(close[:1], close[:-1]), close).table.write_parquet(path)
    return path


@pytest.mark.parametrize(
    "arguments, limit",
    [
        (["--limits.max-notional", "100000"], "limits.max_notional"),
        (["--limits.max-order-notional", "100000"], "limits.max_order_notional"),
        (["--limits.max-position", "0.5"], "limits.max_position"),
        (["--limits.max-order-quantity", "0.5"], "limits.max_order_quantity"),
        (["--execution.venue-max-quantity", "0.5"], "execution.venue_max_quantity"),
        (["--trade.quantity", "3", "--limits.max-position", "1"], "limits.max_position"),
    ],
)
@pytest.mark.parametrize("command", ["backtest", "paper"])
def test_a_desk_that_could_never_trade_does_not_start(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    command: str,
    arguments: list[str],
    limit: str,
) -> None:
    folder = without_facts(tmp_path)
    path = steady(tmp_path / "dear.parquet", 150_000.0)
    desk = tmp_path / "desk"
    _, err = said(capsys, command, folder, "--bars", path, "--desk", desk, *arguments, code=2)
    assert f"and {limit} allows" in err
    assert "every order would be refused" in err
    assert not desk.exists()


def test_where_part_of_the_bars_is_affected_it_starts_and_says_which(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = without_facts(tmp_path)
    path = steady(tmp_path / "rising.parquet", 96_000.0, 130_000.0)
    out, _ = said(
        capsys, "backtest", folder, "--bars", path, "--limits.max-notional", "100000",
        "--desk", tmp_path / "desk", "--policy.max-feature", "1e9", *LOOSE,
    )  # fmt: skip
    assert re.search(
        r"orders that open one are refused at 1\d\d of 200 bars, first at bar \d+", out
    )
    assert "refused by" in out
    assert "max_notional" in out.split("refused by")[1].splitlines()[0]


def test_a_desk_that_goes_on_is_measured_by_what_its_account_began_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Funded at 100,000: ten times that may be held, whatever the price is when it starts again."""
    folder = without_facts(tmp_path)
    given = ["paper", folder, "--desk", tmp_path / "desk", *LOOSE]
    market = steady(tmp_path / "market.parquet", 100_000.0)
    out, _ = said(capsys, *given, "--bars", market)
    assert "are refused" not in out
    steady(market, 1_300_000.0)
    later = pl.read_parquet(market).with_columns(pl.col("time") + pl.duration(days=1))
    later.write_parquet(market)
    out, _ = said(capsys, *given, "--bars", market, code=1)  # nor is such a price believed at first
    assert "are refused at 200 of 200 bars, first at bar 1" in out
    given[given.index("--desk") + 1] = tmp_path / "fresh"
    out, _ = said(capsys, *given, "--bars", market)
    assert "are refused" not in out


def test_what_blocks_a_position_depends_on_the_funding_by_default() -> None:
    from trading.account import Account

    limits = Limits().resolved(1.0, 60.0)
    closes = np.array([100.0, 900.0, 1100.0])
    found = blocked(closes, np.ones(3), limits, Account(funded=100.0), None)
    assert found is not None
    assert found.reason == "a position of 1 costs up to 1,100, and limits.max_notional allows 1,000"
    assert found.prices.tolist() == [False, False, True]
    assert blocked(closes[:2], np.ones(2), limits, Account(funded=100.0), None) is None


# --- a backtest that ignores its bars --------------------------------------------------------


@pytest.mark.parametrize("bad, code", [(4, 0), (30, 1)])
def test_a_backtest_that_passes_over_more_than_a_twentieth_of_its_bars_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], bad: int, code: int
) -> None:
    folder = without_facts(tmp_path)
    close = np.full(300, 100.0) + np.sin(np.arange(300))
    close[50 : 50 + 4 * bad : 4] *= 3
    path = tmp_path / "spiky.parquet"
    made: Bars = bars_of(np.append(close[:1], close[:-1]), close)
    made.table.write_parquet(path)
    arguments: list[Any] = ["--limits.max-faults", "none", "--limits.max-drawdown", "none"]
    out, _ = said(
        capsys, "backtest", folder, "--bars", path, "--desk", tmp_path / "d", *arguments,
        "--limits.max-daily-loss", "none", "--limits.max-volatility", "none", code=code,
    )  # fmt: skip
    assert re.search(rf"bars not believed +{bad}\b", out)
    assert ("bars were not believed, more than 5%" in out) == (code == 1)


def test_what_is_as_by_default_is_not_refused_for_another_engine() -> None:
    command = ["bundle", "--bars", "btcusd_30m", "--engine", "nautilus", "--costs.fill"]
    assert load_settings_of(BacktestSettings, "backtest", [*command, "none"]).costs.fill is None
    with pytest.raises(
        BadSettings, match=r"--costs.fill does nothing with --engine nautilus: without"
    ):
        load_settings_of(BacktestSettings, "backtest", [*command, "close"])


def test_another_version_on_the_same_desk_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    walk = RandomWalk(sigma=0.01).bars(500, seed=5)
    for seed in (8, 9):
        (tmp_path / str(seed)).mkdir()
        bundle_for(walk, seed=seed).save_into(tmp_path / str(seed))
    command = ["--bars", "synthetic:walk?sigma=0.01&seed=5&bars=300", "--desk", tmp_path / "desk"]
    out, _ = said(capsys, "paper", tmp_path / "8", *command, *LOOSE)
    assert "traded here before" not in out
    out, _ = said(capsys, "paper", tmp_path / "8", *command, *LOOSE)
    assert "traded here before" not in out
    out, _ = said(capsys, "paper", tmp_path / "9", *command, *LOOSE)
    assert re.search(
        r"bundle [0-9a-f]{8} traded here before; from now on bundle [0-9a-f]{8} does", out
    )


def test_the_folder_of_the_environment_is_that_of_desks_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QDESK_MLRUNS", str(tmp_path / "mine"))
    (tmp_path / "mine" / "desks" / "a-desk").mkdir(parents=True)
    out, _ = said(capsys, "kill", "a-desk", "--reason", "a drill")
    assert f"{tmp_path}/mine/desks/a-desk: HALTED" in out
    command = ["bundle", "--bars", "btcusd_30m"]
    assert load_settings_of(BacktestSettings, "backtest", command).mlruns == tmp_path / "mine"
