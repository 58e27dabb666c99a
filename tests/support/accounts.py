"""An account that knows nothing of rewards: cash and units, traded at fills, marked at closes."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from market.accounting import MarketSettings

LEAST = 2.0**-10  # of an account: what a step must leave under sizing "equity"


class Kept(NamedTuple):
    """What became of an account."""

    equity: list[float]  # at every close, from the first on, to ruin or the end
    units: list[float]  # held over each step
    traded: list[float]  # units, in each step, liquidation left out
    ruined: bool


def keep(
    open: NDArray[np.float64],
    close: NDArray[np.float64],
    held: Sequence[int],
    settings: MarketSettings,
    half_spread: NDArray[np.float64] | None = None,
    liquidate: bool = False,
) -> Kept:
    """Holds positions, one over each step, with the money that the sizing funds an account with.

    Equity that is left after its own cost is found by repeated substitution, not by a closed form.
    """
    sizing = settings.sizing
    start = float(close[0]) if sizing == "unit" else 1.0
    floor = settings.equity_floor * start
    if sizing == "equity":
        floor = max(floor, LEAST)
    cash, units = start, 0.0
    kept = Kept([start], [], [], ruined=False)
    for t, position in enumerate(held):
        price = float(close[t] if settings.fill == "close" else open[t + 1])
        half = (settings.half_spread or 0.0) if half_spread is None else float(half_spread[t])
        each = settings.fee_rate * price + half + settings.slippage
        wanted = float(position)
        gone = False
        if sizing == "notional":
            wanted = position / price
        elif sizing == "equity":
            before = cash + units * price
            gone = before <= 0
            after = before
            for _ in range(3000):
                after = before - each * abs(position * after / price - units)
            wanted = position * after / price
        if not gone:
            cash -= (wanted - units) * price + abs(wanted - units) * each
            kept.traded.append(abs(wanted - units))
            units = wanted
            cash -= settings.borrow_rate * float(close[t]) * max(-units, 0.0)
        last = float(close[t + 1])
        equity = cash + units * last
        gone = gone or (sizing == "equity" and equity <= LEAST * kept.equity[-1])
        over = gone or equity <= floor
        if over or (liquidate and t + 1 == len(held)):
            half = (
                (settings.half_spread or 0.0) if half_spread is None else float(half_spread[t + 1])
            )
            equity -= abs(units) * (settings.fee_rate * last + half + settings.slippage)
        if sizing == "equity":
            equity = max(equity, LEAST * kept.equity[-1])
        kept.equity.append(equity)
        kept.units.append(units)
        if over:
            return kept._replace(ruined=True)
    return kept
