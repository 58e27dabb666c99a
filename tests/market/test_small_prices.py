"""Prices of any size: the engine agrees with the contract below a cent, and figures keep their digits."""

from pathlib import Path

import numpy as np
import pytest

from durable.settings import BadSettings
from market.bars import Bars
from market.findings import amount
from market.synthetic import RandomWalk
from tests.support.bars import bars_of
from tests.support.commands import LOOSE, said
from tests.support.desks import bundle_for
from tests.support.lines import replay
from trading.account import Account
from trading.journal import records
from trading.venues.quotes import scale_of


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    made = bundle_for(RandomWalk(sigma=0.01).bars(500, seed=5), seed=8)
    folder = tmp_path / "bundle"
    folder.mkdir()
    made.save_into(folder)
    return folder


def cheap(price: float) -> Bars:
    close = price * np.exp(np.cumsum(np.random.default_rng(2).normal(0, 0.01, 400)))
    return bars_of(np.append(close[:1], close[:-1]), close)


@pytest.mark.parametrize("price", [1.1e-6, 8e-6, 1e-10, 0.004, 0.7, 1.3, 9e4])
def test_the_engine_charges_and_fills_as_the_contract_says_at_any_price(
    tmp_path: Path, bundle: Path, capsys: pytest.CaptureFixture[str], price: float
) -> None:
    path = tmp_path / "cheap.parquet"
    cheap(price).table.write_parquet(path)
    found = {}
    last = {}
    for engine in ("simulated", "nautilus"):
        out, _ = said(
            capsys, "backtest", bundle, "--bars", path, "--engine", engine, "--fees", "0.1%",
            "--desk", tmp_path / engine, *LOOSE, "--limits.max-faults", "none",
        )  # fmt: skip
        found[engine] = list(records(tmp_path / engine / "journal.jsonl"))
        account = Account()
        replay(account, found[engine])
        last[engine] = account.equity
        equity = out.split("equity")[1].split()[0].replace(",", "")
        assert float(equity) == pytest.approx(account.equity, rel=1e-5)
        assert len(equity.replace(".", "").lstrip("0")) >= 6
    fills = {name: [e for e in each if e["type"] == "fill"] for name, each in found.items()}
    assert len(fills["simulated"]) > 20
    for one, other in zip(fills["simulated"], fills["nautilus"], strict=True):
        assert other["price"] == pytest.approx(one["price"], rel=1e-9)
        assert other["cost"] == pytest.approx(one["cost"], rel=1e-5)
        assert one["cost"] == pytest.approx(0.001 * one["price"] * one["size"])
    assert last["nautilus"] == pytest.approx(last["simulated"], rel=1e-5)


def test_prices_too_far_apart_for_the_engine_are_refused() -> None:
    rows = [{"low": 1e-9, "high": 1e-9, "open": 1e-9, "close": 1e-9}, {"low": 50.0, "high": 50.0}]
    with pytest.raises(BadSettings, match="from 1e-09 to 50 lie too far apart"):
        scale_of(rows)
    assert scale_of([{"low": 1.0, "high": 9e8}]) == 1


@pytest.mark.parametrize(
    "value, text",
    [
        (1.32375, "1.32375"),
        (0.0000011, "0.00000110000"),
        (1e-10, "0.000000000100000"),
        (7567.1234, "7,567.12"),
        (123_456_789.126, "123,456,789.13"),
        (-0.0312, "-0.0312000"),
        (0.0, "0.00"),
        (float("nan"), "nan"),
    ],
)
def test_amounts_keep_their_significant_digits(value: float, text: str) -> None:
    assert amount(value) == text


@pytest.mark.parametrize(
    "quantity, cash, sentence",
    [
        ("1e-7", None, "a position is 1e-07 to 1e-07 units; NautilusTrader takes 0.01"),
        ("1e10", None, "a position is 1e+10 to 1e+10 units"),
        ("1", "1e30", "is more than NautilusTrader can hold"),
    ],
)
def test_positions_that_the_engine_cannot_hold_are_refused(
    tmp_path: Path,
    bundle: Path,
    capsys: pytest.CaptureFixture[str],
    quantity: str,
    cash: str | None,
    sentence: str,
) -> None:
    path = tmp_path / "bars.parquet"
    cheap(100.0).table.write_parquet(path)
    given = ["backtest", bundle, "--bars", path, "--engine", "nautilus", "--desk", tmp_path / "d"]
    more = [] if cash is None else ["--trade.cash", cash]
    _, err = said(capsys, *given, "--trade.quantity", quantity, *more, code=2)
    assert sentence in err
    assert "--engine simulated" in err
