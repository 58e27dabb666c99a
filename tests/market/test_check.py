"""Reports on data: every kind of oddity is found, counted and placed."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from market.bars import BarsError
from market.check import check
from market.events.convert import convert
from market.findings import Finding, Report
from market.synthetic import RandomWalk
from tests.support.sessions import bars_at, session_times
from tests.support.synthetic_events import FAULTS, START_NS, write_event_log


def found(report: Report) -> dict[str, int]:
    return {finding.name: finding.count for finding in report.findings}


def test_good_bars(tmp_path: Path) -> None:
    report = check("eurusd_1h")
    assert (report.kind, report.refusal) == ("bars", "")
    assert report.contents["interval"] == "3600 s"
    assert found(report)["duplicate times"] == found(report)["out of order"] == 0
    assert found(report)["closed: a day or more"] == 50  # the weekends of a year
    gaps = next(finding for finding in report.findings if finding.name == "gaps")
    assert [gap.split(" after ")[0] for gap in gaps.examples] == [
        "row 6130: 15 h",
        "row 6121: 2.08 d",
    ]


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


def finding(report: Report, name: str) -> Finding:
    (one,) = [each for each in report.findings if each.name == name] or [Finding(name)]
    return one


def checked(tmp_path: Path, times: np.ndarray, **columns: Any) -> Report:
    path = tmp_path / "bars.parquet"
    bars_at(times).table.with_columns(**columns).write_parquet(path)
    return check(str(path))


HOLIDAYS = {
    f"2024-{day}" for day in ("01-15", "02-19", "03-29", "05-27", "06-19", "07-04", "09-02")
}
YEAR = session_times(
    "2024-01-02", 240, 60, minutes=420, holidays=HOLIDAYS, short={"2024-07-03", "2024-11-29"}
)


def test_closures_are_no_gaps(tmp_path: Path) -> None:
    """Hourly sessions of a year, over both shifts of the clock: not one hole."""
    report = checked(tmp_path, YEAR)
    assert found(report)["gaps"] == 0
    assert not any(each.fault for each in report.findings if each.count)
    counts = {each.name: each.count for each in report.findings if not each.fault}
    days = np.unique(YEAR.astype("datetime64[D]"))
    apart = np.diff(days).astype(int)  # 1 in a week, 3 over a weekend, else there was a holiday
    holidays = np.sum((apart == 2) | (apart == 4))
    assert counts == {
        "closed: less than a day": np.sum(apart == 1),
        "closed: a day or more": np.sum(apart == 3) - 1,
        "whole sessions missing": holidays,  # one of them after the half day of 3 July
        "short sessions": 1,  # the half day of 29 November, before a weekend
    }
    assert holidays == len(HOLIDAYS)
    assert finding(report, "whole sessions missing").note.endswith("bars missing: 49")
    assert sum(counts.values()) == 239  # a closure between any two sessions


@pytest.mark.parametrize("day", ["2024-01-02", "2024-03-08", "2024-03-11", "2024-03-12", "2024-07-05",
                                 "2024-11-01", "2024-11-04", "2024-12-09"])  # fmt: skip
@pytest.mark.parametrize("place", [1, 3, 5])
def test_a_bar_missing_inside_a_session_is_seen_whenever_it_was(
    tmp_path: Path, day: str, place: int
) -> None:
    (first,) = np.flatnonzero(YEAR.astype("datetime64[D]") == np.datetime64(day))[:1]
    lost = first + place
    gaps = finding(checked(tmp_path, np.delete(YEAR, lost)), "gaps")
    assert (gaps.count, gaps.note) == (1, "bars missing: 1")
    before = str(YEAR[lost - 1].astype("datetime64[s]"))
    assert gaps.examples == [f"row {lost + 1}: 2 h after {before}Z"]


def test_holes_come_before_closures_and_the_longest_first(tmp_path: Path) -> None:
    minutes = session_times("2024-05-06", 25)
    lost = [7 * 390 + 180, *range(12 * 390 + 60, 12 * 390 + 70), *range(3 * 390 - 5, 3 * 390)]
    report = checked(tmp_path, np.delete(minutes, lost))
    gaps = finding(report, "gaps")
    assert (gaps.count, gaps.note) == (3, "bars missing: 16")
    assert [example.split(" after ")[0] for example in gaps.examples] == [
        f"row {12 * 390 + 60 - 6 + 1}: 11 min",
        f"row {3 * 390 - 5 + 1}: 17.6 h",
        f"row {7 * 390 + 180 - 5 + 1}: 2 min",
    ]
    names = [each.name for each in report.findings]
    assert names.index("gaps") < names.index("closed: less than a day")


def test_a_market_that_never_closes_has_gaps_alone(tmp_path: Path) -> None:
    hours = np.datetime64("2024-01-01", "us") + np.arange(24 * 60) * np.timedelta64(1, "h")
    noon = np.flatnonzero(hours == np.datetime64("2024-02-03T12:00"))
    for times, gaps, missing in (
        (np.delete(hours, noon), 1, 1),
        (np.delete(hours, slice(500, 600)), 1, 100),  # an outage is no closure
        (np.delete(hours[:120], 60), 1, 1),  # nor is one in less than a week
    ):
        report = checked(tmp_path, times)
        assert (found(report)["gaps"], finding(report, "gaps").note) == (
            gaps,
            f"bars missing: {missing}",
        )
        assert all(each.fault for each in report.findings)


@pytest.mark.parametrize("sessions", [1, 2, 5, 7, 11])
def test_few_sessions_are_told_from_holes(tmp_path: Path, sessions: int) -> None:
    minutes = session_times("2024-05-08", sessions)
    whole = checked(tmp_path, minutes)
    assert found(whole)["gaps"] == 0
    assert sum(each.count for each in whole.findings if not each.fault) == sessions - 1
    report = checked(tmp_path, np.delete(minutes, slice(100, 103)))
    assert finding(report, "gaps").examples == ["row 101: 4 min after 2024-05-08T15:10:00Z"]


@pytest.mark.parametrize(
    "zone, opens, minutes, closures",
    [
        ("Asia/Tokyo", "09:00", 360, 1),
        ("Europe/Berlin", "09:00", 510, 1),
        ("Australia/Sydney", "10:00", 360, 1),  # over midnight UTC in part of the year
    ],
)
def test_sessions_of_other_exchanges(
    tmp_path: Path, zone: str, opens: str, minutes: int, closures: int
) -> None:
    times = session_times("2024-01-02", 220, 5, zone=zone, opens=opens, minutes=minutes)
    report = checked(tmp_path, times)
    assert found(report)["gaps"] == 0
    assert sum(each.count for each in report.findings if not each.fault) == 219 * closures
    a_day = minutes // 5
    holes = np.arange(20, 200, 9) * a_day + np.arange(20, 200, 9) % (a_day - 4) + 2
    assert found(checked(tmp_path, np.delete(times, holes)))["gaps"] == len(holes)


def test_a_pause_at_noon_is_a_closure(tmp_path: Path) -> None:
    times = session_times("2024-01-02", 60, zone="Asia/Tokyo", opens="09:00", minutes=360)
    after_nine = (times - times.astype("datetime64[D]")).astype("timedelta64[m]").astype(int)
    times = times[(after_nine <= 150) | (after_nine > 210)]  # 11:30 to 12:30 in Tokyo
    report = checked(tmp_path, times)
    assert found(report)["gaps"] == 0
    assert found(report)["closed: less than a day"] == 60 + 59 - 12  # weekends
    assert found(checked(tmp_path, np.delete(times, 10 * 300 + 200)))["gaps"] == 1


def test_bars_off_the_grid_are_a_finding(tmp_path: Path) -> None:
    times = YEAR.copy()
    times[[30, 31, 900]] += np.timedelta64(7, "m")
    off = finding(checked(tmp_path, times), "off the grid")
    assert off.count == 3
    assert off.examples[0] == f"row 31: {times[30].astype('datetime64[s]')}Z"
    assert off.note == "most closes are 1800 s past a multiple of 3600 s"
    assert off.fault
    assert finding(checked(tmp_path, YEAR), "off the grid").count == 0
    daily = session_times("2023-01-02", 500, 390)  # the close moves by an hour twice a year
    assert finding(checked(tmp_path, daily), "off the grid").count == 0
    assert finding(checked(tmp_path, daily), "gaps").count == 0


def test_weekly_bars_have_holes(tmp_path: Path) -> None:
    weeks = np.datetime64("2020-01-03", "us") + np.arange(200) * np.timedelta64(7, "D")
    assert finding(checked(tmp_path, np.delete(weeks, [20, 30])), "gaps").count == 2


def test_unreadable_times_hide_nothing_else(tmp_path: Path) -> None:
    table = bars_at(YEAR).table.with_columns(
        time=pl.when(pl.int_range(pl.len()) == 17).then(None).otherwise("time")
    )
    table.write_parquet(tmp_path / "bars.parquet")
    report = check(str(tmp_path / "bars.parquet"))
    assert found(report)["unreadable"] == found(report)["gaps"] == 1


def lively(count: int, a_day: int, seed: int = 0) -> np.ndarray:
    """Closes whose volatility comes in clusters, by the day and by the hour, with heavy tails."""
    rng = np.random.default_rng(seed)
    days = count // a_day + 1
    level = np.zeros(days)
    for day in range(1, days):
        level[day] = 0.97 * level[day - 1] + rng.normal(0, 0.25)
    hour = 0.5 + 2 * np.linspace(-1, 1, a_day) ** 2
    volatility = (np.exp(level)[:, None] * hour).ravel()[:count] * 3e-4
    returns = volatility * rng.standard_t(4, count)
    return 100 * np.exp(np.cumsum(returns - returns.mean()))


def test_lively_days_are_no_outliers_and_bad_prints_are(tmp_path: Path) -> None:
    """Of 97,500 minutes more than a hundredth is far from the median of all: next to none of it odd."""
    times = session_times("2024-01-02", 250)
    close = lively(len(times), 390)
    returns = np.diff(np.log(close))
    of_all = abs(returns) / (1.4826 * np.median(abs(returns)))
    assert np.mean(of_all > 10) > 0.01

    def outliers(close: np.ndarray) -> Finding:
        prices = dict.fromkeys(("open", "high", "low", "close"), pl.Series(close))
        return finding(checked(tmp_path, times, **prices), "outliers")

    usual = outliers(close)
    assert usual.count < 0.0005 * len(close)
    odd = close.copy()
    odd[50_000] *= 1.2  # a bad print: there and back
    assert outliers(odd).count == usual.count + 2
    split = close.copy()
    split[100 * 390 :] /= 2  # overnight
    assert outliers(split).examples[0].startswith("row 39001: -50.")


def test_prices_that_mostly_stand_still_have_a_scale(tmp_path: Path) -> None:
    """Of a price that moves by ticks, and seldom: a tick is no outlier, a hundred are."""
    rng = np.random.default_rng(1)
    ticks = np.cumsum(rng.choice([-1, 0, 1], 5000, p=[0.1, 0.8, 0.1]))
    ticks[3000:] += 100
    close = pl.Series(100 + ticks * 0.01)
    prices = dict.fromkeys(("open", "high", "low", "close"), close)
    outliers = finding(
        checked(tmp_path, session_times("2024-01-02", 13)[:5000], **prices), "outliers"
    )
    assert outliers.count == 1
    assert outliers.examples[0].startswith("row 3001: ")


def test_many_carried_bars_are_said_to_be_many(tmp_path: Path) -> None:
    times = session_times("2024-01-02", 2)
    carried = finding(
        checked(tmp_path, times, carried=pl.int_range(pl.len()) % 3 == 0), "carried bars"
    )
    assert carried.count == 260
    assert carried.note.startswith("these bars: nothing was traded in 33% of these bars")


@pytest.mark.parametrize("lost", ["2024-03-12T13:50", "2024-03-08T20:40", "2024-11-05T20:40"])
def test_a_hole_in_the_hour_that_a_shift_of_the_clock_gave_or_takes(
    tmp_path: Path, lost: str
) -> None:
    times = session_times("2024-01-02", 240, 5, holidays=HOLIDAYS)
    report = checked(tmp_path, times[times != np.datetime64(lost)])
    assert [example[-20:] for example in finding(report, "gaps").examples] == [
        f"{np.datetime64(lost) - np.timedelta64(5, 'm')}:00Z"
    ]
