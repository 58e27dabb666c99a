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
    """The order that has not ended."""

    order: Order  # as it was sent
    filled: float = 0.0  # units executed
    unsure: bool = False  # sending it failed, so that it may have arrived or not
    canceled_at: int | None = None  # when its end was asked for, ns; none where it was not


@dataclass
class Account:
    """Account, orders, and what the limits are reckoned from."""

    volatility_bars: int = 20  # squares of log returns that are kept
    memory: int = 20  # decisions whose faults are kept
    position: float = 0.0  # units held, below zero where short
    exposure: float = 0.0  # in full sizes as of the last fill, where those depend on the price
    cash: float | None = None  # quote currency; none until the account is funded
    funded: float | None = None  # what `cash` was then
    price: float = float("nan")  # last good close
    price_time: int = 0  # when that was, ns
    marked: int = 0  # when the account was last valued, ns: the close of a bar, believed or not
    seen: int = 0  # close of the newest bar, believed or not, ns
    time: int = 0  # of the last record, ns
    equity: float = float("nan")  # cash, and what the position is worth at `last_price`
    peak: float = 0.0  # highest equity since a person last set the desk free
    day: int = 0  # since 1970, UTC
    day_equity: float = float("nan")  # at its start: of the last close at or before midnight
    highest: float = 0.0  # equity since the account was funded
    drawdown: float = 0.0  # the largest fall from `highest` so far, as a share of it
    working: Working | None = None  # the order that has not ended
    ended: dict[str, str] = field(default_factory=dict)  # how every other order ended, by its id
    fills: set[str] = field(default_factory=set)  # ids of all fills, charges and liquidations
    orders: int = 0  # that were sent
    rejects: int = 0  # orders rejected since one was filled
    refusals: Counter[str] = field(default_factory=Counter)  # of orders, by the limit that refused
    unbelieved: int = 0  # bars that were not believed
    off_market: int = 0  # of those, the last ones in a row that closed outside the collar
    off_price: float = float("nan")  # at which the last of them closed
    level: int = 0  # how many of the last of them were within the collar of each other
    gaps: int = 0  # times that the market fell silent
    silent: bool = False  # it did, and nothing was decided since
    outside: Counter[str] = field(default_factory=Counter)  # decisions, by the feature out of range
    liquidated: bool = False  # the venue closed the account
    state: RiskState = "ACTIVE"
    reason: str = ""  # of the state
    changes: int = 0  # of the state
    changed: int = 0  # when the state last did, ns
    latched: int = 0  # when a person last set the state that was taken, ns
    log_squares: deque[float] = field(default_factory=deque)  # of the last returns
    faults: deque[bool] = field(default_factory=deque)  # whether the last decisions failed
    order_times: deque[int] = field(default_factory=deque)  # of orders in the last minute, ns
    decisions: int = 0
    bars: int = 0  # that were believed
    anchored: bool = False  # the next price must be near the last; not at first, nor after a resume

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
        self.marked = closed
        day = (closed - 1) // DAY
        if day != self.day:
            self.day = day
            self.day_equity = self.equity
        self.value(price)

    def value(self, price: float) -> None:
        """What the account is worth at a price."""
        assert self.cash is not None
        equity = self.cash + self.position * price
        self.equity = equity
        if equity < self.highest * (1 - self.drawdown):
            self.drawdown = 1 - equity / self.highest
