"""What runs and versions say of themselves: tags, headings, descriptions."""

import hashlib

from training.data import TrainingData
from training.settings import TrainSettings


def tags(settings: TrainSettings, data: TrainingData, seed: int, group: str) -> dict[str, str]:
    """What runs and versions are grouped and searched by."""
    tabular = settings.network.kind == "tabular"
    return {
        "algorithm": settings.tabular.algorithm if tabular else _algorithm(settings),
        "network": settings.network.kind,
        "bars": data.bars.name,
        "data_hash": data.bars.content_hash,
        "features_hash": data.features.schema_hash,
        "judged_on": _judged_on(settings, data),
        "fill": settings.market.fill,
        "fee_rate": f"{settings.market.fee_rate:g}",
        "cvar": f"{settings.network.cvar:g}",
        "seed": str(seed),
        "group": group,
    }


def identity(data: TrainingData) -> dict[str, str]:
    """What a checkpoint's state has its meaning from: the bars, their split, features and units."""
    return {
        "data_hash": data.bars.content_hash,
        "train_hash": data.split.train.content_hash,
        "features_hash": data.features.schema_hash,
        "reward_scale": repr(data.reward_scale),
    }


def _algorithm(settings: TrainSettings) -> str:
    """DQN and what it was extended by: `dqn`, `dqn+double+n_step+prioritised`."""
    learner, network = settings.learner, settings.network
    parts = {
        learner.target: learner.target != "q_learning",
        "all_actions": learner.backup == "all_actions",
        "n_step": learner.n_step > 1,
        "prioritised": settings.replay.prioritised,
        "dueling": network.dueling,
        "quantile": network.quantiles is not None,
        "noisy": network.noisy,
    }
    return "+".join(["dqn", *(name for name, present in parts.items() if present)])


def _judged_on(settings: TrainSettings, data: TrainingData) -> str:
    """Versions that were judged on the same bars, costs and fills share this hash."""
    judge = data.split.validation.content_hash + settings.market.model_dump_json()
    return hashlib.sha256(judge.encode()).hexdigest()[:16]


def title(settings: TrainSettings, data: TrainingData) -> str:
    """The heading of a comparison: runs with the same one can be compared."""
    first, last = data.split.validation.table["time"].dt.date()[[0, -1]]
    return (
        f"Validation on {data.bars.name}, {first} to {last}, net of costs\n{_costs(settings, data)}"
    )


def _costs(settings: TrainSettings, data: TrainingData) -> str:
    market = settings.market
    half = f"{market.half_spread or 0:g}"
    if market.half_spread is None and "bid" in data.bars.table.columns:
        half = "as quoted"
    borrow = f", borrowing {market.borrow_rate:g} a bar" if market.borrow_rate else ""
    return (
        f"fills at {market.fill}, fee {market.fee_rate:g} of notional, half spread {half}, "
        f"slippage {market.slippage:g}{borrow}"
    )


def description(settings: TrainSettings, data: TrainingData, seed: int, command: str) -> str:
    """What a run is and how to repeat it, in Markdown."""
    first, last = (data.bars.table["time"][row] for row in (0, -1))
    return (
        f"{settings.called} on {data.bars.name} ({first:%Y-%m-%d} to {last:%Y-%m-%d}), "
        f"{settings.steps:,} iterations, seed {seed}; {_costs(settings, data)}."
        f"\n\n    {command}"
    )
