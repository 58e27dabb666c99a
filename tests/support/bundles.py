"""Bundles of untrained models."""

from typing import Any

import numpy as np

from market.features import FeaturePipeline
from models.bundle import Bundle
from models.manifest import Origin
from models.networks import copy_of
from models.tabular import TabularQ


def states_of(size: int, count: int = 64) -> np.ndarray:
    rng = np.random.default_rng(2)  # whatever ran before
    features = rng.normal(size=(count, size - 2))
    position = rng.integers(-1, 2, (count, 1))
    return np.concatenate([features, position, np.ones((count, 1))], 1).astype(np.float32)


def bundle_of(model: Any, cvar: float = 1.0, size: int = 3) -> Bundle:
    names = tuple(f"log_return_{i + 1}" for i in range(size - 2))
    features = FeaturePipeline(names, (0.0,) * len(names), (1.0,) * len(names)).schema
    origin = Origin(
        name=getattr(model, "name", "tabular"),
        run_id="r",
        step=7,
        seed=1,
        scheme="target",
        features=features,
        settings={"steps": 7},
        data_hash="d",
        code_version="c",
    )
    model = model if isinstance(model, TabularQ) else copy_of(model)
    return Bundle.of(model, origin, states_of(size), cvar)
