"""The wiring of a training run: data, loop, validation, tracking, model versions."""

import hashlib
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

import keras
from mlflow.entities.model_registry import ModelVersion
from rich.console import Console

from evaluation.backtest import Backtest, backtest, follow, greedy_choice
from evaluation.baselines import buy_and_hold, flat
from evaluation.figures import equity_figure
from market.table import MarketTable
from models.networks import linear_q_network, two_layer_q_network
from models.registry import model_id_of, propose, register
from training import console as screen
from training.data import TrainingData
from training.loop import TrainingLoop, Window
from training.settings import NetworkSettings, TrainSettings
from training.stop import Stop
from training.tracking import Store, Tracker


class Progress(NamedTuple):
    """One logged point of a run."""

    step: int  # iterations done
    window: Window  # means since the point before
    iterations_a_second: float  # since the point before
    validation: Backtest | None  # of the greedy policy, where a validation was due


class Checkpoint(NamedTuple):
    """A registered version and what it did on validation."""

    step: int
    version: ModelVersion
    validation: Backtest


class Checkpoints(NamedTuple):
    """The versions that count at a run's end; they can be one and the same."""

    best: Checkpoint  # on validation
    last: Checkpoint
    candidate: ModelVersion  # the best, or one of an earlier run that did at least as well


def build_network(settings: NetworkSettings, state_size: int, seed: int) -> keras.Model:
    """The Q-network that settings describe."""
    if settings.kind == "linear":
        return linear_q_network(state_size, seed)
    return two_layer_q_network(state_size, settings.hidden, seed)


def build_loop(settings: TrainSettings, train: MarketTable, reward_scale: float) -> TrainingLoop:
    """The training loop that settings describe, over the training split."""
    return TrainingLoop(
        train,
        build_network(settings.network, train.state_size, settings.seed),
        settings.learner,
        settings.replay,
        settings.epsilon,
        settings.seed,
        reward_scale,
    )


def validate(online: keras.Model, table: MarketTable) -> Backtest:
    """The greedy policy of a network over a table."""
    return backtest(table, follow(greedy_choice(lambda states: online(states).numpy(), table)))


def better(one: Backtest, other: Backtest | None) -> bool:
    """Whether `one` is to be preferred: by net return, an earlier checkpoint winning a tie."""
    return other is None or one.equity[-1] > other.equity[-1]


def learn(
    loop: TrainingLoop,
    validation: MarketTable,
    settings: TrainSettings,
    stopped: Callable[[], bool] = lambda: False,
) -> Iterator[Progress]:
    """Trains for `settings.steps` iterations, yielding at every logged point.

    Args:
        loop: what trains.
        validation: what the greedy policy is judged on.
        settings: how long, and how often to log and to judge.
        stopped: where it says so, the next point comes early; whoever iterates then leaves.

    Raises:
        Diverged: a metric or a weight is no longer finite.
    """
    log_every = settings.log_every or -(-settings.steps // 200)
    evaluate_every = settings.evaluate_every or -(-settings.steps // 20)
    loop.compile()  # so that the first window's rate is one of running
    while (begun_at := loop.iteration) < settings.steps:
        stops = [(begun_at // every + 1) * every for every in (log_every, evaluate_every)]
        began = time.perf_counter()
        window = loop.run(min(*stops, settings.steps) - begun_at, stopped)
        seconds = time.perf_counter() - began
        step = loop.iteration
        due = step % evaluate_every == 0 or step == settings.steps
        result = validate(loop.learner.online, validation) if due else None
        yield Progress(step, window, (step - begun_at) / seconds, result)


def train(
    runs: Sequence[tuple[TrainSettings, TrainingData]], console: Console, command: str
) -> signal.Signals | None:
    """Trains runs one after the other, and prints a comparison.

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
            checkpoints = _train_one(settings, data, store, group, command, console, stop)
            _, rows = compared.setdefault(_title(settings, data), (data, {}))
            best, last, candidate = checkpoints
            for which, each in (("best", best), ("last", last)):
                name = f"{each.version.name} v{each.version.version}, {which}"
                rows[name] = _measures(data, each.validation)
            candidates.append(f"{candidate.name}@candidate is v{candidate.version}")
            if stop.by:
                break
    for title, (data, rows) in compared.items():
        market = data.validation[data.train.settings.fill]
        for name, baseline in (("flat", flat), ("buy and hold", buy_and_hold)):
            rows[name] = _measures(data, baseline(market))
        console.print(screen.comparison(title, rows))
    console.print(*candidates, sep="\n")
    return stop.by


def _train_one(
    settings: TrainSettings,
    data: TrainingData,
    store: Store,
    group: str,
    command: str,
    console: Console,
    stop: Stop,
) -> Checkpoints:
    name = f"{settings.network.kind}-{data.bars.name}-s{settings.seed}"
    tags = {
        "algorithm": "double_dqn" if settings.learner.double else "dqn",
        "network": settings.network.kind,
        "bars": data.bars.name,
        "data_hash": data.bars.content_hash,
        "features_hash": data.features.schema_hash,
        "judged_on": _judged_on(settings, data),
        "fill": settings.market.fill,
        "fee_rate": f"{settings.market.fee_rate:g}",
        "seed": str(settings.seed),
        "group": group,
    }
    loop = build_loop(settings, data.train, data.reward_scale)
    market = data.validation[settings.market.fill]
    params = {**settings.flat(), "reward_scale": f"{loop.reward_scale:.9g}"}
    with Tracker(store, name, params, tags, _description(settings, data, command)) as tracker:
        tracker.log_data(data.split.train, settings.bars, "training")
        tracker.log_data(data.split.validation, settings.bars, "validation")
        keeper = _Keeper(loop, data, market, tracker, tags)
        with screen.progress(console, name, settings.steps) as show:
            for point in learn(loop, market, settings, lambda: stop.by is not None):
                rate = point.iterations_a_second
                metrics = {f"train/{key}": value for key, value in point.window._asdict().items()}
                metrics["perf/iterations_per_second"] = rate
                metrics["perf/env_steps_per_second"] = rate * settings.replay.streams
                tracker.log(metrics, point.step)
                show(point.step, point.window, rate)
                stopping = stop.by
                last = stopping is not None or point.step == settings.steps
                validation = point.validation
                if last and validation is None:
                    validation = validate(loop.learner.online, market)
                if validation is not None:
                    keeper.judge(point.step, validation, last)
                if stopping is not None:
                    tracker.killed()
                    break
        return keeper.finish(name)


class _Keeper:
    """Registers the network whenever validation improves, and at the end; the best is candidate."""

    def __init__(
        self,
        loop: TrainingLoop,
        data: TrainingData,
        market: MarketTable,
        tracker: Tracker,
        tags: dict[str, str],
    ) -> None:
        self.loop, self.tracker, self.tags = loop, tracker, tags
        self.data, self.market = data, market
        self.best: Checkpoint | None = None
        self.last: Checkpoint | None = None

    def judge(self, step: int, validation: Backtest, last: bool) -> None:
        """Records a validation, with a version where it is the best so far or the last."""
        measures = _measures(self.data, validation)
        metrics = {f"eval/validation/{name}": value for name, value in measures.items()}
        best = better(validation, self.best and self.best.validation)
        if not best and not last:
            self.tracker.log(metrics, step)
            return
        hold = buy_and_hold(self.market).measures["net_return"]
        description = (
            f"{measures['net_return']:+.2%} on the validation split of {self.data.bars.name}, net of "
            f"costs (buy and hold {hold:+.2%}), after {step:,} iterations."
        )
        online, run_id = self.loop.learner.online, self.tracker.run_id
        tags = {**self.tags, "net_return": repr(measures["net_return"])}
        version = register(self.tracker.client, online, run_id, step, tags, description)
        self.tracker.log(metrics, step, model_id=model_id_of(version))
        checkpoint = Checkpoint(step, version, validation)
        if best:
            self.best = checkpoint
        if last:
            self.last = checkpoint

    def finish(self, name: str) -> Checkpoints:
        """Makes the best version the candidate and draws what it did."""
        if self.best is None or self.last is None:
            raise RuntimeError("a run ends with a validation that is told to be the last")
        candidate = propose(self.tracker.client, self.best.version)
        curves = {
            f"{name} after {self.best.step:,} iterations": self.best.validation,
            "buy and hold": buy_and_hold(self.market),
        }
        title = f"Validation on {self.data.bars.name}, net of costs"
        self.tracker.log_figure("equity_validation", equity_figure(title, curves), self.best.step)
        return Checkpoints(self.best, self.last, candidate)


def _measures(data: TrainingData, result: Backtest) -> dict[str, float]:
    """Measures under the settings' fill, and the net return of the same positions under either."""
    both = {
        f"net_return_{fill}": backtest(table, result.positions).measures["net_return"]
        for fill, table in data.validation.items()
    }
    return {**result.measures, **both}


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


def _description(settings: TrainSettings, data: TrainingData, command: str) -> str:
    """What a run is and how to repeat it, in Markdown."""
    first, last = (data.bars.table["time"][row] for row in (0, -1))
    return (
        f"{settings.network.kind} Q-network on {data.bars.name} ({first:%Y-%m-%d} to {last:%Y-%m-%d}), "
        f"{settings.steps:,} iterations, seed {settings.seed}; {_costs(settings, data)}."
        f"\n\n    {command}"
    )
