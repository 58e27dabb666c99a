"""The background thread that sends what runs put into their journals, until it has arrived."""

import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Self

from training.delivery import deliver
from training.journals import journals, undelivered
from training.outbox import Outbox, Unsent
from training.store import Store, reason_of

EVERY_SECONDS = 2.0  # how far the MLflow UI may lag behind; sending every point alone is slow
LONGEST_PAUSE = 30.0  # between two attempts
END_SECONDS = 60.0  # that a training's end waits while something still arrives
AWAY_SECONDS = 1.0  # that it waits for a store that gives no answer
HANGING_SECONDS = 10.0  # that it waits for a store while nothing arrives
STOP_SECONDS = 8.0  # that a stop waits
LEFT_SECONDS = 10.0  # that it waits for the runs of processes that are gone to be ended


class Leftover(NamedTuple):
    """The journal of a run whose process is gone."""

    folder: Path
    mlruns: Path
    pause: float = 0.0  # seconds before it is tried again; none: it was not tried yet
    due: float = 0.0  # when that is, on the monotonic clock


class Shipper:
    """Sends the journals of running trainings, and what dead ones left, used as a context.

    Training never waits for it, and nothing that happens to it is raised.

    Attributes:
        trouble: why nothing arrives, or None.
    """

    def __init__(self) -> None:
        self.trouble: str | None = None
        self._lanes: list[tuple[Store, Outbox]] = []
        self._leftovers: list[Leftover] = []
        self._changed = threading.Condition()
        self._hurry = self._draining = self._closing = False
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
            self._hurry = True  # a run is to be seen from its beginning
            self._changed.notify_all()

    def add_leftovers(self, mlruns: Path) -> None:
        """Sends also what processes that are gone have left in a folder's journals, soon."""
        left = [folder for folder in journals(mlruns) if undelivered(folder)]
        with self._changed:
            known = {box.folder for _, box in self._lanes}
            known |= {each.folder for each in self._leftovers}
            new = [Leftover(folder, mlruns) for folder in left if folder not in known]
            self._leftovers += new
            if new:
                self._hurry = True
                self._changed.notify_all()

    @property
    def unsent(self) -> Unsent:
        """What the trainings of this process have not sent."""
        return Unsent.of(box.unsent for _, box in self._lanes)

    @property
    def why(self) -> str:
        """Why something is not sent, as far as that is known."""
        faults = (box.fault for _, box in self._lanes)
        disk = next((str(fault.strerror) for fault in faults if fault is not None), None)
        return self.trouble or disk or "no answer in time"

    @property
    def lags(self) -> str:
        """What a progress bar says where nothing arrives."""
        return "" if self.trouble is None else f"unsent {self.unsent.points:,}"

    def drain(
        self, patience: float = END_SECONDS, stopped: Callable[[], bool] = lambda: False
    ) -> bool:
        """Sends what is left, and says whether all of it arrived; dead runs are ended meanwhile.

        Args:
            patience: seconds; a store that is away gets `AWAY_SECONDS`, one that only hangs
                `HANGING_SECONDS`.
            stopped: where it says so, there is no more waiting.
        """
        began = moved = time.monotonic()
        left, away_since = self.unsent, None
        with self._changed:
            self._hurry = self._draining = True
            next_round = self._begun + 1
            self._changed.notify_all()
            while left or self._untried(began):
                now = time.monotonic()
                present = self.unsent
                if present != left:
                    left, moved, away_since = present, now, None
                elif self.trouble is not None:
                    away_since = away_since or now
                away = away_since is not None and now - away_since > AWAY_SECONDS
                hangs = now - moved > HANGING_SECONDS
                tried = self._ended >= next_round and bool(left)
                if tried or away or hangs or stopped() or now - began > patience:
                    break
                self._changed.wait(0.1)
            self._draining = False
        return not self.unsent

    def _untried(self, since: float) -> bool:
        """Whether there are dead runs that were not looked at, and some seconds for it."""
        fresh = any(not each.pause for each in self._leftovers)
        return fresh and time.monotonic() - since < LEFT_SECONDS

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
            lanes, leftovers = list(self._lanes), list(self._leftovers)
        for store, box in lanes:
            if store.uri not in failed and not self._closing:
                try:
                    deliver(store, box, lambda: self._closing)
                except Exception as error:
                    failed[store.uri] = reason_of(error, store.uri)
        trouble = next(iter(failed.values()), None)
        for each in leftovers:
            if failed or self._closing:
                break
            if each.due <= time.monotonic():
                self._try(each)
        return trouble

    def _try(self, each: Leftover) -> None:
        """Sends a leftover, or puts it off."""
        done = False
        try:
            box = Outbox(each.folder, make=False)
            try:
                beside = needs_keras(box) and "keras" not in sys.modules
                if not beside:  # else it would load TensorFlow beside a training that does without
                    done = send_what_was_left(box, each.mlruns, None, self._own_wait)
            finally:
                box.close()
        except FileNotFoundError:
            done = True
        except Exception:
            done = False  # its process lives, or it does not arrive now
        with self._changed:
            self._leftovers.remove(each)
            if not done:
                pause = min(2 * each.pause or EVERY_SECONDS, LONGEST_PAUSE)
                due = time.monotonic() + pause
                self._leftovers.append(Leftover(each.folder, each.mlruns, pause, due))
            self._changed.notify_all()

    def _own_wait(self) -> bool:
        """Whether a leftover has to stand back."""
        return self._closing or (self._draining and bool(self.unsent))


def send_what_was_left(
    box: Outbox,
    mlruns: Path,
    uri: str | None = None,
    paused: Callable[[], bool] = lambda: False,
) -> bool:
    """Sends the journal of a run whose process is gone, and ends the run; says whether all arrived.

    Args:
        box: the journal.
        mlruns: the folder of the tracking data.
        uri: of the server, where it is another than when the run began.
        paused: asked between two batches; where it says so, the rest is left for another time.

    Raises:
        MlflowException, SQLAlchemyError, sqlite3.Error, OSError: it does not arrive now.
    """
    box.end_of_the_dead()
    if box.unsent:
        server = None if box.head is None else box.head["server"]
        deliver(Store(mlruns, uri if server and uri else server), box, paused)
    return not box.unsent


def needs_keras(box: Outbox) -> bool:
    """Whether a network waits in a journal to be registered."""
    kind = (box.head or {}).get("params", {}).get("network.kind")
    return bool(box.unsent.versions) and kind != "tabular"
