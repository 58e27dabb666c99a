"""Logs every point of a training: to MLflow by way of the run's journal, and to TensorBoard."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from durable.verified import Arrays
from training.checkpoints.checkpoint import part
from training.learn import Progress
from training.learning.agent import Agents
from training.observers.observer import Observer, Saved, joined
from training.tracking.history import packed, unpacked
from training.tracking.machine import Machine
from training.tracking.tracker import Tracker


@dataclass(eq=False)
class Metrics(Observer):
    """Logs what agents did and learned since the point before."""

    key = "metrics"

    agents: Agents
    trackers: Sequence[Tracker]
    streams: int  # that each agent steps at an iteration
    machine: Machine

    def on_point(self, point: Progress) -> None:
        """Logs the point, and where it was validated how weights and Q-values are distributed."""
        rate = point.iterations_per_second
        reading = self.machine.reading()
        for index, tracker in enumerate(self.trackers):
            window = point.windows[index]
            metrics = {f"train/{name}": value for name, value in window._asdict().items()}
            metrics["perf/iterations_per_second"] = rate
            metrics["perf/env_steps_per_second"] = rate * self.streams
            tracker.log(metrics, point.step)
            tracker.log_machine(reading, point.step)
            if point.validations is not None:
                q_values = point.validations[index].q_values
                tracker.log_learned(self.agents.weights(index), q_values, point.step)

    def state(self) -> tuple[Any, Arrays]:
        """Every point that was logged. What a checkpoint knows, the journals have."""
        for tracker in self.trackers:
            tracker.flush()
        return joined(packed(tracker.history) for tracker in self.trackers)

    def restore(self, saved: Saved) -> None:
        """Has the curves go on from there, without a gap and without a point twice."""
        for index, tracker in enumerate(self.trackers):
            history = unpacked(saved.known[index], part(saved.arrays, f"{index}/"))
            tracker.go_back(history, saved.step, saved.repeats)
