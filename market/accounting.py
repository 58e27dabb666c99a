"""The timing contract in arithmetic: what a position earns and pays between two bars.

Bar t is known once it has closed. The action a_t then gives position_t, held over (t, t+1]:

    fill = "close":      r = (C[t+1] - C[t]) * position_t                              - cost at C[t]
    fill = "next_open":  r = (O[t+1] - C[t]) * position_{t-1} + (C[t+1] - O[t+1]) * position_t
                                                                                       - cost at O[t+1]
    cost = |position_t - position_{t-1}| * (fee_rate * price + half_spread + slippage)
           + borrow_rate * C[t] where position_t is short

and r is reduced by the risk penalties that are set, each a formula of the same step. Both fills are one
formula over `Terms`, in plain operators, so that NumPy arrays and TensorFlow tensors both pass through
it: simulator, Gymnasium environments and backtest share this definition.
"""

from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

Scheme = Literal["target", "order"]
Fill = Literal["close", "next_open"]
Array = Any  # a NumPy array or a TensorFlow tensor: the operators below are those that both have


class MarketSettings(BaseModel):
    """What trading costs, when orders fill, and when an episode ends."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

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
    episode_bars: int = Field(1000, ge=1, description="bars after which an episode is truncated")
    equity_floor: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="ruin, in shares of the price at the start, which is the equity then",
    )


class Terms(NamedTuple):
    """What one unit of position earns and pays over (t, t+1], row t, all in price units."""

    carry: Array  # earned by the position coming in, from the close of t to the fill
    gain: Array  # earned by the position taken, from the fill to the close of t+1
    entry_cost: Array  # paid per unit traded at the fill
    exit_cost: Array  # paid per unit liquidated at the close of t+1
    borrow: Array  # paid per unit held short
    price: Array  # the close of t


def bar_terms(
    open: NDArray[np.float64],
    close: NDArray[np.float64],
    settings: MarketSettings,
    half_spread: NDArray[np.float64] | None = None,
) -> Terms:
    """Terms of every step between bars.

    Args:
        open: prices, shape (bars,).
        close: prices, shape (bars,).
        settings: fills and costs.
        half_spread: half of each bar's ask less bid, price units, shape (bars,), for settings that
            leave it to the bars. A trade at the next open pays the spread of bar t, the last known.

    Returns:
        Arrays of shape (bars - 1,).
    """
    half = settings.half_spread or 0.0
    halves = np.full(len(close), half) if half_spread is None else half_spread

    fill_price = close[:-1] if settings.fill == "close" else open[1:]
    return Terms(
        carry=fill_price - close[:-1],
        gain=close[1:] - fill_price,
        entry_cost=unit_cost(fill_price, halves[:-1], settings),
        exit_cost=unit_cost(close[1:], halves[1:], settings),
        borrow=settings.borrow_rate * close[:-1],
        price=close[:-1],
    )


def unit_cost(price: Array, half_spread: Array, settings: MarketSettings) -> Array:
    """What trading one unit at a price costs, price units."""
    return settings.fee_rate * price + half_spread + settings.slippage


def next_position(position: Array, action: Array, scheme: Scheme) -> Array:
    """The position after an action in {-1, 0, +1}: the action itself, or an order clipped to one unit."""
    if scheme == "target":
        return action
    wanted = position + action
    return (abs(wanted + 1) - abs(wanted - 1)) // 2  # clip(wanted, -1, 1)


def earned(terms: Terms, previous: Array, position: Array) -> Array:
    """Change of the position's worth over (t, t+1], before cost."""
    return terms.carry * previous + terms.gain * position


def cost(terms: Terms, previous: Array, position: Array) -> Array:
    """What the change from `previous` to `position` costs at the fill, and holding it short."""
    short = (abs(position) - position) / 2
    return terms.entry_cost * abs(position - previous) + terms.borrow * short


def liquidation_cost(terms: Terms, position: Array) -> Array:
    """What closing `position` at the close of t+1 costs; due where an episode terminates."""
    return terms.exit_cost * abs(position)


def risk_penalty(terms: Terms, previous: Array, position: Array, settings: MarketSettings) -> Array:
    """The sum of the penalties that are set, in price units; it lowers rewards, never equity.

    variance: risk_aversion / 2 * earned^2 / price. The mean-variance reward of Ritter (2017), "Machine
    Learning for Trading", equation 9, with the expected gain of one bar taken as zero; dividing by
    the price keeps the unit of the reward.

    drawdown: drawdown_penalty * max(0, rise of the drawdown), after Moody and Saffell (2001),
    "Learning to Trade via Direct Reinforcement", who punish downside alone. With drawdown
    D = peak - equity >= 0 and net = earned - cost, D' = max(D - net, 0), whose rise is max(0, -net)
    whatever the peak was: the reward needs no memory, and over an episode the rises add up to at
    least the largest drawdown. Liquidation after ruin is left out.

    inventory: inventory_penalty * price * position^2, paid for every bar that a position is held, as
    Spooner et al. (2018), "Market Making via Reinforcement Learning", dampen it.

    turnover: turnover_penalty * price * |position - previous|, a cost that only learning sees.
    """
    total: Array = 0.0
    if settings.risk_aversion > 0:
        change = earned(terms, previous, position)
        total = total + change * change * (settings.risk_aversion / 2) / terms.price
    if settings.drawdown_penalty > 0:
        net = earned(terms, previous, position) - cost(terms, previous, position)
        total = total + settings.drawdown_penalty * (abs(net) - net) / 2
    if settings.inventory_penalty > 0:
        total = total + settings.inventory_penalty * terms.price * position * position
    if settings.turnover_penalty > 0:
        total = total + settings.turnover_penalty * terms.price * abs(position - previous)
    return total
