"""Markets with a known best policy, for judging whether learning finds it.

Each is a law of one-minute log returns with `bars` (a path) and `best_choice` (the best policy, by value
iteration). They are named in `--bars` as `synthetic:ou?theta=0.05&sigma=0.01&seed=3&bars=20000`.
"""

from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from typing import ClassVar, Protocol
from urllib.parse import parse_qsl

import numpy as np
import polars as pl
from numpy.typing import NDArray

from market.bars import Bars, BarsError
from market.calendar import Calendar
from market.table import POSITIONS

Numbers = NDArray[np.float64]
START = datetime(2020, 1, 1, tzinfo=UTC)
LEVEL = 100.0  # the price that log prices are measured from
COUNT = 20_000  # bars where `--bars` does not say how many
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(41)
WEIGHTS = WEIGHTS / WEIGHTS.sum()  # of expectations over a standard normal
HELD = np.array(POSITIONS)
CHANGES = abs(HELD[None, :] - HELD[:, None])  # (position coming in, position taken)


class Market(Protocol):
    """What every law of this module offers."""

    def bars(self, count: int, seed: int) -> Bars:
        """A path of `count` bars."""

    def best_choice(self, close: Numbers, fee_rate: float, gamma: float) -> NDArray[np.int8]:
        """The position that maximises expected discounted net reward (fills at the close).

        Args:
            close: prices at which to decide, from the start of a path, shape (n,).
            fee_rate: cost per unit traded, as a share of the price.
            gamma: discount per bar.

        Returns:
            Positions in {-1, 0, 1}, shape (n, 3); column p is for position p - 1 coming in.
        """


@dataclass(frozen=True)
class OrnsteinUhlenbeck:
    """log price x: x' = (1 - theta) * x + sigma * N(0, 1), around the log of `LEVEL`.

    The Euler scheme of the mean-reverting process, a bar a step. The best policy trades only when x
    has strayed far enough to pay for the change of position.
    """

    theta: float = 0.05
    sigma: float = 0.01

    name: ClassVar[str] = "ou"
    bounds: ClassVar[dict[str, tuple[float, float]]] = {"theta": (1e-6, 1.0), "sigma": (1e-9, 1.0)}

    def bars(self, count: int, seed: int) -> Bars:
        """A path of `count` bars, started from the stationary distribution."""
        shocks = np.random.default_rng(seed).normal(0, self.sigma, count)
        x = np.empty(count)
        x[0] = shocks[0] / np.sqrt(1 - (1 - self.theta) ** 2)
        for t in range(1, count):
            x[t] = (1 - self.theta) * x[t - 1] + shocks[t]
        return _from_log_prices(f"{self.name}_s{seed}", x)

    def best_choice(
        self, close: Numbers, fee_rate: float, gamma: float, points: int = 601
    ) -> NDArray[np.int8]:
        """See `Market`: value iteration over a grid of x, six stationary deviations wide."""
        spread = self.sigma / np.sqrt(1 - (1 - self.theta) ** 2)
        grid = np.linspace(-6 * spread, 6 * spread, points)
        places = (1 - self.theta) * grid[:, None] + self.sigma * NODES
        transition = _transition(grid, places, np.broadcast_to(WEIGHTS, places.shape))
        price = LEVEL * np.exp(grid)
        drift = LEVEL * np.exp((1 - self.theta) * grid + self.sigma**2 / 2) - price
        rewards = drift[:, None, None] * HELD - fee_rate * price[:, None, None] * CHANGES
        return _best(grid, _solve(rewards, gamma * transition), np.log(close / LEVEL))


@dataclass(frozen=True)
class RandomWalk:
    """Log returns are N(drift - sigma^2 / 2, sigma^2): the price grows by exp(drift) a bar on average.

    Without drift the price is a martingale, and no policy earns anything before costs.
    """

    drift: float = 0.0
    sigma: float = 0.01

    name: ClassVar[str] = "walk"
    bounds: ClassVar[dict[str, tuple[float, float]]] = {"drift": (-0.1, 0.1), "sigma": (1e-9, 1.0)}

    def bars(self, count: int, seed: int) -> Bars:
        """A path of `count` bars."""
        returns = np.random.default_rng(seed).normal(
            self.drift - self.sigma**2 / 2, self.sigma, count
        )
        return _from_log_prices(f"{self.name}_s{seed}", np.cumsum(returns))

    def best_choice(self, close: Numbers, fee_rate: float, gamma: float) -> NDArray[np.int8]:
        """See `Market`; the same at every price, since rewards are in proportion to it."""
        growth = np.exp(self.drift)
        rewards = (growth - 1) * HELD - fee_rate * CHANGES
        q_values = _solve(rewards[None], np.array([[gamma * growth]]))
        choice = (q_values[0].argmax(axis=1) - 1).astype(np.int8)
        return np.broadcast_to(choice, (len(close), 3)).copy()


@dataclass(frozen=True)
class RegimeSwitching:
    """A random walk whose drift is +drift or -drift, and changes sign with probability `switch` a bar.

    The regime is hidden. What the past tells of it is one number, the probability that the next return
    is of the rising regime (Hamilton 1989, "A New Approach to the Economic Analysis of Nonstationary Time
    Series"), so that the best policy is one of that belief and the position.
    """

    drift: float = 0.004
    switch: float = 0.01
    sigma: float = 0.01

    name: ClassVar[str] = "regime"
    bounds: ClassVar[dict[str, tuple[float, float]]] = {
        "drift": (0.0, 0.1),
        "switch": (1e-6, 0.5),
        "sigma": (1e-6, 1.0),
    }

    def bars(self, count: int, seed: int) -> Bars:
        """A path of `count` bars; either regime is as likely at the start."""
        rng = np.random.default_rng(seed)
        changes = rng.random(count) < np.append(0.5, np.full(count - 1, self.switch))
        rising = np.cumsum(changes) % 2
        means = np.where(rising, self.drift, -self.drift) - self.sigma**2 / 2
        return _from_log_prices(f"{self.name}_s{seed}", np.cumsum(rng.normal(means, self.sigma)))

    def beliefs(self, close: Numbers) -> Numbers:
        """Probability, at each close, that the next return is of the rising regime; shape (n,)."""
        belief = 0.5
        beliefs = [0.5]
        for log_return in np.diff(np.log(close)).tolist():
            belief = float(self._updated(belief, log_return))
            beliefs.append(belief)
        return np.array(beliefs)

    def best_choice(
        self, close: Numbers, fee_rate: float, gamma: float, points: int = 401
    ) -> NDArray[np.int8]:
        """See `Market`: value iteration over a grid of beliefs, in units of the price."""
        grid = np.linspace(0, 1, points)
        shares = []
        places = []
        for sign, probability in ((1, grid), (-1, 1 - grid)):
            returns = sign * self.drift - self.sigma**2 / 2 + self.sigma * NODES
            places.append(self._updated(grid[:, None], returns))
            shares.append(probability[:, None] * WEIGHTS * np.exp(returns))  # the price grows too
        transition = _transition(grid, np.hstack(places), np.hstack(shares))
        drift = transition.sum(axis=1) - 1
        rewards = drift[:, None, None] * HELD - fee_rate * CHANGES
        return _best(grid, _solve(rewards, gamma * transition), self.beliefs(close))

    def _updated(self, belief: Numbers | float, log_return: Numbers | float) -> Numbers:
        # the log of how much likelier the return is in the rising regime than in the falling one
        evidence = 2 * self.drift * (np.asarray(log_return) + self.sigma**2 / 2) / self.sigma**2
        odds = np.exp(np.clip(evidence, -500, 500))
        rising = belief * odds / (belief * odds + 1 - belief)
        return np.asarray(rising * (1 - self.switch) + (1 - rising) * self.switch)


MARKETS: dict[str, type[OrnsteinUhlenbeck | RandomWalk | RegimeSwitching]] = {
    law.name: law for law in (OrnsteinUhlenbeck, RandomWalk, RegimeSwitching)
}


def synthetic_bars(specification: str) -> Bars:
    """Bars of `ou?theta=0.05&sigma=0.01&seed=3&bars=20000`; everything but the law may be left out.

    Raises `BarsError` where the law, a parameter's name or its value is none.
    """
    written = f"bars synthetic:{specification}"
    name, _, query = specification.partition("?")
    if name not in MARKETS:
        raise BarsError(
            f"{written}: {name or 'nothing'} is no market; there are {', '.join(MARKETS)}"
        )
    law = MARKETS[name]
    known = [field.name for field in fields(law)]
    numbers: dict[str, float] = {"seed": 1, "bars": COUNT}
    limits = law.bounds | {"seed": (0, 2**31 - 1), "bars": (2, 10**8)}
    for key, text in parse_qsl(query, keep_blank_values=True):
        if key not in limits:
            raise BarsError(f"{written}: {key} is no parameter; there are {', '.join(limits)}")
        low, high = limits[key]
        try:
            value = int(text) if key in {"seed", "bars"} else float(text)
        except ValueError:
            value = float("nan")
        if not low <= value <= high:
            raise BarsError(f"{written}: {key} is {text!r}; it must be from {low:g} to {high:g}")
        numbers[key] = value
    count = int(numbers.pop("bars"))
    seed = int(numbers.pop("seed"))
    try:
        with np.errstate(over="ignore"):
            bars = law(**{key: numbers[key] for key in known if key in numbers}).bars(count, seed)
    except BarsError as error:
        raise BarsError(
            f"{written}: its prices outgrow numbers ({error}); ask for fewer bars"
        ) from None
    return Bars(f"synthetic_{bars.name}", bars.table, bars.whole)


def _transition(grid: Numbers, places: Numbers, shares: Numbers) -> Numbers:
    """From each grid point (row) to its places, in shares, by linear interpolation; (points, points)."""
    points = len(grid)
    place = (places - grid[0]) / (grid[1] - grid[0])
    left = np.clip(place.astype(int), 0, points - 2)
    right_share = np.clip(place - left, 0, 1)
    rows = np.broadcast_to(np.arange(points)[:, None], place.shape)
    transition = np.zeros((points, points))
    np.add.at(transition, (rows, left), shares * (1 - right_share))
    np.add.at(transition, (rows, left + 1), shares * right_share)
    return transition


def _solve(rewards: Numbers, discounted: Numbers) -> Numbers:
    """Q-values by value iteration, shaped as rewards: (states, position coming in, position taken).

    `discounted` are transition probabilities times discount and growth of the price, (states, states).
    Raises `ValueError` where growth outruns the discount, so that sums of rewards have no limit.
    """
    if discounted.sum(axis=1).max() >= 1:
        growth = abs(np.linalg.eigvals(discounted)).max()
        if growth >= 1:
            raise ValueError(
                f"discounted, the price still grows by a factor of {growth:.4g} a bar; it must be below 1"
            )
    values = np.zeros(rewards.shape[:2])
    scale = max(abs(rewards).max(), 1e-300)
    while True:
        q_values: Numbers = rewards + (discounted @ values)[:, None, :]
        updated = q_values.max(axis=2)
        if abs(updated - values).max() < 1e-9 * scale:
            return q_values
        values = updated


def _best(grid: Numbers, q_values: Numbers, at: Numbers) -> NDArray[np.int8]:
    """The best positions at points between those of the grid, shape (n, 3)."""
    there = np.empty((len(at), 3, 3))
    for coming_in in range(3):
        for taken in range(3):
            there[:, coming_in, taken] = np.interp(at, grid, q_values[:, coming_in, taken])
    return (there.argmax(axis=2) - 1).astype(np.int8)


def _from_log_prices(name: str, x: Numbers) -> Bars:
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
    return Bars.of(name, table, Calendar.always(60.0))
