"""Where an account of one unit misleads: in words, with the same positions as shares of one."""

import re
from io import StringIO

import numpy as np
import pytest
from rich.console import Console

from evaluation.assessment import Assessment, Findings, PositionTrack, assess
from evaluation.gate import Provenance, judge
from evaluation.report import _track as columns_of
from evaluation.report import _warnings, formatted, misleading
from evaluation.trials import Trials
from market.accounting import Fill, MarketSettings
from market.features import FeaturePipeline
from market.table import MarketTable
from market.terms import Sizing
from qdesk.evaluate import _equity_sized, _track
from tests.support.bars import bars_of
from tests.support.sizings import SIZINGS
from tests.support.stocks import grown_stock

FACTS = Provenance("data", "data", "abc", "abc", 0.1, same_bundle=True)


def assessed(price: np.ndarray, positions: np.ndarray, sizing: Sizing = "unit") -> Assessment:
    bars = bars_of(price, price)
    pipeline = FeaturePipeline.fit(bars)
    fills: tuple[Fill, ...] = ("close", "next_open")
    tables = {
        fill: MarketTable.of(
            bars, pipeline, MarketSettings(fill=fill, fee_rate=0.001, sizing=sizing)
        )
        for fill in fills
    }
    steps = len(bars) - 2
    edges = [0, steps // 2, steps]
    seeds = list(range(len(positions)))
    volume = np.ones(steps + 1)
    track = PositionTrack("walk-forward", tables, "close", positions, seeds, edges, volume)
    return assess(track, draws=20, random_draws=5)


def stock(sizing: Sizing = "unit") -> Assessment:
    table = grown_stock()
    price = np.append(table.close[:1] * 0.999, table.close)
    positions = np.zeros((2, len(table) - 1), np.int8)
    positions[:, 4499:] = 1
    positions[1, 4499:4600] = 0
    return assessed(price, positions, sizing)


@pytest.fixture(scope="module")
def grown() -> Assessment:
    return stock()


def test_a_stretch_that_multiplies_is_shown_as_shares_of_an_account_too(grown: Assessment) -> None:
    found = grown.findings
    assert found.sizing == "unit"
    assert found.price_range > 20
    assert found.equity_sized is not None
    assert list(found.equity_sized) == ["agent", *found.baselines]
    agent = found.equity_sized["agent"]
    table = grown.track.table
    starts = np.flatnonzero(grown.track.positions[found.typical])[0]
    made = table.close[-1] / table.close[starts] / 1.001 - 1
    assert agent["net_return"] == pytest.approx(made)
    assert not agent["ruined"]
    assert found.baselines["short and hold"]["ruined"]
    hold = found.equity_sized["buy and hold"]
    assert hold["net_return"] == pytest.approx(table.close[-1] / table.close[0] / 1.001 - 1)
    assert Findings.model_validate_json(found.model_dump_json()) == found


def test_the_report_and_the_terminal_say_that_unit_misleads(grown: Assessment) -> None:
    found = grown.findings
    said = misleading(found)
    assert said is not None
    assert found.equity_sized is not None
    made = found.equity_sized["agent"]["net_return"]
    assert made is not None
    assert f"the same positions made {made:+.1%} (drawdown" in said
    assert re.match(r"The highest price of these bars is \d\d\.\d times the lowest", said)
    assert [each for each in _warnings(found) if "misleads here" in each]
    shown = columns_of(grown)["equity_sized"]
    assert shown[0][:2] == ["typical seed", f"{made:+.1%}"]
    assert len(shown) == 7
    console = Console(file=StringIO(), width=140, record=True)
    console.print(_track(found), _equity_sized(found))
    text = " ".join(console.export_text().split())
    assert "sizing unit" in text
    assert "the same positions as shares of the account, sizing equity" in text
    assert f"{made:+.1%}" in text
    assert re.search(r"perfect foresight \+\d\.\d+e\+\d+%", text)  # no thirty digits


def test_nothing_is_said_where_one_unit_does_as_well() -> None:
    rng = np.random.default_rng(1)
    calm = 100 * np.exp(np.cumsum(rng.normal(0, 0.002, 400)))
    positions = rng.integers(-1, 2, (1, 398)).astype(np.int8)
    found = assessed(calm, positions).findings
    assert found.price_range < 1.5
    assert found.equity_sized is None
    assert misleading(found) is None


@pytest.mark.parametrize("sizing", SIZINGS)
def test_gate_and_report_show_the_sizing(sizing: Sizing) -> None:
    rng = np.random.default_rng(1)
    price = 100 * np.exp(np.cumsum(rng.normal(0, 0.03, 400)))  # it doubles and halves
    positions = rng.integers(-1, 2, (2, 398)).astype(np.int8)
    found = assessed(price, positions, sizing)
    findings = found.findings
    assert findings.sizing == sizing
    assert (findings.equity_sized is None) == (sizing != "unit")
    assert f"fills at close, sizing {sizing}" in columns_of(found)["about"]
    conditions = judge(findings, None, Trials(1, 0.0, {"dqn": 1}), FACTS)
    walked, charged = (
        conditions[0],
        next(each for each in conditions if "costs charged" in each.name),
    )
    assert ("sizing" in walked.found) == (sizing != "unit")
    assert ("share of the first price" in charged.name) == (sizing == "unit")
    assert findings.charged is not None
    # A unit costs a thousandth of its own price, that is of the first price times what became of it.
    if sizing == "unit":
        assert findings.charged != pytest.approx(0.001, rel=0.01)
    else:
        assert findings.charged == pytest.approx(0.001, rel=1e-9)
    assert findings.costs == "fee 0.001 of notional, half spread 0, slippage 0"
    np.testing.assert_allclose([len(row) for row in findings.windows], [2, 2])


def test_findings_of_before_are_read_as_unit(grown: Assessment) -> None:
    text = grown.findings.model_dump(mode="json")
    for name in ("sizing", "price_range", "equity_sized"):
        del text[name]
    old = Findings.model_validate(text)
    assert old.sizing == "unit"
    assert misleading(old) is None


@pytest.mark.parametrize(
    "value, form, said",
    [
        (0.1234, "{:+.1%}", "+12.3%"),
        (-1.0, "{:+.1%}", "-100.0%"),
        (99.5, "{:+.1%}", "+9950.0%"),
        (7.2567e31, "{:+.1%}", "+7.26e+33%"),
        (12345.0, "{:.1%}", "1.23e+06%"),
        (12345.0, "{:,.0f}", "12,345"),
        (None, "{:.1%}", "-"),
    ],
)
def test_figures_are_readable_however_large(value: float | None, form: str, said: str) -> None:
    assert formatted(value, form) == said
