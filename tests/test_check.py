"""Reports on data: every kind of oddity is found, counted and placed."""

import json
from datetime import timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from market.bars import BarsError
from market.check import check
from market.convert import convert
from market.findings import Report
from market.synthetic import RandomWalk
from market.synthetic_events import FAULTS, START_NS, write_event_log


def found(report: Report) -> dict[str, int]:
    return {finding.name: finding.count for finding in report.findings}


def test_good_bars(tmp_path: Path) -> None:
    report = check("eurusd_1h")
    assert (report.kind, report.refusal) == ("bars", "")
    assert report.contents["interval"] == "3600 s"
    assert found(report)["duplicate times"] == found(report)["out of order"] == 0
    assert found(report)["gaps"] > 50  # the weekends of a year


def test_every_oddity_of_bars_is_counted(tmp_path: Path) -> None:
    table = (
        RandomWalk()
        .bars(500, seed=1)
        .table.with_columns(bid=pl.col("low") - 0.01, ask=pl.col("high"))
    )
    rows = table.with_row_index("n")
    n = pl.col("n")
    rows = rows.with_columns(
        close=pl.when(n == 99)
        .then(0.0)
        .when(n == 199)
        .then(pl.col("close") * 2)
        .otherwise("close"),
        volume=pl.when(n == 249).then(None).otherwise("volume"),
        bid=pl.when(n == 299).then(pl.col("ask") + 1).when(n == 300).then("ask").otherwise("bid"),
        time=pl.col("time") + pl.when(n >= 400).then(timedelta(minutes=30)).otherwise(timedelta(0)),
    )
    rows = pl.concat([rows[:350], rows[349:450], rows[460:], rows[120:121]]).drop("n")
    path = tmp_path / "odd.parquet"
    rows.write_parquet(path)
    report = check(str(path))
    assert report.rows == 492
    assert report.refusal.startswith(f"{path} row 250: volume is missing")
    counts = found(report)
    assert counts.pop("outliers") >= 2  # there and back
    assert counts == {
        "unreadable": 1,
        "zero or negative prices": 1,
        "duplicate times": 2,
        "out of order": 1,
        "gaps": 2,
        "crossed quotes": 1,
        "locked quotes": 1,
    }
    gaps = next(finding for finding in report.findings if finding.name == "gaps")
    assert gaps.note == "bars missing: 40"
    assert gaps.examples[0].startswith("row 402: 31 min after 2020-01-01T06:39:00Z")


def test_outliers_are_robust(tmp_path: Path) -> None:
    """Against a z-score by hand: the outlier itself hardly moves median and deviation."""
    close = np.exp(np.cumsum(np.random.default_rng(0).normal(0, 0.01, 1000)) / 10)
    close[500:] *= 1.1
    table = (
        RandomWalk()
        .bars(1000, seed=1)
        .table.with_columns(open=close, high=close, low=close, close=close)
    )
    table.write_csv(tmp_path / "bars.csv")
    (outliers,) = [f for f in check(str(tmp_path / "bars.csv")).findings if f.name == "outliers"]
    returns = np.diff(np.log(close))
    middle = np.median(returns)
    z = abs(returns[499] - middle) / (1.4826 * np.median(abs(returns - middle)))
    assert outliers.count == 1
    assert outliers.examples == [f"row 501: {np.expm1(returns[499]):+.2%} (z {z:.0f})"]


def test_an_event_log_with_faults(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    faults = write_event_log(log, 5000, seed=2, faults=dict.fromkeys(FAULTS, 0.01))
    report = check(str(log), block_bytes=100_000)
    assert report.kind == "events"
    assert report.rows == 5000 + len(faults)
    counts = found(report)
    for fault in ("malformed", "duplicate", "out of order", "clock jump", "unknown type"):
        assert counts[fault] == sum(1 for name in faults.values() if name == fault), fault
    assert report.contents["instrument BTCUSD"] == "5,000 events"
    assert report.contents["times"] == "nanoseconds"


def test_pauses_moves_and_quotes_of_an_event_log(tmp_path: Path) -> None:
    ns, price, lines = START_NS, 100.0, []
    for place in range(2000):
        ns += 10**6 if place != 900 else 3600 * 10**9
        price *= 1.5 if place == 1200 else (1.001 if place % 2 else 1 / 1.001)
        event = {"time": ns, "type": "trade", "instrument": "X", "price": price, "size": 1}
        if place == 50:
            event = {"time": ns, "type": "quote", "instrument": "X", "bid": 9, "ask": 9}
        if place == 60:
            event["price"] = 0
        lines.append(json.dumps(event))
    path = tmp_path / "log.csv.gz"
    path.with_suffix("").with_suffix(".jsonl").write_text("\n".join(lines))
    report = check(str(tmp_path / "log.jsonl"))
    findings = {finding.name: finding for finding in report.findings}
    assert findings["gaps"].examples == ["line 901: 1 h"]
    assert findings["outliers"].examples == ["line 1201: +50.00%"]
    assert findings["locked quotes"].count == findings["zero price"].count == 1
    assert {name: finding.count for name, finding in findings.items() if finding.count > 1} == {}


def test_what_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(BarsError, match="no such file, nor one of the samples"):
        check(str(tmp_path / "none.csv"))
    (tmp_path / "bars.csv").write_text("time,open\n1,2\n")
    assert "column high, low, close, volume is missing" in check(str(tmp_path / "bars.csv")).refusal


def test_what_is_not_by_time_has_no_gaps(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    write_event_log(log, 4000, seed=1)
    convert([log], "20 trades", tmp_path / "bars.parquet")
    report = check(str(tmp_path / "bars.parquet"))
    assert report.contents["interval"] == "none is usual"
    assert found(report)["gaps"] == 0
    assert check("synthetic:walk?bars=50").rows == 50


def test_a_log_that_a_conversion_would_not_take_is_refused(tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    good = [f"{START_NS + n},trade,X,{1 + n % 3},1" for n in range(500)]
    log.write_text("\n".join(["time,type,instrument,price,size", *good, 'a"b']))
    report = check(str(log))
    assert report.kind == "events"
    assert report.refusal == "1 of 501 lines are bad, 0.20%"
    assert found(report)["malformed"] == 1
