"""Stopping a run from outside without losing it."""

import signal
from types import FrameType
from typing import Self

from durable.stopping import STOPS


class Stop:
    """Turns the first SIGINT or SIGTERM into a wish; a second one interrupts at once.

    Training sees the wish between two calls of the compiled program.
    """

    def __init__(self) -> None:
        self.by: signal.Signals | None = None  # the first that was received
        self.count = 0  # of those that were
        self._handlers = {which: signal.getsignal(which) for which in STOPS}

    def __enter__(self) -> Self:
        for which in self._handlers:
            signal.signal(which, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        for which, handler in self._handlers.items():
            signal.signal(which, handler)

    def _receive(self, number: int, _: FrameType | None) -> None:
        self.count += 1
        if self.by is not None:
            raise KeyboardInterrupt
        self.by = signal.Signals(number)
