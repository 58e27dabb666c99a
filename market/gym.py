"""The same market as Gymnasium environments, in NumPy: for other libraries, and as a reference.

    import gymnasium
    import market.gym

    env = gymnasium.make("qdesk/Market-v0", bars="btcusd_30m", settings={"fee_rate": 0.001})
    envs = gymnasium.make_vec("qdesk/Market-v0", num_envs=256, bars="btcusd_30m")

Observations are states `[features..., position, 1.0]`; `Discrete(3)` counts action + 1, so 0 is short (or
sell), 1 flat (or nothing), 2 long (or buy). Rewards are net of costs and risk penalties, times
`reward_scale`: price units, shares of N, or growth of log equity, as the sizing has it. Episodes start
at a random bar, flat. Running out of an episode's bars truncates; equity at or below the floor
terminates, and the position is then liquidated at the close. `info` has position, equity (which begins
with the first price where one unit is traded, else with 1), cost (of the step) and price (the close).
"""

from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from market.accounting import (
    MarketSettings,
    booked,
    cost,
    earned,
    floor_of,
    liquidation_cost,
    money,
    next_position,
    risk_penalty,
)
from market.actions import EpisodeOver, action_index, action_indices
from market.bars import Bars
from market.features import FeaturePipeline, FeatureSettings
from market.source import bars_from
from market.table import MarketTable

ID = "qdesk/Market-v0"
NOT_BEGUN = "no episode is under way: call reset() before the first step and after an episode's end"
Observation = NDArray[np.float32]
Info = dict[str, Any]


class MarketEnv(gymnasium.Env[Observation, np.int64]):
    """One stream of the market under the timing contract.

    `reward_scale` is what a price unit counts in rewards, or the unit of the settings' sizing; the render
    mode "rgb_array" gives price, position and equity of the episode so far.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 4}  # noqa: RUF012 - as Gymnasium has it

    def __init__(
        self, table: MarketTable, reward_scale: float = 1.0, render_mode: str | None = None
    ) -> None:
        table.require_episode()
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ValueError(f"render_mode is {render_mode!r}; it must be None or 'rgb_array'")
        self.table = table
        self.reward_scale = reward_scale
        self.render_mode = render_mode
        self.observation_space = _bounds(table)
        self.action_space = gymnasium.spaces.Discrete(3)
        self._rows = _rows(table)
        # arrays of Python's own: a step reads one number of each, at which NumPy's are slow
        self._terms = tuple(array("d", column) for column in table.terms)
        self._kind = type(table.terms)
        self._close = array("d", table.close)
        self._settings = table.settings
        self.end: int | None = None  # no episode is under way
        # position and equity after each step, for render
        self.history: list[tuple[int, float]] = []

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, Info]:
        """Starts an episode at a random bar, or at `options={"bar": t}`.

        Raises `ValueError` where an episode cannot start there.
        """
        super().reset(seed=seed)
        settings = self.table.settings
        starts = len(self.table) - self.table.episode_bars
        self.bar = int((options or {}).get("bar", self.np_random.integers(starts)))
        _require_starts(np.array(self.bar), starts)
        self.start = self.bar
        self.end = min(self.bar + self.table.episode_bars, len(self.table) - 1)
        self.position = 0
        self.funded = float(self.table.terms.price[self.bar])
        self.equity = self.funded
        self.floor = floor_of(settings) * self.equity
        self.history = []
        return self._state(), self._info(0.0)

    def step(self, action: np.int64) -> tuple[Observation, float, bool, bool, Info]:
        """Holds the new position until the next close.

        Raises:
            BadAction: the action is none of 0, 1 and 2.
            EpisodeOver: there is no episode to step, before `reset` or past an end.
        """
        if self.end is None:
            raise EpisodeOver(NOT_BEGUN)
        bar = self.bar
        settings = self._settings
        terms = self._kind(*[column[bar] for column in self._terms])
        previous = self.position
        position = next_position(
            previous, action_index(action, settings.scheme) - 1, settings.scheme
        )
        paid = cost(terms, previous, position)
        net = earned(terms, previous, position) - paid
        penalty = risk_penalty(terms, previous, position, settings)
        reward, equity, ruined = booked(terms, self.equity, net, self.floor)
        terminated = bool(ruined)
        if terminated:
            closing = liquidation_cost(terms, position, previous)
            paid = paid + closing
            reward, equity, _ = booked(terms, self.equity, net - closing, self.floor)
        paid = money(terms, self.equity, paid)
        self.equity = equity
        self.position = position
        self.bar = bar + 1
        if self.render_mode is not None:
            self.history.append((position, self.equity))
        truncated = not terminated and self.bar == self.end
        if terminated or truncated:
            self.end = None
        reward = (reward - penalty) * self.reward_scale
        return self._state(), reward, terminated, truncated, self._info(paid)

    def render(self) -> Any:
        """Price, position and equity of the episode so far, shape (height, width, 3)."""
        if self.render_mode is None:
            return None
        from market.render import episode_image

        prices = np.asarray(self._close[self.start : self.bar + 1])
        return episode_image(self.table.name, prices, self.history, self.funded)

    def _state(self) -> Observation:
        state: Observation = self._rows[self.bar].copy()
        state[-2] = self.position
        return state

    def _info(self, paid: float) -> Info:
        return {
            "position": self.position,
            "equity": self.equity,
            "cost": paid,
            "price": self._close[self.bar],
        }


class MarketVectorEnv(gymnasium.vector.VectorEnv[Observation, NDArray[np.int64], NDArray[Any]]):
    """Many streams of one market at once; each equals a `MarketEnv` of the same start and actions.

    An episode that ends starts anew in the same step (`AutoresetMode.SAME_STEP`): the observation is
    the first of the new episode, and `infos["final_obs"]` and `infos["final_info"]` hold the last of
    the old, where `infos["_final_obs"]` says so.
    """

    metadata = {"render_modes": [], "autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012

    def __init__(self, table: MarketTable, num_envs: int, reward_scale: float = 1.0) -> None:
        table.require_episode()
        self.table = table
        self.num_envs = num_envs
        self.reward_scale = reward_scale
        self.single_observation_space = _bounds(table)
        self.single_action_space = gymnasium.spaces.Discrete(3)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._rows = _rows(table)
        self._kind = type(table.terms)
        self._terms = np.stack(table.terms, axis=1)
        self._begun = False
        self._starts = len(table) - table.episode_bars
        self._everywhere = np.ones(num_envs, np.bool_)

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, Info]:
        """Starts every episode at a random bar, or at `options={"bar": bars}` of shape (num_envs,).

        Raises `ValueError` where an episode cannot start there.
        """
        if isinstance(seed, list):  # one generator draws for all
            seed = seed[0]
        super().reset(seed=seed)
        count = self.num_envs
        self._begun = True
        self._bar = np.zeros(count, np.int64)
        self._end = np.zeros(count, np.int64)
        self._position = np.zeros(count, np.int64)
        self._equity = np.zeros(count)
        self._floor = np.zeros(count)
        drawn = self.np_random.integers(self._starts, size=count)
        starts = np.broadcast_to(np.asarray((options or {}).get("bar", drawn)), count)
        _require_starts(starts, self._starts)
        self._begin(slice(None), starts)
        return self._states(), self._infos(np.zeros(count))

    def step(
        self, actions: NDArray[np.int64]
    ) -> tuple[Observation, NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], Info]:
        """Holds the new positions until the next close.

        Raises:
            BadAction: the actions are not `num_envs` integers of 0, 1 and 2.
            EpisodeOver: there was no `reset`.
        """
        settings = self.table.settings
        if not self._begun:
            raise EpisodeOver(NOT_BEGUN)
        indices = action_indices(actions, self.num_envs, settings.scheme)
        terms = self._kind(*self._terms.take(self._bar, axis=0).T)
        previous = self._position
        position = next_position(previous, indices - 1, settings.scheme)
        paid = cost(terms, previous, position)
        net = earned(terms, previous, position) - paid
        penalty = risk_penalty(terms, previous, position, settings)
        reward, equity, terminated = booked(terms, self._equity, net, self._floor)
        if terminated.any():
            closing = liquidation_cost(terms, position, previous) * terminated
            paid = paid + closing
            reward, equity, _ = booked(terms, self._equity, net - closing, self._floor)
        paid = money(terms, self._equity, paid)
        reward = (reward - penalty) * self.reward_scale
        self._equity = equity
        self._position = position
        self._bar = self._bar + 1
        truncated = (self._bar == self._end) & ~terminated
        over = terminated | truncated
        states = self._states()
        infos = self._infos(paid)
        if over.any():
            infos |= {
                "final_obs": states,
                "_final_obs": over,
                "final_info": dict(infos),
                "_final_info": over,
            }
            places = np.flatnonzero(over)
            self._position = position.copy()
            self._begin(places, self.np_random.integers(self._starts, size=len(places)))
            states = self._states()
            infos |= self._infos(np.where(over, 0.0, paid))
        return states, reward, terminated, truncated, infos

    def _begin(self, places: Any, bars: NDArray[np.int64]) -> None:
        settings = self.table.settings
        self._bar[places] = bars
        self._end[places] = np.minimum(bars + self.table.episode_bars, len(self.table) - 1)
        self._position[places] = 0
        self._equity[places] = self.table.terms.price[bars]
        self._floor[places] = floor_of(settings) * self.table.terms.price[bars]

    def _states(self) -> Observation:
        states = self._rows.take(self._bar, axis=0)
        states[:, -2] = self._position
        return states

    def _infos(self, paid: NDArray[np.float64]) -> Info:
        values = {
            "position": self._position,
            "equity": self._equity.copy(),
            "cost": paid,
            "price": self.table.close[self._bar],
        }
        return values | {f"_{name}": self._everywhere for name in values}


def _require_starts(bars: NDArray[np.integer], starts: int) -> None:
    bad = bars[(bars < 0) | (bars >= starts)]
    if bad.size:
        raise ValueError(
            f"an episode cannot start at bar {bad.flat[0]}; it must be from 0 to {starts - 1}"
        )


def _rows(table: MarketTable) -> Observation:
    """The state of every bar, flat."""
    bars = np.arange(len(table))
    return table.states(bars, np.zeros(len(table), np.int64))


def _bounds(table: MarketTable) -> gymnasium.spaces.Space[Observation]:
    """What states of this table lie in: the features' own extremes, [-1, 1], and [0, 1] for the bias."""
    low = table.features.min(axis=0)
    high = table.features.max(axis=0)
    low, high = np.where(low < high, low, low - 1), np.where(low < high, high, high + 1)
    box = gymnasium.spaces.Box(
        np.append(low, [-1, 0]).astype(np.float32), np.append(high, [1, 1]).astype(np.float32)
    )
    return cast(gymnasium.spaces.Space[Observation], box)


def market_table(
    bars: str | Path | Bars = "btcusd_30m",
    settings: MarketSettings | Mapping[str, Any] | None = None,
    features: FeaturePipeline | FeatureSettings | Sequence[str] | str | None = None,
) -> MarketTable:
    """A market from what a caller has at hand: bars as `--bars` takes them, or `Bars`, and settings.

    Features are fitted ones; or those to fit, as a list or `a,b`, on these very bars, as is right for
    training alone.

    Raises:
        BarsError: the bars are bad or too few.
        ValidationError: a setting is unknown or out of range.
    """
    bars = bars if isinstance(bars, Bars) else bars_from(bars)
    if not isinstance(settings, MarketSettings):
        settings = MarketSettings.model_validate(dict(settings or {}))
    if not isinstance(features, FeaturePipeline):
        if not isinstance(features, FeatureSettings):
            names = {"names": features} if features else {}
            features = FeatureSettings.model_validate(names)
        features = FeaturePipeline.fit(bars, features)
    return MarketTable.of(bars, features, settings)


def _make(render_mode: str | None = None, reward_scale: float = 1.0, **market: Any) -> MarketEnv:
    return MarketEnv(market_table(**market), reward_scale, render_mode)


def _make_vec(num_envs: int, reward_scale: float = 1.0, **market: Any) -> MarketVectorEnv:
    return MarketVectorEnv(market_table(**market), num_envs, reward_scale)


gymnasium.register(ID, entry_point=cast(Any, _make), vector_entry_point=cast(Any, _make_vec))
