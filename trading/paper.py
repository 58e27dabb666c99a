"""`qdesk paper` and `qdesk backtest`: the whole loop, from the model to the last line of the journal."""

import gc
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from market.bars import Bars, BarsError
from market.event_bars import Every
from market.events import EventsError
from market.source import bars_from
from trading.desk import Desk, wall_clock
from trading.feed import Row, arriving, logged, paced, recorded
from trading.journal import JournalLost
from trading.settings import BacktestSettings, BadCommand, PaperSettings, TradingSettings
from trading.startup import Model, market_of, model_of, open_desk, pipeline_of
from trading.summary import Summary
from trading.venue import SimulatedVenue

STDIN = 0
Handler = Callable[[int, FrameType | None], None]


class NeedsNautilus(Exception):
    """The engine is not installed."""


class Told(NamedTuple):
    """How a session ended."""

    desk: Desk
    summary: Summary
    stopped_by: signal.Signals | None
    journal: Path


def settle_memory() -> None:
    """Spares the garbage collector what was loaded, so that it does not halt a decision to look at it."""
    gc.collect()
    gc.freeze()


def desk_name(model: str) -> str:
    """The folder that a model's desk has unless told otherwise."""
    return model.replace("/", "-").replace("@", "-").strip("-.")


def folder_of(settings: TradingSettings) -> Path:
    """Where a desk lives unless told otherwise."""
    return settings.desk or settings.mlruns / "desks" / desk_name(settings.model)


def paper(
    settings: PaperSettings,
    say: Callable[[str], None],
    status: Callable[[str], None],
) -> Told:
    """Trades on paper until the market ends or a signal comes.

    Args:
        settings: of the command.
        say: told in a sentence what a person should know.
        status: told in a line, now and then, where things are.

    Raises:
        BadCommand, BarsError, EventsError, JournalError: bad input.
        JournalLost: the journal cannot be written; the desk is halted and holds.
    """
    model = model_of(settings)
    live = settings.events == "-" and settings.pace != "max"
    pace = settings.pace or "max"
    clock = wall_clock if live else None
    instrument, rows = _market(settings, model, say)
    market, folder = market_of(settings, model.bundle), folder_of(settings)
    desk = open_desk(
        settings,
        model,
        folder,
        instrument,
        lambda book: SimulatedVenue(market, book),
        clock,
        durable=live or pace != "max",
    )
    venue = desk.venue
    assert isinstance(venue, SimulatedVenue)
    _introduce(desk, model, say)
    summary, seen = Summary(desk.book), desk.book.price_time
    settle_memory()
    with _signals() as caught:
        try:
            shown = 0.0
            fresh = _after(rows, seen)
            for row in fresh if settings.events == "-" else paced(fresh, pace):
                if caught.killed:
                    desk.kill(caught.killed)
                    caught.killed = ""
                if row is not None:
                    venue.on_bar(row)
                    desk.on_bar(row)
                    summary.take(desk.book)
                else:
                    desk.on_idle()
                if caught.stop is not None:
                    break
                if (now := time.monotonic()) >= shown:
                    status(summary.line(desk.book))
                    shown = now + 0.5
            reason = caught.stop.name if caught.stop is not None else "the market ended"
            desk.stop(reason, flatten=settings.on_stop == "flatten")
            summary.take(desk.book)
        except JournalLost:
            with suppress(OSError):  # the same disk, perhaps
                desk.latch.hold("HALTED", "the journal could not be written")
            raise
        except (BarsError, EventsError):  # the market ended in a fault of its own
            raise
        except Exception as error:  # nobody's plan: not to be gone on from without a person
            with suppress(OSError):
                desk.latch.hold("HALTED", f"{type(error).__name__}: {error}")
            raise
        finally:
            desk.ledger.journal.close()
    return Told(desk, summary, caught.stop, desk.ledger.journal.path)


def backtest(settings: BacktestSettings, say: Callable[[str], None]) -> Told:
    """Trades a recorded market with a fresh account.

    Raises:
        BadCommand, BarsError, EventsError, JournalError: bad input.
        NeedsNautilus: the engine that is asked for is not here.
        JournalLost: the journal cannot be written.
    """
    if settings.engine == "nautilus" and find_spec("nautilus_trader") is None:
        raise NeedsNautilus(
            "qdesk backtest --engine nautilus needs nautilus_trader, not installed here: pip install "
            "'qdesk[nautilus]'"
        )
    model = model_of(settings)
    instrument, found = _market(settings, model, say)
    rows = [row for row in found if row is not None]
    if not rows:
        raise BadCommand(f"{settings.bars or settings.events}: not one whole bar")
    market = market_of(settings, model.bundle)
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    folder = settings.desk or settings.mlruns / "backtests" / f"{folder_of(settings).name}-{stamp}"
    cash = settings.trade.cash or settings.trade.quantity * float(rows[0]["close"])
    settings = settings.model_copy(
        update={"trade": settings.trade.model_copy(update={"cash": cash})}
    )
    if settings.engine == "nautilus":
        desk, summary = _in_engine(settings, model, folder, instrument, rows, cash)
    else:
        desk = open_desk(settings, model, folder, instrument, lambda _: SimulatedVenue(market))
        venue = desk.venue
        assert isinstance(venue, SimulatedVenue)
        summary = Summary(desk.book)
        settle_memory()
        for row in rows:
            venue.on_bar(row)
            desk.on_bar(row)
            summary.take(desk.book)
    desk.stop("the market ended", flatten=False)
    desk.ledger.journal.close()
    return Told(desk, summary, None, desk.ledger.journal.path)


def _in_engine(
    settings: BacktestSettings,
    model: Model,
    folder: Path,
    instrument: str,
    rows: list[Row],
    cash: float,
) -> tuple[Desk, Summary]:
    from trading import nautilus
    from trading.quotes import quotes_of, quotes_of_log

    market = market_of(settings, model.bundle)
    venue = nautilus.NautilusVenue(market)
    desk = open_desk(settings, model, folder, instrument, lambda _: venue)
    summary = Summary(desk.book)
    latency = round(settings.latency * 1e9)
    if settings.events is not None:
        quotes = quotes_of_log(Path(settings.events), settings.instrument)
    else:
        quotes = quotes_of(rows, market, latency)
    engine = nautilus.NautilusSettings(
        latency=settings.latency, leverage=settings.leverage, margin=settings.margin
    )
    settle_memory()
    nautilus.run(desk, venue, rows, quotes, engine, cash, summary.take)
    return desk, summary


def _market(
    settings: TradingSettings, model: Model, say: Callable[[str], None]
) -> tuple[str, Iterator[Row | None]]:
    """What the instrument is called, and its bars; what cannot be used is refused first."""
    needed = pipeline_of(model).stream().columns
    if settings.bars is not None:
        bars: Bars = bars_from(settings.bars)
        missing = [name for name in needed if name not in bars.table.columns]
        if missing:
            raise BarsError(
                f"{bars.name}: {model.name} needs {', '.join(missing)}, which these bars do not have"
            )
        return settings.instrument or bars.name, iter(recorded(bars))
    named = settings.instrument
    Every.parse(settings.every)
    if settings.events == "-":
        rows = arriving(STDIN, settings.every, named, lambda fault: say(f"passed over: {fault}"))
        return named or "stdin", rows
    path = Path(str(settings.events))
    if not path.exists():
        raise EventsError(f"{path}: no such file")
    return named or path.name.split(".")[0], logged(path, settings.every, named)


def _after(rows: Iterator[Row | None], seen: int) -> Iterator[Row | None]:
    """Bars that the journal does not have yet."""
    return (row for row in rows if row is None or row["time"] > seen)


def _introduce(desk: Desk, model: Model, say: Callable[[str], None]) -> None:
    for step in model.steps_down:
        say(f"not good: {step}")
    say(f"{model.name} v{model.version} ({model.source}) decides, scheme {desk.scheme}")
    book = desk.book
    if desk.ledger.journal.torn is not None:
        say("the journal's last line was torn; it was cut off, and stands in the session's record")
    if book.decisions:
        say(f"gone on from the journal: {book.bars:,} bars, position {book.position:g}")
    if book.state != "ACTIVE":
        say(f"{book.state}: {book.reason}. `qdesk resume --reason WHY` sets it free")


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

    wanted: dict[int, Handler] = {signal.SIGTERM: stop, signal.SIGINT: stop, signal.SIGUSR1: kill}
    before = {number: signal.signal(number, handler) for number, handler in wanted.items()}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
