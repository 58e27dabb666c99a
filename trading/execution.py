"""The execution service: from the position wanted to orders, from a venue's word to the account.

At most one order works at a time. It is in the journal before it is sent, under an id that the journal
alone gives, so that nothing is ever sent twice. An order that may or may not have arrived, and whatever
a venue forgot to tell, is asked for at the next bar.
"""

from collections.abc import Callable
from math import isfinite

from pydantic import Field

from durable.settings import Settings
from trading.account import DUST, RiskState
from trading.ledger import Ledger
from trading.orders import Charged, Ended, Filled, Liquidated, Order, Side, Unreachable, Venue
from trading.records import Charge, Fill, OrderRecord
from trading.risk import Denial, Limits, denial

MOST_PARTS = 10_000  # of an order at a stop


class ExecutionSettings(Settings):
    """How orders are sent."""

    order_timeout: float = Field(
        60.0, gt=0, description="an order that works for longer is canceled at the next bar, s"
    )
    venue_max_quantity: float | None = Field(
        None,
        gt=0,
        description="largest order that the venue takes, units; one that reduces goes in parts, one "
        "after another within the bar",
    )


class ExecutionService:
    """Orders of one desk at one venue."""

    def __init__(
        self,
        venue: Venue,
        ledger: Ledger,
        limits: Limits,
        downgrade: Callable[[RiskState, str, int], None],  # state, reason, time in ns
        settings: ExecutionSettings,
    ) -> None:
        """Starts without asking the venue anything; `reconcile` does."""
        self.venue = venue
        self.ledger = ledger
        self.account = ledger.account
        self.limits = limits
        self.reachable = True
        self._downgrade = downgrade
        self.settings = settings
        self._timeout = int(self.settings.order_timeout * 10**9)
        self._sized: tuple[float | None, float] = None, 1.0
        self._remaining: float | None = None  # target, while parts of an order are still to come

    def poll_venue(self, now: int) -> None:
        """Takes in what the venue tells."""
        try:
            events = self.venue.poll()
        except Unreachable:
            self.reachable = False
            return
        self.reachable = True
        for event in events:
            if isinstance(event, Filled):
                self._fill(event, now)
            elif isinstance(event, Ended):
                self._end(event, now)
            elif isinstance(event, Charged):
                if event.charge not in self.account.fills and self._is_sound(
                    f"charge {event.charge}", now, amount=event.amount
                ):
                    charge = Charge(
                        time=now, id=event.charge, amount=event.amount, reason=event.reason
                    )
                    self.ledger.record(charge)
            else:
                self._liquidated(event, now)

    def reconcile(self, now: int) -> None:
        """Brings desk and venue to one truth: at start-up, and before every decision.

        Parts of an order that are still to come are dropped: every bar decides anew.
        """
        self._remaining = None
        self.poll_venue(now)
        working = self.account.working
        try:
            if working is not None and (working.order.time < now or working.unsure):
                self._ask(working.order.id, now)
            if self.account.working is None and self.reachable:
                self._agree(now)
        except Unreachable:
            self.reachable = False

    def rebalance_to(
        self, target: float, now: int, position: float | None = None, full: float = 1.0
    ) -> None:
        """Sends what brings the position to a target, if the limits allow it.

        The target is in units, below zero for short; `position` and `full` are those of an `Order`.
        """
        self._remaining = None
        self._sized = position, full
        self._tend(target, now)
        if self._ready:
            self._remaining = self._send_part(target, now)
            self.continue_parts(now)

    def continue_parts(self, now: int) -> None:
        """Sends the next part of an order, once the one before has ended."""
        while self._remaining is not None and self._ready:
            self._remaining = self._send_part(self._remaining, now)

    def flatten(self, now: int) -> None:
        """Closes the position where the market data end: at the last price, in parts if need be."""
        self.rebalance_to(0.0, now)
        for _ in range(MOST_PARTS):
            self.venue.end_of_data()
            self.poll_venue(now)
            if self.account.working is not None or self._remaining is None:
                return
            self.continue_parts(now)

    @property
    def _ready(self) -> bool:
        """Whether an order may go out at all."""
        account = self.account
        return account.working is None and account.state != "HALTED" and self.reachable

    def _send_part(self, target: float, now: int) -> float | None:
        """Sends one order towards a target, and returns the target where more have to follow."""
        account = self.account
        delta = target - account.position
        if abs(delta) <= DUST:
            return None
        order = self._order(delta, now)
        position, full = self._sized
        if position is not None:  # it is sized anew where it fills, perhaps upwards
            order = order._replace(reduce_only=False, position=position, full=full)
        allowed = self._allowed(order, now)
        if not allowed and account.position * target < 0:  # no further than flat, then
            target = 0.0
            self._sized = None, 1.0
            order = self._order(-account.position, now)
            allowed = self._allowed(order, now)
        if not allowed:
            return None
        largest = self.settings.venue_max_quantity
        if largest is None or order.quantity <= largest:
            self._send(order, now)
            return None
        part = order._replace(quantity=largest)
        self._send(part, now)
        return target if account.ended.get(part.id, "filled") == "filled" else None

    def _allowed(self, order: Order, now: int) -> bool:
        """Whether an order may be sent; puts on record why not, where it may not.

        The venue's largest size is none for an order that reduces: it goes in parts.
        """
        refused = denial(order, self.account, self.limits, now)
        largest = self.settings.venue_max_quantity
        too_large = largest is not None and order.quantity > largest
        if refused is None and too_large and not order.reduce_only:
            reason = f"{order.quantity:g} units are above execution.venue_max_quantity, {largest:g}"
            refused = Denial("venue_max_quantity", reason)
        if refused is None:
            return True
        record = OrderRecord.of(order.id, "refused", now, side=order.side, size=order.quantity)
        record.limit = refused.limit
        record.reason = refused.reason
        self.ledger.record(record)
        return False

    def cancel(self, now: int) -> None:
        """Asks for the end of the order that works, once."""
        working = self.account.working
        if working is None or working.canceled_at is not None:
            return
        self.ledger.record(OrderRecord.of(working.order.id, "cancel", now))
        self.ledger.flush()
        try:
            self.venue.cancel(working.order.id)
        except Unreachable:  # asked for again at the next bar
            self.reachable = False
            self.ledger.record(OrderRecord.of(working.order.id, "not canceled", now))
        self.poll_venue(now)

    def _tend(self, target: float, now: int) -> None:
        """Leaves a working order be, or has it ended where it is late or leads elsewhere."""
        working = self.account.working
        if working is None:
            return
        order = working.order
        left = order.quantity - working.filled
        leads_to = self.account.position + (left if order.side == "buy" else -left)
        late = now - order.time >= self._timeout
        if late or abs(leads_to - target) > DUST or self.account.state == "HALTED":
            self.cancel(now)

    def _order(self, delta: float, now: int) -> Order:
        account = self.account
        position = account.position
        after = position + delta
        reduces = abs(after) < abs(position) and after * position >= 0
        name = f"{self.ledger.instrument}-{now // 10**6}-{account.orders + 1}"
        side: Side = "buy" if delta > 0 else "sell"
        return Order(name, side, abs(delta), reduces, account.last_price, now)

    def _send(self, order: Order, now: int) -> None:
        record = OrderRecord(
            time=now,
            status="sent",
            id=order.id,
            order=order.id,
            side=order.side,
            size=order.quantity,
            price=order.price,
            reduce_only=order.reduce_only,
        )
        if order.position is not None:
            record.position = order.position
            record.full = order.full
        self.ledger.record(record)
        self.ledger.flush()
        try:
            self.venue.submit(order)
        except Unreachable:
            self.reachable = False
            self.ledger.record(OrderRecord.of(order.id, "unsure", now))
            return
        self.poll_venue(now)

    def _ask(self, order_id: str, now: int) -> None:
        report = self.venue.report(order_id)
        if report is None:
            reason = "the venue never had it"
            self.ledger.record(OrderRecord.of(order_id, "lost", now, filled=0.0, reason=reason))
            return
        for fill in report.fills:
            self._fill(fill, now)
        if report.ended is not None:
            self._end(report.ended, now)

    def _fill(self, fill: Filled, now: int) -> None:
        account = self.account
        if fill.fill in account.fills:
            return  # reported twice
        numbers = {"quantity": fill.quantity, "price": fill.price, "cost": fill.cost}
        if not self._is_sound(f"fill {fill.fill}", now, **numbers):
            return
        before = account.working
        record = Fill(
            time=now,
            id=fill.fill,
            order=fill.order,
            side=fill.side,
            size=fill.quantity,
            price=fill.price,
            cost=fill.cost,
        )
        self.ledger.record(record)
        if before is None or before.order.id != fill.order:  # true, but of no order of this desk
            reason = f"fill {fill.fill} is of order {fill.order}, which does not work here"
            self._downgrade("HALTED", reason, now)

    def _end(self, ended: Ended, now: int) -> None:
        working = self.account.working
        if working is None or working.order.id != ended.order:
            return  # reported twice
        if not self._is_sound(f"the end of order {ended.order}", now, filled=ended.filled):
            return
        if ended.filled > working.filled + DUST:  # a fill is still under way
            try:
                report = self.venue.report(ended.order)
            except Unreachable:
                self.reachable = False
                return
            for fill in report.fills if report is not None else ():
                self._fill(fill, now)
            if ended.filled > working.filled + DUST:
                return
        record = OrderRecord.of(ended.order, ended.status, now, filled=working.filled)
        record.reason = ended.reason
        self.ledger.record(record)

    def _liquidated(self, event: Liquidated, now: int) -> None:
        numbers = {"quantity": event.quantity, "price": event.price, "cost": event.cost}
        if event.fill in self.account.fills or not self._is_sound(
            f"liquidation {event.fill}", now, **numbers
        ):
            return
        record = Fill(
            time=now,
            id=event.fill,
            order=None,
            side="buy" if event.quantity > 0 else "sell",
            size=abs(event.quantity),
            price=event.price,
            cost=event.cost,
        )
        self.ledger.record(record)

    def _is_sound(self, what: str, now: int, **numbers: float) -> bool:
        """Whether a venue's numbers are such; halts where not: what cannot be booked is not known."""
        odd = [f"{name} is {value}" for name, value in numbers.items() if not isfinite(value)]
        if odd:
            self._downgrade("HALTED", f"{what} cannot be booked: {', '.join(odd)}", now)
        return not odd

    def _agree(self, now: int) -> None:
        """Halts where the venue holds another position."""
        theirs = self.venue.position()
        ours = self.account.position
        if not abs(theirs - ours) <= self.limits.position_tolerance:
            self._downgrade("HALTED", f"the venue holds {theirs:g}, the desk {ours:g}", now)
