"""Says when a training has come to its end: at its last iteration, or where it no longer improves."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from durable.verified import Arrays
from training.learn import Progress, Validation
from training.observers.observer import Observer, Saved
from training.observers.versions import VersionRecorder
from training.settings import TrainSettings


@dataclass(eq=False)
class EarlyStopping(Observer):
    """Ends a training after `settings.patience` validations that were no agent's best."""

    key = "ended"

    settings: TrainSettings
    recorders: Sequence[VersionRecorder]  # they know the best
    ended: bool = False  # whether there is nothing left to train

    def on_point(self, point: Progress) -> None:
        """Looks whether this is the last point."""
        if point.validations is not None:
            last = point.step == self.settings.steps
            self.ended = last or self._out_of_patience(point.step, point.validations)

    def _out_of_patience(self, step: int, validations: Sequence[Validation]) -> bool:
        if self.settings.patience is None:
            return False
        wait = self.settings.patience * self.settings.evaluate_interval
        pairs = zip(self.recorders, validations, strict=True)
        return all(
            recorder.since_best(step, validation.result) >= wait for recorder, validation in pairs
        )

    def state(self) -> tuple[Any, Arrays]:
        """Whether training has ended."""
        return self.ended, {}

    def restore(self, saved: Saved) -> None:
        """See `Observer.restore`."""
        self.ended = saved.known
