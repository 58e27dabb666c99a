"""Sizing "equity": positions as shares of an account that is rebalanced at every fill.

The notation is that of `market/accounting.py`. Let E+ be what the fill before left of the account, and b'
what has been paid since to borrow, as a share of it. The account is worth, at the close of t and then at
the fill, before anything is traded,

    V_C = 1 + p (C[t] / F[t-1] - 1) - b' [p < 0],    V_F = V_C + p (F[t] - C[t]) / F[t-1]

in units of E+, so that the old position's share of the account has drifted from p to w = p D / V_F.

The units of p' are set of the equity left after the change's own cost. With E the equity at the fill and
E+ that after it, E+ = E - c |p' E+ - w E|. Let s be the sign of p' - w, and x = E+ / E. If the trade
p' x - w has that sign too, then

    x = 1 - s c (p' x - w)   =>   x = (1 + s c w) / (1 + s c p') = 1 - c |p' - w| / (1 + s c p')

and p' x - w = (p' - w) / (1 + s c p') has it indeed while c |p'| < 1; the other sign solves nothing. The
account's logarithm grows by

    r = log(V_F / V_C) + log x + log(1 + p' (C[t+1] / F[t] - 1) - b [p' < 0])

of which everything but p and p' is a known term of row t. A step that would leave no more than `LEAST` of
the account, or less than nothing (a short whose price more than doubles, costs above the price), is ruin,
and counts as log(LEAST): never as minus infinity. At full size a long position needs no rebalancing
(p = 1 gives w = 1); a short does, as any share below one.
"""

from types import ModuleType
from typing import Any, NamedTuple

from market.terms import EquityTerms

Array = Any  # a NumPy array or a TensorFlow tensor

LEAST = 2.0**-10  # share of the account
_NOTHING = 2.0**-20  # stands for a worth that is none, so that no quotient is infinite


class Filled(NamedTuple):
    """What happens until and at a fill, in shares of the equity at the close before it."""

    carried: Array  # V_F / V_C - 1
    traded: Array
    paid: Array
    left: Array  # equity after the fill


def until_fill(terms: EquityTerms, previous: Array, xp: ModuleType) -> tuple[Array, Array]:
    """V_F / V_C - 1, and w: what is earned from the close to the fill, and what share is held then."""
    moved = previous * (terms.drift - 1 - terms.carry) - terms.borrowed * short(previous)
    at_close = xp.maximum(1 + moved, _NOTHING)
    carried = xp.maximum(terms.carry * previous / at_close, _NOTHING - 1)
    return carried, previous * terms.drift / (at_close * (1 + carried))


def filled(terms: EquityTerms, previous: Array, position: Array, xp: ModuleType) -> Filled:
    """The fill that changes `previous` into `position`."""
    carried, weight = until_fill(terms, previous, xp)
    at_fill = 1 + carried
    traded = rebalanced(weight, position, terms.entry_cost, xp)
    paid = at_fill * xp.minimum(terms.entry_cost * traded, 1.0)
    return Filled(carried, at_fill * traded, paid, at_fill - paid)


def rebalanced(weight: Array, position: Array, unit_cost: Array, xp: ModuleType) -> Array:
    """|p' x - w|: what takes a share `weight` to `position`, as a share of the equity before.

    Of a purchase and a sale, s = 1 and s = -1, one is negative: the larger is the trade.
    """
    bought = (position - weight) / xp.maximum(1 + unit_cost * position, _NOTHING)
    sold = (weight - position) / xp.maximum(1 - unit_cost * position, _NOTHING)
    return xp.maximum(bought, sold)


def short(position: Array) -> Array:
    """How much is held short."""
    return (abs(position) - position) / 2
