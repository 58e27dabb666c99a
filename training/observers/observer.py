"""What an observer of a training is."""

from typing import Any, NamedTuple

from durable.verified import Arrays
from training.learn import Progress


class Saved(NamedTuple):
    """What a checkpoint holds of an observer.

    Attributes:
        known: as JSON has it.
        arrays: by name.
        step: iterations done then.
        repeats: whether what follows gives the same values again, as it does in a run that is resumed.
    """

    known: Any
    arrays: Arrays
    step: int
    repeats: bool = True


class Observer:
    """Follows a training from point to point.

    Attributes:
        key: what its state stands under in a checkpoint; empty where it has none.
    """

    key = ""

    def on_point(self, point: Progress) -> None:
        """Takes notice of a logged point."""

    def state(self) -> tuple[Any, Arrays]:
        """What `restore` takes back, as JSON and as arrays by name."""
        return None, {}

    def restore(self, saved: Saved) -> None:
        """Makes everything what it was at a checkpoint."""
