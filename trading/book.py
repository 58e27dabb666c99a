"""What a desk holds and has done: the fold of its journal's records, and nothing else.

A record changes a `Book` in one way only, live and when a journal is read again, so that a process that
was killed goes on from the very state that it had told its journal.
"""

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from trading.orders import Order

RiskState = Literal["ACTIVE", "REDUCING", "HALTED"]
Record = Mapping[str, Any]

DAY = 86_400 * 10**9  # ns, UTC
DUST = 1e-9  # units of an instrument that are none


@dataclass
class Working:
    """The order that has not ended.

    Attributes:
        order: what was sent.
        filled: units executed.
        unsure: sending it failed, so that it may have arrived or not.
        canceled_at: when its end was asked for; none where it was not.
    """

    order: Order
    filled: float = 0.0
    unsure: bool = False
    canceled_at: int | None = None


@dataclass
class Book:
    """Account, orders, and what the limits are reckoned from.

    Attributes:
        volatility_bars: squares of log returns that are kept.
        memory: decisions whose faults are kept.
        position: units held, below zero where short.
        cash: quote currency; none until the account is funded, and `funded` what it was then.
        price: last good close, and `price_time` when that was.
        time: of the last record.
        equity: cash and what the position is worth at the last price.
        peak, day, day_equity: highest equity; the day (since 1970, UTC), and equity as it began.
        working: the order that has not ended.
        ended: how every other order ended, by its id.
        fills: ids of all fills, charges and liquidations.
        rejects: orders rejected since one was filled.
        anchored: whether the next price must be near the last; not at first, and not once a person has
            set the desk free.
        latched: when a person last set the state that was taken, ns.
    """

    volatility_bars: int = 20
    memory: int = 20
    position: float = 0.0
    cash: float | None = None
    funded: float | None = None
    price: float = float("nan")
    price_time: int = 0
    time: int = 0
    equity: float = float("nan")
    peak: float = 0.0
    day: int = 0
    day_equity: float = float("nan")
    working: Working | None = None
    ended: dict[str, str] = field(default_factory=dict)
    fills: set[str] = field(default_factory=set)
    orders: int = 0
    rejects: int = 0
    liquidated: bool = False
    state: RiskState = "ACTIVE"
    reason: str = ""
    changes: int = 0
    latched: int = 0
    log_squares: deque[float] = field(default_factory=deque)
    faults: deque[bool] = field(default_factory=deque)
    order_times: deque[int] = field(default_factory=deque)
    decisions: int = 0
    bars: int = 0
    anchored: bool = False

    def __post_init__(self) -> None:
        self.log_squares = deque(self.log_squares, maxlen=self.volatility_bars)
        self.faults = deque(self.faults, maxlen=self.memory)

    def apply(self, record: Record) -> None:
        """Takes one record in."""
        self.time = record["time"]
        kind = record["type"]
        if kind in CHANGES:
            CHANGES[kind](self, record)

    def replay(self, records: Iterable[Record]) -> None:
        """Takes a journal in."""
        for record in records:
            self.apply(record)

    @property
    def volatility(self) -> float | None:
        """Root mean square of the last log returns, a bar; none until there are enough."""
        if len(self.log_squares) < self.volatility_bars:
            return None
        return float((sum(self.log_squares) / self.volatility_bars) ** 0.5)

    def _bar(self, record: Record) -> None:
        if "refused" in record:
            return
        self.price, self.price_time = price, closed = record["close"], record["closed"]
        self.bars += 1
        self.anchored = True
        if self.bars > 1:
            change = record["log_return"]
            self.log_squares.append(change * change)
        if self.cash is None:
            return
        before = self.equity
        self.equity = equity = self.cash + self.position * price
        if equity > self.peak:  # noqa: PLR1730  # at every bar, where max() is dear
            self.peak = equity
        day = closed // DAY
        if day != self.day:
            self.day, self.day_equity = day, before

    def _funding(self, record: Record) -> None:
        self.cash = self.funded = record["cash"]
        self.equity = self.peak = self.day_equity = record["cash"]
        self.day = record["time"] // DAY

    def _decision(self, record: Record) -> None:
        self.decisions += 1
        self.faults.append("fault" in record)

    def _order(self, record: Record) -> None:
        status, name = record["status"], record["order"]
        if status == "sent":
            self.orders += 1
            self.order_times.append(record["time"])
            while self.order_times[0] <= record["time"] - 60 * 10**9:
                self.order_times.popleft()
            self.working = Working(
                Order(
                    name,
                    record["side"],
                    record["size"],
                    record["reduce_only"],
                    record["price"],
                    record["time"],
                )
            )
        elif status == "refused":
            return
        elif status == "unsure" and self.working is not None:
            self.working.unsure = True
        elif status == "cancel" and self.working is not None:
            self.working.canceled_at = record["time"]
        elif status == "not canceled" and self.working is not None:
            self.working.canceled_at = None
        else:
            self.working = None
            self.ended[name] = status
            self.rejects = self.rejects + 1 if status == "rejected" else self.rejects

    def _fill(self, record: Record) -> None:
        size = record["size"]
        signed = size if record["side"] == "buy" else -size
        self.fills.add(record["id"])
        self.position += signed
        if abs(self.position) < DUST:
            self.position = 0.0
        if self.cash is not None:
            self.cash -= signed * record["price"] + record["cost"]
            self.equity = self.cash + self.position * self.price
        self.rejects = 0
        if self.working is not None and self.working.order.id == record.get("order"):
            self.working.filled += size
        if record.get("order") is None:
            self.liquidated = True

    def _charge(self, record: Record) -> None:
        self.fills.add(record["id"])
        if self.cash is not None:
            self.cash -= record["amount"]
            self.equity = self.cash + self.position * self.price

    def _risk(self, record: Record) -> None:
        self.changes += 1
        self.state, self.reason = record["state"], record["reason"]
        self.latched = record.get("latched", self.latched)
        if self.state == "ACTIVE":  # by hand: what led here is forgiven, and reckoned anew
            self.rejects, self.peak, self.day_equity = 0, self.equity, self.equity
            self.faults.clear()
            self.anchored = False


CHANGES: dict[str, Callable[[Book, Record], None]] = {
    "bar": Book._bar,
    "funding": Book._funding,
    "decision": Book._decision,
    "order": Book._order,
    "fill": Book._fill,
    "charge": Book._charge,
    "risk": Book._risk,
}
