"""Training as a sequence of logged points, and the validations among them."""

import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from evaluation.backtest import backtest, follow, greedy_choice
from evaluation.measures import Backtest
from market.table import MarketTable
from training.learning.agent import Agents, Window
from training.settings import TrainSettings


class Progress(NamedTuple):
    """One logged point of agents that learn side by side; lists have an entry for each."""

    step: int  # iterations done
    windows: list[Window]  # means since the point before
    iterations_a_second: float  # since the point before, of each agent
    validations: list[Backtest] | None  # of the greedy policies, where a validation was due
    q_values: list[NDArray[np.float64]] | None  # learning units: all that were looked up in those


def validate(
    q_values: Callable[[NDArray[np.float32]], NDArray[Any]], table: MarketTable
) -> Backtest:
    """The greedy policy of a Q-function over a table."""
    return backtest(table, follow(greedy_choice(q_values, table)))


def learn(
    agents: Agents,
    validation: MarketTable,
    settings: TrainSettings,
    stopped: Callable[[], bool] = lambda: False,
) -> Iterator[Progress]:
    """Trains until `settings.steps` iterations are done, yielding at every logged point.

    Args:
        agents: what trains.
        validation: what the greedy policies are judged on.
        settings: how long, and how often to log and to judge.
        stopped: where it says so, training ends, even between two points.

    Raises:
        Diverged: a metric or a weight is no longer finite.
    """
    intervals = settings.log_interval, settings.evaluate_interval
    agents.compile()  # so that the first window's rate is one of running
    while (begun_at := agents.iteration) < settings.steps and not stopped():
        stops = [(begun_at // every + 1) * every for every in intervals]
        began = time.perf_counter()
        windows = agents.run(min(*stops, settings.steps) - begun_at, stopped)
        seconds = time.perf_counter() - began
        if not windows:
            return
        step = agents.iteration
        results = None
        looked_up = None
        if step % settings.evaluate_interval == 0 or step == settings.steps:
            results, looked_up = validate_all(agents, validation)
        yield Progress(step, windows, (step - begun_at) / seconds, results, looked_up)


def validate_all(
    agents: Agents, table: MarketTable
) -> tuple[list[Backtest], list[NDArray[np.float64]]]:
    """The greedy policy of each agent over a table, and the Q-values that it chose by."""
    results = []
    looked_up = []
    for index in range(len(agents.seeds)):
        q_values = agents.q_values(index)
        seen = list[NDArray[np.float64]]()

        def watched(states: NDArray[np.float32]) -> NDArray[Any]:
            values = q_values(states)  # noqa: B023 - called within this round of the loop
            seen.append(np.asarray(values, np.float64).ravel())  # noqa: B023
            return values

        results.append(validate(watched, table))
        looked_up.append(np.concatenate(seen))
    return results, looked_up


def better(one: Backtest, other: Backtest | None) -> bool:
    """Whether `one` is to be preferred: by net return, an earlier checkpoint winning a tie."""
    return other is None or one.equity[-1] > other.equity[-1]
