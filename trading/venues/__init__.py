"""Where orders of a backtest go: `ENGINES`, a row and a module each."""

from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

from pydantic_core import PydanticCustomError

from durable.errors import MissingExtra


class Engine(NamedTuple):
    """What plays a recorded market to a desk.

    Its module has `open_venue(market)`, which makes the venue of a fresh account, and `play(desk, rows,
    settings, cash, take)`, which trades all rows and has `take` look at the account after each.
    """

    module: str
    takes: tuple[str, ...] = ()  # settings of `qdesk backtest` that not every engine knows
    needs: tuple[str, str] | None = None  # a package, and the extra of our own that brings it
    without: Mapping[str, str] = {}  # why a setting that it does not take means nothing, by name

    def load(self, name: str) -> Any:
        """The module; raises `MissingExtra` where the package that it needs is not installed."""
        if self.needs is not None and find_spec(self.needs[0]) is None:
            package, extra = self.needs
            raise MissingExtra(
                f"qdesk backtest --engine {name} needs {package}, not installed here: pip install "
                f"'qdesk[{extra}]'"
            )
        return import_module(self.module)


ENGINES = {
    "simulated": Engine("trading.venues.simulated", takes=("costs.fill",)),
    "nautilus": Engine(
        "trading.venues.nautilus",
        takes=("latency", "leverage", "margin"),
        needs=("nautilus_trader", "nautilus"),
        without={
            "costs.fill": "without --latency orders fill at the close, with it at what is quoted then"
        },
    ),
}


def require_engine(name: str) -> str:
    """The name of an engine; raises `PydanticCustomError` where there is none of that name."""
    if name not in ENGINES:
        names = " or ".join(map(repr, ENGINES))
        raise PydanticCustomError("literal_error", f"Input should be {names}")
    return name


def require_taken(name: str, changed: set[str]) -> None:
    """Raises `ValueError` where a changed setting, by dotted name, does nothing with an engine."""
    for each in sorted(changed - set(ENGINES[name].takes)):
        others = [other for other, engine in ENGINES.items() if each in engine.takes]
        if not others:
            continue
        why = ENGINES[name].without.get(each)
        raise ValueError(
            f"--{each} does nothing with --engine {name}: {why}"
            if why
            else f"--{each} does nothing without --engine {' or '.join(others)}"
        )
