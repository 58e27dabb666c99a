"""The background thread that sends what runs put into their journals, until it has arrived."""

import sys
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import NamedTuple, Self

import orjson

from durable.errors import InUse
from durable.retrying import LONGEST_PAUSE, RetryingWorker
from durable.verified import MANIFEST
from models.architectures import TABULAR
from training.tracking.delivery import deliver
from training.tracking.entries import Registered
from training.tracking.journal import RunJournal, Unsent
from training.tracking.journals import journals, undelivered
from training.tracking.store import Store, reason_of

EVERY_SECONDS = 2.0  # how far the MLflow UI may lag behind; sending every point alone is slow
END_SECONDS = 60.0  # that a training's end waits while something still arrives
AWAY_SECONDS = 1.0  # that it waits for a store that gives no answer
HANGING_SECONDS = 10.0  # that it waits for a store while nothing arrives
STOP_SECONDS = 8.0  # that a stop waits
LEFT_SECONDS = 10.0  # that it waits for the runs of processes that are gone to be ended
AGAIN_SECONDS = 0.2  # between two looks at those while it waits


class OrphanedRun(NamedTuple):
    """The journal of a run whose process is gone."""

    folder: Path
    mlruns: Path
    pause: float = 0.0  # seconds before it is tried again
    due: float = 0.0  # when that is, on the monotonic clock
    awaited: bool = True  # whether the end of a training waits for it, for some seconds


class Uploader:
    """Sends the journals of running trainings, and what dead ones left, used as a context.

    Training never waits for it, and nothing that happens to it is raised.
    """

    def __init__(self) -> None:
        self.trouble: str | None = None  # why nothing arrives
        self.why_unended = "no time was left"  # for runs of processes that are gone
        self._journals: list[tuple[Store, RunJournal]] = []
        self._orphans: list[OrphanedRun] = []
        self._draining = False
        self._worker = RetryingWorker("tracking", self._attempt, EVERY_SECONDS)
        self._changed = self._worker.changed

    def __enter__(self) -> Self:
        self._worker.start()
        return self

    def __exit__(self, *fault: object) -> None:
        self._worker.close(AWAY_SECONDS)
        for _, journal in self._journals:
            journal.close()

    def add(self, store: Store, journal: RunJournal) -> None:
        """Sends what is in a journal, from now on. It must stay open until the context is left."""
        with self._changed:
            self._journals.append((store, journal))
            self._worker.wake()  # a run is to be seen from its beginning

    def add_orphans(self, mlruns: Path) -> None:
        """Sends also what processes that are gone have left in a folder's journals, soon."""
        left = [folder for folder in journals(mlruns) if undelivered(folder)]
        with self._changed:
            known = {journal.folder for _, journal in self._journals}
            known |= {each.folder for each in self._orphans}
            new = [OrphanedRun(folder, mlruns) for folder in left if folder not in known]
            self._orphans += new
            if new:
                self._worker.wake()

    @property
    def unsent(self) -> Unsent:
        """What the trainings of this process have not sent."""
        return Unsent.of(journal.unsent for _, journal in self._journals)

    @property
    def why(self) -> str:
        """Why something is not sent, as far as that is known."""
        faults = (journal.fault for _, journal in self._journals)
        disk = next((str(fault.strerror) for fault in faults if fault is not None), None)
        return self.trouble or disk or "no answer in time"

    @property
    def backlog(self) -> str:
        """What a progress bar says where nothing arrives."""
        return "" if self.trouble is None else f"unsent {self.unsent.points:,}"

    def flush(
        self, patience: float = END_SECONDS, stopped: Callable[[], bool] = lambda: False
    ) -> bool:
        """Sends what is left, and says whether all of it arrived; dead runs are ended meanwhile.

        At most these seconds are waited; for a store that is away `AWAY_SECONDS`, for one that only hangs
        `HANGING_SECONDS`, and not at all where `stopped` says so.
        """
        began = moved = time.monotonic()
        left = self.unsent
        away_since = None
        with self._changed:
            self._draining = True
            next_round = self._worker.begun + 1
            self._worker.hurry(AGAIN_SECONDS if self.unended else None)
            self._worker.wake()
            while left or self._awaits_leftovers(began):
                now = time.monotonic()
                present = self.unsent
                if present != left:
                    left = present
                    moved = now
                    away_since = None
                elif self.trouble is not None:
                    away_since = away_since or now
                away = away_since is not None and now - away_since > AWAY_SECONDS
                hangs = now - moved > HANGING_SECONDS
                tried = self._worker.ended >= next_round and bool(left)
                if tried or away or hangs or stopped() or now - began > patience:
                    break
                self._changed.wait(0.1)
            self._draining = False
            self._worker.hurry(None)
        return not self.unsent

    @property
    def unended(self) -> list[str]:
        """Runs of processes that are gone which could not be ended yet, by their ids."""
        return [each.folder.name for each in self._orphans if each.awaited]

    def _awaits_leftovers(self, since: float) -> bool:
        """Whether there are dead runs that are still to be ended, and some seconds for it."""
        return bool(self.unended) and time.monotonic() - since < LEFT_SECONDS

    def _attempt(self) -> bool:
        failed = self._round()
        with self._changed:
            self.trouble = failed
            if self._draining:
                self._worker.hurry(AGAIN_SECONDS if self.unended else None)
        return failed is None

    def _round(self) -> str | None:
        """One attempt at everything; a store that is away is asked once in it."""
        failed: dict[str, str] = {}
        with self._changed:
            lanes = list(self._journals)
            leftovers = list(self._orphans)
        for store, journal in lanes:
            if store.uri not in failed and not self._worker.closing:
                try:
                    deliver(store, journal, lambda: self._worker.closing)
                except Exception as error:
                    failed[store.uri] = reason_of(error, store.uri)
        trouble = next(iter(failed.values()), None)
        for each in leftovers:
            if failed or self._worker.closing:
                break
            if each.due <= time.monotonic():
                self._try(each)
        return trouble

    def _try(self, each: OrphanedRun) -> None:
        """Sends a leftover, or puts it off.

        One that gives way to the runs of this process is due again at once, one that failed after
        a pause; the end of a training waits for both. It does not wait for a run whose process lives,
        nor for a network that a training without TensorFlow cannot register.
        """
        done = False
        awaited = True
        pause = min(2 * each.pause or EVERY_SECONDS, LONGEST_PAUSE)
        try:
            with closing(RunJournal(each.folder, make=False)) as journal:
                awaited = not needs_keras(journal) or "keras" in sys.modules
                if awaited:
                    done = send_what_was_left(journal, each.mlruns, None, self._own_wait)
                    pause = 0.0  # not done: it gave way
        except FileNotFoundError:
            done = True
        except InUse:
            awaited = False
        except Exception as error:
            self.why_unended = reason_of(error, str(each.mlruns))
        with self._changed:
            self._orphans.remove(each)
            if not done:
                wait = min(pause, AGAIN_SECONDS) if self._draining else pause
                due = time.monotonic() + wait
                self._orphans.append(each._replace(pause=pause, due=due, awaited=awaited))
            self._changed.notify_all()

    def _own_wait(self) -> bool:
        """Whether an orphaned run has to give way."""
        return self._worker.closing or (self._draining and bool(self.unsent))


def send_what_was_left(
    journal: RunJournal,
    mlruns: Path,
    uri: str | None = None,
    paused: Callable[[], bool] = lambda: False,
) -> bool:
    """Sends the journal of a run whose process is gone, and ends the run; says whether all arrived.

    `uri` is the server's, where it is another than when the run began; `paused` is as in `deliver`.

    Raises:
        MlflowException, SQLAlchemyError, sqlite3.Error, OSError: it does not arrive now.
    """
    journal.end_of_the_dead()
    if journal.unsent:
        server = None if journal.head is None else journal.head.server
        deliver(Store(mlruns, uri if server and uri else server), journal, paused)
    return not journal.unsent


def needs_keras(journal: RunJournal) -> bool:
    """Whether a network waits in a journal to be registered."""
    unsent = journal.unsent
    if not unsent.versions:
        return False
    waiting = journal.pending(sum(unsent))
    folders = [journal.files_of(each) for each in waiting if isinstance(each, Registered)]
    return any(_is_network(folder / MANIFEST) for folder in folders)


def _is_network(manifest: Path) -> bool:
    with suppress(OSError, ValueError, LookupError, TypeError):
        return bool(orjson.loads(manifest.read_bytes())["network"]["kind"] != TABULAR)
    return False  # it cannot be registered at all
