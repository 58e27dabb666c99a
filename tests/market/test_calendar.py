"""Calendars: told from the whole of a data set, the same for every stretch of it."""

import datetime as dt
import json
from collections.abc import Callable

import numpy as np
import pytest

from evaluation.backtest import backtest
from evaluation.walk_forward import WalkForwardSettings, windows
from market.accounting import MarketSettings
from market.bars import Bars, load_bars
from market.calendar import WEEK, Calendar
from market.features import FeaturePipeline
from market.source import bars_from
from market.table import MarketTable
from tests.support.sessions import bars_at, session_times

SESSIONS = 390 * 5 / 7 * 365.25  # bars a year of 390 minutes on every weekday: 101,748


HOLIDAYS = {
    f"{year}-{day}"
    for year in range(2023, 2027)
    for day in ("01-16", "02-20", "04-07", "05-29", "06-19", "07-04", "09-04", "11-23", "12-25")
}


def fx(start: str, weeks: int) -> np.ndarray:
    """Hours from Sunday to Friday, 22:00."""
    hours = times(start, dt.timedelta(hours=1), 24 * 7 * weeks) + np.timedelta64(1, "h")
    return hours[np.arange(len(hours)) % 168 < 120]


def times(start: str, step: dt.timedelta, count: int) -> np.ndarray:
    return np.datetime64(start) + np.arange(count) * np.timedelta64(step)


def test_calendars() -> None:
    week = times("2024-01-01", dt.timedelta(hours=1), 24 * 70)
    always = Calendar.of(week)
    assert always.kind == "24/7"
    assert always.bars_per_year == pytest.approx(365.25 * 24)
    assert str(always) == "24/7, a bar every hour, 8,766 a year"
    holes = np.delete(week, slice(300, 700))  # an outage is no session
    assert Calendar.of(holes).kind == "24/7"
    thin = Calendar.of(week[np.random.default_rng(1).random(len(week)) < 0.6])
    assert thin.kind == "24/7"  # at every hour of the week now and then
    assert thin.bars_per_year == pytest.approx(0.6 * 365.25 * 24, rel=0.05)
    assert "as counted" in str(thin)
    days = times("2024-01-01", dt.timedelta(days=1), 700)
    weekdays = days[np.is_busday(days.astype("datetime64[D]"))]
    sessions = Calendar.of(weekdays)
    assert sessions.kind == "sessions"
    assert sessions.bars_per_year == pytest.approx(365.25 * 5 / 7, rel=0.01)
    office = week[(week.astype("datetime64[h]").astype(int) % 24 >= 9)]
    office = office[office.astype("datetime64[h]").astype(int) % 24 < 17]
    assert Calendar.of(office).kind == "sessions"
    assert Calendar.of(office).bars_per_year == pytest.approx(365.25 * 8, rel=0.02)
    irregular = week[0] + np.cumsum(np.arange(1, 500) * np.timedelta64(1, "s"))
    assert Calendar.of(irregular).kind == "irregular"
    assert "as counted" in str(Calendar.of(irregular))


@pytest.mark.parametrize(
    "name, kind, a_year", [("btcusd_30m", "24/7", 17_532), ("eurusd_1h", "sessions", 6_260)]
)
def test_samples_have_the_calendar_of_their_market(name: str, kind: str, a_year: int) -> None:
    time = load_bars(name).table["time"].dt.replace_time_zone(None).to_numpy()
    found = Calendar.of(time)
    assert found.kind == kind
    assert found.bars_per_year == pytest.approx(a_year, rel=0.01)


def test_every_stretch_of_sessions_is_annualised_as_the_whole() -> None:
    bars = bars_at(session_times("2024-05-06", 25))
    assert round(bars.calendar.bars_per_year) == round(SESSIONS) == 101_748
    stretches = [
        bars.between(0, 5 * 390, "five sessions"),
        bars.between(7 * 390, 8 * 390, "one session"),
        bars.between(7 * 390 + 100, 7 * 390 + 150, "part of a session"),
        bars.between(0, 5 * 390, "nested").between(390, 600, "again"),
        *bars.split(),
        *bars.split(train=0.9, validation=0.05, test=0.05, gap=0),
    ]
    for part in stretches:
        assert part.calendar == bars.calendar, part.name


def test_measures_of_a_stretch_use_the_calendar_of_the_whole() -> None:
    """Sharpe ratios of one session out of 25: by hand with 101,748 bars a year."""
    bars = bars_at(session_times("2024-05-06", 25))
    features = FeaturePipeline.fit(bars)
    judged = windows(len(bars), 48, WalkForwardSettings(windows=20))[0].judged
    for part in (
        bars.between(0, 390, "session"),
        bars.between(0, judged[1] + 1, "judged"),
        bars.split().validation,
    ):
        table = MarketTable.of(part, features, MarketSettings())
        for cut in (table, table.last(200), table.at_costs(2.0)):
            run = backtest(cut, np.ones(len(cut) - 1, np.int8))
            by_hand = run.returns.mean() / run.returns.std(ddof=1) * SESSIONS**0.5
            assert run.measures["sharpe"] == pytest.approx(by_hand)


@pytest.mark.parametrize("first", range(6))
@pytest.mark.parametrize("sessions", [1, 2, 3, 4, 5, 6, 8, 10])
def test_sessions_by_themselves_are_not_taken_for_24_7(first: int, sessions: int) -> None:
    """Whatever day a file of its own begins on: what it does not show, it does not claim."""
    times = session_times("2024-05-06", 25)[first * 390 : (first + sessions) * 390]
    found = Calendar.of(times)
    assert found.kind == "sessions"
    assert found.bars_per_year == pytest.approx(SESSIONS)
    assert str(found).endswith("as counted" + " in less than a week" * (found.seen < WEEK))


@pytest.mark.parametrize(
    "start, hours, kind, days",
    [
        ("2024-05-06", 71, "sessions", 5),  # Monday to Wednesday: nights seen, no weekend
        ("2024-05-06", 2, "sessions", 5 / 12),
        ("2024-05-10", 71, "24/7", 7),  # Friday to Sunday
        ("2024-05-06", 24 * 8, "24/7", 7),
    ],
)
def test_a_pauseless_stretch_claims_the_days_that_it_shows(
    start: str, hours: int, kind: str, days: float
) -> None:
    minutes: np.ndarray = times(start, dt.timedelta(minutes=1), 60 * hours) + np.timedelta64(1, "m")
    found = Calendar.of(minutes)
    assert found.kind == kind
    assert found.bars_per_year == pytest.approx(1440 * days / 7 * 365.25)


@pytest.mark.parametrize(
    "made, a_year",
    [
        # Daily bars: 9 holidays a year, 252 sessions.
        (lambda: session_times("2023-01-02", 1000, 390, holidays=HOLIDAYS), 252),
        # Hourly bars over both shifts of the clock.
        (lambda: session_times("2023-01-02", 500, 60), 6 * 365.25 * 5 / 7),
        # Minutes, a half day now and then.
        (lambda: session_times("2024-05-06", 100, short={"2024-07-03"}), SESSIONS * 0.996),
        # Monday to Friday around the clock, from Sunday evening on.
        (lambda: fx("2024-01-07T22:00", 30), 24 * 5 / 7 * 365.25),
    ],
)
def test_calendars_of_markets_that_close(made: Callable[[], np.ndarray], a_year: float) -> None:
    found = Calendar.of(made())
    assert found.kind == "sessions"
    assert found.bars_per_year == pytest.approx(a_year, rel=0.01)


def test_opening_hours_are_told_to_the_bar_or_the_quarter_of_an_hour() -> None:
    day, hour = 86_400, 3600
    summer = Calendar.of(session_times("2024-05-06", 25))
    assert summer.open == tuple((d * day + 13.5 * hour, d * day + 20 * hour) for d in range(5))
    both = Calendar.of(session_times("2024-01-02", 250, 30))
    assert both.open == tuple((d * day + 13.5 * hour, d * day + 21 * hour) for d in range(5))
    assert Calendar.of(fx("2024-01-07T22:00", 30)).open == (
        (0, 4 * day + 22 * hour),
        (6 * day + 22 * hour, 7 * day),
    )
    assert Calendar.of(session_times("2024-05-08", 1)).open == summer.open


def test_calendars_go_through_json() -> None:
    for name in ("btcusd_30m", "eurusd_1h"):
        known = load_bars(name).calendar
        assert Calendar.from_json(json.loads(json.dumps(known.as_json()))) == known


def test_synthetic_markets_never_close_however_short() -> None:
    bars = bars_from("synthetic:walk?bars=100")
    assert bars.calendar.kind == "24/7"
    assert bars.between(3, 20, "part").calendar.bars_per_year == pytest.approx(365.25 * 1440)


def test_a_single_bar_tells_nothing_and_breaks_nothing() -> None:
    bars = bars_at(session_times("2024-05-06", 1)[:1])
    assert bars.calendar.kind == "irregular"
    assert len(bars.between(0, 1, "all")) == 1


def test_a_calendar_changes_no_hash() -> None:
    bars = bars_at(session_times("2024-05-06", 5))
    part = bars.between(10, 300, "part")
    assert part.content_hash == Bars.of("alone", bars.table[10:300]).content_hash
