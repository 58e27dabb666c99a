"""The risk measure that quantiles are turned into Q-values by."""

from typing import Any

import numpy as np


def conditional_value_at_risk(quantiles: Any, level: float) -> Any:
    """The mean of the lowest share of outcomes, in plain operators: NumPy arrays and tensors alike.

    Quantile i of N stands for the outcomes between i / N and (i + 1) / N, as it was learned; where
    learned quantiles cross they are not sorted. From shape (..., N) to (...); the level is in (0, 1],
    and 1 gives the mean.
    """
    count = quantiles.shape[-1]
    taken = np.clip(level * count - np.arange(count), 0, 1).astype(np.float32)
    return (quantiles @ (taken / taken.sum())[:, None])[..., 0]
