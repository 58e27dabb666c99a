"""What an observer of a training is."""

from collections.abc import Iterable
from typing import Any, NamedTuple

from durable.verified import Arrays
from training.checkpoints.checkpoint import prefixed
from training.learn import Progress


class Saved(NamedTuple):
    """What a checkpoint holds of an observer."""

    known: Any  # as JSON has it
    arrays: Arrays
    step: int  # iterations done then
    repeats: bool = True  # whether the same values follow again, as in a run that is resumed


class Observer:
    """Follows a training from point to point."""

    key = ""  # what its state stands under in a checkpoint; empty where it has none

    def on_point(self, point: Progress) -> None:
        """Takes notice of a logged point."""

    def state(self) -> tuple[Any, Arrays]:
        """What `restore` takes back, as JSON and as arrays by name."""
        return None, {}

    def restore(self, saved: Saved) -> None:
        """Makes everything what it was at a checkpoint."""


def joined(states: Iterable[tuple[Any, Arrays]]) -> tuple[list[Any], Arrays]:
    """The states of several runs as one: names of arrays begin with the index of their run."""
    known = []
    arrays: Arrays = {}
    for index, (each, held) in enumerate(states):
        known.append(each)
        arrays = {**arrays, **prefixed(held, f"{index}/")}
    return known, arrays
