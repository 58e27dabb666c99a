"""All ways to size a position."""

from market.terms import Sizing

SIZINGS: tuple[Sizing, ...] = ("unit", "notional", "equity")


SIZED: tuple[Sizing, ...] = ("notional", "equity")
