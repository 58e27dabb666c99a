"""Saves checkpoints, at their interval, at the best validation and at the end; goes back to one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from durable.verified import NotFinite
from training.checkpoints.checkpoint import AGENTS, Checkpoint, Checkpoints, Tell, part, prefixed
from training.learn import Progress
from training.learning.agent import Agents, Diverged
from training.observers.early_stopping import EarlyStopping
from training.observers.observer import Observer, Saved


@dataclass(eq=False)
class Checkpointing(Observer):
    """Saves agents and observers together, so that they are restored as they were."""

    agents: Agents
    checkpoints: Checkpoints
    about: Mapping[str, Any]  # what the training is, as a manifest says it
    stopping: EarlyStopping
    tell: Tell
    scored: bool  # whether a checkpoint may be kept for what it did on validation
    observers: Sequence[Observer] = ()  # whose state is saved beside the agents'

    def on_point(self, point: Progress) -> None:
        """Saves what is due."""
        score = None
        if point.validations is not None and self.scored:
            returns = [each.result.measures["net_return"] for each in point.validations]
            score = float(np.mean(returns))
        if self.stopping.ended or self.checkpoints.due(point.step, score):
            self.save(score)

    def save(self, score: float | None = None) -> None:
        """Saves a checkpoint; where that fails training goes on, and the one before stays."""
        step = self.agents.iteration
        arrays = prefixed(self.agents.state(), AGENTS)
        manifest = dict(self.about)
        for observer in self.observers:
            if observer.key:
                manifest[observer.key], held = observer.state()
                arrays = {**arrays, **prefixed(held, f"{observer.key}/")}
        try:
            self.checkpoints.save(step, arrays, manifest, score)
        except NotFinite as error:
            raise Diverged(f"training diverged by iteration {step}: {error}") from error
        except OSError as error:
            self.tell(
                f"warning: no checkpoint of iteration {step}: {self.checkpoints.folder} cannot be "
                f"written ({error.strerror or error}); training goes on, those before it are as they were"
            )

    def go_back(self, checkpoint: Checkpoint, repeats: bool = True) -> None:
        """Makes everything what it was at a checkpoint."""
        self.checkpoints.set_aside_after(checkpoint.step)
        self.agents.restore(part(checkpoint.arrays, AGENTS))
        for observer in self.observers:
            if observer.key:
                arrays = part(checkpoint.arrays, f"{observer.key}/")
                known = checkpoint.manifest[observer.key]
                observer.restore(Saved(known, arrays, checkpoint.step, repeats))
