"""Losses of the TD error, as pure functions."""

from typing import Any

from keras import ops

Tensor = Any


def huber(td_error: Tensor, delta: float) -> Tensor:
    """Quadratic up to delta, linear beyond: Huber (1964); not divided by delta. Keeps the shape."""
    size = ops.abs(td_error)
    return ops.where(size <= delta, 0.5 * ops.square(td_error), delta * (size - 0.5 * delta))


def quantile_huber(quantiles: Tensor, targets: Tensor, delta: float) -> Tensor:
    """The quantile Huber loss: Dabney et al. (2018), equation 10 and algorithm 1.

    Predicted quantiles of shape (..., N), quantile i at (i + 1/2) / N, against targets of shape (..., M):
    shape (...), summed over the former, averaged over the latter. It turns linear at delta.
    """
    count = quantiles.shape[-1]
    at = (ops.arange(count, dtype="float32") + 0.5) / count
    td_error = targets[..., None, :] - quantiles[..., :, None]  # (..., N, M)
    weight = ops.abs(at[:, None] - ops.cast(td_error < 0, "float32"))
    return ops.sum(ops.mean(weight * huber(td_error, delta), axis=-1), axis=-1)
