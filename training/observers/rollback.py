"""Goes back to the last checkpoint, once, where numbers are no longer finite."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from durable.verified import Arrays
from training.checkpoints.checkpoint import Tell, newest
from training.checkpoints.errors import NoCheckpoint
from training.learning.agent import Diverged
from training.observers.checkpointing import Checkpointing
from training.observers.observer import Observer, Saved
from training.tracking.tracker import Tracker


@dataclass(eq=False)
class Rollback(Observer):
    """Has training go on from the last checkpoint with half the learning rate."""

    key = "rolled_back"

    checkpointing: Checkpointing
    trackers: Sequence[Tracker]
    tell: Tell
    asked_for: bool
    done: bool = False

    def on_divergence(self, error: FloatingPointError) -> None:
        """Goes back, once. Raises `Diverged` where it was done before, or is not asked for."""
        agents = self.checkpointing.agents
        at = agents.iteration
        if not self.asked_for or self.done:
            again = ", again after going back to a checkpoint" if self.done else ""
            raise Diverged(f"{error}{again}") from error
        try:
            checkpoint = newest(self.checkpointing.checkpoints.folder, None, self.tell)
        except NoCheckpoint as none:
            raise Diverged(f"{error}; and {none}") from error
        self.checkpointing.go_back(checkpoint, repeats=False)
        rate = agents.learning_rate / 2
        agents.set_learning_rate(rate)
        self.done = True
        said = f"from iteration {at} to {checkpoint.step}, learning rate now {rate:g}"
        for tracker in self.trackers:
            tracker.set_tags(rolled_back=said)
        self.tell(f"warning: {error}; went back {said}")
        self.checkpointing.save()

    def state(self) -> tuple[Any, Arrays]:
        """Whether it was done."""
        return self.done, {}

    def restore(self, saved: Saved) -> None:
        """See `Observer.restore`."""
        self.done = saved.known
