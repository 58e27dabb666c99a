"""Tabular agents on a market table, in NumPy: what `training/learning/loop.py` is for networks.

An iteration steps every stream once, epsilon-greedily, and learns from each step as it is made.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from market.accounting import equity_above_floor, worst_growth
from market.table import MarketTable
from models.exploration import EpsilonSettings, epsilon
from models.tabular import Discretiser, TabularLearner, TabularQ, tables_of
from training.learning.agent import AgentSettings, Diverged, LogWindow, Policy, State, require_fits
from training.learning.replay import ReplayBuffer
from training.learning.settings import TabularSettings

CHUNK = 2000  # iterations between two questions whether to stop


class Tabular(AgentSettings):
    """A table over quantile bins that learns from each step as it is made."""

    kind = "tabular"
    module = "training.learning.tabular"
    tabular: TabularSettings = TabularSettings()
    epsilon: EpsilonSettings = EpsilonSettings()

    @property
    def algorithm(self) -> str:
        """The update."""
        return self.tabular.algorithm

    @property
    def summary(self) -> str:
        """See `AgentSettings.summary`."""
        return f"{self.algorithm}, a table"

    def require_table(self, table: MarketTable, seeds: int) -> None:
        """See `AgentSettings.require_table`."""
        tables = seeds * tables_of(self.tabular.algorithm)
        Discretiser.fit(table.features, self.tabular.bins, tables)


def agents(
    settings: Tabular, table: MarketTable, seeds: Sequence[int], reward_scale: float, name: str
) -> "TabularAgents":
    """See `AgentSettings.agents`."""
    return TabularAgents(table, settings, seeds, reward_scale, name)


class TabularAgents:
    """Tables that learn from the same market, one for each seed, one after the other.

    Args:
        table: the market to train on.
        settings: how they learn.
        seeds: of starts and exploration.
        reward_scale: what a price unit counts in learning, or the unit of the settings' sizing.
        name: of the registered model.
    """

    def __init__(
        self,
        table: MarketTable,
        settings: Tabular,
        seeds: Sequence[int],
        reward_scale: float,
        name: str = "tabular",
    ) -> None:
        table.require_episode()
        self.seeds = seeds
        self.reward_scale = reward_scale
        self._name = name
        self._discretiser = Discretiser.fit(table.features, settings.tabular.bins)
        market = _Market(table, self._discretiser.cell(table.features), reward_scale)
        self._walks = [_Walk(market, settings, self._discretiser.cells, seed) for seed in seeds]
        self._begin_window()

    @property
    def iteration(self) -> int:
        """Iterations done."""
        return self._walks[0].iteration

    def compile(self) -> None:
        """There is nothing to get ready."""

    def run(self, iterations: int, stopped: Callable[[], bool] = lambda: False) -> list[LogWindow]:
        """See `Agents.run`."""
        before = self.iteration
        end = before + iterations
        while self.iteration < end:
            if self.iteration > before and stopped():
                return []
            count = min(CHUNK, end - self.iteration)
            self._sums += [walk.run(count) for walk in self._walks]
            self._require_finite()
        windows = []
        for walk, total in zip(self._walks, self._sums, strict=True):
            means = total / ((self.iteration - self._began) * walk.streams)
            loss, td_error, q_mean, reward = (float(mean) for mean in means)
            q_mean = q_mean / self.reward_scale
            reward = reward / self.reward_scale
            windows.append(LogWindow(loss, td_error, q_mean, math.nan, reward, walk.rate))
        self._begin_window()
        return windows

    def _require_finite(self) -> None:
        for seed, total in zip(self.seeds, self._sums, strict=True):
            if not np.isfinite(total).all():
                raise Diverged(f"the table of seed {seed} is no longer finite by {self.iteration}")

    def _begin_window(self) -> None:
        self._began = self.iteration
        self._sums = np.zeros((len(self.seeds), 4))

    def model(self, index: int) -> TabularQ:
        """A copy of what an agent has learned."""
        table = self._walks[index].learner.table().astype(np.float32)
        return TabularQ(self._discretiser, table, self._name)

    def weights(self, index: int) -> Mapping[str, NDArray[Any]]:
        """See `Agents.weights`."""
        return {"table": self._walks[index].learner.table()}

    def policy(self, index: int) -> Policy:
        """See `Agents.policy`."""
        return Policy.greedy(self.model(index).q_values)

    def learn_from(self, lived: ReplayBuffer) -> None:
        """See `Agents.learn_from`: from each transition once, in their order."""
        batch = lived.at(np.arange(len(lived)))
        rows = []
        for states in (batch.state, batch.next_state):
            cell = self._discretiser.cell(states[:, :-2])
            rows.append((cell * 3 + states[:, -2].round().astype(int) + 1).tolist())
        columns = (batch.action.tolist(), batch.reward.tolist(), batch.discount.tolist())
        for walk in self._walks:
            coins = np.random.default_rng(walk.seed).random(len(lived)).tolist()
            for row, following, action, reward, discount, coin in zip(
                *rows, *columns, coins, strict=True
            ):
                walk.learner.update(row, action, reward, discount, following, walk.rate, coin)

    def state(self) -> State:
        """See `Agents.state`."""
        walks = {
            f"{index}/{name}": array
            for index, walk in enumerate(self._walks)
            for name, array in walk.state().items()
        }
        return {**walks, "window/began": np.array(self._began), "window/sums": self._sums}

    def restore(self, state: State) -> None:
        """See `Agents.restore`."""
        require_fits(self.state(), state)
        for index, walk in enumerate(self._walks):
            own = f"{index}/"
            walk.restore({n.removeprefix(own): a for n, a in state.items() if n.startswith(own)})
        self._began = int(state["window/began"])
        self._sums = state["window/sums"].copy()

    @property
    def learning_rate(self) -> float:
        """There is none to go on at: a table's rates are settings, or follow from its visits."""
        return math.nan

    def set_learning_rate(self, rate: float) -> None:
        """See `Agents.set_learning_rate`, but for tables, which have none."""
        raise NotImplementedError(f"a table cannot go on at the learning rate {rate:g}")


class _Market:
    """A market table as lists, in learning units: row t, position coming in + 1, action index."""

    def __init__(self, table: MarketTable, cell: NDArray[np.int64], scale: float) -> None:
        outcomes = table.outcomes()
        self.net = (outcomes.net * scale).tolist()
        self.penalty = (outcomes.penalty * scale).tolist()
        self.held = outcomes.held.tolist()
        self.closing = (outcomes.closing * scale).tolist()
        self.above_floor = (equity_above_floor(table.terms.price, table.settings) * scale).tolist()
        # A step that wipes out an account ruins it, however much it had grown.
        self.least = worst_growth(table.settings) * scale
        self.cell = cell.tolist()
        self.episode_bars = table.episode_bars
        self.starts = len(table) - self.episode_bars


class _Walk:
    """One agent: its table, its streams, its random numbers."""

    def __init__(self, market: _Market, settings: Tabular, cells: int, seed: int) -> None:
        table = settings.tabular
        self.market = market
        self.gamma = settings.learner.gamma
        self.streams = settings.replay.streams
        self.exploration = settings.epsilon
        self.seed = seed
        self.iteration = 0
        self.learner = TabularLearner(cells * 3, table.algorithm, table.learning_rate, table.omega)
        self._random = np.random.default_rng(seed)
        # Of each stream: bar, last bar, position + 1, equity above the floor.
        self._at = [self._begin(share) for share in self._random.random(self.streams).tolist()]

    @property
    def rate(self) -> float:
        """Epsilon at the last iteration."""
        return float(epsilon(max(self.iteration - 1, 0), self.exploration))

    def run(self, iterations: int) -> tuple[float, float, float, float]:
        """Returns sums over all steps: squared TD error, its size, Q-value, reward."""
        market = self.market
        learner = self.learner
        rates = epsilon(self.iteration + np.arange(iterations), self.exploration).tolist()
        drawn = self._random.random((iterations, self.streams, 4)).tolist()
        squares = sizes = values = rewards = 0.0
        for rate, row in zip(rates, drawn, strict=True):
            for stream, (explore, choice, start, coin) in enumerate(row):
                bar, end, position, above_floor = self._at[stream]
                state = market.cell[bar] * 3 + position
                action = int(choice * 3) if explore < rate else learner.greedy(state)
                net = market.net[bar][position][action]
                held = market.held[bar][position][action] + 1
                ruined = above_floor + net <= 0 or net <= market.least
                if ruined:
                    net -= market.closing[bar][position][action]
                reward = net - market.penalty[bar][position][action]
                discount = 0.0 if ruined else self.gamma
                then = market.cell[bar + 1] * 3 + held
                td_error, value = learner.update(state, action, reward, discount, then, rate, coin)
                squares += td_error * td_error
                sizes += abs(td_error)
                values += value
                rewards += reward
                over = ruined or bar + 1 >= end
                self._at[stream] = (
                    self._begin(start) if over else (bar + 1, end, held, above_floor + net)
                )
        self.iteration += iterations
        return squares, sizes, values, rewards

    def _begin(self, share: float) -> tuple[int, int, int, float]:
        bar = int(share * self.market.starts)
        return bar, bar + self.market.episode_bars, 1, self.market.above_floor[bar]

    def state(self) -> State:
        """Everything that `run` changes."""
        return {
            **self.learner.state(),
            "streams": np.array(self._at),
            "random": _packed(self._random.bit_generator.state),
            "iteration": np.array(self.iteration),
        }

    def restore(self, state: State) -> None:
        """Takes back what `state` gave."""
        self.learner.restore(state)
        self._at = [
            (int(bar), int(end), int(position), float(above_floor))
            for bar, end, position, above_floor in state["streams"]
        ]
        self._random.bit_generator.state = _unpacked(state["random"])
        self.iteration = int(state["iteration"])


def _packed(state: Mapping[str, Any]) -> NDArray[np.uint64]:
    """The state of a PCG64 generator, its two numbers of 128 bits in halves."""
    numbers = [half for name in ("state", "inc") for half in divmod(state["state"][name], 2**64)]
    return np.array([*numbers, state["has_uint32"], state["uinteger"]], np.uint64)


def _unpacked(packed: NDArray[np.uint64]) -> dict[str, Any]:
    high, low, inc_high, inc_low, has_uint32, uinteger = packed.tolist()
    state = {"state": high * 2**64 + low, "inc": inc_high * 2**64 + inc_low}
    return {
        "bit_generator": "PCG64",
        "state": state,
        "has_uint32": has_uint32,
        "uinteger": uinteger,
    }
