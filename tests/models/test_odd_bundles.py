"""Bundles that are sealed as they should be and say what cannot be: each is a sentence."""

import json
from pathlib import Path
from typing import Any

import pytest

from durable.verified import MANIFEST, CorruptError, rewrite_manifest
from market.synthetic import RandomWalk
from models.bundle import Bundle
from tests.support.commands import said
from tests.support.desks import bundle_for
from tests.support.paper import WALK, bundle
from trading.feed import recorded
from trading.journal import JournalLost
from trading.orders import Charged, Ended, Filled, Liquidated

__all__ = ["bundle"]  # a fixture


def changed(bundle: Path, *path: str, value: Any) -> None:
    manifest = json.loads((bundle / MANIFEST).read_text())
    place = manifest
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    rewrite_manifest(bundle / MANIFEST, manifest)


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        (
            ("network", "quantiles"),
            0,
            "network.quantiles: Input should be greater than or equal to 1",
        ),
        (("network", "quantiles"), 10**30, "network.quantiles: "),
        (("network", "hidden"), [10**30, 8], "network.hidden.0: "),
        (("network", "hidden"), [0, 8], "network.hidden.0: "),
        (("network", "state_size"), 10**30, "network.state_size: "),
        (("network", "bins"), [10**30], "bins are"),
        (("origin", "settings"), [], "origin.settings: "),
        (("origin", "settings"), {"market": 7}, "market is 7; it must be a group of settings"),
        (("origin", "settings"), {"learner": []}, "learner is []; it must be a group of settings"),
        (("origin", "features"), {"features": 7}, "0 features"),
        (("origin",), None, "origin: "),
    ],
)
def test_a_manifest_that_cannot_be_is_refused_by_a_sentence(
    bundle: Path, capsys: pytest.CaptureFixture[str], path: tuple[str, ...], value: Any, reason: str
) -> None:
    changed(bundle, *path, value=value)
    with pytest.raises(CorruptError, match="its manifest is not of this schema"):
        Bundle.load(bundle)
    _, err = said(capsys, "paper", bundle, "--bars", WALK, "--desk", bundle.parent / "d", code=2)
    assert reason in err
    assert err.count("\n") == 1


def test_a_table_with_more_cells_than_memory_is_refused(bundle: Path) -> None:
    changed(bundle, "network", value={"kind": "tabular", "state_size": 3, "bins": [10**30]})
    with pytest.raises(CorruptError, match="no table has more than 1,000,000,000 cells"):
        Bundle.load(bundle)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"market": {"fee_rate": "much"}}, "market.fee_rate"),
        ({"market": {"fee_rate": []}}, "market.fee_rate"),
        ({"market": {"sizing": 7}}, "market.sizing"),
        ({"market": {"unheard": 1}}, "market.unheard"),
    ],
)
def test_settings_that_cannot_be_are_named(
    bundle: Path, capsys: pytest.CaptureFixture[str], settings: dict[str, Any], reason: str
) -> None:
    changed(bundle, "origin", "settings", value=settings)
    _, err = said(capsys, "paper", bundle, "--bars", WALK, "--desk", bundle.parent / "d", code=2)
    assert f"the settings of its training cannot be used ({reason}: " in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("gamma", ["x", [], None, 10**30, -1])
def test_a_discount_that_is_none_is_not_known(
    bundle: Path, capsys: pytest.CaptureFixture[str], gamma: Any
) -> None:
    changed(bundle, "origin", "settings", value={"learner": {"gamma": gamma}})
    short = WALK.replace("4000", "20")
    said(capsys, "backtest", bundle, "--bars", short, "--desk", bundle.parent / "d")
    (session, *_) = (bundle.parent / "d" / "journal.jsonl").read_text().splitlines()
    assert json.loads(session).get("gamma") is None


def test_a_desks_folder_that_is_gone_is_a_sentence(tmp_path: Path) -> None:
    from tests.support.desks import desk_at

    bars = RandomWalk(sigma=0.01).bars(60, seed=1)
    rows = recorded(bars)
    desk = desk_at(tmp_path / "desk", bundle_for(bars))
    desk.on_bar(rows[0])
    (tmp_path / "desk").rename(tmp_path / "elsewhere")
    with pytest.raises(JournalLost, match="desk: No such file or directory"):
        desk.on_idle()


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (
            Filled("o", "f", "buy", float("nan"), 100.0, 0.0),
            "fill f cannot be booked: quantity is nan",
        ),
        (Filled("o", "f", "buy", 1.0, float("inf"), 0.0), "fill f cannot be booked: price is inf"),
        (Filled("o", "f", "buy", 1.0, 100.0, float("nan")), "fill f cannot be booked: cost is nan"),
        (Charged("c", float("nan"), "borrow"), "charge c cannot be booked: amount is nan"),
        (
            Liquidated("l", float("nan"), 90.0, 0.0),
            "liquidation l cannot be booked: quantity is nan",
        ),
    ],
)
def test_what_a_venue_tells_that_is_no_number_halts_and_is_not_booked(
    tmp_path: Path, event: Any, reason: str
) -> None:
    from tests.support.drills import LONG, Drill

    drill = Drill(tmp_path)
    drill.hold(LONG)
    cash = drill.desk.account.cash
    drill.venue.untold = [event]
    drill.desk.on_venue_event()
    assert (drill.desk.account.state, drill.desk.account.reason) == ("HALTED", reason)
    assert (drill.desk.account.position, drill.desk.account.cash) == (1, cash)
    drill.desk.ledger.journal.close()
    assert '"size":null' not in (tmp_path / "journal.jsonl").read_text()
    Drill(tmp_path)  # it starts again


def test_an_end_without_a_number_halts(tmp_path: Path) -> None:
    from tests.support.drills import LONG, Drill

    drill = Drill(tmp_path)
    drill.bar(LONG)
    (order,) = drill.venue.submitted
    drill.venue.untold = [Ended(order.id, "canceled", float("nan"))]
    drill.desk.on_venue_event()
    assert drill.desk.account.state == "HALTED"
    assert "filled is nan" in drill.desk.account.reason
