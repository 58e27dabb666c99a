"""Bars that features are made of one by one: the last that is good, the first that is not."""

import math
from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pytest

from market.bars import BarsError
from market.features import FeaturePipeline


def test_a_time_is_utc_unless_it_says_otherwise() -> None:
    bar = {"open": 5.0, "high": 6.0, "low": 4.0, "close": 5.0, "volume": 1.0}
    pipeline = FeaturePipeline(("day_sine",), (0.0,), (1.0,))
    six = datetime(2024, 1, 1, 6)
    east = timezone(timedelta(hours=2))
    for time in (
        six,
        six.replace(tzinfo=UTC),
        datetime(2024, 1, 1, 8, tzinfo=east),
        1_704_088_800_000_000,
    ):
        values = pipeline.stream().update(bar | {"time": time})
        assert values is not None
        assert values[0] == pytest.approx(1.0), time


@pytest.mark.parametrize(
    "edge",
    [
        {"open": 5.0, "high": 5.0, "low": 5.0, "close": 5.0},
        {"open": 4.0, "close": 6.0, "low": 4.0, "high": 6.0},
        {"open": 6.0, "close": 4.0, "low": 4.0, "high": 6.0},
        {"open": 1e-12, "high": 1e-12, "low": 1e-12, "close": 1e-12, "bid": 1e-13, "ask": 1e-11},
        {"volume": 0.0},
        {"bid": 5.0, "ask": 5.0},
        {"depth_imbalance": -1.0},
        {"depth_imbalance": 1.0},
    ],
)
def test_a_bar_at_the_edge_of_what_is_good_is_taken(edge: dict[str, float]) -> None:
    names = ("price_change", "spread", "depth_imbalance")
    stream = FeaturePipeline(names, (0.0,) * 3, (1.0,) * 3).stream()
    bar = {"open": 5.0, "high": 6.0, "low": 4.0, "close": 5.0, "volume": 1.0}
    bar |= {"bid": 4.9, "ask": 5.1, "depth_imbalance": 0.5}
    assert stream.update(bar | {"time": 0}) is None  # without a past
    values = stream.update(bar | edge | {"time": 1})
    assert values is not None
    close, bid, ask = (edge.get(name, bar[name]) for name in ("close", "bid", "ask"))
    spread, imbalance = 2 * (ask - bid) / (ask + bid), edge.get("depth_imbalance", 0.5)
    np.testing.assert_allclose(values, [close / 5 - 1, spread, imbalance], rtol=1e-6)
    with pytest.raises(BarsError, match="it must be later than the bar before it"):
        stream.update(bar | {"time": 1})


@pytest.mark.parametrize(
    "wrong, reason",
    [
        ({"bid": 0.0}, "bid is 0.0"),
        ({"ask": 0.0}, "ask is 0.0"),
        ({"ask": math.inf}, "ask is inf"),
        ({"bid": 5.2}, "a bid above the ask"),
        ({"depth_imbalance": -1.001}, "depth_imbalance is -1.001"),
        ({"depth_imbalance": 1.001}, "or a depth_imbalance above 1"),
        ({"volume": -1e-9}, "volume is -1e-09"),
        ({"volume": math.inf}, "volume is inf"),
        ({"open": 3.999}, "open and close must lie from low to high"),
        ({"open": 6.001}, "open and close must lie from low to high"),
        ({"close": 3.999}, "open and close must lie from low to high"),
        ({"close": 6.001}, "open and close must lie from low to high"),
        ({"time": math.nan}, "a bar lacks time"),
    ],
)
def test_a_bar_past_the_edge_is_refused(wrong: dict[str, float], reason: str) -> None:
    names = ("price_change", "spread", "depth_imbalance")
    stream = FeaturePipeline(names, (0.0,) * 3, (1.0,) * 3).stream()
    bar = {"open": 5.0, "high": 6.0, "low": 4.0, "close": 5.0, "volume": 1.0, "time": 0}
    bar |= {"bid": 4.9, "ask": 5.1, "depth_imbalance": 0.5}
    with pytest.raises(BarsError, match=reason):
        stream.update(bar | wrong)
