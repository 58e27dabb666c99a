"""What a desk holds and has done: the fold of its journal's records, and nothing else.

A record changes an `Account` in one way only, live and when a journal is read again, so that a process
that was killed continues from the very state that it had written to its journal.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from trading.orders import Order

RiskState = Literal["ACTIVE", "REDUCING", "HALTED"]
Record = Mapping[str, Any]

DAY = 86_400 * 10**9  # ns, UTC
DUST = 1e-9  # units of an instrument that are none
CONFIRMED = 2  # bars in a row outside the collar, from which on the limits on losses count them


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
class Account:
    """Account, orders, and what the limits are reckoned from.

    Attributes:
        volatility_bars: squares of log returns that are kept.
        memory: decisions whose faults are kept.
        position: units held, below zero where short.
        exposure: position in full sizes as of the last fill, where those depend on the price.
        cash: quote currency; none until the account is funded, and `funded` what it was then.
        price: last good close, and `price_time` when that was.
        seen: close of the newest bar, believed or not, ns.
        marked: when the account was last valued, ns: the close of a bar, believed or not.
        time: of the last record.
        equity: cash and what the position is worth at the last price; from the second bar in a row
            outside the collar on, at the price of that bar.
        peak, day, day_equity: highest equity since a person last set the desk free; the day (since
            1970, UTC) and the equity at its start, which is that of the last close at or before midnight.
        highest, drawdown: highest equity since the account was funded, and the largest fall from it so
            far, as a share of it.
        working: the order that has not ended.
        ended: how every other order ended, by its id.
        fills: ids of all fills, charges and liquidations.
        rejects: orders rejected since one was filled.
        refusals: orders that a limit refused, by limit.
        unbelieved: bars that were not believed; `off_market` of them in a row, outside the collar, the
            last `level` of which were within it of each other; the last of those closed at `off_price`.
        gaps: times that the market fell silent; `silent` until the next decision.
        outside: decisions at which a feature was outside its range in training, by feature.
        anchored: whether the next price must be near the last; not at first, and not once a person has
            set the desk free.
        changes: of the state; `changed` when the last was, ns.
        latched: when a person last set the state that was taken, ns.
    """

    volatility_bars: int = 20
    memory: int = 20
    position: float = 0.0
    exposure: float = 0.0
    cash: float | None = None
    funded: float | None = None
    price: float = float("nan")
    price_time: int = 0
    marked: int = 0
    seen: int = 0
    time: int = 0
    equity: float = float("nan")
    peak: float = 0.0
    day: int = 0
    day_equity: float = float("nan")
    highest: float = 0.0
    drawdown: float = 0.0
    working: Working | None = None
    ended: dict[str, str] = field(default_factory=dict)
    fills: set[str] = field(default_factory=set)
    orders: int = 0
    rejects: int = 0
    refusals: Counter[str] = field(default_factory=Counter)
    unbelieved: int = 0
    off_market: int = 0
    off_price: float = float("nan")
    level: int = 0
    gaps: int = 0
    silent: bool = False
    outside: Counter[str] = field(default_factory=Counter)
    liquidated: bool = False
    state: RiskState = "ACTIVE"
    reason: str = ""
    changes: int = 0
    changed: int = 0
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

    @property
    def last_price(self) -> float:
        """The price that the account is valued at."""
        return self.off_price if self.off_market >= CONFIRMED else self.price

    def _bar(self, record: Record) -> None:
        if "refused" in record:
            self._refused_bar(record)
            return
        price = record["close"]
        self.price = price
        self.price_time = self.seen = record["closed"]
        self.bars += 1
        self.anchored = True
        if self.off_market:
            self.off_market = self.level = 0
        if self.bars > 1:
            change = record["log_return"]
            self.log_squares.append(change * change)
        if self.cash is None:
            return
        self._mark(price, record["closed"])
        equity = self.equity
        if equity > self.peak:  # noqa: PLR1730  # at every bar, where max() is dear
            self.peak = equity
        if equity > self.highest:  # noqa: PLR1730
            self.highest = equity

    def _refused_bar(self, record: Record) -> None:
        self.unbelieved += 1
        self.seen = max(self.seen, record.get("closed") or 0)
        price = record.get("off_market")
        if price is None:  # it tells no price
            self.off_market = self.level = 0
            return
        self.off_market += 1
        self.level = record["level"]
        self.off_price = price
        if self.off_market >= CONFIRMED and self.cash is not None:
            self._mark(price, record["closed"])

    def _mark(self, price: float, closed: int) -> None:
        """Values the account at a close; a bar that closes at midnight ends its day."""
        assert self.cash is not None
        before = self.equity
        self.marked = closed
        day = (closed - 1) // DAY
        if day != self.day:
            self.day = day
            self.day_equity = before
        self._value(price)

    def _value(self, price: float) -> None:
        assert self.cash is not None
        equity = self.cash + self.position * price
        self.equity = equity
        if equity < self.highest * (1 - self.drawdown):
            self.drawdown = 1 - equity / self.highest

    def _funding(self, record: Record) -> None:
        self.cash = self.funded = record["cash"]
        self.equity = self.peak = self.day_equity = self.highest = record["cash"]
        self.day = (self.price_time - 1) // DAY

    def _decision(self, record: Record) -> None:
        self.decisions += 1
        self.silent = False
        self.faults.append("fault" in record)
        if "outside" in record:
            self.outside.update(record["outside"])

    def _gap(self, _: Record) -> None:
        self.gaps += 1
        self.silent = True

    def _order(self, record: Record) -> None:
        status = record["status"]
        name = record["order"]
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
                    record.get("position"),
                    record.get("full", 1.0),
                )
            )
        elif status == "refused":
            self.refusals[record.get("limit", "unknown")] += 1
        elif status == "unsure" and self.working is not None:
            self.working.unsure = True
        elif status == "cancel" and self.working is not None:
            self.working.canceled_at = record["time"]
        elif status == "not canceled" and self.working is not None:
            self.working.canceled_at = None
        else:
            ended = self.working
            self.working = None
            if ended is not None and ended.order.position is not None:
                missing = 0.0 if status == "filled" else 1 - ended.filled / ended.order.quantity
                wanted = ended.order.position
                self.exposure = wanted + (self.exposure - wanted) * missing
            self.ended[name] = status
            self.rejects = self.rejects + 1 if status == "rejected" else self.rejects

    def _fill(self, record: Record) -> None:
        size = record["size"]
        signed = size if record["side"] == "buy" else -size
        self.fills.add(record["id"])
        working = self.working
        if self.exposure and (working is None or working.order.position is None):
            self.exposure *= max(1 + signed / self.position, 0.0) if self.position else 0.0
        self.position += signed
        if abs(self.position) < DUST:
            self.position = 0.0
            if working is None or working.order.position is None:
                self.exposure = 0.0
        if self.cash is not None:
            self.cash -= signed * record["price"] + record["cost"]
            self._value(self.last_price)
        self.rejects = 0
        if self.working is not None and self.working.order.id == record.get("order"):
            self.working.filled += size
        if record.get("order") is None:
            self.liquidated = True
            self.exposure = 0.0

    def _charge(self, record: Record) -> None:
        self.fills.add(record["id"])
        if self.cash is not None:
            self.cash -= record["amount"]
            self._value(self.last_price)

    def _risk(self, record: Record) -> None:
        self.changes += 1
        self.changed = record["time"]
        self.state = record["state"]
        self.reason = record["reason"]
        self.latched = record.get("latched", self.latched)
        if self.state == "ACTIVE":  # by hand: what led here is forgiven, and reckoned anew
            self.rejects = 0
            self.peak = self.day_equity = self.equity
            self.faults.clear()
            self.anchored = False
            self.off_market = self.level = 0


CHANGES: dict[str, Callable[[Account, Record], None]] = {
    "bar": Account._bar,
    "funding": Account._funding,
    "decision": Account._decision,
    "order": Account._order,
    "fill": Account._fill,
    "charge": Account._charge,
    "risk": Account._risk,
    "gap": Account._gap,
}
