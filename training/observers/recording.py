"""Has versions registered: each that is the best so far on validation, and the last."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from durable.verified import Arrays
from training.checkpoints.checkpoint import part
from training.learn import Progress
from training.observers.early_stopping import EarlyStopping
from training.observers.observer import Observer, Saved, joined
from training.observers.versions import VersionRecorder


@dataclass(eq=False)
class Recording(Observer):
    """Hands every validation to the recorders of versions, one for each agent."""

    key = "kept"

    recorders: Sequence[VersionRecorder]
    stopping: EarlyStopping  # says which validation is the last

    def on_point(self, point: Progress) -> None:
        """Judges what was validated."""
        if point.validations is None:
            return
        for recorder, validation in zip(self.recorders, point.validations, strict=True):
            recorder.judge(point.step, validation.result, self.stopping.ended)

    def state(self) -> tuple[Any, Arrays]:
        """The versions that count so far."""
        return joined(recorder.state() for recorder in self.recorders)

    def restore(self, saved: Saved) -> None:
        """Takes them back; registers anew what the journals here do not have."""
        for index, recorder in enumerate(self.recorders):
            recorder.restore(saved.known[index], part(saved.arrays, f"{index}/"))
