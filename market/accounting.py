"""The timing contract in arithmetic: what a position earns and pays between two bars.

Bar t is known once it has closed. The action a_t then gives position_t, taken at the fill price F[t]
and held over (t, t+1]. C and O are closes and opens; p is position_{t-1}, p' is position_t:

    fill = "close":      F[t] = C[t]
    fill = "next_open":  F[t] = O[t+1]

`sizing` says how many units the full size is, and with it what a reward is counted in.

unit: one unit. Rewards are in price units.

    r = (F[t] - C[t]) p + (C[t+1] - F[t]) p' - c |p' - p| - b [p' < 0]
    c = fee_rate F[t] + half_spread + slippage,    b = borrow_rate C[t]

notional: a constant amount of money N, in units N / F[t], set anew at every fill. Rewards are in N. The
position coming in was sized at F[t-1]; by the fill its worth has drifted from p to p D, with
D = F[t] / F[t-1], and what brings it to p' is charged, the drift of price alone included:

    r = (F[t] - C[t]) / F[t-1] p + (C[t+1] - F[t]) / F[t] p' - c |p' - p D| - b [p' < 0]

where c and b are those above over F[t]: shares of the money traded, or held short.

equity: a share of the account, set anew at every fill of what is left after the change's own cost.
Rewards are the growth of the account's logarithm; `market/equity.py` derives them.

So rewards are functions of the bar, p and p' alone: D and the borrow of the row before are known terms of
row t. Those of an episode, before penalties, add up to the change of the account in units of the first
price and of N, and of its logarithm.

Rewards are reduced by the risk penalties that are set, each a formula of the same step. Both fills are
one formula over the terms of a bar, in plain operators, so that NumPy arrays and TensorFlow tensors both
pass through it: simulator, Gymnasium environments and backtest share this definition.
"""

import math
from types import ModuleType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from durable.settings import Settings
from market.equity import LEAST, filled, short, until_fill
from market.terms import AnyTerms, EquityTerms, NotionalTerms, Sizing, Terms, sized

Scheme = Literal["target", "order"]
Fill = Literal["close", "next_open"]
FILLS: tuple[Fill, ...] = ("close", "next_open")
EPISODE_BARS = 1000  # of an episode, by default, where the data have as many
Array = Any  # a NumPy array or a TensorFlow tensor: the operators below are those that both have


class MarketSettings(Settings):
    """What trading costs, when orders fill, and when an episode ends."""

    scheme: Scheme = Field("target", description="action = position to hold, or order to send")
    fill: Fill = Field("close", description="price at which a change of position fills")
    fee_rate: float = Field(0.0, ge=0, lt=1, description="fee as a share of the traded notional")
    half_spread: float | None = Field(
        None,
        ge=0,
        description="half the bid-ask spread, price units per unit; none: that of the bars' own bid "
        "and ask where they have them, else zero",
    )
    slippage: float = Field(0.0, ge=0, description="price units lost per unit traded")
    borrow_rate: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of the price that a short pays per bar: borrow or funding",
    )
    risk_aversion: float = Field(
        0.0, ge=0, description="variance penalty = risk_aversion / 2 * earned^2 / price"
    )
    drawdown_penalty: float = Field(
        0.0, ge=0, description="drawdown penalty = drawdown_penalty * rise of the drawdown"
    )
    inventory_penalty: float = Field(
        0.0, ge=0, description="inventory penalty = inventory_penalty * price * position^2"
    )
    turnover_penalty: float = Field(
        0.0, ge=0, description="turnover penalty = turnover_penalty * price * units traded"
    )
    episode_bars: int | None = Field(
        None,
        ge=1,
        description=f"bars after which an episode is truncated; none: {EPISODE_BARS}, or as many as "
        "there are where they are fewer",
    )
    equity_floor: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="ruin, in shares of the equity at the start: of the first price, where one unit is "
        "traded",
    )
    sizing: Sizing = Field(
        "unit",
        description="full size: one unit, a constant amount of money, or a share of the account",
    )

    def fingerprint(self) -> str:
        """JSON that is equal for equal markets, also for those stored before a setting or a default was.

        A setting that is younger than the text says nothing at its default, and an episode's length
        that is left open is the one that was the default before.
        """
        said = self.episode_bars or EPISODE_BARS
        settings = self.model_copy(update={"episode_bars": said})
        return settings.model_dump_json(exclude={"sizing"} if self.sizing == "unit" else None)


def fill_prices(
    open: NDArray[np.float64], close: NDArray[np.float64], fill: Fill
) -> NDArray[np.float64]:
    """The price at which the change of each step fills, shape (bars - 1,)."""
    return close[:-1] if fill == "close" else open[1:]


def bar_terms(
    open: NDArray[np.float64],
    close: NDArray[np.float64],
    settings: MarketSettings,
    half_spread: NDArray[np.float64] | None = None,
) -> AnyTerms:
    """Terms of every step between bars, shape (bars - 1,), of the kind that belongs to the sizing.

    Prices and half_spread have the shape (bars,). The latter is half of each bar's ask less bid, price
    units, for settings that leave it to the bars. A trade at the next open pays the spread of bar t, the
    last known.
    """
    half = settings.half_spread or 0.0
    halves = np.full(len(close), half) if half_spread is None else half_spread

    fill_price = fill_prices(open, close, settings.fill)
    terms = Terms(
        carry=fill_price - close[:-1],
        gain=close[1:] - fill_price,
        entry_cost=unit_cost(fill_price, halves[:-1], settings),
        exit_cost=unit_cost(close[1:], halves[1:], settings),
        borrow=settings.borrow_rate * close[:-1],
        price=close[:-1],
    )
    return sized(terms, fill_price, settings.sizing)


def unit_cost(price: Array, half_spread: Array, settings: MarketSettings) -> Array:
    """What trading one unit at a price costs, price units."""
    return settings.fee_rate * price + half_spread + settings.slippage


def next_position(position: Array, action: Array, scheme: Scheme) -> Array:
    """The position after an action in {-1, 0, +1}: the action itself, or an order clipped to one unit."""
    if scheme == "target":
        return action
    wanted = position + action
    return (abs(wanted + 1) - abs(wanted - 1)) // 2  # clip(wanted, -1, 1)


# What follows takes `xp`: `numpy`, or `tensorflow.math` for tensors; their functions of the names that
# are used agree. Under sizing "equity" amounts of a step are shares of the equity at its beginning.


def carried(terms: AnyTerms, previous: Array, xp: ModuleType = np) -> Array:
    """What the position coming in earns until the fill."""
    if isinstance(terms, EquityTerms):
        return terms.price * until_fill(terms, previous, xp)[0]
    return terms.carry * previous


def drifted(terms: AnyTerms, previous: Array, xp: ModuleType = np) -> Array:
    """What the position coming in has become at the fill, before it is traded."""
    if isinstance(terms, EquityTerms):
        return until_fill(terms, previous, xp)[1]
    return previous * terms.drift if isinstance(terms, NotionalTerms) else previous


def traded(terms: AnyTerms, previous: Array, position: Array, xp: ModuleType = np) -> Array:
    """How much is traded at the fill: units, shares of N, or shares of the account."""
    if isinstance(terms, EquityTerms):
        return filled(terms, previous, position, xp).traded
    return abs(position - drifted(terms, previous, xp))


def earned(terms: AnyTerms, previous: Array, position: Array, xp: ModuleType = np) -> Array:
    """Change of the position's worth over (t, t+1], before cost."""
    if isinstance(terms, EquityTerms):
        fill = filled(terms, previous, position, xp)
        return terms.price * (fill.carried + fill.left * terms.gain * position)
    return terms.carry * previous + terms.gain * position


def cost(terms: AnyTerms, previous: Array, position: Array, xp: ModuleType = np) -> Array:
    """What the change from `previous` to `position` costs at the fill, and holding it short."""
    if isinstance(terms, EquityTerms):
        fill = filled(terms, previous, position, xp)
        return terms.price * (fill.paid + fill.left * terms.borrow * short(position))
    if isinstance(terms, NotionalTerms):
        previous = previous * terms.drift
    held_short = (abs(position) - position) / 2
    return terms.entry_cost * abs(position - previous) + terms.borrow * held_short


def liquidation_cost(
    terms: AnyTerms, position: Array, previous: Array = None, xp: ModuleType = np
) -> Array:
    """What closing `position` at the close of t+1 costs; due where an episode terminates.

    Under sizing "equity" it depends on `previous` too, which must be given there.
    """
    if isinstance(terms, EquityTerms):
        left = filled(terms, previous, position, xp).left
        return terms.price * left * terms.exit_cost * abs(position)
    return terms.exit_cost * abs(position)


def growth(terms: AnyTerms, net: Array, xp: ModuleType = np) -> Array:
    """The reward before penalties: earnings less costs; under sizing equity, growth of log equity."""
    if isinstance(terms, EquityTerms):
        return terms.price * xp.log1p(xp.maximum(net / terms.price, LEAST - 1))
    return net


def ruins(terms: AnyTerms, above_floor: Array, net: Array, xp: ModuleType = np) -> Array:
    """Whether a step that earns `net`, after its costs, ruins an account.

    Rewards may still add up to `above_floor` below zero (see `equity_above_floor`).
    """
    fell = above_floor + growth(terms, net, xp) <= 0
    return fell | wiped_out(terms, net) if isinstance(terms, EquityTerms) else fell


def wiped_out(terms: AnyTerms, net: Array) -> Array:
    """Whether a step leaves nothing to size a position by, however much the account had grown."""
    return isinstance(terms, EquityTerms) and net <= (LEAST - 1) * terms.price


def worst_growth(settings: MarketSettings) -> float:
    """The reward, before penalties, that a step which wipes out an account counts as."""
    return float(np.log1p(LEAST - 1)) if settings.sizing == "equity" else -math.inf


def money(terms: AnyTerms, equity: Array, amount: Array) -> Array:
    """An amount of a step in units of the account, which `equity` at its beginning is counted in."""
    return amount * equity if isinstance(terms, EquityTerms) else amount


def advanced(terms: AnyTerms, equity: Array, reward: Array, xp: ModuleType = np) -> Array:
    """Equity after rewards, before penalties and unscaled, that add up to `reward`.

    Perfect foresight compounds to more than a number holds; growth counts up to e^700.
    """
    if isinstance(terms, EquityTerms):
        return equity * xp.exp(xp.minimum(reward, 700.0))
    return equity + reward


def booked(terms: AnyTerms, equity: Array, net: Array, floor: Array) -> tuple[Array, Array, Array]:
    """What a step leaves: the reward before penalties, equity, and whether the account is ruined."""
    if isinstance(terms, EquityTerms):
        reward = growth(terms, net)
        after = advanced(terms, equity, reward)
        return reward, after, (after <= floor) | wiped_out(terms, net)
    after = equity + net
    return net, after, after <= floor


def floor_of(settings: MarketSettings) -> float:
    """The share of the equity at the start at which an account is ruined."""
    return (
        max(settings.equity_floor, LEAST) if settings.sizing == "equity" else settings.equity_floor
    )


def equity_above_floor(price: Array, settings: MarketSettings) -> Array:
    """How far rewards may add up below zero before ruin, for an account that starts with `price`.

    That is the close at the start where one unit is traded, N, or what a logarithm counts. Under
    sizing "equity" the floor is at least `LEAST`: the logarithm of none has no end.
    """
    floor = floor_of(settings)
    return price * (-math.log(floor) if settings.sizing == "equity" else 1 - floor)


def risk_penalty(
    terms: AnyTerms, previous: Array, position: Array, settings: MarketSettings, xp: ModuleType = np
) -> Array:
    """The sum of the penalties that are set, in units of the reward; it lowers rewards, never equity.

    variance: risk_aversion / 2 * earned^2 / price. The mean-variance reward of Ritter (2017), "Machine
    Learning for Trading", equation 9, with the expected gain of one bar taken as zero; dividing by
    the price keeps the unit of the reward.

    drawdown: drawdown_penalty * max(0, rise of the drawdown), after Moody and Saffell (2001),
    "Learning to Trade via Direct Reinforcement", who punish downside alone. With drawdown
    D = peak - equity >= 0 and net = earned - cost, D' = max(D - net, 0), whose rise is max(0, -net)
    whatever the peak was: the reward needs no memory, and over an episode the rises add up to at
    least the largest drawdown. Under sizing "equity" the same is said of log equity. Liquidation after
    ruin is left out.

    inventory: inventory_penalty * price * position^2, paid for every bar that a position is held, as
    Spooner et al. (2018), "Market Making via Reinforcement Learning", dampen it.

    turnover: turnover_penalty * price * traded, a cost that only learning sees.

    Price is that of the terms: the close where one unit is traded, else 1.
    """
    total: Array = 0.0
    if settings.risk_aversion > 0:
        change = earned(terms, previous, position, xp)
        total = total + change * change * (settings.risk_aversion / 2) / terms.price
    if settings.drawdown_penalty > 0:
        net = earned(terms, previous, position, xp) - cost(terms, previous, position, xp)
        net = growth(terms, net, xp)
        total = total + settings.drawdown_penalty * (abs(net) - net) / 2
    if settings.inventory_penalty > 0:
        total = total + settings.inventory_penalty * terms.price * position * position
    if settings.turnover_penalty > 0:
        total = total + (
            settings.turnover_penalty * terms.price * traded(terms, previous, position, xp)
        )
    return total
