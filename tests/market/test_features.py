"""Features: literal numbers, fitted on training, blind to the future, alike bar by bar and at once."""

import json
import math
from datetime import timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError

from market.bars import Bars, BarsError
from market.feature_kinds import KINDS, feature_names
from market.features import FeaturePipeline, FeatureSettings
from tests.support.bars import bars_of

BOTH = FeatureSettings(names=("price_change", "log_price"))
EVERY = tuple(
    name if kind.bars is None else f"{name}_{n}" for name, kind in KINDS.items() for n in (2, 7)
)
EVERY = tuple(dict.fromkeys(EVERY))
RAW = FeatureSettings(names=EVERY, scale=False)


def quoted(count: int, seed: int, unknown: int = 0) -> Bars:
    """Bars with gaps, still stretches, silent bars, and quotes that come after a while."""
    rng = np.random.default_rng(seed)
    close = 100 * np.exp(np.cumsum(rng.normal(0, 0.01, count) * (rng.random(count) < 0.8)))
    open = np.append(close[:1], close[:-1])
    volume = np.round(rng.exponential(3, count), 2) * (rng.random(count) < 0.7)
    minutes = np.cumsum(rng.integers(1, 4, count))
    ask = close * (1 + rng.random(count) / 1000)
    known = np.arange(count) >= unknown
    table = pl.DataFrame(
        {
            "time": np.datetime64("2024-02-28T21:00", "us") + minutes * np.timedelta64(7, "m"),
            "open": open,
            "high": np.maximum(open, close) * 1.001,
            "low": np.minimum(open, close) * 0.999,
            "close": close,
            "volume": volume,
            "bid": np.where(known, close * 0.999, np.nan),
            "ask": np.where(known, ask, np.nan),
            "depth_imbalance": np.where(known, rng.uniform(-1, 1, count), np.nan),
        }
    )
    return Bars.of("quoted", table.with_columns(pl.col(pl.Float64).fill_nan(None)))


def raw(bars: Bars, *names: str) -> NDArray[np.float32]:
    """Unscaled features of the bars that have them, as float32."""
    fitted = FeaturePipeline(names, (0.0,) * len(names), (1.0,) * len(names))
    return fitted.transform(bars).values


# --- what each is ----------------------------------------------------------------------------


def bars_with(close: list[float], **columns: list[float]) -> Bars:
    prices = np.array(close)
    table = bars_of(prices, prices).table.with_columns(
        **{k: pl.Series(v) for k, v in columns.items()}
    )
    return Bars.of("made", table)


LITERAL = {
    # closes 100, 110, 99: changes +0.1, -0.1
    "price_change": [0.1, -0.1],
    "log_return_1": [math.log(1.1), math.log(0.9)],
    "momentum_2": [-0.01],
    "log_price": [math.log(100), math.log(110), math.log(99)],
    "volatility_2": [math.sqrt((math.log(1.1) ** 2 + math.log(0.9) ** 2) / 2)],
    # weight 2/3 on the last
    "ewma_volatility_2": [math.sqrt(math.log(1.1) ** 2 / 3 + math.log(0.9) ** 2 * 2 / 3)],
    "rsi_2": [(math.log(1.1) + math.log(0.9)) / (math.log(1.1) - math.log(0.9))],
    # mean 105, deviation 5; mean 104.5, deviation 5.5
    "zscore_2": [1.0, -1.0],
    # highs are 1.1 times the lows
    "parkinson_2": [math.log(1.1) / math.sqrt(4 * math.log(2))] * 2,
    # volumes 1, 3, 6: (3 - 1) / (3 + 1), (6 - 3) / (6 + 3); the mean of 1 and 3 is 2
    "volume_surprise_1": [0.5, 1 / 3],
    "volume_surprise_2": [0.5],
    # bid 99, ask 101 around 100
    "spread": [0.02] * 3,
    "depth_imbalance": [0.5, -0.25, 0.0],
}


@pytest.mark.parametrize("name, expected", LITERAL.items())
def test_literal_numbers(name: str, expected: list[float]) -> None:
    bars = bars_with(
        [100.0, 110.0, 99.0],
        high=[121.0] * 3,
        low=[90.0] * 3,
        volume=[1.0, 3.0, 6.0],
        bid=[99.0] * 3,
        ask=[101.0] * 3,
        depth_imbalance=[0.5, -0.25, 0.0],
    )
    if name.startswith("parkinson"):
        table = bars.table.with_columns(
            low=pl.lit(99.0), high=pl.lit(99 * 1.1), close=pl.lit(100.0), open=100.0
        )
        bars = Bars.of("range", table)
    np.testing.assert_allclose(raw(bars, name)[:, 0], expected, rtol=1e-6)


def test_every_feature_has_a_literal_test_or_is_of_the_clock() -> None:
    tested = {name.rstrip("0123456789").rstrip("_") for name in LITERAL}
    assert set(KINDS) - tested == {"day_sine", "day_cosine", "week_sine", "week_cosine"}


def test_time_of_day_and_week() -> None:
    names = ("day_sine", "day_cosine", "week_sine", "week_cosine")
    for start, day, week in [
        ("2024-01-01T00:00", 0.0, 0.0),  # a Monday
        ("2024-01-01T06:00", 0.25, 1 / 28),
        ("2024-01-04T12:00", 0.5, 0.5),
        ("1969-12-29T00:00", 0.0, 0.0),
    ]:
        bars = bars_of(np.full(1, 9.0), np.full(1, 9.0))
        time = pl.Series("time", np.array([start], "datetime64[us]")).dt.replace_time_zone("UTC")
        table = bars.table.with_columns(time)
        angles = 2 * np.pi * np.array([day, day, week, week])
        expected = [np.sin(angles[0]), np.cos(angles[1]), np.sin(angles[2]), np.cos(angles[3])]
        np.testing.assert_allclose(raw(Bars.of("x", table), *names)[0], expected, atol=1e-6)


def test_rsi_is_wilders() -> None:
    """Against Wilder's recursion on gains and losses of the log price, written out."""
    close = quoted(60, seed=4).table["close"].to_numpy()
    changes, n = np.diff(np.log(close)), 14
    gain = np.mean(np.maximum(changes[:n], 0))
    loss = np.mean(np.maximum(-changes[:n], 0))
    index = [100 - 100 / (1 + gain / loss)]
    for change in changes[n:]:
        gain = (gain * (n - 1) + max(change, 0)) / n
        loss = (loss * (n - 1) + max(-change, 0)) / n
        index.append(100 - 100 / (1 + gain / loss))
    ours = raw(bars_of(close, close), "rsi_14")[:, 0]
    np.testing.assert_allclose(ours, np.array(index) / 50 - 1, rtol=1e-5)


def test_windows_without_movement_are_zero_and_not_nothing() -> None:
    still = bars_with([0.1] * 30, volume=[0.0] * 30)
    values = raw(
        still, "volatility_5", "ewma_volatility_5", "rsi_5", "zscore_5", "volume_surprise_5"
    )
    assert len(values) == 25
    assert not values.any()


# --- both forms ------------------------------------------------------------------------------


def streamed(pipeline: FeaturePipeline, bars: Bars) -> list[NDArray[np.float32] | None]:
    stream = pipeline.stream()
    return [stream.update(bar) for bar in bars.table.iter_rows(named=True)]


@pytest.mark.parametrize("name", EVERY)
def test_bar_by_bar_equals_all_at_once(name: str) -> None:
    bars = quoted(300, seed=1, unknown=11)
    pipeline = FeaturePipeline.fit(bars, FeatureSettings(names=(name,)))
    whole, skipped = pipeline.transform(bars)
    one_by_one = streamed(pipeline, bars)
    assert [value is None for value in one_by_one] == [t < skipped for t in range(300)]
    np.testing.assert_array_equal(np.stack(one_by_one[skipped:]), whole)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", EVERY)
def test_both_forms_agree_before_they_are_rounded(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To 1e-12 as the bar is, and in fact to the bit: float64, unscaled."""
    bars = quoted(300, seed=8, unknown=11)
    pipeline = FeaturePipeline((name,), (0.0,), (1.0,))
    monkeypatch.setattr(FeaturePipeline, "scaled", lambda self, values: values)
    whole, skipped = pipeline.transform(bars)
    stream, epoch = pipeline.stream(), bars.table["time"].dt.epoch("us")
    rows = zip(epoch, bars.table.iter_rows(named=True), strict=True)
    one_by_one = np.array([stream.raw(time, bar) for time, bar in rows][skipped:])
    assert whole.dtype == np.float64
    np.testing.assert_allclose(one_by_one, whole, rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(one_by_one, whole)


def test_all_features_together_stream_like_one(walk: Bars) -> None:
    bars = quoted(120, seed=2, unknown=3)
    pipeline = FeaturePipeline.fit(bars, FeatureSettings(names=EVERY))
    whole, skipped = pipeline.transform(bars)
    assert skipped == 7  # volatility_7 needs seven returns
    np.testing.assert_array_equal(np.stack(streamed(pipeline, bars)[skipped:]), whole)  # type: ignore[arg-type]


@settings(max_examples=40)
@given(st.integers(30, 118), st.floats(0.3, 3), st.integers(0, 10**6))
def test_features_do_not_see_the_bars_after(t: int, factor: float, seed: int) -> None:
    """Every column of every bar after t changes, and its time; no feature at or before t does."""
    bars = quoted(120, seed=3, unknown=5)
    rng = np.random.default_rng(seed)
    prices = ("open", "high", "low", "close", "bid", "ask")
    other = bars.table.with_columns(
        pl.col(prices) * factor,
        pl.col("time") + timedelta(days=int(rng.integers(1, 9))),
        volume=pl.Series(rng.exponential(9, 120)),
        depth_imbalance=pl.Series(rng.uniform(-1, 1, 120)),
    )
    table = pl.concat([bars.table[: t + 1], other[t + 1 :]])
    pipeline = FeaturePipeline.fit(bars, RAW)
    before, skipped = pipeline.transform(bars)
    changed, _ = pipeline.transform(Bars.of("changed", table))
    np.testing.assert_array_equal(changed[: t + 1 - skipped], before[: t + 1 - skipped])
    assert (changed[t + 1 - skipped :] != before[t + 1 - skipped :]).any(axis=0).sum() > len(
        EVERY
    ) / 2


# --- fitting and schema ----------------------------------------------------------------------


def test_scaling_gives_unit_deviation_on_training_and_is_kept_elsewhere(walk: Bars) -> None:
    split = walk.split()
    pipeline = FeaturePipeline.fit(split.train, BOTH)
    train = pipeline.transform(split.train).values
    np.testing.assert_allclose(train.std(axis=0), 1, rtol=1e-4)
    assert abs(train[:, 1].mean()) < 1e-3
    close = split.validation.table["close"].to_numpy()
    values, skipped = pipeline.transform(split.validation)
    assert skipped == 1
    expected = (close[1:] / close[:-1] - 1) / pipeline.scales[0]
    np.testing.assert_allclose(values[:, 0], expected, rtol=1e-4, atol=1e-6)


def test_schema_says_all_that_was_fitted_and_hashes_it(walk: Bars) -> None:
    split = walk.split()
    named = FeatureSettings(names=("volatility_20", "price_change"))
    one, other = (FeaturePipeline.fit(part, named) for part in (split.train, split.validation))
    assert one.schema_hash == FeaturePipeline.fit(split.train, named).schema_hash
    assert one.schema_hash != other.schema_hash
    schema = json.loads(json.dumps(one.schema))
    assert [(f["name"], f["bars"]) for f in schema["features"]] == [
        ("volatility_20", 20),
        ("price_change", None),
    ]
    assert FeaturePipeline.from_schema(schema) == one
    for stated in ("0" * 64, "f" * 64):
        with pytest.raises(ValueError, match="does not have the hash that it states"):
            FeaturePipeline.from_schema(schema | {"hash": stated})
    schema["features"][0]["scale"] *= 2
    with pytest.raises(ValueError, match="does not have the hash that it states"):
        FeaturePipeline.from_schema(schema)
    swapped = FeaturePipeline(one.names[::-1], one.offsets[::-1], one.scales[::-1])
    assert swapped.schema_hash != one.schema_hash


@pytest.mark.parametrize(
    "names, reason",
    [
        ("volatility", r"volatility is no feature; there are price_change, .*volatility_n"),
        ("depth", "depth is no feature"),
        ("price_change_3", "price_change_3 is no feature"),
        ("volatility_1", "volatility_1: its number must be from 2 to 10,000"),
        ("momentum_10001", "momentum_10001: its number must be from 1 to 10,000"),
        ("spread,spread", "spread is named twice"),
        ("", "is no feature"),
    ],
)
def test_names_that_are_none(names: str, reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        FeatureSettings.model_validate({"names": names})


def test_what_bars_cannot_give_is_refused_by_name(walk: Bars) -> None:
    for name, missing in (("depth_imbalance", "depth_imbalance"), ("spread", "bid, ask")):
        with pytest.raises(
            BarsError, match=f"feature {name} needs {missing}, which these bars do not"
        ):
            FeaturePipeline.fit(walk, FeatureSettings(names=("price_change", name)))
    with pytest.raises(BarsError, match="3000 bars are too few for volatility_5000"):
        FeaturePipeline.fit(walk, FeatureSettings(names=("price_change", "volatility_5000")))
    still = bars_of(np.full(9, 5.0), np.full(9, 5.0), "still")
    with pytest.raises(BarsError, match="still: price_change never varies"):
        FeaturePipeline.fit(still, FeatureSettings())
    assert "volatility_n" in feature_names()


def test_a_deviation_of_nothing_but_rounding_is_no_scale() -> None:
    """The mean of equal numbers is rounded, and leaves a deviation that is not quite zero."""
    still = bars_of(np.full(10, 0.1), np.full(10, 0.1), "still")
    assert 0 < np.log(still.column("close")).std() < 1e-12
    with pytest.raises(BarsError, match="still: log_price never varies"):
        FeaturePipeline.fit(still, FeatureSettings(names=("log_price",)))
    unscaled = FeaturePipeline.fit(still, FeatureSettings(names=("log_price",), scale=False))
    assert (unscaled.offsets, unscaled.scales) == ((0.0,), (1.0,))
    barely = bars_with([1.0, *[1.0 + 1e-10] * 9])
    fitted = FeaturePipeline.fit(barely, FeatureSettings(names=("log_price",)))
    assert fitted.scales[0] == pytest.approx(3e-11, rel=1e-3)  # 1e-10 * sqrt(0.1 * 0.9)


def test_a_schema_stored_by_another_version_keeps_its_hash() -> None:
    """It stands in every bundle: whoever changes how it is made refuses every model there is."""
    made = FeaturePipeline(("volatility_20", "price_change"), (0.5, 0.0), (2.0, 0.25))
    assert made.schema_hash == "c2bc7dbd3c0d1c25c89b94fe85e247705d7fbb7eb16fa4b91452c42d2ad65ca4"
    assert made.schema["features"][0] == {
        "name": "volatility_20",
        "bars": 20,
        "offset": 0.5,
        "scale": 2.0,
    }


def test_a_bar_that_does_not_follow_leaves_the_stream_as_it_was() -> None:
    bars = quoted(40, seed=6)
    pipeline = FeaturePipeline.fit(bars, FeatureSettings(names=("rsi_5", "spread", "volatility_5")))
    rows = bars.table.to_dicts()
    stream = pipeline.stream()
    good = [stream.update(row) for row in rows[:20]]
    for change, reason in [
        ({"time": rows[19]["time"]}, "it must be later than the bar before it"),
        ({"close": math.nan}, "close is nan, which no good bar has"),
        ({"low": 0.0}, "low is 0.0"),
        ({"volume": -1.0}, "volume is -1.0"),
        ({"high": math.inf}, "high is inf"),
        ({"bid": None}, "bid is nan"),  # it was known before
        ({"high": rows[20]["low"] / 2}, "open and close must lie from low to high"),
        ({"bid": rows[20]["ask"] * 2}, "a bid above the ask"),
    ]:
        with pytest.raises(BarsError, match=reason):
            stream.update(rows[20] | change)
    for lacking in ("open", "ask"):
        with pytest.raises(
            BarsError, match=f"a bar lacks {lacking}; these features need time, open"
        ):
            stream.update({name: value for name, value in rows[20].items() if name != lacking})
    good += [stream.update(row) for row in rows[20:]]
    whole, skipped = pipeline.transform(bars)
    np.testing.assert_array_equal(np.stack(good[skipped:]), whole)  # type: ignore[arg-type]
