"""Markets with a known best policy, for judging whether learning finds it."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
from numpy.typing import NDArray

from market.bars import Bars

START = datetime(2020, 1, 1, tzinfo=UTC)
LEVEL = 100.0  # the price that log prices are measured from


def random_walk(bars: int, seed: int, noise: float = 0.01) -> Bars:
    """A market without drift, in which no policy earns anything before costs.

    Changes of the log price are N(-noise^2 / 2, noise^2), so that the price is a martingale.
    """
    steps = np.random.default_rng(seed).normal(-(noise**2) / 2, noise, bars)
    return _from_log_prices(f"random_walk_s{seed}", np.cumsum(steps))


@dataclass(frozen=True)
class MeanReverting:
    """log price x: x' = (1 - pull) * x + noise * N(0, 1), around the log of `LEVEL`.

    The best policy trades only when x has strayed far enough to pay for the change of position;
    `best_choice` computes it by value iteration.
    """

    pull: float = 0.05
    noise: float = 0.01

    def bars(self, count: int, seed: int) -> Bars:
        """A path of `count` bars, started from the stationary distribution."""
        shocks = np.random.default_rng(seed).normal(0, self.noise, count)
        x = np.empty(count)
        x[0] = shocks[0] / np.sqrt(1 - (1 - self.pull) ** 2)
        for t in range(1, count):
            x[t] = (1 - self.pull) * x[t - 1] + shocks[t]
        return _from_log_prices(f"mean_reverting_s{seed}", x)

    def best_choice(
        self, close: NDArray[np.float64], fee_rate: float, gamma: float, points: int = 601
    ) -> NDArray[np.int8]:
        """The position that maximises expected discounted net reward (fills at the close).

        Value iteration on a grid of x times the three positions; the expectation over the next x is
        Gauss-Hermite quadrature with linear interpolation between grid points.

        Args:
            close: prices at which to decide, shape (n,).
            fee_rate: cost per unit traded, as a share of the price.
            gamma: discount per bar.
            points: size of the grid, over six stationary standard deviations to either side.

        Returns:
            Positions in {-1, 0, 1}, shape (n, 3); column p is for position p - 1 coming in.
        """
        spread = self.noise / np.sqrt(1 - (1 - self.pull) ** 2)
        grid = np.linspace(-6 * spread, 6 * spread, points)
        step = grid[1] - grid[0]
        nodes, weights = np.polynomial.hermite_e.hermegauss(21)
        transition = np.zeros((points, points))
        for node, weight in zip(nodes, weights / weights.sum(), strict=True):
            place = ((1 - self.pull) * grid + self.noise * node - grid[0]) / step
            left = np.clip(place.astype(int), 0, points - 2)
            right_share = np.clip(place - left, 0, 1)
            np.add.at(transition, (np.arange(points), left), weight * (1 - right_share))
            np.add.at(transition, (np.arange(points), left + 1), weight * right_share)

        price = LEVEL * np.exp(grid)
        drift = LEVEL * np.exp((1 - self.pull) * grid + self.noise**2 / 2) - price
        positions = np.arange(-1, 2)
        changes = abs(
            positions[None, :] - positions[:, None]
        )  # (position coming in, position taken)
        rewards = (
            drift[:, None, None] * positions - fee_rate * price[:, None, None] * changes
        )  # (grid, position coming in, position taken)
        values = np.zeros((points, 3))
        while True:
            q_values = rewards + gamma * (transition @ values)[:, None, :]
            updated = q_values.max(axis=2)
            if abs(updated - values).max() < 1e-9 * LEVEL:
                break
            values = updated
        x = np.log(close / LEVEL)
        at_x = np.empty((len(x), 3, 3))
        for coming_in in range(3):
            for taken in range(3):
                at_x[:, coming_in, taken] = np.interp(x, grid, q_values[:, coming_in, taken])
        return (at_x.argmax(axis=2) - 1).astype(np.int8)


def _from_log_prices(name: str, x: NDArray[np.float64]) -> Bars:
    """One-minute bars that open where the one before closed and never leave [open, close]."""
    close = LEVEL * np.exp(x)
    open = np.concatenate([close[:1], close[:-1]])
    times = pl.datetime_range(
        START, START + timedelta(minutes=len(x) - 1), "1m", time_unit="us", eager=True
    )
    table = pl.DataFrame(
        {
            "time": times,
            "open": open,
            "high": np.maximum(open, close),
            "low": np.minimum(open, close),
            "close": close,
            "volume": np.zeros(len(x)),
        }
    )
    return Bars.of(name, table)
