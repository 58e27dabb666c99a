"""All that a run has logged, and how a checkpoint holds it."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Point(NamedTuple):
    """One value of a metric."""

    name: str
    value: float
    time: int  # milliseconds since 1970
    step: int


def packed(history: Sequence[Point]) -> tuple[list[str], dict[str, NDArray[Any]]]:
    """Points as the names of metrics and arrays of one entry a point; `unpacked` takes them back."""
    names = list(dict.fromkeys(point.name for point in history))
    index = {name: i for i, name in enumerate(names)}
    arrays: dict[str, NDArray[Any]] = {
        "name": np.array([index[point.name] for point in history], np.uint16),
        "value": np.array([point.value for point in history], np.float64),
        "time": np.array([point.time for point in history], np.int64),
        "step": np.array([point.step for point in history], np.int64),
    }
    return names, arrays


def unpacked(names: Sequence[str], arrays: Mapping[str, NDArray[Any]]) -> list[Point]:
    """What `packed` was given."""
    columns = (arrays[name].tolist() for name in ("name", "value", "time", "step"))
    return [Point(names[i], *rest) for i, *rest in zip(*columns, strict=True)]
