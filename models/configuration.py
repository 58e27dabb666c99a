"""Settings by dotted path, and what makes two trainings trials of one configuration."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

# What may differ between trainings of one configuration: luck, names, places and how often to look.
NO_PART = (
    "seed",
    "seeds",
    "preset",
    "name",
    "experiment",
    "bars",
    "mlruns",
    "tracking_uri",
    "log_every",
    "reward_scale",
)
# Where a default is left open now, what runs of before say of the same.
SAID_BEFORE = {("market.episode_bars", "none"): "1000"}

# Settings that came later, at the value that all trainings before had: there they say nothing.
ADDED = {"market.sizing": "unit"}


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """A tree of settings by dotted path."""
    flat: dict[str, str] = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = "none" if value is None else str(value)
    return flat


def configuration_hash(flat: Mapping[str, str]) -> str:
    """The same for settings that differ in nothing but `NO_PART`, and where checkpoints go.

    A setting of `ADDED` that is missing is as if it had its value there, so that a training of before and
    one of after are trials of the same configuration.
    """
    counts = {
        name: SAID_BEFORE.get((name, value), value)
        for name, value in flat.items()
        if name not in NO_PART and not name.startswith("checkpoints.") and ADDED.get(name) != value
    }
    return hashlib.sha256(json.dumps(counts, sort_keys=True).encode()).hexdigest()[:16]
