"""Schedules as pure functions of the iteration, of numbers and arrays or of tensors."""

import math
from types import ModuleType
from typing import Any

import numpy as np

from training.settings import EpsilonSettings

Array = Any  # a number, a NumPy array, or a TensorFlow tensor


def linear(k: Array, start: float, end: float, steps: int, xp: ModuleType = np) -> Array:
    """From start at iteration 0 to end at iteration `steps`, and end from there on.

    Args:
        k: iterations, floating where a tensor.
        start: first value.
        end: last value.
        steps: iterations in between.
        xp: `numpy`, or `tensorflow` for tensors: their functions of these names agree.
    """
    return start + (end - start) * xp.minimum(k / steps, 1.0)


def epsilon(k: Array, settings: EpsilonSettings, xp: ModuleType = np) -> Array:
    """The share of random actions at iteration k = 0, 1, 2, ...; arguments as in `linear`.

    `exponential`: max(min, start * decay^k). `linear`: from start to min over `steps` iterations.
    """
    if settings.schedule == "linear":
        return linear(k, settings.start, settings.min, settings.steps, xp)
    # The logarithm in double precision: in single a decay of 0.99999999 would round to 1.
    return xp.maximum(settings.start * xp.exp(k * math.log(settings.decay)), settings.min)
