"""Random bits of the compiled loop."""

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from training.learning.random_bits import below, keys_of, random_bits, uniform


def squares(counter: int, key: int) -> int:
    """Widynski (2020), the listing of four rounds, in whole numbers without end."""
    mask, low = 2**64 - 1, 2**32 - 1
    x = y = counter * key & mask
    z = y + key & mask
    x = x * x + y & mask
    x = (x >> 32) | ((x & low) << 32)
    x = x * x + z & mask
    x = (x >> 32) | ((x & low) << 32)
    x = x * x + y & mask
    x = (x >> 32) | ((x & low) << 32)
    return (x * x + z & mask) >> 32


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("step", [0, 1, 2**31 - 1])
def test_they_are_those_of_the_paper(step: int, compiled: bool) -> None:
    key = keys_of([3, 2**31], use=0)
    program = tf.function(lambda step: random_bits(key, step, 5), jit_compile=compiled)
    expected = [[squares(step * 5 + k, int(each)) for k in range(5)] for each in key[:, 0]]
    np.testing.assert_array_equal(program(tf.constant(step)), expected)


def test_keys_are_odd_and_differ_by_seed_and_use() -> None:
    keys = [int(key) for use in range(2) for key in keys_of(range(1000), use).ravel()]
    assert all(key % 2 for key in keys)
    assert len(set(keys)) == 2000


def test_they_are_uniform_and_unlike_each_other() -> None:
    """Of neighbouring seeds, steps and places: no chi-square or correlation out of the ordinary."""
    key = keys_of(range(8), use=0)
    steps = [random_bits(key, tf.constant(step), 512).numpy() for step in range(400)]
    bits = np.stack(steps, axis=1)  # (seeds, steps, places)
    for low in (0, 8, 16, 24):  # each byte
        counts = np.bincount((bits >> np.uint32(low) & np.uint32(255)).ravel(), minlength=256)
        assert stats.chisquare(counts).pvalue > 1e-4
    share = uniform(tf.constant(bits)).numpy().astype(float)
    assert share.min() >= 0
    assert share.max() < 1
    for one, other in (
        (share[1:], share[:-1]),
        (share[:, 1:], share[:, :-1]),
        (share[..., 1:], share[..., :-1]),
    ):
        correlation = np.corrcoef(one.ravel(), other.ravel())[0, 1]
        assert abs(correlation) < 4.5 / np.sqrt(one.size)


@pytest.mark.parametrize("bound", [1, 3, 1000, 2**31 - 1])
def test_below_reaches_every_number_and_not_the_bound(bound: int) -> None:
    ends = np.array([0, 2**32 - 1, 2**31], np.uint32)
    np.testing.assert_array_equal(below(tf.constant(ends), bound), [0, bound - 1, bound // 2])
    if bound == 3:
        bits = random_bits(keys_of([1], use=0), tf.constant(0), 90_000)
        counts = np.bincount(below(bits, bound).numpy().ravel())
        assert stats.chisquare(counts).pvalue > 1e-4
