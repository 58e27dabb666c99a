"""An account, reckoned step by step."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from market.accounting import (
    MarketSettings,
)


def account(
    open: NDArray[np.float64],
    close: NDArray[np.float64],
    held: Sequence[int],
    settings: MarketSettings,
    liquidate: bool,
) -> float:
    """What holding positions makes of nothing: cash and units, marked at the last close."""
    cash, units = 0.0, 0

    def trade(wanted: int, price: float) -> None:
        nonlocal cash, units
        each = settings.fee_rate * price + (settings.half_spread or 0) + settings.slippage
        cash -= (wanted - units) * price + abs(wanted - units) * each
        units = wanted

    for t, position in enumerate(held):
        trade(int(position), close[t] if settings.fill == "close" else open[t + 1])
        cash -= settings.borrow_rate * close[t] * (units < 0)
    last = close[len(held)]
    if liquidate:
        trade(0, last)
    return float(cash + units * last)
