"""The same market as a Gymnasium environment, in NumPy: for other libraries, and as a reference."""

from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from market.accounting import (
    Terms,
    cost,
    earned,
    liquidation_cost,
    next_position,
    risk_penalty,
)
from market.table import MarketTable


class MarketEnv(gymnasium.Env[NDArray[np.float32], np.int64]):
    """One stream of the market under the timing contract.

    Observations are states `[features..., position, 1.0]`; `Discrete(3)` counts action + 1; rewards
    are net of costs and risk penalty, in price units times `reward_scale`. Episodes start at a random
    bar, flat. Running out of an episode's bars truncates; equity at or below the floor terminates,
    and the position is then liquidated at the close.
    """

    metadata = {"render_modes": []}  # noqa: RUF012 - as Gymnasium declares it

    def __init__(self, table: MarketTable, reward_scale: float = 1.0) -> None:
        table.require_episode()
        self.table = table
        self.reward_scale = reward_scale
        size = (table.state_size,)
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, size, np.float32)
        self.action_space = gymnasium.spaces.Discrete(3)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Starts an episode at a random bar, or at `options={"bar": t}`."""
        super().reset(seed=seed)
        settings = self.table.settings
        starts = len(self.table) - settings.episode_bars
        self.bar = int((options or {}).get("bar", self.np_random.integers(starts)))
        self.end = min(self.bar + settings.episode_bars, len(self.table) - 1)
        self.position = 0
        self.equity = float(self.table.terms.price[self.bar])
        self.floor = settings.equity_floor * self.equity
        return self._state(), {}

    def step(
        self, action: np.int64
    ) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Holds the new position until the next close. `info` has equity and position."""
        settings = self.table.settings
        terms = Terms(*(column[self.bar] for column in self.table.terms))
        previous, self.position = (
            self.position,
            next_position(self.position, int(action) - 1, settings.scheme),
        )
        net = float(earned(terms, previous, self.position) - cost(terms, previous, self.position))
        terminated = self.equity + net <= self.floor
        if terminated:
            net -= float(liquidation_cost(terms, self.position))
        self.equity += net
        penalty = risk_penalty(terms, previous, self.position, settings.risk_aversion)
        self.bar += 1
        truncated = not terminated and self.bar == self.end
        info = {"equity": self.equity, "position": self.position}
        return (
            self._state(),
            (net - float(penalty)) * self.reward_scale,
            terminated,
            truncated,
            info,
        )

    def _state(self) -> NDArray[np.float32]:
        return self.table.states(np.array([self.bar]), np.array([self.position])).ravel()
