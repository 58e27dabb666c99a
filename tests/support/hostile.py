"""A venue that does whatever a venue may."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trading.account import DUST
from trading.orders import Ended, Event, Filled, Order, Report, Unreachable

CAP = 1.0


class HostileVenue:
    """Honest when asked; by itself it tells late, twice, out of order, or not at all."""

    def __init__(self, journal: Path) -> None:
        self.journal = journal
        self.held = 0.0
        self.reports: dict[str, Report] = {}
        self.left: dict[str, Order] = {}
        self.untold: list[Event] = []
        self.told: list[Event] = []
        self.reachable = True
        self.loses = ""  # before or after the next order's arrival
        self.rejects = False
        self.submitted: list[Order] = []
        self.may_send = True

    def on_bar(self, bar: Mapping[str, Any]) -> None:
        pass  # its market moves by itself

    def submit(self, order: Order) -> None:
        assert self.may_send, "a desk that is halted sent an order"
        assert order.id not in {each.id for each in self.submitted}, "an order was sent twice"
        assert order.id in self.journal.read_text(), "sent before it was written down"
        self.submitted.append(order)
        if not self.reachable or self.loses == "before":
            self.loses = ""
            raise Unreachable
        assert not self.left, "two orders work at once"
        after = self.held + order.signed
        assert abs(after) <= CAP + DUST or abs(after) < abs(self.held), "past the cap"
        if order.reduce_only:
            assert abs(after) < abs(self.held), "a reduce that does not"
            assert after * self.held >= -DUST, "a reduce that flips"
        self.reports[order.id] = Report([], None)
        self.left[order.id] = order
        if self.rejects:
            self.end("rejected")
        if self.loses == "after":
            self.loses = ""
            raise Unreachable

    def execute(self, share: float) -> None:
        (order,) = self.left.values()
        quantity = order.quantity if share > 0.9 else order.quantity * share
        signed = quantity if order.side == "buy" else -quantity
        self.held += signed
        if abs(self.held) < DUST:
            self.held = 0.0
        fills = self.reports[order.id].fills
        fill = Filled(order.id, f"{order.id}/{len(fills)}", order.side, quantity, 100.0, 0.01)
        fills.append(fill)
        self.untold.append(fill)
        self.left[order.id] = order._replace(quantity=order.quantity - quantity)
        if quantity == order.quantity:
            self.end("filled")

    def end(self, status: Any) -> None:
        (order,) = self.left.values()
        filled = math.fsum(fill.quantity for fill in self.reports[order.id].fills)
        ended = Ended(order.id, status, filled)
        self.reports[order.id] = Report(self.reports[order.id].fills, ended)
        self.untold.append(ended)
        del self.left[order.id]

    def cancel(self, order_id: str) -> None:
        if not self.reachable:
            raise Unreachable
        if order_id in self.left:
            self.end("canceled")

    def poll(self) -> list[Event]:
        if not self.reachable:
            raise Unreachable
        events, self.untold = self.untold, []
        self.told += events
        return events

    def report(self, order_id: str) -> Report | None:
        if not self.reachable:
            raise Unreachable
        found = self.reports.get(order_id)
        return found and Report(list(found.fills), found.ended)

    def position(self) -> float:
        if not self.reachable:
            raise Unreachable
        return self.held

    def fund(self, cash: float) -> None:
        pass

    def end_of_data(self) -> None:
        pass
