"""The known terms of every bar, one row a step: what positions of each sizing earn and pay.

The arithmetic over them, and what their letters mean, is in `market/accounting.py`.
"""

from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Sizing = Literal["unit", "notional", "equity"]
Array = Any  # a NumPy array or a TensorFlow tensor


class Terms(NamedTuple):
    """What one unit of position earns and pays over (t, t+1], row t, all in price units."""

    carry: Array  # earned by the position coming in, from the close of t to the fill
    gain: Array  # earned by the position taken, from the fill to the close of t+1
    entry_cost: Array  # paid per unit traded at the fill
    exit_cost: Array  # paid per unit liquidated at the close of t+1
    borrow: Array  # paid per unit held short
    price: Array  # the close of t


class NotionalTerms(NamedTuple):
    """The same of a position worth N at its fill, all in N."""

    carry: Array  # of the position coming in, which was sized at the fill before
    gain: Array
    entry_cost: Array  # share of the money traded
    exit_cost: Array  # share of what the position was worth at its fill
    borrow: Array
    price: Array  # N itself: 1
    drift: Array  # fill price over the one before: what N in the position coming in has become


class EquityTerms(NamedTuple):
    """What a position of the whole account earns and pays over (t, t+1], row t, in shares of it."""

    carry: Array  # (F[t] - C[t]) / F[t-1]
    gain: Array  # C[t+1] / F[t] - 1
    entry_cost: Array  # c: share of what is traded at the fill
    exit_cost: Array  # paid where it is liquidated at C[t+1], share of its worth at its fill
    borrow: Array  # b: likewise
    price: Array  # what the logarithm of equity counts in rewards: 1
    drift: Array  # D = F[t] / F[t-1]
    borrowed: Array  # b': the borrow of the row before


AnyTerms = Terms | NotionalTerms | EquityTerms


def sized(terms: Terms, fill_price: NDArray[np.float64], sizing: Sizing) -> AnyTerms:
    """The terms of one unit, each of shape (steps,), as those of another sizing.

    A position that comes into the first row, as none does in an episode or a backtest, is taken to have
    been sized at the close of that row. `fill_price` is that of each step, shape (steps,).
    """
    if sizing == "unit":
        return terms
    before = np.append(terms.price[:1], fill_price[:-1])
    notional = NotionalTerms(
        carry=terms.carry / before,
        gain=terms.gain / fill_price,
        entry_cost=terms.entry_cost / fill_price,
        exit_cost=terms.exit_cost / fill_price,
        borrow=terms.borrow / fill_price,
        price=np.ones_like(fill_price),
        drift=fill_price / before,
    )
    if sizing == "notional":
        return notional
    return EquityTerms(*notional, borrowed=np.append(0.0, notional.borrow[:-1]))


def scaled(terms: AnyTerms, scale: float) -> AnyTerms:
    """The terms with rewards multiplied by a factor."""
    if isinstance(terms, EquityTerms):  # all else are shares
        return terms._replace(price=terms.price * scale)
    if isinstance(terms, NotionalTerms):
        return NotionalTerms(*(column * scale for column in terms))._replace(drift=terms.drift)
    return Terms(*(column * scale for column in terms))


def times_cost(terms: AnyTerms, multiple: float) -> AnyTerms:
    """The terms with the costs of trading and borrowing multiplied by a factor."""
    changed = terms._replace(
        entry_cost=terms.entry_cost * multiple,
        exit_cost=terms.exit_cost * multiple,
        borrow=terms.borrow * multiple,
    )
    if isinstance(changed, EquityTerms):
        return changed._replace(borrowed=changed.borrowed * multiple)
    return changed
