"""What a desk holds and has done: the state that the records of its journal lead to.

Only records change it (`records.py`), live and when a journal is read again.
"""

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Literal

from trading.orders import Order

RiskState = Literal["ACTIVE", "REDUCING", "HALTED"]

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

    def mark(self, price: float, closed: int) -> None:
        """Values the account at a close; a bar that closes at midnight ends its day."""
        assert self.cash is not None
        before = self.equity
        self.marked = closed
        day = (closed - 1) // DAY
        if day != self.day:
            self.day = day
            self.day_equity = before
        self.value(price)

    def value(self, price: float) -> None:
        """What the account is worth at a price."""
        assert self.cash is not None
        equity = self.cash + self.position * price
        self.equity = equity
        if equity < self.highest * (1 - self.drawdown):
            self.drawdown = 1 - equity / self.highest
