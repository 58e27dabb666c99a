"""The background thread that sends what runs put into their journals, until it has arrived."""

import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Self

from training.delivery import deliver
from training.outbox import Outbox, Unsent, journals, undelivered
from training.store import Store, reason_of

EVERY_SECONDS = 2.0  # how far the MLflow UI may lag behind; sending every point alone is slow
LONGEST_PAUSE = 30.0  # between two attempts
END_SECONDS = 60.0  # that a training's end waits while something still arrives
AWAY_SECONDS = 1.0  # that it waits for a store that gives no answer
STOP_SECONDS = 8.0  # that a stop waits


class Shipper:
    """Sends the journals of running trainings, and what dead ones left, used as a context.

    Training never waits for it, and nothing that happens to it is raised.

    Attributes:
        trouble: why nothing arrives, or None.
    """

    def __init__(self) -> None:
        self.trouble: str | None = None
        self._lanes: list[tuple[Store, Outbox]] = []
        self._leftovers: dict[Path, Path] = {}  # journals, and the folder of tracking data
        self._changed = threading.Condition()
        self._hurry = self._closing = False
        self._begun = self._ended = 0  # attempts
        self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *fault: object) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(AWAY_SECONDS)
        for _, box in self._lanes:
            box.close()

    def add(self, store: Store, box: Outbox) -> None:
        """Sends what is in a journal, from now on. It must stay open until the context is left."""
        with self._changed:
            self._lanes.append((store, box))

    def add_leftovers(self, mlruns: Path) -> None:
        """Sends also what processes that are gone have left in a folder's journals."""
        with self._changed:
            mine = {box.folder for _, box in self._lanes}
            left = {folder for folder in journals(mlruns) if undelivered(folder)} - mine
            self._leftovers |= dict.fromkeys(sorted(left), mlruns)

    @property
    def unsent(self) -> Unsent:
        """What the trainings of this process have not sent."""
        return Unsent.of(box.unsent for _, box in self._lanes)

    @property
    def lags(self) -> str:
        """What a progress bar says where nothing arrives."""
        return "" if self.trouble is None else f"unsent {self.unsent.points:,}"

    def drain(
        self, patience: float = END_SECONDS, stopped: Callable[[], bool] = lambda: False
    ) -> bool:
        """Sends what is left, and says whether all of it arrived.

        Args:
            patience: seconds; a store that is away gets `AWAY_SECONDS`.
            stopped: where it says so, there is no more waiting.
        """
        began = time.monotonic()
        away_since: float | None = None
        with self._changed:
            self._hurry, next_round = True, self._begun + 1
            self._changed.notify_all()
            while self.unsent:
                now = time.monotonic()
                away_since = None if self.trouble is None else away_since or now
                away = away_since is not None and now - away_since > AWAY_SECONDS
                if away or self._ended >= next_round or stopped() or now - began > patience:
                    return False
                self._changed.wait(0.1)
        return True

    def _work(self) -> None:
        pause = EVERY_SECONDS
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._hurry or self._closing, pause)
                if self._closing:
                    return
                self._hurry = False
                self._begun += 1
            failed = self._round()
            with self._changed:
                self._ended = self._begun
                self.trouble = failed
                pause = EVERY_SECONDS if failed is None else min(2 * pause, LONGEST_PAUSE)
                self._changed.notify_all()

    def _round(self) -> str | None:
        """One attempt at everything; a store that is away is asked once in it."""
        failed: dict[str, str] = {}
        with self._changed:
            lanes, leftovers = list(self._lanes), dict(self._leftovers)
        for store, box in lanes:
            if store.uri not in failed and not self._closing:
                try:
                    deliver(store, box)
                except Exception as error:
                    failed[store.uri] = reason_of(error, store)
        for folder, mlruns in leftovers.items():
            if failed or self._hurry or self._closing:
                break  # its own first
            with suppress(Exception):
                if send_what_was_left(folder, mlruns):
                    del self._leftovers[folder]
        return next(iter(failed.values()), None)


def send_what_was_left(folder: Path, mlruns: Path, uri: str | None = None) -> bool:
    """Sends the journal of a run whose process is gone, and ends the run; says whether all arrived.

    Args:
        folder: of the journal.
        mlruns: the folder of the tracking data.
        uri: of the server, where it is another than when the run began.

    Raises:
        InUse: its process is not gone.
        MlflowException, SQLAlchemyError, OSError: it does not arrive now.
    """
    box = Outbox(folder, make=False)
    try:
        if box.head is None:
            return True
        if needs_keras(box) and "keras" not in sys.modules:
            return False  # it would load TensorFlow beside a training that does without
        box.end_of_the_dead()
        server = box.head["server"]
        deliver(Store(mlruns, uri if server and uri else server), box)
        return not box.unsent
    finally:
        box.close()


def needs_keras(box: Outbox) -> bool:
    """Whether a network waits in a journal to be registered."""
    kind = (box.head or {}).get("params", {}).get("network.kind")
    return bool(box.unsent.versions) and kind != "tabular"
