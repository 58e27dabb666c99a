"""A background thread that attempts something again and again, and never lets anybody wait for it."""

import threading
from collections.abc import Callable
from typing import Self

LONGEST_PAUSE = 30.0  # s between two attempts


class RetryingWorker:
    """Attempts something in a thread of its own: after a pause, twice that where it failed, or woken.

    Args:
        name: of the thread.
        attempt: one attempt, which raises nothing; says whether it succeeded.
        pause: seconds after an attempt that succeeded, and after the first that failed.
        idle: whether it sleeps after one that succeeded, until it is woken.
    """

    def __init__(
        self, name: str, attempt: Callable[[], bool], pause: float, idle: bool = False
    ) -> None:
        # To be held where what `attempt` works on is changed; notified after each attempt.
        self.changed = threading.Condition()
        self.closing = False  # whether attempts are to end soon
        self.begun = 0  # attempts
        self.ended = 0
        self._attempt = attempt
        self._pause = pause
        self._idle = idle
        self._woken = False
        self._soonest: float | None = None
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)

    def start(self) -> Self:
        """Begins with the first attempt once it is woken, or after a pause."""
        self._thread.start()
        return self

    def wake(self) -> None:
        """Has an attempt made at once; `changed` must be held."""
        self._woken = True
        self.changed.notify_all()

    def hurry(self, pause: float | None) -> None:
        """Shortens the pause between attempts to this, or not at all."""
        self._soonest = pause

    def close(self, seconds: float) -> None:
        """Makes no further attempt, and waits for one that is under way, at most so long."""
        with self.changed:
            self.closing = True
            self.changed.notify_all()
        self._thread.join(seconds)

    def _work(self) -> None:
        pause: float | None = None if self._idle else self._pause
        while True:
            with self.changed:
                wait = pause if self._soonest is None else self._soonest
                self.changed.wait_for(lambda: self._woken or self.closing, wait)
                if self.closing:
                    return
                self._woken = False
                self.begun += 1
            good = self._attempt()
            with self.changed:
                self.ended = self.begun
                if good:
                    pause = None if self._idle else self._pause
                else:
                    pause = min(2 * (pause or self._pause / 2), LONGEST_PAUSE)
                self.changed.notify_all()
