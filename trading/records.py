"""The records of a desk's journal: one class a kind, with what it changes of the account.

A record changes an account in one way only, live and when a journal is read again, so that a process
that was killed continues from the very state that it had written. A field with a default is written where
it differs from that. Kinds and fields are stored: journals of before must still be read.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import msgspec

from trading.account import CONFIRMED, DAY, DUST, Account, RiskState, Working
from trading.orders import Order, Side

MINUTE = 60 * 10**9  # ns


class Record(msgspec.Struct, tag_field="type", kw_only=True, omit_defaults=True, gc=False):
    """One line of a journal; one of a kind that is not known here changes nothing but the time."""

    patient: ClassVar[bool] = False  # it may be written with later ones where a log is played back
    time: int  # when it was so, ns since 1970
    instrument: str = ""  # that the desk trades

    def apply(self, account: Account) -> None:
        """Takes the record in."""
        account.time = self.time


class Session(Record, tag="session", kw_only=True):
    """A process began to trade: by what model, under which settings, limits and costs."""

    id: str = ""
    format: str = ""
    model: str = "?"
    version: str = "?"
    source: str = ""
    steps_down: list[str] = []
    bundle: str | None = None
    scheme: str = "target"
    features: dict[str, Any] = {}
    gamma: float | None = None
    quantity: float
    notional: float | None = None
    settings: dict[str, Any] = {}
    limits: dict[str, Any] = {}
    costs: dict[str, Any] = {}
    torn: str | None = None


class Funding(Record, tag="funding", kw_only=True):
    """The account began with so much money, quote currency."""

    cash: float

    def apply(self, account: Account) -> None:
        """See `Record.apply`."""
        account.time = self.time
        account.cash = account.funded = self.cash
        account.equity = account.peak = account.day_equity = account.highest = self.cash
        account.day = (account.price_time - 1) // DAY


class Bar(Record, tag="bar", kw_only=True):
    """A bar came in; where `refused` says why, it was not believed, and `seen` is what it said."""

    patient: ClassVar[bool] = True
    closed: int | None = None
    log_return: float = 0.0
    open: float | None = None
    high: float | None = None
    low: float | None = None
    close: float | None = None
    volume: float | None = None
    bid: float | None = None
    ask: float | None = None
    bid_size: float | None = None
    ask_size: float | None = None
    depth_imbalance: float | None = None
    id: str | None = None
    refused: str | None = None
    seen: dict[str, Any] | None = None
    off_market: float | None = None  # its price where that lay outside the collar,
    level: int = 0  # for so many times in a row near itself

    def apply(self, account: Account) -> None:
        """See `Record.apply`."""
        account.time = self.time
        if self.refused is not None:
            self._refused(account)
            return
        price = self.close
        closed = self.closed
        if price is None or closed is None:
            raise ValueError("a bar without a close")
        account.price = price
        account.price_time = account.seen = closed
        account.bars += 1
        account.anchored = True
        if account.off_market:
            account.off_market = account.level = 0
        if account.bars > 1:
            change = self.log_return
            account.log_squares.append(change * change)
        if account.cash is None:
            return
        account.mark(price, closed)
        equity = account.equity
        if equity > account.peak:  # noqa: PLR1730  # at every bar, where max() is dear
            account.peak = equity
        if equity > account.highest:  # noqa: PLR1730
            account.highest = equity

    def _refused(self, account: Account) -> None:
        account.unbelieved += 1
        account.seen = max(account.seen, self.closed or 0)
        price = self.off_market
        if price is None:  # it tells no price
            account.off_market = account.level = 0
            return
        account.off_market += 1
        account.level = self.level
        account.off_price = price
        if account.off_market >= CONFIRMED and account.cash is not None:
            account.mark(price, self.closed or 0)


class Decided(Record, tag="decision", kw_only=True):
    """A decision: what was wanted, in which state, and what stood against it."""

    patient: ClassVar[bool] = True
    action: int
    target: float
    position: float
    equity: float | None
    state: list[float | None] | None
    q_values: list[float | None] | None
    id: str | None = None
    fault: str | None = None
    explored: bool = False
    exposure: float | None = None
    outside: list[str] = []

    def apply(self, account: Account) -> None:
        """See `Record.apply`."""
        account.time = self.time
        account.decisions += 1
        account.silent = False
        account.faults.append(self.fault is not None)
        if self.outside:
            account.outside.update(self.outside)


class OrderRecord(Record, tag="order", kw_only=True):
    """What became of an order: sent, refused, unsure, cancel, not canceled, or how it ended."""

    id: str
    order: str
    status: str
    side: Side | None = None
    size: float | None = None
    price: float | None = None
    reduce_only: bool | None = None
    position: float | None = None
    full: float = 1.0
    limit: str = "unknown"
    reason: str | None = None
    filled: float | None = None

    @classmethod
    def of(cls, order: str, status: str, now: int, **more: Any) -> "OrderRecord":
        """With an id of its own, which no other event has."""
        return cls(time=now, id=f"{order}:{status}", order=order, status=status, **more)

    def apply(self, account: Account) -> None:
        """See `Record.apply`."""
        account.time = self.time
        status = self.status
        working = account.working
        if status == "sent":
            account.orders += 1
            account.order_times.append(self.time)
            while account.order_times[0] <= self.time - MINUTE:
                account.order_times.popleft()
            account.working = Working(self._sent())
        elif status == "refused":
            account.refusals[self.limit] += 1
        elif status == "unsure" and working is not None:
            working.unsure = True
        elif status == "cancel" and working is not None:
            working.canceled_at = self.time
        elif status == "not canceled" and working is not None:
            working.canceled_at = None
        else:
            account.working = None
            if working is not None and working.order.position is not None:
                missing = 0.0 if status == "filled" else 1 - working.filled / working.order.quantity
                wanted = working.order.position
                account.exposure = wanted + (account.exposure - wanted) * missing
            account.ended[self.order] = status
            account.rejects = account.rejects + 1 if status == "rejected" else account.rejects

    def _sent(self) -> Order:
        if self.side is None or self.size is None or self.price is None or self.reduce_only is None:
            raise ValueError("an order that was sent, without side, size, price or reduce_only")
        return Order(
            self.order,
            self.side,
            self.size,
            self.reduce_only,
            self.price,
            self.time,
            self.position,
            self.full,
        )


class Fill(Record, tag="fill", kw_only=True):
    """An order, or without one the venue itself, changed the position; what that cost is stated."""

    id: str
    order: str | None
    side: Side
    size: float
    price: float
    cost: float

    @property
    def signed(self) -> float:
        """Units, below zero where sold."""
        return self.size if self.side == "buy" else -self.size

    def apply(self, account: Account) -> None:
        """See `Record.apply`."""
        account.time = self.time
        signed = self.signed
        account.fills.add(self.id)
        working = account.working
        if account.exposure and (working is None or working.order.position is None):
            grown = max(1 + signed / account.position, 0.0) if account.position else 0.0
            account.exposure *= grown
        account.position += signed
        if abs(account.position) < DUST:
            account.position = 0.0
            if working is None or working.order.position is None:
                account.exposure = 0.0
        if account.cash is not None:
            account.cash -= signed * self.price + self.cost
            account.value(account.last_price)
        account.rejects = 0
        if working is not None and working.order.id == self.order:
            working.filled += self.size
        if self.order is None:
            account.liquidated = True
            account.exposure = 0.0


class Charge(Record, tag="charge", kw_only=True):
    """The venue took money, borrow say."""

    id: str
    amount: float
    reason: str = ""

    def apply(self, account: Account) -> None:
        """See `Record.apply`."""
        account.time = self.time
        account.fills.add(self.id)
        if account.cash is not None:
            account.cash -= self.amount
            account.value(account.last_price)


class Risk(Record, tag="risk", kw_only=True):
    """The desk went to another state; `latched` is when a person set that one."""

    id: str = ""
    state: RiskState
    reason: str
    latched: int | None = None

    def apply(self, account: Account) -> None:
        """See `Record.apply`."""
        account.time = self.time
        account.changes += 1
        account.changed = self.time
        account.state = self.state
        account.reason = self.reason
        if self.latched is not None:
            account.latched = self.latched
        if self.state == "ACTIVE":  # by hand: what led here is forgiven, and reckoned anew
            account.rejects = 0
            account.peak = account.day_equity = account.equity
            account.faults.clear()
            account.anchored = False
            account.off_market = account.level = 0


class Gap(Record, tag="gap", kw_only=True):
    """The market fell silent."""

    id: str = ""
    since: int
    reason: str

    def apply(self, account: Account) -> None:
        """See `Record.apply`."""
        account.time = self.time
        account.gaps += 1
        account.silent = True


class Feed(Record, tag="feed", kw_only=True):
    """Something is wrong with the feed."""

    id: str = ""
    reason: str


class Stop(Record, tag="stop", kw_only=True):
    """A session ended; what was held then."""

    id: str = ""
    reason: str
    position: float


KINDS: dict[str, type[Record]] = {
    str(each.__struct_config__.tag): each
    for each in (Session, Funding, Bar, Decided, OrderRecord, Fill, Charge, Risk, Gap, Feed, Stop)
}


def record_of(line: Mapping[str, Any]) -> Record:
    """The record of a journal's line; `msgspec.ValidationError` where a field is missing or wrong."""
    kind = KINDS.get(line["type"])
    if kind is None:
        return Record(time=line["time"])
    return msgspec.convert(line, kind)
