"""What several seeds say together."""

import numpy as np
import pytest

from evaluation.statistics import interquartile_mean, interquartile_mean_interval


def test_interquartile_mean_leaves_a_quarter_out_at_either_end() -> None:
    assert interquartile_mean([100, 2, 3, 4, 5, 6, 7, -100]) == pytest.approx(4.5)
    assert interquartile_mean([1, 5, 3]) == pytest.approx(3)  # of three nothing is left out


def test_the_interval_covers_as_often_as_it_says() -> None:
    """Of 20 normal values about 0, 95% of intervals hold 0, as far as 200 tries and n = 20 can tell."""
    rng = np.random.default_rng(1)
    held = []
    for _ in range(200):
        low, high = interquartile_mean_interval(rng.normal(size=20))
        held.append(low <= 0 <= high)
    assert 0.86 <= np.mean(held) <= 0.99


def test_a_seed_decides_the_interval() -> None:
    values = [0.1, 0.5, -0.2, 0.9, 0.3]
    assert interquartile_mean_interval(values, 3) == interquartile_mean_interval(values, 3)
