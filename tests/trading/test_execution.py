"""Orders under way: left alone, withdrawn, lost, and told in the wrong order."""

import math
from pathlib import Path
from typing import Any

import pytest

from tests.support.desks import INSTRUMENT, OFF
from tests.support.drills import FLAT, LONG, MINUTE, SHORT, START, Drill
from trading.account import DUST
from trading.orders import Charged, Filled, Liquidated


@pytest.mark.parametrize("wanted", [LONG, SHORT])
def test_an_order_that_leads_where_it_should_is_left_alone_however_much_of_it_is_filled(
    tmp_path: Path, wanted: int
) -> None:
    drill = Drill(tmp_path, timeout=3600.0)
    drill.bar(wanted)
    for share in (0.25, 0.5):
        drill.venue.execute(share)
        drill.bar(wanted)
        assert drill.statuses == ["sent"]
    assert drill.desk.account.position == pytest.approx(0.625 * wanted)
    drill.venue.execute(1.0)
    drill.bar(wanted)
    assert drill.statuses == ["sent", "filled"]
    assert drill.told()[-1]["filled"] == 1.0
    assert drill.desk.account.position == wanted


@pytest.mark.parametrize("wanted", [LONG, SHORT])
@pytest.mark.parametrize("then", [FLAT, LONG, SHORT])
def test_an_order_that_leads_elsewhere_is_withdrawn_and_the_right_one_sent(
    tmp_path: Path, wanted: int, then: int
) -> None:
    if then == wanted:
        return
    drill = Drill(tmp_path, timeout=3600.0)
    drill.bar(wanted)
    drill.venue.execute(0.25)
    drill.bar(then)
    held = 0.25 * wanted
    side = "sell" if wanted == LONG else "buy"
    assert drill.statuses == ["sent", "cancel", "canceled", "sent"]
    assert drill.told()[2]["filled"] == 0.25
    again, quantity, reduce_only = drill.sent[1]
    assert (again, reduce_only) == (side, then == FLAT)
    assert quantity == pytest.approx(abs(then - held))
    drill.venue.execute(1.0)
    drill.bar(then)
    assert drill.desk.account.position == then
    assert drill.statuses[4:] == ["filled"]


@pytest.mark.parametrize("timeout, bars", [(59.0, 1), (60.0, 1), (60.5, 2), (120.0, 2), (121.0, 3)])
def test_an_order_is_withdrawn_once_it_is_as_old_as_the_timeout(
    tmp_path: Path, timeout: float, bars: int
) -> None:
    drill = Drill(tmp_path, timeout=timeout)
    drill.bar(LONG)
    for _ in range(bars - 1):
        drill.bar(LONG)
        assert drill.statuses == ["sent"]
    drill.bar(LONG)
    assert drill.statuses == ["sent", "cancel", "canceled", "sent"]  # and tried anew
    assert len({order.id for order in drill.venue.submitted}) == 2


@pytest.mark.parametrize("held", [LONG, SHORT])
def test_only_what_brings_a_position_to_zero_is_reduce_only(tmp_path: Path, held: int) -> None:
    to, back = ("buy", "sell") if held == LONG else ("sell", "buy")
    drill = Drill(tmp_path)
    drill.hold(held)
    drill.hold(FLAT)
    drill.hold(held)
    drill.hold(-held)
    assert drill.sent == [(to, 1.0, False), (back, 1.0, True), (to, 1.0, False), (back, 2.0, False)]


def test_an_order_is_called_by_instrument_millisecond_and_number(tmp_path: Path) -> None:
    drill = Drill(tmp_path)
    for number, wanted in enumerate((LONG, FLAT, SHORT), start=1):
        drill.hold(wanted)
        milliseconds = (START + drill.bars * MINUTE) // 10**6
        assert drill.venue.submitted[-1].id == f"{INSTRUMENT}-{milliseconds}-{number}"


@pytest.mark.parametrize("target, orders", [(DUST, 0), (-DUST, 0), (2 * DUST, 1)])
def test_for_dust_no_order_is_sent(tmp_path: Path, target: float, orders: int) -> None:
    drill = Drill(tmp_path)
    drill.desk.execution.rebalance_to(target, START + 10 * MINUTE)
    assert len(drill.sent) == orders


def test_a_charge_is_booked_once_however_often_it_is_told(tmp_path: Path) -> None:
    drill = Drill(tmp_path)
    drill.venue.untold = [Charged("borrow-1", 2.5, "borrow")] * 2
    drill.desk.on_venue_event()
    drill.venue.untold = [Charged("borrow-1", 2.5, "borrow"), Charged("borrow-2", 1.0, "borrow")]
    drill.desk.on_venue_event()
    told = [(each["id"], each["amount"], each["reason"]) for each in drill.told("charge")]
    assert told == [("borrow-1", 2.5, "borrow"), ("borrow-2", 1.0, "borrow")]
    assert drill.desk.account.cash == pytest.approx(1000 - 3.5)


def test_a_turn_that_is_refused_goes_flat_and_no_further(tmp_path: Path) -> None:
    drill = Drill(tmp_path, OFF.model_copy(update={"max_notional": 100.5}))
    drill.hold(LONG)
    drill.bar(SHORT, price=101.0)  # where a position of one is worth too much
    assert drill.statuses[-2:] == ["refused", "sent"]
    refused, sent = drill.told()[-2:]
    assert (refused["side"], refused["size"]) == ("sell", 2.0)
    assert "max_notional" in refused["reason"]
    assert (sent["side"], sent["size"], sent["reduce_only"]) == ("sell", 1.0, True)
    assert refused["id"] == f"{refused['order']}:refused"
    drill.venue.execute(1.0)
    drill.bar(LONG, price=101.0)
    assert drill.statuses[-1] == "refused"
    assert drill.desk.account.position == 0


@pytest.mark.parametrize("arrived", [False, True])
def test_an_order_of_which_nobody_knows_whether_it_arrived_is_asked_for(
    tmp_path: Path, arrived: bool
) -> None:
    drill = Drill(tmp_path, timeout=3600.0)
    drill.venue.loses = "after" if arrived else "before"
    drill.bar(LONG)
    assert drill.statuses == ["sent", "unsure"]
    assert drill.desk.account.working is not None
    assert drill.desk.account.working.unsure
    drill.bar(LONG)
    if arrived:
        assert drill.statuses == ["sent", "unsure"]
        assert len(drill.venue.submitted) == 1
        drill.venue.execute(1.0)
        drill.bar(LONG)
        assert drill.statuses == ["sent", "unsure", "filled"]
        assert drill.desk.account.position == 1
    else:
        assert drill.statuses == ["sent", "unsure", "lost", "sent"]
        assert drill.told()[2]["reason"] == "the venue never had it"
        assert drill.told()[2]["filled"] == 0.0
    assert drill.desk.account.state == "ACTIVE"


@pytest.mark.parametrize("reachable", [True, False])
def test_an_end_that_is_told_before_its_fills_waits_for_them(
    tmp_path: Path, reachable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The venue is asked for the fills; where it does not answer, the order is not ended yet."""
    drill = Drill(tmp_path, timeout=3600.0)
    drill.bar(LONG)
    drill.venue.execute(0.5)
    drill.venue.execute(1.0)
    *fills, ended = drill.venue.untold
    drill.venue.untold = [ended]
    if not reachable:
        asked = drill.venue.report

        def unreachable(order_id: str) -> Any:
            drill.venue.reachable = False
            return asked(order_id)

        monkeypatch.setattr(drill.venue, "report", unreachable)
    drill.desk.on_venue_event()
    if reachable:
        assert drill.statuses == ["sent", "filled"]
        assert [each["size"] for each in drill.told("fill")] == [0.5, 0.5]
    else:
        assert drill.statuses == ["sent"]
        assert not drill.desk.execution.reachable
        assert drill.desk.account.position == 0
        monkeypatch.undo()
        drill.venue.reachable = True
        drill.venue.untold = [*fills, ended]
        drill.desk.on_venue_event()
        assert drill.statuses == ["sent", "filled"]
        assert drill.desk.execution.reachable
    assert drill.desk.account.position == 1
    drill.venue.untold = [*fills, ended]  # all of it again
    drill.desk.on_venue_event()
    assert drill.statuses == ["sent", "filled"]
    assert drill.desk.account.position == 1


def test_a_venue_that_cannot_be_reached_is_sent_nothing(tmp_path: Path) -> None:
    drill = Drill(tmp_path, timeout=60.0)
    drill.venue.reachable = False
    drill.bar(LONG)
    assert drill.statuses == []
    drill.venue.reachable = True
    drill.bar(LONG)
    assert drill.statuses == ["sent"]
    drill.venue.reachable = False
    drill.bar(LONG)  # late, and its end cannot be asked for
    assert drill.statuses == ["sent", "cancel", "not canceled"]
    drill.bar(LONG)
    assert drill.statuses == ["sent", *["cancel", "not canceled"] * 2]
    drill.venue.reachable = True
    drill.bar(LONG)
    assert drill.statuses[-3:] == ["cancel", "canceled", "sent"]
    assert drill.desk.account.state == "ACTIVE"


def test_a_halted_desk_withdraws_its_order_once_and_sends_nothing(tmp_path: Path) -> None:
    drill = Drill(tmp_path, timeout=3600.0)
    drill.bar(LONG)
    drill.desk.kill("a drill")
    for _ in range(3):
        drill.bar(LONG)
    assert drill.statuses == ["sent", "cancel", "canceled"]
    assert drill.desk.account.position == 0


@pytest.mark.parametrize(
    "off, halted", [(0.9e-6, False), (-0.9e-6, False), (1.1e-6, True), (-1.1e-6, True)]
)
def test_venue_and_desk_may_differ_by_the_tolerance(
    tmp_path: Path, off: float, halted: bool
) -> None:
    drill = Drill(tmp_path)
    drill.hold(LONG)
    drill.venue.held += off
    drill.bar(LONG)
    assert (drill.desk.account.state == "HALTED") == halted


def test_a_fill_of_an_order_that_is_not_ours_halts(tmp_path: Path) -> None:
    drill = Drill(tmp_path)
    drill.hold(LONG)
    drill.venue.untold = [Filled("elsewhere", "elsewhere/0", "buy", 1.0, 100.0, 0.0)]
    drill.desk.on_venue_event()
    assert drill.desk.account.state == "HALTED"
    said = "fill elsewhere/0 is of order elsewhere, which does not work here"
    assert drill.desk.account.reason == said
    assert drill.desk.account.position == 2  # the truth all the same


@pytest.mark.parametrize("name", ["0", "~"])  # which sort before and behind every order of ours
def test_a_fill_of_another_order_than_the_one_that_works_halts(tmp_path: Path, name: str) -> None:
    drill = Drill(tmp_path)
    drill.bar(LONG)
    drill.venue.untold = [Filled(name, f"{name}/0", "buy", 0.5, 100.0, 0.0)]
    drill.desk.on_venue_event()
    assert drill.desk.account.state == "HALTED"
    assert f"is of order {name}, which does not work here" in drill.desk.account.reason


def test_what_is_executed_while_the_venue_is_asked_is_no_difference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Positions are compared once nothing works: an order may be filled between two questions."""
    drill = Drill(tmp_path, timeout=3600.0)
    drill.bar(LONG)
    report = drill.venue.report

    def executing(order_id: str) -> Any:
        found = report(order_id)
        found = found and found._replace(fills=list(found.fills))
        drill.venue.execute(0.5)
        drill.venue.untold = []
        return found

    with monkeypatch.context() as patch:
        patch.setattr(drill.venue, "report", executing)
        drill.bar(LONG)
    assert (drill.venue.held, drill.desk.account.position) == (0.5, 0)
    assert drill.desk.account.state == "ACTIVE"
    drill.bar(LONG)
    assert drill.desk.account.position == 0.5


def test_without_a_price_even_what_closes_a_position_is_no_order(tmp_path: Path) -> None:
    drill = Drill(tmp_path)
    drill.hold(LONG)
    drill.desk.account.price = math.nan
    drill.desk.execution.rebalance_to(0.0, START + 10 * MINUTE)
    drill.desk.ledger.flush()
    assert drill.statuses == ["sent", "filled", "refused"]
    assert drill.desk.account.position == 1


def test_a_position_is_closed_out_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drill = Drill(tmp_path)
    drill.hold(LONG)
    closed: list[float] = []

    def closing() -> None:
        closed.append(drill.venue.held)
        drill.venue.execute(1.0)

    monkeypatch.setattr(drill.venue, "end_of_data", closing, raising=False)
    drill.desk.execution.flatten(START + 10 * MINUTE)
    assert drill.desk.account.position == 0
    assert closed == [1.0]


@pytest.mark.parametrize("held", [LONG, SHORT])
@pytest.mark.parametrize(
    "share, reduces", [(0.75, True), (0.0, True), (-0.25, False), (-1.0, False)]
)
def test_a_smaller_position_on_the_other_side_is_a_turn_and_no_reduction(
    tmp_path: Path, held: int, share: float, reduces: bool
) -> None:
    drill = Drill(tmp_path)
    drill.hold(held)
    drill.desk.execution.rebalance_to(share * held, START + 10 * MINUTE)
    side = "sell" if held == LONG else "buy"
    assert drill.sent[1:] == [(side, 1 - share, reduces)]


def test_a_venue_that_told_every_fill_is_not_asked_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drill = Drill(tmp_path, timeout=3600.0)
    asked: list[str] = []
    report = drill.venue.report

    def seen(order_id: str) -> Any:
        asked.append(order_id)
        return report(order_id)

    monkeypatch.setattr(drill.venue, "report", seen)
    drill.hold(LONG)
    assert drill.statuses == ["sent", "filled"]
    assert asked == []


@pytest.mark.parametrize("whole", [False, True])
def test_fills_that_were_never_told_are_asked_for(tmp_path: Path, whole: bool) -> None:
    drill = Drill(tmp_path, timeout=3600.0)
    drill.bar(LONG)
    drill.venue.execute(0.5)
    if whole:
        drill.venue.execute(1.0)
    drill.venue.untold = []
    drill.bar(LONG)
    assert drill.desk.account.position == (1.0 if whole else 0.5)
    assert drill.statuses == (["sent", "filled"] if whole else ["sent"])
    assert drill.desk.account.state == "ACTIVE"


@pytest.mark.parametrize("held, side", [(LONG, "sell"), (SHORT, "buy")])
def test_a_liquidation_is_booked_once_and_on_the_side_that_closes(
    tmp_path: Path, held: int, side: str
) -> None:
    drill = Drill(tmp_path)
    drill.hold(held)
    closed = Liquidated("liquidation-1", -float(held), 90.0, 0.5)
    drill.venue.untold = [closed, closed]
    drill.desk.on_venue_event()
    *_, booked = drill.told("fill")
    known = (booked["id"], booked["order"], booked["side"], booked["size"])
    assert known == ("liquidation-1", None, side, 1.0)
    assert (booked["price"], booked["cost"]) == (90.0, 0.5)
    assert drill.desk.account.position == 0
    assert drill.desk.account.cash == pytest.approx(1000 - 10 * held - 0.01 - 0.5)
    assert drill.desk.account.reason == "the venue closed the position and the account"
