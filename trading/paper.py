"""`qdesk paper` and `qdesk backtest`: the whole loop, from the model to the last line of the journal."""

import gc
import shlex
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from durable.settings import BadSettings
from market.bars import BarsError
from market.events.schema import EventsError
from trading.desk import Context, Desk
from trading.feed import Rejections, Row, paced
from trading.journal import TOGETHER, JournalLost, funding
from trading.market_data import market_data
from trading.preflight import Preflight
from trading.settings import BacktestSettings, PaperSettings, TradingSettings
from trading.startup import JOURNAL, Model, market_of, model_of, open_desk
from trading.summary import Summary
from trading.venues import ENGINES
from trading.venues.simulated import SimulatedVenue


class SessionResult(NamedTuple):
    """How a session ended."""

    desk: Desk
    summary: Summary
    stopped_by: signal.Signals | None
    journal: Path
    rejections: Rejections


def settle_memory() -> None:
    """Spares the garbage collector what was loaded, so that it does not halt a decision to look at it."""
    gc.collect()
    gc.freeze()


def desk_name(model: str) -> str:
    """The default folder of a model's desk."""
    return model.replace("/", "-").replace("@", "-").strip("-.")


def folder_of(settings: TradingSettings) -> Path:
    """The default folder of a desk."""
    return settings.desk or settings.mlruns / "desks" / desk_name(settings.model)


def _resume_command(settings: TradingSettings, folder: Path) -> str:
    """What sets the desk of a folder free, but for the reason."""
    if folder == Path("mlruns") / "desks" / desk_name(settings.model):
        return f"qdesk resume {shlex.quote(settings.model)}"
    return f"qdesk resume --desk {shlex.quote(str(folder))}"


def paper(
    settings: PaperSettings, say: Callable[[str], None], status: Callable[[str], None]
) -> SessionResult:
    """Trades on paper until the market ends or a signal comes; `status` takes a line now and then.

    Raises:
        BadSettings, BarsError, EventsError, JournalError: bad input.
        JournalLost: the journal cannot be written; the desk is halted and holds.
    """
    model = model_of(settings)
    live = settings.events == "-" and settings.pace != "max"
    pace = settings.pace or "max"
    timed = live or pace != "max"
    found = market_data(settings, model, say, live)
    market = market_of(settings, model.bundle)
    folder = folder_of(settings)
    continued = (folder / JOURNAL).exists()
    funded = funding(folder / JOURNAL) if continued else None
    preflight = Preflight(settings, model, found.facts, say, continued, funded)
    desk = open_desk(
        settings,
        model,
        folder,
        found.instrument,
        lambda account: SimulatedVenue(market, account),
        Context(time.time_ns if live else None, found.facts.interval, say),
        durable=timed,
        together=1 if timed else TOGETHER,
    )
    found.alarms.append(desk.note)
    summary = Summary(desk.account, _resume_command(settings, folder))
    _introduce(desk, model, summary, say)
    settle_memory()
    with _signals() as caught:
        try:
            seen = desk.account.seen  # the journal has those bars already
            watched = preflight.watched(found.rows)
            fresh = (row for row in watched if row is None or row["time"] > seen)
            rows = fresh if settings.events == "-" else paced(fresh, pace)
            _trade(desk, rows, caught, summary, say, status)
            reason = caught.stop.name if caught.stop is not None else "the market ended"
            desk.stop(reason, flatten=settings.on_stop == "flatten")
            summary.take(desk.account)
        except JournalLost:
            _halt_unwritten(desk)
            raise
        except (BadSettings, BarsError, EventsError) as error:  # the fault is the market's
            _end_at_fault(desk, error, say)
            raise
        except Exception as error:  # unforeseen: only a person may let the desk trade again
            with suppress(OSError):
                desk.latch.hold("HALTED", f"{type(error).__name__}: {error}")
            raise
        finally:
            desk.ledger.journal.close()
    return SessionResult(desk, summary, caught.stop, desk.ledger.journal.path, found.rejections)


def _halt_unwritten(desk: Desk) -> None:
    """Latches a desk whose journal can no longer be written."""
    with suppress(OSError):  # the same disk, perhaps, but the room was reserved
        desk.latch.hold("HALTED", "the journal could not be written", lost=True)


def _end_at_fault(desk: Desk, error: Exception, say: Callable[[str], None]) -> None:
    """Ends a session whose market cannot be read on; a position stays, no price is to be trusted."""
    if desk.account.cash is None:
        return
    try:
        desk.stop(str(error), flatten=False)
    except JournalLost:
        _halt_unwritten(desk)
    if desk.account.position:
        say(f"a position of {desk.account.position:+g} is still open")


def _trade(
    desk: Desk,
    rows: Iterator[Row | None],
    caught: "_Caught",
    summary: Summary,
    say: Callable[[str], None],
    status: Callable[[str], None],
) -> None:
    """Has the desk trade rows until they end or a signal came."""
    account = desk.account
    changes = account.changes
    shown = 0.0
    for row in rows:
        if caught.killed:
            desk.kill(caught.killed)
            caught.killed = ""
        if row is not None:
            if not desk.collar.doubts(row):
                desk.venue.on_bar(row)
            desk.on_bar(row)
            summary.take(account)
        else:
            desk.on_idle()
        if account.changes > changes:
            changes = account.changes
            say(summary.state(account))
        if caught.stop is not None:
            return
        if (now := time.monotonic()) >= shown:
            status(summary.line(account))
            shown = now + 0.5


def backtest(settings: BacktestSettings, say: Callable[[str], None]) -> SessionResult:
    """Trades a recorded market with a fresh account.

    Raises:
        BadSettings, BarsError, EventsError, JournalError: bad input.
        MissingExtra: the engine that is asked for is not here.
        JournalLost: the journal cannot be written.
    """
    engine = ENGINES[settings.engine].load(settings.engine)
    model = model_of(settings)
    found = market_data(settings, model, say)
    rows = [row for row in found.rows if row is not None]
    if not rows:
        raise BadSettings(f"{settings.bars or settings.events}: not one whole bar")
    Preflight(settings, model, found.facts_of(rows), say)
    market = market_of(settings, model.bundle)
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    folder = settings.desk or settings.mlruns / "backtests" / f"{folder_of(settings).name}-{stamp}"
    cash = settings.trade.funding(market, float(rows[0]["close"]))
    settings = settings.model_copy(
        update={"trade": settings.trade.model_copy(update={"cash": cash})}
    )
    desk = open_desk(
        settings,
        model,
        folder,
        found.instrument,
        lambda _: engine.open_venue(market),
        Context(None, found.facts.interval, say),
        together=TOGETHER,
    )
    summary = Summary(desk.account)
    try:
        settle_memory()
        engine.play(desk, rows, settings, cash, summary.take)
        desk.stop("the market ended", flatten=False)
    finally:
        desk.ledger.journal.close()
    return SessionResult(desk, summary, None, desk.ledger.journal.path, found.rejections)


def _introduce(desk: Desk, model: Model, summary: Summary, say: Callable[[str], None]) -> None:
    for step in model.steps_down:
        say(f"not good: {step}")
    for note in model.notes:
        say(note)
    say(f"{model.name} v{model.version} ({model.source}) decides, scheme {desk.scheme}")
    account = desk.account
    if desk.ledger.journal.torn is not None:
        say("the journal's last line was torn; it was cut off, and stands in the session's record")
    if account.decisions:
        say(f"continued from the journal: {account.bars:,} bars, position {account.position:g}")
    if account.state != "ACTIVE":
        say(summary.state(account))


class _Caught:
    def __init__(self) -> None:
        self.stop: signal.Signals | None = None
        self.killed = ""


@contextmanager
def _signals() -> Iterator[_Caught]:
    """SIGTERM and Ctrl-C end after the bar at hand; SIGUSR1 is the kill switch."""
    caught = _Caught()

    def stop(number: int, _: FrameType | None) -> None:
        caught.stop = signal.Signals(number)

    def kill(_: int, __: FrameType | None) -> None:
        caught.killed = "SIGUSR1"

    wanted = {signal.SIGTERM: stop, signal.SIGINT: stop, signal.SIGUSR1: kill}
    before = {number: signal.signal(number, handler) for number, handler in wanted.items()}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
