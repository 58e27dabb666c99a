"""The simulated venue: fills and costs exactly as the timing contract says, the reference for others.

`close`: an order is filled at once, at the last close. `next_open`: at the open of the next bar, at the
spread last known. It charges what `market/accounting.py` charges, borrow included, and closes an account
whose equity is at or below its floor.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from market.accounting import MarketSettings, floor_of, unit_cost
from market.rebalance import rebalance
from trading.account import DUST, Account
from trading.desk import Bar, Desk
from trading.orders import Charged, Ended, Event, Filled, Liquidated, Order, Report, Side
from trading.risk import reduces


class SimulatedVenue:
    """A market of one instrument and one account; `on_bar` moves it on."""

    def __init__(self, settings: MarketSettings, account: Account | None = None) -> None:
        """Opens a new account, or goes on with that of a desk which continues its journal."""
        account = account or Account()
        self.settings = settings
        self._position = account.position
        self._cash = account.cash
        self._floor = floor_of(settings) * (account.funded or 0.0)
        self._close = 0.0
        self._bars = 0
        self._half: float | None = settings.half_spread
        self._events: list[Event] = []
        self._reports: dict[str, Report] = {}
        self._working: Order | None = None
        self._closed = account.liquidated
        self._done = 0

    def fund(self, cash: float) -> None:
        """Pays in what the account begins with, quote currency."""
        self._cash = cash
        self._floor = floor_of(self.settings) * cash

    def on_bar(self, bar: Mapping[str, Any]) -> None:
        """Takes the next bar in: open and close, and bid and ask where they are known."""
        settings = self.settings
        before = self._close
        if self._working is not None:
            self._execute(self._working, bar["open"])
        if self._position < 0 and settings.borrow_rate > 0 and self._bars:
            amount = -self._position * settings.borrow_rate * before
            self._take(amount)
            self._done += 1
            self._events.append(Charged(f"borrow-{bar['time']}-{self._done}", amount, "borrow"))
        self._close = bar["close"]
        self._bars += 1
        if settings.half_spread is None:
            self._half = self._half_of(bar)
        if self._cash is None or not self._position:
            return
        if self._cash + self._position * self._close <= self._floor:
            self._liquidate(bar["time"])

    def submit(self, order: Order) -> None:
        """Fills an order now, or keeps it for the next open."""
        if order.id in self._reports:
            return
        self._reports[order.id] = Report([], None)
        if self._closed or self._half is None:
            reason = "the account is closed" if self._closed else "no market is known yet"
            self._end(Ended(order.id, "rejected", 0.0, reason))
        elif order.reduce_only and not reduces(self._position, self._position + order.signed):
            self._end(Ended(order.id, "rejected", 0.0, "it does not reduce the position"))
        elif self.settings.fill == "close":
            self._execute(order, self._close)
        else:
            self._working = order

    def end_of_data(self) -> None:
        """Fills the order that waits at the last close: there will be no next open."""
        if self._working is not None:
            self._execute(self._working, self._close)

    def cancel(self, order_id: str) -> None:
        """Ends the order that waits for the next open."""
        if self._working is not None and self._working.id == order_id:
            self._working = None
            self._end(Ended(order_id, "canceled", 0.0))

    def poll(self) -> list[Event]:
        """What happened since the last call."""
        events = self._events
        self._events = []
        return events

    def report(self, order_id: str) -> Report | None:
        """What became of an order."""
        return self._reports.get(order_id)

    def position(self) -> float:
        """Units held."""
        return self._position

    def _half_of(self, bar: Mapping[str, Any]) -> float | None:
        """Half the spread of a bar, or the last one known; zero where bars have no quotes at all."""
        if "bid" not in bar:
            return 0.0
        if bar["bid"] is None or bar["ask"] is None:
            return self._half
        half: float = (bar["ask"] - bar["bid"]) / 2
        return half

    def _execute(self, order: Order, price: float) -> None:
        self._working = None
        each = unit_cost(price, self._half or 0.0, self.settings)
        signed = order.signed if order.position is None else self._sized(order, price, each)
        quantity = abs(signed)
        if quantity > 0:
            paid = quantity * each
            self._hold(signed, price, paid)
            side: Side = "buy" if signed > 0 else "sell"
            fill = Filled(order.id, f"{order.id}-1", side, quantity, price, paid)
            self._reports[order.id].fills.append(fill)
            self._events.append(fill)
        self._end(Ended(order.id, "filled", quantity))

    def _sized(self, order: Order, price: float, unit_cost: float) -> float:
        """Units that an order buys, or below zero sells, where it is sized at the price of its fill."""
        assert order.position is not None
        held = self._position
        equity = (self._cash or 0.0) + held * price
        if not equity > 0:  # nothing is left to take a share of
            return -held
        sizing = self.settings.sizing
        return rebalance(sizing, order.position, held, equity, price, unit_cost, order.full).order

    def _end(self, ended: Ended) -> None:
        self._reports[ended.order] = Report(self._reports[ended.order].fills, ended)
        self._events.append(ended)

    def _liquidate(self, time: object) -> None:
        quantity = -self._position
        self._closed = True
        paid = abs(quantity) * unit_cost(self._close, self._half or 0.0, self.settings)
        self._hold(quantity, self._close, paid)
        self._events.append(Liquidated(f"liquidation-{time}", quantity, self._close, paid))
        if self._working is not None:
            self._end(Ended(self._working.id, "canceled", 0.0, "the account is closed"))
            self._working = None

    def _hold(self, signed: float, price: float, paid: float) -> None:
        self._position += signed
        if abs(self._position) < DUST:
            self._position = 0.0
        self._take(signed * price + paid)

    def _take(self, amount: float) -> None:
        if self._cash is not None:
            self._cash -= amount


def open_venue(market: MarketSettings) -> SimulatedVenue:
    """A fresh account."""
    return SimulatedVenue(market)


def play(
    desk: Desk,
    rows: Sequence[Bar],
    settings: object,  # noqa: ARG001  # this engine has none of its own
    cash: float,  # noqa: ARG001  # the desk funds the account
    take: Callable[[Account], None],
) -> None:
    """Has the desk trade bars in order, filled as the timing contract says."""
    for row in rows:
        if not desk.collar.doubts(row):
            desk.venue.on_bar(row)
        desk.on_bar(row)
        take(desk.account)
