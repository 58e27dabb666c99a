"""The wiring of training runs: data, agents, validation, tracking, model versions."""

import hashlib
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from evaluation.backtest import Backtest, backtest, follow, greedy_choice
from evaluation.baselines import buy_and_hold, flat
from evaluation.statistics import interquartile_mean
from market.table import MarketTable
from training import console as screen
from training.agent import Agents, Window
from training.data import TrainingData
from training.keeper import Checkpoints, Keeper, measures_of
from training.settings import NetworkSettings, TrainSettings
from training.stop import Stop
from training.tabular import TabularAgents
from training.tracking import Store, Tracker

if TYPE_CHECKING:
    import keras


class Progress(NamedTuple):
    """One logged point of agents that learn side by side; lists have an entry for each."""

    step: int  # iterations done
    windows: list[Window]  # means since the point before
    iterations_a_second: float  # since the point before, of each agent
    validations: list[Backtest] | None  # of the greedy policies, where a validation was due


def build_network(settings: NetworkSettings, state_size: int, seed: int) -> "keras.Model":
    """The Q-network that settings describe."""
    from models.networks import linear_q_network, two_layer_q_network

    if settings.kind == "linear":
        return linear_q_network(state_size, seed)
    return two_layer_q_network(
        state_size,
        settings.hidden,
        seed,
        dueling=settings.dueling,
        quantiles=settings.quantiles,
        noisy=settings.noisy,
        layer_norm=settings.layer_norm,
    )


def build_agents(settings: TrainSettings, train: MarketTable, reward_scale: float) -> Agents:
    """The agents that settings describe, over the training split."""
    seeds = range(settings.seed, settings.seed + settings.seeds)
    if settings.network.kind == "tabular":
        return TabularAgents(
            train,
            settings.tabular,
            settings.learner.gamma,
            settings.replay.streams,
            settings.epsilon,
            seeds,
            reward_scale,
            settings.called,
        )
    from training.loop import TrainingLoop

    return TrainingLoop(
        train,
        [build_network(settings.network, train.state_size, seed) for seed in seeds],
        settings.learner,
        settings.replay,
        settings.epsilon,
        seeds,
        reward_scale,
        settings.network.cvar,
    )


def validate(
    q_values: Callable[[NDArray[np.float32]], NDArray[Any]], table: MarketTable
) -> Backtest:
    """The greedy policy of a Q-function over a table."""
    return backtest(table, follow(greedy_choice(q_values, table)))


def validate_all(agents: Agents, table: MarketTable) -> list[Backtest]:
    """The greedy policy of each agent over a table."""
    return [validate(agents.q_values(index), table) for index in range(len(agents.seeds))]


def learn(
    agents: Agents,
    validation: MarketTable,
    settings: TrainSettings,
    stopped: Callable[[], bool] = lambda: False,
) -> Iterator[Progress]:
    """Trains for `settings.steps` iterations, yielding at every logged point.

    Args:
        agents: what trains.
        validation: what the greedy policies are judged on.
        settings: how long, and how often to log and to judge.
        stopped: where it says so, the next point comes early; whoever iterates then leaves.

    Raises:
        Diverged: a metric or a weight is no longer finite.
    """
    log_every = settings.log_every or -(-settings.steps // 200)
    evaluate_every = settings.evaluate_every or -(-settings.steps // 20)
    agents.compile()  # so that the first window's rate is one of running
    while (begun_at := agents.iteration) < settings.steps:
        stops = [(begun_at // every + 1) * every for every in (log_every, evaluate_every)]
        began = time.perf_counter()
        windows = agents.run(min(*stops, settings.steps) - begun_at, stopped)
        seconds = time.perf_counter() - began
        step = agents.iteration
        due = step % evaluate_every == 0 or step == settings.steps
        results = validate_all(agents, validation) if due else None
        yield Progress(step, windows, (step - begun_at) / seconds, results)


def train(
    runs: Sequence[tuple[TrainSettings, TrainingData]], console: Console, command: str
) -> signal.Signals | None:
    """Trains runs one after the other, the seeds of each at once, and prints a comparison.

    Args:
        runs: settings and the data that they name.
        console: to draw on.
        command: what was typed; it stands in each run's description.

    Returns:
        The signal that stopped it early, if one did.

    Raises:
        TrackingError: the store cannot be written.
        Diverged: a run's numbers are no longer finite.
    """
    group = f"{datetime.now(UTC):%Y%m%d-%H%M%S}"
    compared: dict[str, tuple[TrainingData, dict[str, dict[str, float]]]] = {}
    candidates = []
    with Stop() as stop:
        for settings, data in runs:
            store = Store(settings.mlruns, settings.experiment)
            ended = _train_seeds(settings, data, store, group, command, console, stop)
            _, rows = compared.setdefault(_title(settings, data), (data, {}))
            rows |= _rows(settings, data, ended)
            name, number = ended[-1].candidate.name, ended[-1].candidate.version
            new = number in {checkpoints.best.version.version for checkpoints in ended}
            stays = "is" if new else "stays"
            why = "" if new else ", which did at least as well on these bars"
            candidates.append(f"{name}@candidate {stays} v{number}{why}")
            if stop.by:
                break
    for title, (data, rows) in compared.items():
        market = data.validation[data.train.settings.fill]
        for name, baseline in (("flat", flat), ("buy and hold", buy_and_hold)):
            rows[name] = measures_of(data, baseline(market))
        console.print(screen.comparison(title, rows))
    console.print(*candidates, sep="\n")
    return stop.by


def _train_seeds(
    settings: TrainSettings,
    data: TrainingData,
    store: Store,
    group: str,
    command: str,
    console: Console,
    stop: Stop,
) -> list[Checkpoints]:
    """Trains the agents of all seeds, each tracked as a run of its own."""
    agents = build_agents(settings, data.train, data.reward_scale)
    market = data.validation[settings.market.fill]
    params = {**settings.flat(), "reward_scale": f"{agents.reward_scale:.9g}"}
    names = [f"{settings.called}-{data.bars.name}-s{seed}" for seed in agents.seeds]
    with ExitStack() as stack:
        trackers, keepers = [], []
        for index, (name, seed) in enumerate(zip(names, agents.seeds, strict=True)):
            tags = _tags(settings, data, seed, group)
            about = _description(settings, data, seed, command)
            params["seed"] = str(seed)
            tracker = stack.enter_context(Tracker(store, name, params, tags, about))
            tracker.log_data(data.split.train, settings.bars, "training")
            tracker.log_data(data.split.validation, settings.bars, "validation")
            trackers.append(tracker)
            keepers.append(Keeper(agents, index, settings.called, data, market, tracker, tags))
        shown = names[0] if len(names) == 1 else f"{names[0]} to s{agents.seeds[-1]}"
        with screen.progress(console, shown, settings.steps) as show:
            for point in learn(agents, market, settings, lambda: stop.by is not None):
                stopping = stop.by
                rate = point.iterations_a_second
                for tracker, window in zip(trackers, point.windows, strict=True):
                    metrics = {f"train/{key}": value for key, value in window._asdict().items()}
                    metrics["perf/iterations_per_second"] = rate
                    metrics["perf/env_steps_per_second"] = rate * settings.replay.streams
                    tracker.log(metrics, point.step)
                show(point.step, point.windows, rate)
                last = stopping is not None or point.step == settings.steps
                validations = point.validations
                if last and validations is None:
                    validations = validate_all(agents, market)
                for keeper, validation in zip(keepers, validations or [], strict=False):
                    keeper.judge(point.step, validation, last)
                if stopping is not None:
                    for tracker in trackers:
                        tracker.killed()
                    break
        return [keeper.finish(name) for keeper, name in zip(keepers, names, strict=True)]


def _rows(
    settings: TrainSettings, data: TrainingData, ended: list[Checkpoints]
) -> dict[str, dict[str, float]]:
    """Rows of the comparison: best and last of each seed, and what several seeds say together.

    That is the interquartile mean; of fewer than four it is the mean, and called so.
    """
    rows, lasts = {}, []
    for seed, checkpoints in enumerate(ended, start=settings.seed):
        for which, each in (("best", checkpoints.best), ("last", checkpoints.last)):
            name = f"{settings.called} s{seed}, {which} v{each.version.version}"
            rows[name] = measures_of(data, each.validation)
        lasts.append(rows[name])
    if len(ended) > 1:
        middle = {key: interquartile_mean([row[key] for row in lasts]) for key in lasts[0]}
        versions = f"v{ended[0].last.version.version}-{ended[-1].last.version.version}"
        middle_of = "IQM" if len(ended) > 3 else "mean"
        rows[f"{settings.called} {middle_of}, last {versions}"] = {**middle, "ruined": 0.0}
    return rows


def _tags(settings: TrainSettings, data: TrainingData, seed: int, group: str) -> dict[str, str]:
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


def _title(settings: TrainSettings, data: TrainingData) -> str:
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


def _description(settings: TrainSettings, data: TrainingData, seed: int, command: str) -> str:
    """What a run is and how to repeat it, in Markdown."""
    first, last = (data.bars.table["time"][row] for row in (0, -1))
    return (
        f"{settings.called} on {data.bars.name} ({first:%Y-%m-%d} to {last:%Y-%m-%d}), "
        f"{settings.steps:,} iterations, seed {seed}; {_costs(settings, data)}."
        f"\n\n    {command}"
    )
