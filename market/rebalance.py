"""The order that takes what an account holds to a position: for a desk and its venue.

Rewards and backtests set units anew at every fill price. A desk that asks `rebalance` at its own fill
price, with the costs that are charged there, holds exactly what they hold, to rounding. Where the price
of the fill is not known when the order is made, a venue is asked for units, or for an amount of money.
Let u be the units held, C the price at which the order was made, and F that of the fill. Under sizing
"notional" the position is then off the one that `rebalance` gives at F by

    ordered as units:   (units wanted at C) (1 - C / F)
    ordered as money:   u (1 - C / F)

So what closes is exact as units, and what opens is exact as money; a turn is exact as one order of each.
What merely follows the drift of price is off by about the position times the move from C to F, either
way, until the next bar sets it anew. Under sizing "equity" the same holds of a share of the account as it
is at F; with one unit, nothing is ever off.
"""

from typing import NamedTuple

import numpy as np

from market.equity import rebalanced
from market.terms import Sizing


class Rebalance(NamedTuple):
    """What is to be traded at a price."""

    units: float  # held afterwards, below zero where short
    order: float  # units to buy, below zero to sell
    amount: float  # money that the order is worth at the price, of the same sign
    cost: float  # money


def rebalance(
    sizing: Sizing,
    position: float,
    units: float,
    equity: float,
    price: float,
    unit_cost: float,
    full: float = 1.0,
) -> Rebalance:
    """The trade that takes an account to a position.

    Args:
        sizing: how many units the full size is.
        position: wanted, from -1 to 1.
        units: held before, below zero where short.
        equity: of the account before the trade, `units` at `price` included; money.
        price: of the fill.
        unit_cost: of trading one unit there, money (see `market.accounting.unit_cost`).
        full: the full size: units, an amount of money, or a share of the account, as the sizing has it.

    Raises:
        ValueError: the price is not above zero, or there is no equity to take a share of.
    """
    if not price > 0:
        raise ValueError(f"the price is {price:g}; it must be above zero")
    wanted = full * position
    if sizing == "notional":
        wanted /= price
    elif sizing == "equity":
        if not equity > 0:
            raise ValueError(f"the account holds {equity:g}; a share of it needs more than zero")
        share = unit_cost / price
        size = float(rebalanced(units * price / equity, wanted, share, np))
        wanted *= equity * (1 - min(share * size, 1.0)) / price
    order = wanted - units
    return Rebalance(wanted, order, order * price, abs(order) * unit_cost)
