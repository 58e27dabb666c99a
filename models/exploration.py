"""Exploration: how large the share of random actions is, in training and where trading asks for it.

Schedules are pure functions of the iteration, of numbers and arrays or of tensors.
"""

import math
from types import ModuleType
from typing import Any, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from durable.settings import Settings

# Environment variables, and the settings that they stand for.
EPSILON_VARIABLES = {
    f"DQN_EPSILON_{name.upper()}": f"epsilon.{name}" for name in ("start", "min", "decay")
}
Array = Any  # a number, a NumPy array, or a TensorFlow tensor


class EpsilonSettings(Settings):
    """Exploration: the share of random actions."""

    schedule: Literal["exponential", "linear"] = Field(
        "exponential", description="max(min, start * decay^k), or linear from start to min"
    )
    start: float = Field(1.0, ge=0, le=1, description="at iteration 0 (DQN_EPSILON_START)")
    min: float = Field(0.05, ge=0, le=1, description="never below (DQN_EPSILON_MIN)")
    decay: float = Field(0.9999, gt=0, le=1, description="factor an iteration (DQN_EPSILON_DECAY)")
    steps: int = Field(
        50_000, ge=1, le=10**9, description="iterations that the linear schedule takes"
    )

    @model_validator(mode="after")
    def _min_is_below_start(self) -> Self:
        if self.min > self.start:
            raise ValueError(f"min is {self.min:g}, above start, {self.start:g}")
        return self


def linear(k: Array, start: float, end: float, steps: int, xp: ModuleType = np) -> Array:
    """From start at iteration 0 to end at iteration `steps`, and end from there on.

    k is a number of iterations, floating where a tensor; `xp` is `numpy`, or `tensorflow` for tensors,
    whose functions of these names agree.
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
