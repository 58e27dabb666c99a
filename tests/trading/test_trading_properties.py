"""Whatever bars, fills, rejects, broken lines, restarts and kills come in whatever order."""

import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from numpy.typing import NDArray

from market.synthetic import RandomWalk
from tests.support.desks import bundle_for, desk_at
from tests.support.hostile import CAP, HostileVenue
from tests.support.lines import replay
from trading.account import DUST, Account
from trading.journal import records
from trading.latch import Latch
from trading.risk import Limits
from trading.sizing import DeskSettings

MINUTE = 60 * 10**9
LIMITS = Limits(
    max_position=CAP,
    max_order_quantity=2.0,
    min_volatility=None,
    max_volatility=None,
    max_daily_loss=0.3,
    max_drawdown=0.5,
    stale_seconds=1e6,
    max_orders_per_minute=None,
)
BUNDLE = bundle_for(RandomWalk().bars(200, seed=1))


class Trading(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name)
        self.venue = HostileVenue(self.path / "journal.jsonl")
        self.time, self.price, self.wanted = 1_600_000_000 * 10**9, 100.0, 0

    @initialize(quantity=st.sampled_from([0.4, 1.0, 1.0, 1.3]))
    def begin(self, quantity: float) -> None:
        self.quantity = quantity
        self.open()

    def open(self) -> None:
        self.desk = desk_at(
            self.path,
            BUNDLE,
            limits=LIMITS,
            venue=self.venue,
            q_values=self.choose,
            settings=DeskSettings(quantity=self.quantity, cash=300.0),
        )

    def choose(self, _state: NDArray[np.float32]) -> NDArray[np.float32]:
        if self.wanted == 2:
            raise ValueError("no idea")
        values = np.zeros(3, np.float32)
        values[self.wanted + 1] = 1
        return values

    def bar(self, close: float) -> None:
        self.time += MINUTE
        low, high = min(self.price, close), max(self.price, close)
        bar = {"time": self.time, "open": self.price, "high": high, "low": low, "close": close}
        self.venue.may_send = self.desk.account.state != "HALTED"
        reducing = self.desk.account.state == "REDUCING"
        self.desk.on_bar(bar | {"volume": 1.0})
        working = self.desk.account.working
        if reducing and working is not None and working.order.time == self.time:
            assert working.order.reduce_only
            assert working.order.quantity == abs(self.desk.account.position)

    @rule(change=st.floats(-0.15, 0.15), wanted=st.sampled_from([-1, -1, 0, 1, 1, 2, 2, 2]))
    def good_bar(self, change: float, wanted: int) -> None:
        self.wanted = wanted
        close = min(max(self.price * (1 + change), 50.0), 200.0)
        self.bar(close)
        self.price = close

    @rule(
        steps=st.lists(
            st.tuples(
                st.floats(-0.1, 0.1),
                st.sampled_from([-1, 0, 1]),
                st.sampled_from([0.3, 0.6, 1.0, 1.0, "canceled", "wait"]),
            ),
            min_size=4,
            max_size=12,
        )
    )
    def trade(self, steps: list[tuple[float, int, Any]]) -> None:
        """An ordinary while, resumed by hand where it has to be, with orders that mostly are filled."""
        if self.desk.account.state != "ACTIVE":
            self.resume()
        for change, wanted, outcome in steps:
            self.good_bar(change, wanted)
            if self.venue.left and isinstance(outcome, float):
                self.execute(outcome)
            elif self.venue.left and outcome == "canceled":
                self.end("canceled")

    @rule(close=st.sampled_from([math.nan, -1.0, 1e6, math.inf]))
    def bad_bar(self, close: float) -> None:
        self.bar(close)

    @precondition(lambda self: self.venue.left)
    @rule(share=st.floats(0.1, 1))
    def execute(self, share: float) -> None:
        self.venue.execute(share)

    @precondition(lambda self: self.venue.left)
    @rule(status=st.sampled_from(["rejected", "expired", "canceled"]))
    def end(self, status: str) -> None:
        self.venue.end(status)

    @rule(data=st.data())
    def tell_oddly(self, data: st.DataObject) -> None:
        """What is untold gets lost or out of order; what was told is told again."""
        events = self.venue.untold + self.venue.told[-3:]
        if events:
            self.venue.untold = data.draw(st.lists(st.sampled_from(events), max_size=6))

    @rule(loses=st.sampled_from(["", "before", "after"]), rejects=st.booleans())
    def trouble(self, loses: str, rejects: bool) -> None:
        self.venue.loses, self.venue.rejects = loses, rejects

    @rule()
    def line(self) -> None:
        self.venue.reachable = not self.venue.reachable

    @rule()
    def idle(self) -> None:
        self.venue.may_send = False
        self.desk.on_idle()

    @rule(torn=st.booleans())
    def restart(self, torn: bool) -> None:
        """Killed, perhaps in the middle of a line."""
        self.desk.ledger.journal.close()
        if torn:
            with (self.path / "journal.jsonl").open("ab") as file:
                file.write(b'{"time":16000000')
        self.venue.may_send = False
        state = self.desk.account.state
        self.open()
        assert self.desk.account.state in (state, "HALTED")

    @rule()
    def kill(self) -> None:
        self.trade([(0.0, 1, "wait")])
        Latch(self.path).kill("a drill")
        self.venue.may_send = False
        self.desk.on_idle()
        assert self.desk.account.state == "HALTED"
        working = self.desk.account.working
        assert working is None or working.canceled_at is not None or not self.venue.reachable

    @rule()
    def resume(self) -> None:
        Latch(self.path).resume("checked")
        self.desk.on_idle()

    @invariant()
    def journal_tells_all(self) -> None:
        if not hasattr(self, "desk"):
            return
        account = Account(LIMITS.volatility_bars, LIMITS.fault_memory)
        told = list(records(self.path / "journal.jsonl"))
        replay(account, told)
        assert repr(account) == repr(self.desk.account)  # NaN is not equal to itself
        ends = [
            each["order"]
            for each in told
            if each["type"] == "order"
            and each["status"] not in ("sent", "refused", "unsure", "cancel", "not canceled")
        ]
        assert len(ends) == len(set(ends))
        assert set(ends) <= {order.id for order in self.venue.submitted}
        assert abs(account.position) <= CAP + DUST

    def teardown(self) -> None:
        """Once the line is up again, every order that was sent ends, once, and both sides agree."""
        if not hasattr(self, "desk"):
            return
        self.venue.reachable, self.venue.rejects, self.venue.loses = True, False, ""
        for _ in range(2):
            self.bar(self.price)
        self.desk.execution.cancel(self.time)
        self.desk.execution.reconcile(self.time + 1)
        self.desk.ledger.flush()
        account = self.desk.account
        assert account.working is None
        assert set(account.ended) == {order.id for order in self.venue.submitted}
        assert abs(account.position - self.venue.held) < 1e-9
        assert "the venue holds" not in account.reason
        assert "does not work here" not in account.reason
        self.desk.ledger.journal.close()
        self.folder.cleanup()


Trading.TestCase.settings = settings(max_examples=80, stateful_step_count=40)
TestTrading = Trading.TestCase
