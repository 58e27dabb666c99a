"""What runs and versions say of themselves: settings, tags, headings, descriptions."""

import hashlib
import shlex
from collections.abc import Mapping
from typing import Any

from evaluation.measures import cells
from market.bars import Bars
from market.calendar import WEEK
from models.manifest import TrainedMarket
from training.data import TrainingData
from training.settings import TrainSettings
from training.tracking.origin import code_version


def tags(settings: TrainSettings, data: TrainingData, seed: int, group: str) -> dict[str, str]:
    """What runs and versions are grouped and searched by."""
    return {
        "algorithm": settings.agent.algorithm,
        "network": settings.agent.architecture,
        "bars": data.bars.name,
        "data_hash": data.bars.content_hash,
        "features_hash": data.features.schema_hash,
        "judged_on": _judged_on(settings, data),
        "fill": settings.market.fill,
        "sizing": settings.market.sizing,
        "fee_rate": f"{settings.market.fee_rate:g}",
        "cvar": f"{settings.agent.cvar:g}",
        "episode_bars": str(data.train.episode_bars),
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


def origin(settings: TrainSettings, data: TrainingData, seed: int, run: str) -> dict[str, Any]:
    """Where the models of a run come from, but for their step."""
    return {
        "name": settings.model_name,
        "run_id": run,
        "seed": seed,
        "scheme": settings.market.scheme,
        "features": data.features.schema,
        "settings": settings.tree(),
        "data_hash": data.bars.content_hash,
        "code_version": code_version(),
        "market": trained_market(data),
    }


def trained_market(data: TrainingData) -> TrainedMarket:
    """What trading compares a market with."""
    calendar = data.bars.calendar
    close = data.split.train.column("close")
    features = data.train.features
    bounds = zip(features.min(axis=0).tolist(), features.max(axis=0).tolist(), strict=True)
    return TrainedMarket(
        instrument=data.bars.name,
        interval=None if calendar.kind == "irregular" else calendar.interval,
        calendar=calendar.kind if calendar.seen >= WEEK else None,
        lowest=float(close.min()),
        highest=float(close.max()),
        ranges=dict(zip(data.features.names, map(list, bounds), strict=True)),
    )


def _judged_on(settings: TrainSettings, data: TrainingData) -> str:
    """Versions that were judged on the same bars, costs and fills share this hash."""
    judge = data.split.validation.content_hash + settings.market.fingerprint()
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
    sizing = "" if market.sizing == "unit" else f"sizing {market.sizing}, "
    return (
        f"fills at {market.fill}, {sizing}fee {market.fee_rate:g} of notional, half spread {half}, "
        f"slippage {market.slippage:g}{borrow}"
    )


def summary(settings: TrainSettings, data: TrainingData, seed: int, command: str) -> str:
    """What a run or a version is of, and how to repeat it, in Markdown."""
    rows = {
        "data": f"{data.bars.name}, {_days(data.bars)}, sha256 `{data.bars.content_hash[:16]}`",
        "trained on": f"{_days(data.split.train)}, {len(data.split.train):,} bars",
        "validated on": f"{_days(data.split.validation)}, {len(data.split.validation):,} bars",
        "what learns": settings.agent.summary,
        "how long": f"{settings.steps:,} iterations, seed {seed}",
        "costs": _costs(settings, data),
    }
    lines = [f"- **{name}**: {text}" for name, text in rows.items()]
    return "\n".join([*lines, "", "Repeat it:", "", f"    {command}"])


def resuming(run_id: str, settings: TrainSettings) -> str:
    """The command that resumes a run."""
    where = settings.checkpoints.where
    mlruns = str(settings.mlruns)
    flags = ["--resume", run_id[:8]]
    flags += ["--checkpoints", where] if where is not None else []
    flags += ["--mlruns", mlruns] if mlruns != "mlruns" else []
    return shlex.join(["qdesk", "train", *flags])


def with_results(about: str, rows: Mapping[str, Mapping[str, float]], caveat: str) -> str:
    """What a run that ended was, and what it did beside the baselines."""
    columns, body = table(rows)
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    lines += [f"| {' | '.join(row)} |" for row in body]
    head = "Validation, net of costs, by when orders are filled:"
    return "\n".join([head, "", *lines, "", caveat, "", about])


def table(rows: Mapping[str, Mapping[str, float]]) -> tuple[list[str], list[list[str]]]:
    """Measures side by side as text: names of columns, and rows."""
    columns = ["policy", "return at close", "at next open", "Sharpe", "drawdown"]
    columns += ["bars with a trade", "costs"]
    return columns, [[name, *cells(measures)] for name, measures in rows.items()]


def _days(bars: Bars) -> str:
    first, last = (bars.table["time"][row] for row in (0, -1))
    return f"{first:%Y-%m-%d} to {last:%Y-%m-%d}"
