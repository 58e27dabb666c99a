"""Random bits inside the compiled loop: a counter and a key in, 32 bits out, no state to forget.

Widynski (2020), "Squares: A Fast Counter-Based RNG", the generator of four rounds. Beside the
generators that XLA brings it costs a tenth: each number is a chain of its own, so that XLA computes
many at a time.
"""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray


def keys_of(seeds: Sequence[int], use: int) -> NDArray[np.uint64]:
    """An odd key for each seed and use, well mixed; shape (seeds, 1)."""
    drawn = [np.random.SeedSequence([seed, use]).generate_state(1, np.uint64) for seed in seeds]
    return np.stack(drawn) | np.uint64(1)


def random_bits(key: NDArray[np.uint64], step: tf.Tensor, count: int) -> tf.Tensor:
    """The bits of one step: numbers step * count to (step + 1) * count - 1 of each key's sequence.

    From keys of shape (seeds, 1) and a step (int32, at least 0): uint32 of shape (seeds, count).
    """
    counter = tf.cast(step, tf.uint64) * count + np.arange(count, dtype=np.uint64)
    half = tf.constant(32, tf.uint64)
    keys = tf.constant(key)
    first = x = counter * keys
    second = first + keys
    for weyl in (first, second, first):
        x = x * x + weyl
        x = tf.bitwise.right_shift(x, half) | tf.bitwise.left_shift(x, half)
    return tf.cast(tf.bitwise.right_shift(x * x + second, half), tf.uint32)


def below(bits: tf.Tensor, bound: tf.Tensor | int) -> tf.Tensor:
    """Random whole numbers from 0 to bound - 1, int32: the product's upper half (Lemire 2019).

    Uniform but for 1 part in 2^32 / bound; vectors of it are quick where those of a remainder are not.
    """
    product = tf.cast(bits, tf.uint64) * tf.cast(bound, tf.uint64)
    return tf.cast(tf.bitwise.right_shift(product, tf.constant(32, tf.uint64)), tf.int32)


def uniform(bits: tf.Tensor) -> tf.Tensor:
    """Random numbers in [0, 1), exact in float32: of the upper 24 bits."""
    return tf.cast(tf.bitwise.right_shift(bits, tf.constant(8, tf.uint32)), tf.float32) * 2.0**-24
