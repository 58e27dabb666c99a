"""A TensorBoard log, written without TensorFlow, so that tables can be trained where it is missing."""

import itertools
import os
import platform
import time
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

_COUNT = itertools.count()  # a process may write several files of one run


class EventFile:
    """One `events.out.tfevents.*` file in a folder, which is created where it is missing.

    Raises:
        OSError: the file cannot be written; so do all of its methods.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        now = time.time()
        name = f"events.out.tfevents.{now:.0f}.{platform.node()}.{os.getpid()}.{next(_COUNT)}.qdesk"
        self.path = folder / name
        self._file = self.path.open("wb")
        self._records = RecordWriter(self._file)
        self._records.write(Event(wall_time=now, file_version="brain.Event:2").SerializeToString())

    def add(self, summary: Summary, step: int, wall_time: float | None = None) -> None:
        """Adds what happened at a step, by default now (seconds since 1970)."""
        event = Event(wall_time=wall_time or time.time(), step=step, summary=summary)
        self._records.write(event.SerializeToString())

    def flush(self) -> None:
        """Hands everything added so far to the operating system."""
        self._file.flush()

    def close(self) -> None:
        """Flushes, and ends the file."""
        self._file.close()
