"""Settings by dotted path, and what makes two trainings trials of one configuration."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from durable.settings import leaves

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
ADDED = {"market.sizing": "unit", "replay.prefill": "[]"}

# Before there were kinds of agents, runs said what stood in the settings of the other kind as well: its
# defaults. A table was a kind of network.
SAID_BESIDE = {
    "dqn": {
        "tabular.algorithm": "q_learning",
        "tabular.bins": "10",
        "tabular.learning_rate": "none",
        "tabular.omega": "0.8",
    },
    "tabular": {
        "network.kind": "tabular",
        "network.hidden": "[64, 64]",
        "network.dueling": "False",
        "network.quantiles": "none",
        "network.cvar": "1.0",
        "network.noisy": "False",
        "network.layer_norm": "False",
        "learner.batch": "32",
        "learner.optimizer": "adam",
        "learner.learning_rate": "0.001",
        "learner.loss": "mse",
        "learner.huber_delta": "1.0",
        "learner.clip_norm": "none",
        "learner.target": "q_learning",
        "learner.backup": "sampled",
        "learner.n_step": "1",
        "learner.munchausen_alpha": "0.9",
        "learner.munchausen_temperature": "0.03",
        "learner.munchausen_lowest": "-1.0",
        "learner.updates_per_iteration": "1",
        "learner.target_every": "500",
        "learner.tau": "none",
        "replay.capacity": "100000",
        "replay.learning_starts": "1000",
        "replay.prioritised": "False",
        "replay.priority.alpha": "0.6",
        "replay.priority.alpha_end": "none",
        "replay.priority.beta": "0.4",
        "replay.priority.beta_end": "1.0",
        "replay.priority.steps": "100000",
        "replay.priority.floor": "0.001",
    },
}


def flatten(tree: Mapping[str, Any]) -> dict[str, str]:
    """A tree of settings by dotted path, as text."""
    return {path: "none" if value is None else str(value) for path, value in leaves(tree).items()}


def completed(flat: Mapping[str, str]) -> dict[str, str]:
    """The same settings as runs of all versions can be compared by: those of before say no less."""
    beside = SAID_BESIDE.get(flat.get("agent.kind", ""), {})
    known = {name: value for name, value in flat.items() if not beside or name != "agent.kind"}
    return {**ADDED, **beside, **known}


def configuration_hash(flat: Mapping[str, str]) -> str:
    """The same for settings that differ in nothing but `NO_PART`, and where checkpoints go.

    A setting of `ADDED` that is missing is as if it had its value there, so that a training of before and
    one of after are trials of the same configuration.
    """
    counts = {
        name: SAID_BEFORE.get((name, value), value)
        for name, value in completed(flat).items()
        if name not in NO_PART and not name.startswith("checkpoints.") and ADDED.get(name) != value
    }
    return hashlib.sha256(json.dumps(counts, sort_keys=True).encode()).hexdigest()[:16]
