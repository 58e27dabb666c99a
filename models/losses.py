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

    Summed over the predicted quantiles, averaged over the targets.

    Args:
        quantiles: predicted, quantile i at (i + 1/2) / N, shape (..., N).
        targets: shape (..., M).
        delta: where the Huber loss turns linear.

    Returns:
        Shape (...).
    """
    count = quantiles.shape[-1]
    at = (ops.arange(count, dtype="float32") + 0.5) / count
    td_error = targets[..., None, :] - quantiles[..., :, None]  # (..., N, M)
    weight = ops.abs(at[:, None] - ops.cast(td_error < 0, "float32"))
    return ops.sum(ops.mean(weight * huber(td_error, delta), axis=-1), axis=-1)
