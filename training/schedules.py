"""Schedules of the exploration rate, as pure functions of the iteration."""

import math

import tensorflow as tf

from training.settings import EpsilonSettings


def epsilon(iteration: tf.Tensor, settings: EpsilonSettings) -> tf.Tensor:
    """The share of random actions at iteration k = 0, 1, 2, ...

    `exponential`: max(min, start * decay^k). `linear`: from start to min over `steps` iterations.
    """
    k = tf.cast(iteration, tf.float32)
    if settings.schedule == "exponential":
        # The logarithm in double precision: in single a decay of 0.99999999 would round to 1.
        value = settings.start * tf.exp(k * math.log(settings.decay))
    else:
        value = settings.start + (settings.min - settings.start) * k / settings.steps
    return tf.maximum(value, settings.min)
