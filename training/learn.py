"""Training as a sequence of logged points, and the validations among them."""

import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from evaluation.backtest import backtest, choice_of, follow, greedy_choice
from evaluation.measures import Backtest
from market.table import MarketTable
from training.learning.agent import Agents, LogWindow, Policy
from training.settings import TrainSettings


class Validation(NamedTuple):
    """What an agent's policy did on validation bars, and all Q-values that it looked up there."""

    result: Backtest
    q_values: NDArray[np.float64] | None  # learning units; None of no Q-agent


class Progress(NamedTuple):
    """One logged point of agents that learn side by side; lists have an entry for each."""

    step: int  # iterations done
    windows: list[LogWindow]  # means since the point before
    iterations_per_second: float  # since the point before, of each agent
    validations: list[Validation] | None  # where one was due


def learn(
    agents: Agents,
    validation: MarketTable,
    settings: TrainSettings,
    stopped: Callable[[], bool] = lambda: False,
) -> Iterator[Progress]:
    """Trains until `settings.steps` iterations are done, yielding at every logged point.

    Greedy policies are judged on the validation table. Where `stopped` says so, training ends, even
    between two points. Raises `Diverged` where a metric or a weight is no longer finite.
    """
    intervals = (settings.log_interval, settings.evaluate_interval)
    agents.compile()  # so that the first window's rate is one of running
    while (begun_at := agents.iteration) < settings.steps and not stopped():
        stops = [(begun_at // every + 1) * every for every in intervals]
        began = time.perf_counter()
        windows = agents.run(min(*stops, settings.steps) - begun_at, stopped)
        seconds = time.perf_counter() - began
        if not windows:
            return
        step = agents.iteration
        due = step % settings.evaluate_interval == 0 or step == settings.steps
        validations = validate_all(agents, validation) if due else None
        yield Progress(step, windows, (step - begun_at) / seconds, validations)


def validate_all(agents: Agents, table: MarketTable) -> list[Validation]:
    """The policy of each agent over a table."""
    return [validate(agents.policy(index), table) for index in range(len(agents.seeds))]


def validate(policy: Policy, table: MarketTable) -> Validation:
    """A policy over a table, and the Q-values that it chose by, if there are such.

    Raises `NotFinite` where a Q-value is not finite.
    """
    seen: list[NDArray[np.float64]] = []
    result = backtest(table, follow(choice(policy, table, seen)))
    return Validation(result, np.concatenate(seen) if seen else None)


def choice(
    policy: Policy, table: MarketTable, seen: list[NDArray[np.float64]] | None = None
) -> NDArray[np.int8]:
    """The positions that a policy takes, see `greedy_choice`; `seen` takes the Q-values it looked up.

    Raises `NotFinite` where a Q-value is not finite.
    """
    q_values = policy.q_values
    if q_values is None:
        return choice_of(policy.actions, table)

    def watched(states: NDArray[np.float32]) -> NDArray[Any]:
        values = q_values(states)
        if seen is not None:
            seen.append(np.asarray(values, np.float64).ravel())
        return values

    return greedy_choice(watched, table)


def better(one: Backtest, other: Backtest | None) -> bool:
    """Whether `one` is to be preferred: by net return, an earlier checkpoint winning a tie."""
    return other is None or one.equity[-1] > other.equity[-1]
