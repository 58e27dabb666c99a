"""The ledger of held-back bars: which bars are known again."""

import json
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from evaluation.ledger import (
    ASKED,
    CHECKSUM,
    POINTS,
    PRINT,
    HoldoutAccess,
    asking_tags,
    closes_of,
    holds,
)
from market.bars import Bars
from market.synthetic import RandomWalk
from tests.support.bars import bars_of

MINUTE = 60.0


@pytest.fixture(scope="module")
def bars() -> Bars:
    return RandomWalk(sigma=0.05).bars(1000, seed=4)


def test_bars_are_known_again_by_most_of_the_closes_in_common(bars: Bars) -> None:
    """Half of them alike is chance, more than half is not."""
    closes = list(closes_of(bars))
    assert len(closes) == POINTS == 200
    for changed, known in ((0, True), (99, True), (100, False), (101, False), (200, False)):
        others = [(time, close * 1.5) for time, close in closes[:changed]]
        assert holds(bars, others + closes[changed:]) is known, changed


def test_only_closes_within_the_bars_are_counted(bars: Bars) -> None:
    """A stretch in common is enough, however much lies outside of it."""
    closes = list(closes_of(bars))
    later = [(time + 86_400 * 365, close) for time, close in closes]
    assert holds(bars, closes[-20:] + later)
    wrong = [(time, close * 1.5) for time, close in closes[-20:]]
    assert not holds(bars, wrong + later)
    assert not holds(bars, later)
    assert not holds(bars, [])
    part = Bars.of("part", bars.table[700:])
    assert holds(part, closes)
    assert holds(bars, closes_of(part))
    assert not holds(Bars.of("before", bars.table[:700]), closes_of(part))


@pytest.mark.parametrize("share, known", [(0.0009, True), (-0.0009, True), (0.0011, False)])
def test_prices_rounded_otherwise_are_the_same(bars: Bars, share: float, known: bool) -> None:
    closes = [(time, close / (1 + share)) for time, close in closes_of(bars)]
    assert holds(bars, closes) is known


@pytest.mark.parametrize("shift, known", [(0.9, True), (-0.9, True), (1.1, False), (-1.1, False)])
def test_times_less_than_a_bar_apart_are_the_same(shift: float, known: bool) -> None:
    """At prices that jump from bar to bar, so that only the nearest bars can be meant."""
    close = np.where(np.arange(60) == 30, 200.0, 100.0 + np.arange(60))
    made = bars_of(close, close)
    (at,) = made.table["time"].dt.epoch("us").to_numpy()[30:31] / 1e6
    assert holds(made, [(float(at) + shift * MINUTE, 200.0)]) is known
    assert holds(made, [(float(at), 100.0)]) is False


def test_a_sample_keeps_milliseconds_and_seven_digits() -> None:
    table = bars_of(np.full(2, 1 / 3), np.full(2, 2 / 3)).table
    late = Bars.of("late", table.with_columns(pl.col("time") + timedelta(microseconds=123_456)))
    begin = datetime(2020, 1, 1, tzinfo=UTC).timestamp()
    assert closes_of(late) == [(begin + 0.123, 0.6666667), (begin + 60.123, 0.6666667)]
    assert holds(late, closes_of(late))  # two bars are enough to know how far apart they are


def test_an_opening_says_who_looked_at_what_and_when(bars: Bars) -> None:
    tags = asking_tags(bars, "ann", "qdesk-linear v3", "first opening")
    assert tags.keys() == {ASKED, PRINT, CHECKSUM}
    assert [tuple(each) for each in json.loads(tags[PRINT])] == list(closes_of(bars))
    made = HoldoutAccess(**json.loads(tags[ASKED]))
    assert made[1:4] == ("ann", "qdesk-linear v3", "first opening")
    first, last = bars.table["time"][0], bars.table["time"][-1]
    assert (made.first, made.last) == (f"{first:%Y-%m-%d %H:%M}", f"{last:%Y-%m-%d %H:%M}")
    then = datetime.strptime(made.when, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    assert timedelta(0) <= datetime.now(UTC) - then < timedelta(minutes=1)


def test_the_sample_spans_the_bars_from_the_first_to_the_last(bars: Bars) -> None:
    seconds = bars.table["time"].dt.epoch("us").to_numpy() / 1e6
    prices = bars.column("close")
    closes = closes_of(bars)
    assert [time for time, _ in closes] == sorted({time for time, _ in closes})
    for (time, close), row in ((closes[0], 0), (closes[-1], -1)):
        assert time == pytest.approx(seconds[row])
        assert close == pytest.approx(prices[row], rel=1e-6)
    few = Bars.of("few", bars.table[:7])
    assert len(closes_of(few)) == 7
    one = Bars.of("one", bars.table[:1])
    assert not holds(one, closes_of(bars))  # of one bar no length is known, so nothing is near
