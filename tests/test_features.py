"""Features: fitted on training, blind to the future."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from market.bars import Bars, BarsError
from market.features import Features, FeatureSettings
from market.synthetic import random_walk
from tests.conftest import bars_of

BOTH = FeatureSettings(names=("price_change", "log_price"))


def test_raw_price_change_is_the_seeds_formula() -> None:
    close = np.array([100.0, 110.0, 99.0])
    features = Features.fit(bars_of(close, close), FeatureSettings(scale=False))
    np.testing.assert_allclose(
        features.transform(bars_of(close, close))[:, 0], [0, 0.1, -0.1], rtol=1e-6
    )


def test_scaling_gives_unit_deviation_on_training_and_is_kept_elsewhere(walk: Bars) -> None:
    split = walk.split()
    features = Features.fit(split.train, BOTH)
    train = features.transform(split.train)[features.WARMUP :]
    np.testing.assert_allclose(train.std(axis=0), 1, rtol=1e-4)
    assert abs(train[:, 1].mean()) < 1e-3
    change = split.validation.table["close"].to_numpy()
    raw = change[1:] / change[:-1] - 1
    np.testing.assert_allclose(
        features.transform(split.validation)[1:, 0], raw / features.scales[0], rtol=1e-4, atol=1e-6
    )


def test_schema_hash_depends_on_what_was_fitted(walk: Bars) -> None:
    split = walk.split()
    one, other = Features.fit(split.train, BOTH), Features.fit(split.validation, BOTH)
    assert one.schema_hash == Features.fit(split.train, BOTH).schema_hash
    assert one.schema_hash != other.schema_hash


def test_a_price_that_never_moves_is_refused() -> None:
    still = bars_of(np.full(9, 5.0), np.full(9, 5.0), "still")
    with pytest.raises(BarsError, match="still: price_change never varies"):
        Features.fit(still, FeatureSettings())


@given(st.integers(1, 198), st.floats(0.1, 10))
def test_features_do_not_see_the_bars_after(t: int, factor: float) -> None:
    bars = random_walk(200, seed=3)
    features = Features.fit(bars, BOTH)
    close = bars.table["close"].to_numpy().copy()
    close[t + 1 :] *= factor
    changed = features.transform(bars_of(close, close))
    np.testing.assert_array_equal(changed[: t + 1], features.transform(bars)[: t + 1])
