"""NautilusTrader's backtest engine as a venue: latency, spread, depth, fees and margin, in event time.

The desk is the same; its venue is another. Market orders meet quotes or books, never bars: of a bar, the
open is quoted from the close before it on, the close at its end. So an order without latency is filled
at the close, as `fill = "close"` says, and one with latency at what is quoted when it arrives: with bars,
the next open. Prices are rounded to the digits that the data have; below one, the engine sees prices and
money multiplied by a power of ten.

NautilusTrader 2.0 (a release candidate, pinned) swallows exceptions of its Python callbacks; they are
kept here and raised when the engine returns.
"""

from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from nautilus_trader.backtest import BacktestEngine, BacktestEngineConfig
from nautilus_trader.common import LoggerConfig
from nautilus_trader.execution import MakerTakerFeeModel, StaticLatencyModel
from nautilus_trader.model import (
    AccountType,
    BarType,
    BookType,
    ClientOrderId,
    Money,
    OmsType,
    OrderSide,
    Price,
    Quantity,
)
from nautilus_trader.model import Bar as EngineBar
from nautilus_trader.portfolio import PortfolioConfig
from nautilus_trader.trading import Strategy

from durable.settings import BadSettings
from market.accounting import MarketSettings
from trading.account import Account
from trading.desk import TRADED, Bar, Desk
from trading.feed import Row
from trading.orders import Charged, Ended, Ending, Event, Filled, Order, Report, Side
from trading.settings import BacktestSettings
from trading.venues.nautilus_data import SIZE_DIGITS, depth_of, instrument_of, tick_of
from trading.venues.quotes import (
    ENDLESS,
    Quote,
    digits_of,
    quotes_of,
    quotes_of_log,
    scale_of,
    scaled,
)

RESOLVED = 1e4  # smallest quantities that a position must at least be
QUIET = LoggerConfig(bypass_logging=True)


class NautilusVenue:
    """The engine as the desk's venue; a strategy inside it carries orders and events."""

    def __init__(self, market: MarketSettings) -> None:
        self.market = market
        self.scale = 1.0  # of the engine's prices and money
        self.send: Callable[[Order], None] | None = None
        self.ask_to_cancel: Callable[[str], None] | None = None
        self.held = 0.0
        self._events: list[Event] = []
        self._reports: dict[str, Report] = {}
        self._sizes: dict[str, float] = {}
        self._before: Bar | None = None

    def on_bar(self, bar: Bar) -> None:
        """Takes what a short pays for the bar, which the engine does not know."""
        if self._before is not None and self.held < 0 and self.market.borrow_rate > 0:
            amount = -self.held * self.market.borrow_rate * self._before["close"]
            self._events.append(Charged(f"borrow-{bar['time']}", amount, "borrow"))
        self._before = bar

    def submit(self, order: Order) -> None:
        """Hands an order to the engine, in units: it does not size orders at their fill."""
        if order.id in self._reports or self.send is None:
            return
        self._reports[order.id] = Report([], None)
        self._sizes[order.id] = order.quantity
        if round(order.quantity, SIZE_DIGITS) > 0:
            self.send(order)
        else:
            self.ended(order.id, "canceled", f"less than {10**-SIZE_DIGITS:f} units")

    def cancel(self, order_id: str) -> None:
        """Asks the engine to cancel."""
        if self.ask_to_cancel is not None:
            self.ask_to_cancel(order_id)

    def poll(self) -> list[Event]:
        """What happened since the last call."""
        events = self._events
        self._events = []
        return events

    def report(self, order_id: str) -> Report | None:
        """All of one order."""
        return self._reports.get(order_id)

    def position(self) -> float:
        """Units held, by the engine's fills."""
        return self.held

    def fund(self, cash: float) -> None:
        """The engine's account was paid in when it was made."""

    def end_of_data(self) -> None:
        """What works stays so: the engine has no more market."""

    def finish(self) -> None:
        """The engine has ended, and with it what still worked there."""
        self.send = self.ask_to_cancel = None
        for name, report in list(self._reports.items()):
            if report.ended is None:
                self.ended(name, "expired", "the market ended")

    def filled(
        self, name: str, fill: str, side: Side, size: float, price: float, cost: float
    ) -> None:
        """Called by the strategy, in the engine's own scale."""
        self.held += size if side == "buy" else -size
        if abs(self.held) < 10**-SIZE_DIGITS / 2:
            self.held = 0.0
        fills = self._reports[name].fills
        fills.append(Filled(name, fill, side, size, price / self.scale, cost / self.scale))
        self._events.append(fills[-1])
        if sum(each.quantity for each in fills) >= self._sizes[name] - 10**-SIZE_DIGITS / 2:
            self.ended(name, "filled", "")

    def ended(self, name: str, status: Ending, reason: str) -> None:
        """Called by the strategy."""
        fills = self._reports[name].fills
        ended = Ended(name, status, sum(each.quantity for each in fills), reason)
        self._reports[name] = Report(fills, ended)
        self._events.append(ended)


class DeskStrategy(Strategy):
    """Carries bars to the desk, its orders to the engine, and what becomes of them back."""

    def begin(
        self,
        desk: Desk,
        venue: NautilusVenue,
        rows: Sequence[Bar],
        bar_type: BarType,
        after_bar: Callable[[Account], None],
    ) -> None:
        """Takes what a constructor of the engine's cannot be given."""
        self.desk = desk
        self.venue = venue
        self.bar_type = bar_type
        self.rows = iter(rows)
        self.after_bar = after_bar
        self.failed: BaseException | None = None
        venue.send = self._send
        venue.ask_to_cancel = self._cancel

    def on_start(self) -> None:
        """Asks for the bars."""
        self.subscribe_bars(self.bar_type)

    def on_bar(self, _bar: EngineBar) -> None:
        """The desk gets the bar as it was read, not as the engine rounded it."""
        if self.failed is not None:
            return
        try:
            row = next(self.rows)
            self.venue.on_bar(row)
            self.desk.on_bar(row)
            self.after_bar(self.desk.account)
        except BaseException as error:  # the engine would swallow it
            self.failed = error

    def on_order_filled(self, event: Any) -> None:
        """Tells the venue of a fill."""
        self._tell(
            self.venue.filled,
            str(event.client_order_id),
            str(event.trade_id),
            "buy" if event.is_buy else "sell",
            event.last_qty.as_double(),
            event.last_px.as_double(),
            event.commission.as_double() if event.commission is not None else 0.0,
        )

    def on_order_rejected(self, event: Any) -> None:
        """Tells the venue of an end."""
        self._tell(self.venue.ended, str(event.client_order_id), "rejected", str(event.reason))

    on_order_denied = on_order_rejected

    def on_order_canceled(self, event: Any) -> None:
        """Tells the venue of an end."""
        self._tell(self.venue.ended, str(event.client_order_id), "canceled", "")

    def on_order_expired(self, event: Any) -> None:
        """Tells the venue of an end."""
        self._tell(self.venue.ended, str(event.client_order_id), "expired", "")

    def _tell(self, what: Callable[..., None], *told: Any) -> None:
        try:
            what(*told)
            self.desk.on_venue_event()
        except BaseException as error:
            self.failed = self.failed or error

    def _send(self, order: Order) -> None:
        made = self.order_factory.market(
            self.bar_type.instrument_id,
            OrderSide.BUY if order.side == "buy" else OrderSide.SELL,
            Quantity(order.quantity, SIZE_DIGITS),
            reduce_only=order.reduce_only,
            client_order_id=ClientOrderId(order.id),
        )
        self.submit_order(made)

    def _cancel(self, order_id: str) -> None:
        self.cancel_order(ClientOrderId(order_id))


def run(
    desk: Desk,
    venue: NautilusVenue,
    rows: Sequence[Bar],
    quotes: Sequence[Quote],
    settings: BacktestSettings,
    cash: float,
    after_bar: Callable[[Account], None] = lambda _: None,
) -> float:
    """Has a desk around a fresh venue trade bars against quotes, both in order of time.

    Its account begins with the cash, quote currency; `after_bar` is given it after every bar.

    Returns:
        Seconds that the engine ran, the data being loaded.

    Raises:
        JournalLost: and whatever else ended the desk inside the engine.
    """
    scale = venue.scale = scale_of(rows, quotes)
    _require_sizes(desk, rows)
    quotes = scaled(quotes, scale)
    digits = digits_of(rows, quotes, scale)
    instrument, currency = instrument_of(digits, settings.margin)
    bar_type = BarType.from_str(f"{instrument.id}-1-MINUTE-LAST-EXTERNAL")
    deep = any(len(quote.bids) > 1 or len(quote.asks) > 1 for quote in quotes)
    make = depth_of if deep else tick_of
    data: list[Any] = [make(instrument.id, quote, digits) for quote in quotes]
    none = Quantity(0, SIZE_DIGITS)
    for row in rows:
        open, high, low, close = (Price(row[name] * scale, digits) for name in TRADED[:4])
        data.append(EngineBar(bar_type, open, high, low, close, none, row["time"], row["time"]))
    # The engine's own curves would cost a fifth of the time.
    unused = PortfolioConfig(bar_updates=False, equity_curve=False)
    engine = BacktestEngine(
        BacktestEngineConfig(
            logging=QUIET, bypass_logging=True, run_analysis=False, portfolio=unused
        )
    )
    fee = Decimal(str(venue.market.fee_rate))
    latency = round(settings.latency * 1e9)
    try:
        money = Money(cash * scale, currency)
    except ValueError as error:
        raise BadSettings(
            f"the account's {cash:g} is more than NautilusTrader can hold at these prices ({error}); "
            "lower --trade.quantity, or use --engine simulated"
        ) from error
    engine.add_venue(
        instrument.id.venue,
        OmsType.NETTING,
        AccountType.MARGIN,
        [money],
        default_leverage=Decimal(str(settings.leverage)),
        fee_model=MakerTakerFeeModel(fee, fee),
        latency_model=StaticLatencyModel(latency) if latency else None,
        book_type=BookType.L2_MBP if deep else BookType.L1_MBP,
        bar_execution=False,
    )
    engine.add_instrument(instrument)
    engine.add_data(data, sort=True)
    strategy = DeskStrategy()
    strategy.begin(desk, venue, rows, bar_type, after_bar)
    engine.add_strategy(strategy)
    began = perf_counter()
    try:
        engine.run()
        seconds = perf_counter() - began
    finally:
        engine.dispose()
        venue.finish()
    if strategy.failed is not None:
        raise strategy.failed
    return seconds


def _require_sizes(desk: Desk, rows: Sequence[Bar]) -> None:
    """Raises `BadSettings` at positions that the engine's decimals, or the quotes' sizes, cannot hold."""
    sizes = desk.sizing.sizes(np.array([row["close"] for row in rows]))
    least = RESOLVED * 10**-SIZE_DIGITS
    if sizes.min() < least or sizes.max() > ENDLESS:
        raise BadSettings(
            f"a position is {sizes.min():g} to {sizes.max():g} units; NautilusTrader takes {least:g} to "
            f"{ENDLESS:g} here: change --trade.quantity or --trade.notional, or use --engine simulated"
        )


def open_venue(market: MarketSettings) -> NautilusVenue:
    """A fresh account."""
    return NautilusVenue(market)


def play(
    desk: Desk,
    rows: Sequence[Row],
    settings: BacktestSettings,
    cash: float,
    take: Callable[[Account], None],
) -> None:
    """Has the desk trade bars in order, against the quotes of its log or of the bars themselves."""
    venue = desk.venue
    assert isinstance(venue, NautilusVenue)
    if settings.events is not None:
        quotes = quotes_of_log(Path(settings.events), settings.instrument)
    else:
        quotes = quotes_of(rows, venue.market, round(settings.latency * 1e9))
    run(desk, venue, rows, quotes, settings, cash, take)
