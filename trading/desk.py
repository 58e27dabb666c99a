"""The desk: one bar in, at most one order out. Policy, risk engine, execution and journal, in that order.

    bar -> the venue's events -> marked -> limits of the account -> decision -> order

Whatever fails, the desk goes where it is safe: a decision that fails is action 0; a limit that is met
goes down a state; a journal that cannot be written ends everything before another order.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from math import inf, log
from time import monotonic, time_ns
from typing import Any, NamedTuple

from market.accounting import MarketSettings, Scheme, next_position
from market.bars import BarsError
from market.features import FeatureStream
from trading.account import RiskState
from trading.bar_checks import OffMarket, PriceCollar, silence, silence_sentence, utc
from trading.execution import ExecutionService, ExecutionSettings
from trading.latch import Latch, Latched
from trading.ledger import Ledger
from trading.orders import Venue
from trading.policy import Decision, SafePolicy
from trading.records import Bar as BarRecord
from trading.records import Decided, Feed, Funding, Gap, Risk, Stop
from trading.risk import SECOND, SEVERITY, Limits, breach
from trading.sizing import DeskSettings, Sizing, Wanted

# time (of the close, ns), open, high, low, close, volume, and what was quoted; `last_event` (ns) where
# it is before the bar; `superseded` where later bars have closed already, live
Bar = Mapping[str, Any]
TRADED = ("open", "high", "low", "close", "volume")
SAID_GAPS = 5  # silences that are said; the summary counts them all
LOOK_EVERY = 0.01  # s, at most, between two looks at the kill switch


class Decider(NamedTuple):
    """What decides."""

    policy: SafePolicy  # from features and a position to an action
    features: FeatureStream  # what it sees, with the past of the journal taken in
    scheme: Scheme  # what an action means


class Rules(NamedTuple):
    """What a desk may do, and how."""

    limits: Limits  # what may be sent
    trade: DeskSettings  # what it trades
    execution: ExecutionSettings  # how orders are sent
    market: MarketSettings  # sizing and costs


class Context(NamedTuple):
    """Clock, bars and terminal of a desk."""

    clock: Callable[[], int] | None = None  # ns since 1970; none: time is that of bars, played back
    interval: float | None = None  # length of a bar, s; None where bars have none
    say: Callable[[str], None] = lambda _: None  # takes a sentence for the person at the terminal


class Desk:
    """Trades one instrument by one policy at one venue."""

    def __init__(
        self,
        decider: Decider,
        venue: Venue,
        ledger: Ledger,
        latch: Latch,
        rules: Rules,
        context: Context,
    ) -> None:
        """Takes everything that it needs, and does nothing before `start`."""
        self.policy = decider.policy
        self.features = decider.features
        self.scheme = decider.scheme
        self.venue = venue
        self.ledger = ledger
        self.account = ledger.account
        self.latch = latch
        self.settings = rules.trade
        self.interval = context.interval
        self.sizing = Sizing(rules.market, self.settings, self.account)
        self.limits = rules.limits.resolved(self.sizing.units, self.interval)
        stale = self.limits.stale_seconds
        self._fresh = stale * SECOND if isinstance(stale, float) else inf
        self.collar = PriceCollar(self.account, self.limits, self.interval)
        self.execution = ExecutionService(
            venue, ledger, self.limits, self.downgrade, rules.execution
        )
        self._say = context.say
        self._clock = context.clock
        self._now = 0
        self._look_at = 0.0

    def start(self, now: int) -> None:
        """Takes the latch's word where it is graver, or a person's, and settles with the venue."""
        latched = self.latch.read()
        account = self.account
        self.latch.changed()
        differs = latched is not None and latched.state != account.state
        if latched is not None and differs and not self._follow(latched, now):
            self._hold(account.state, account.reason)
        self.execution.reconcile(now)
        self._check(now)
        self.ledger.flush()

    def on_bar(self, bar: Bar) -> Decision | None:
        """Takes a bar in, decides, and sends what follows from it.

        Returns:
            What was decided; None while features lack a past, and where the bar is no ground for a
            decision. A desk that is halted decides too, and sends nothing.

        Raises:
            JournalLost: nothing can be written, so nothing is done any more.
        """
        account = self.account
        now = self._tick(bar)
        self._look(now)
        self.execution.reconcile(now)
        features, fault = self._take(bar, now)
        if fault is None and features is not None and account.cash is None:
            cash = self.settings.funding(self.sizing.market, account.price)
            self.venue.fund(cash)
            self.ledger.record(Funding(time=now, cash=cash))
        self._check(now)
        known = fault is not None or features is not None
        if not known or not self._is_current(bar, now):
            self.ledger.flush(awaited=False)
            return None
        if fault is None:
            decision = self.policy.decide(features, self.sizing.held)
        else:
            decision = Decision(0, None, None, fault)
        wanted = self.sizing.wanted(self._position(decision), bar)
        self._record(decision, wanted.units, now)
        if decision.fault is not None:
            self._check(now)
        if account.state == "REDUCING":
            wanted = Wanted(0.0, None, 1.0)
        if account.off_market == 1:  # one bad print sells nothing
            wanted = Wanted(account.position, None, 1.0)
        if account.state == "HALTED":
            self.execution.cancel(now)
        elif account.working is not None or wanted.units != account.position:
            self.execution.rebalance_to(wanted.units, now, wanted.position, wanted.full)
            self._check(now)
        self.ledger.flush(awaited=False)
        return decision

    def on_idle(self) -> None:
        """Between bars: what the venue reports, and the kill switch."""
        now = self._clock() if self._clock else self.account.time
        self._look(now, at_once=True)
        self.execution.poll_venue(now)
        self._check(now)
        if self.account.state == "HALTED":
            self.execution.cancel(now)
        self.execution.continue_parts(now)
        self.ledger.flush()

    def note(self, reason: str) -> None:
        """Puts on record what is wrong with the feed."""
        now = self._clock() if self._clock else self.account.time
        self.ledger.record(Feed(time=now, id=f"feed-{time_ns()}", reason=reason))
        self.ledger.flush()

    def on_venue_event(self) -> None:
        """Takes in at once what the venue has just reported."""
        self.execution.poll_venue(self._now)
        self._check(self._now)
        self.execution.continue_parts(self._now)
        self.ledger.flush()

    def kill(self, reason: str) -> None:
        """Throws the kill switch, from within."""
        with suppress(OSError):
            self.latch.kill(reason)
        self.downgrade("HALTED", f"kill switch: {reason}", self._now or self.account.time)
        self.on_idle()

    def stop(self, reason: str, flatten: bool) -> None:
        """Ends the session: the working order is withdrawn, and the position closed where asked for."""
        now = self._clock() if self._clock else self.account.time
        self.execution.reconcile(now)
        self.execution.cancel(now)
        if flatten and self.account.state != "HALTED" and self.account.position:
            self.execution.flatten(now)
            if self.account.position:
                self._say(f"a position of {self.account.position:+g} is still open")
        name = f"stop-{time_ns()}"
        held = self.account.position
        self.ledger.record(Stop(time=now, id=name, reason=reason, position=held))
        self.ledger.flush()

    def downgrade(self, state: RiskState, reason: str, now: int) -> None:
        """Goes down to a state, and latches it; never up."""
        if SEVERITY[state] > SEVERITY[self.account.state]:
            self._change(state, reason, now)
            self._hold(state, reason)

    def _change(self, state: RiskState, reason: str, now: int, latched: int | None = None) -> None:
        name = f"risk-{self.account.changes}"
        self.ledger.record(Risk(time=now, id=name, state=state, reason=reason, latched=latched))

    def _hold(self, state: RiskState, reason: str) -> None:
        # The journal remembers the state as well; a disk that is full must not keep it from being taken.
        with suppress(OSError):
            self.latch.hold(state, reason)
            self.latch.changed()

    def _look(self, now: int, at_once: bool = False) -> None:
        """Looks for the kill switch: at every bar, but no more than a hundred times a second."""
        moment = monotonic()
        if moment < self._look_at and not at_once:
            return
        self._look_at = moment + LOOK_EVERY
        killed = self.account.state != "HALTED" and self.latch.killed()
        if not self.latch.changed() and not killed:
            return
        latched = self.latch.read()
        if latched is not None and latched.state != self.account.state:
            self._follow(latched, now)

    def _follow(self, latched: Latched, now: int) -> bool:
        """Takes a state over: a graver one always, a lighter one once, from a person."""
        graver = SEVERITY[latched.state] > SEVERITY[self.account.state]
        if not graver and not (latched.by_hand and latched.time > self.account.latched):
            return False
        stamp = max(latched.time, self.account.latched)
        self._change(latched.state, latched.reason, now, stamp)
        if graver:  # the switch may be gone when it is next looked for; what it did is not
            self._hold(latched.state, latched.reason)
        return True

    def _check(self, now: int) -> None:
        found = breach(self.account, self.limits)
        if found is not None:
            self.downgrade(*found, now)

    def _tick(self, bar: Bar) -> int:
        """Now; reduces where the clock cannot be right."""
        if self._clock is None:
            self._now = max(self._now, bar["time"])
            return self._now
        now = self._clock()
        skew = self.limits.clock_skew
        if skew is not None:
            if now < self._now - skew * SECOND:
                back = (self._now - now) / SECOND
                self.downgrade("REDUCING", f"the clock went back by {back:.1f} s", self._now)
            if bar["time"] > now + skew * SECOND:
                ahead = (bar["time"] - now) / SECOND
                self.downgrade("REDUCING", f"a bar is {ahead:.1f} s ahead of the clock", now)
        self._now = max(self._now, now)
        return self._now

    def _take(self, bar: Bar, now: int) -> tuple[Any, str | None]:
        """Marks the account by a good bar; features, or why the bar is none."""
        account = self.account
        before = account.price
        try:
            off = self.collar.off_market(bar)
            if off is not None:
                self._require_level(off, bar, now)
            features = self.features.take(bar["time"] // 1000, bar)
        except (BarsError, TypeError, ValueError) as error:
            self._refuse_bar(bar, str(error), now)
            return None, str(error)
        change = log(bar["close"] / before) if account.bars else 0.0
        record = BarRecord(
            time=now,
            closed=bar["time"],
            log_return=change,
            open=bar["open"],
            high=bar["high"],
            low=bar["low"],
            close=bar["close"],
            volume=bar["volume"],
        )
        if "bid" in bar:
            record.bid = bar["bid"]
            record.ask = bar.get("ask")
            record.bid_size = bar.get("bid_size")
            record.ask_size = bar.get("ask_size")
            record.depth_imbalance = bar.get("depth_imbalance")
        self.ledger.record(record)
        return features, None

    def _require_level(self, off: OffMarket, bar: Bar, now: int) -> None:
        """Believes a level outside the collar that has held for some bars; `BarsError` until it has."""
        if off.level < self.limits.collar_bars:
            raise BarsError(off.reason)
        reason = (
            f"the price moved {off.moved:+.0%} at once and has held there for {off.level} bars, from "
            f"{self.account.price:g} to {bar['close']:g}, {utc(bar['time'])}"
        )
        self.downgrade("REDUCING", reason, now)

    def _refuse_bar(self, bar: Bar, reason: str, now: int) -> None:
        """Puts a bar on record that is not believed, with its price where it has one."""
        account = self.account
        seen = {name: bar.get(name) for name in TRADED}
        name = f"refused-{account.unbelieved}-{account.decisions}"
        record = BarRecord(time=now, closed=bar.get("time"), id=name, refused=reason, seen=seen)
        off = self.collar.off_market(bar)
        if off is not None:
            record.off_market = bar["close"]
            record.level = off.level
        self.ledger.record(record)

    def _is_current(self, bar: Bar, now: int) -> bool:
        """Whether a bar is a ground for a decision: fresh, and live the newest one that is here."""
        if bar.get("superseded"):
            return False
        if now - bar["time"] <= self._fresh and "last_event" not in bar:  # as a rule
            return True
        silent = silence(bar, now, self.limits)
        if silent is not None and not self.account.silent:
            what = silence_sentence(bar, silent, self.interval)
            event = bar.get("last_event", bar["time"])
            name = f"gap-{self.account.gaps}"
            self.ledger.record(Gap(time=now, id=name, since=event, reason=what))
            if self.account.gaps <= SAID_GAPS:
                self._say(f"{what}: nothing is decided until the market is back")
        return silent is None

    def _position(self, decision: Decision) -> float:
        """The position to hold, in full sizes."""
        if self.scheme == "target":
            return float(decision.action)
        held = self.sizing.held
        if decision.action == 0:
            return held
        return float(next_position(round(held), decision.action, self.scheme))

    def _record(self, decision: Decision, target: float, now: int) -> None:
        account = self.account
        record = Decided(
            time=now,
            action=decision.action,
            target=target,
            position=account.position,
            equity=account.equity,
            state=decision.state,  # type: ignore[arg-type] # floats, none of them missing
            q_values=decision.q_values,  # type: ignore[arg-type]
            explored=decision.explored,
        )
        if decision.fault is not None:
            record.fault = decision.fault
            record.id = f"decision-{account.decisions}"
        if self.sizing.resizes:
            record.exposure = self.sizing.held
        if decision.outside:
            record.outside = list(decision.outside)
            for name in set(decision.outside) - set(account.outside):
                self._say(f"{name} is far outside its range in training, from {utc(now)} on")
        self.ledger.record(record)
