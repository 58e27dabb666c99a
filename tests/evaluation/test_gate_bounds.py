"""The gate at its very bounds, and what it says of each condition."""

from typing import Any

import numpy as np
import polars as pl
import pytest

from evaluation.assessment import Findings
from evaluation.gate import Policy, Provenance, judge, moments_of, passed
from evaluation.statistics import deflated_sharpe, expected_best_sharpe
from evaluation.trials import Trials
from market.accounting import MarketSettings
from market.bars import Bars
from market.features import FeaturePipeline, FeatureSettings
from market.synthetic import RandomWalk
from market.table import MarketTable
from tests.support.gated import GOOD, LAW, ONE, failed, findings, own_of, track


@pytest.fixture(scope="module")
def good() -> Findings:
    return findings(track(LAW))


@pytest.fixture(scope="module")
def own(good: Findings) -> Findings:
    return own_of(good)


@pytest.mark.parametrize("whose", ["its own weights", "net return at"])
def test_only_the_costs_and_the_lateness_of_the_policy_decide(
    good: Findings, own: Findings, whose: str
) -> None:
    """A candidate that loses once its fills are late is refused, one that loses elsewhere is not."""

    def losing(found: Findings, at: set[tuple[float, int]]) -> Findings:
        stress = [
            each.model_copy(update={"net_returns": [-0.1 for _ in each.net_returns]})
            if (each.multiple, each.late) in at
            else each.model_copy(update={"net_returns": [0.1 for _ in each.net_returns]})
            for each in found.stress
        ]
        return found.model_copy(update={"stress": stress})

    every = {(each.multiple, each.late) for each in good.stress}
    for late in (0, 1):
        policy = Policy(cost_multiple=3.0, late=late)
        for at, fails in (({(3.0, late)}, True), (every - {(3.0, late)}, False)):
            walked = losing(good, at) if whose == "net return at" else losing(good, set())
            alone = losing(own, at) if whose == "its own weights" else losing(own, set())
            names = failed(judge(walked, alone, ONE, GOOD, policy))
            assert [name.startswith(f"{whose}") for name in names] == [True] * fails


def test_each_condition_says_what_was_found_and_what_is_required(
    good: Findings, own: Findings
) -> None:
    found = good.model_copy(
        update={
            "difference_bounds": {**good.difference_bounds, "0.95": 1.234},
            "better": "flat",
            "charged": 0.002,
            "seed_mean": 0.25,
            "measures": [{**each, "max_drawdown": 0.125, "trades": 77.0} for each in good.measures],
            "stress": [
                each.model_copy(update={"net_returns": [0.5] * 5, "sharpes": [1.0] * 5})
                for each in good.stress
            ],
        }
    )
    alone = own.model_copy(update={"stress": [
        each.model_copy(update={"net_returns": [0.75]}) for each in own.stress
    ]})  # fmt: skip
    facts = Provenance("d" * 20, "d" * 20, "0123456789", "abcdefghij", 0.123, same_bundle=True)
    said = {each.name: (each.found, each.required) for each in judge(found, alone, ONE, facts)}
    deflated = said.pop("deflated Sharpe ratio, 1 trials (luck alone: 0.00)")
    assert deflated == (f"{deflated_sharpe(moments_of(found), 1, 0.0):.3f}", "> 0.95")
    late = "at 2 times the costs, 1 bar late"
    assert said == {
        "walk-forward of this version, out of sample": ("5 seeds, 2 windows", "evaluated"),
        "Sharpe ratio less that of flat, lower 95.0% bound": ("+1.23", "> 0"),
        f"net return {late}": ("+50.0%", "> 0%"),
        "costs charged for a unit traded, share of the first price": (
            "0.200%",
            ">= 0.010%, or quoted in 99% of bars",
        ),
        "largest drawdown of the worst seed": ("12.5%", "<= 35%"),
        "trades of each seed": ("77", ">= 30"),
        "seeds": ("5", ">= 5"),
        "net return, interquartile mean over seeds": ("+25.0%", "> 0%"),
        f"its own weights {late}": ("+75.0%", "> 0%"),
        "golden Q-values, difference as a share of what may be": ("0.12", "<= 1"),
        "evaluated on the data it was trained on": ("d" * 12, "d" * 12),
        "trained and evaluated by code that is known": ("01234567, abcdefgh", "not dirty"),
    }


@pytest.mark.parametrize(
    "findings_changes, facts_changes, name, found",
    [
        ({"in_sample": True}, {}, "walk-forward of this", "in sample"),
        ({}, {"same_bundle": False}, "walk-forward of this", "of another bundle"),
        ({"charged": None}, {}, "costs charged", "undefined"),
        ({"sharpe_a_bar": None}, {}, "deflated", "undefined"),
        ({}, {"evaluated_data": ""}, "evaluated on", "unknown"),
        ({}, {"code": "0123456789-dirty"}, "trained and", "01234567-dirty, abc"),
        ({}, {"code": ""}, "trained and", "unknown, abc"),
        ({}, {"code": "abc"}, "trained and", "abc"),
    ],
)
def test_what_was_found_is_named_where_it_is_not_a_number(
    good: Findings,
    own: Findings,
    findings_changes: dict[str, Any],
    facts_changes: dict[str, Any],
    name: str,
    found: str,
) -> None:
    changed = good.model_copy(update=findings_changes)
    conditions = judge(changed, own, ONE, GOOD._replace(**facts_changes))
    (said,) = [each.found for each in conditions if each.name.startswith(name)]
    assert said == found
    (none,) = [
        each.found for each in judge(None, own, ONE, GOOD) if each.name.startswith("walk-forward")
    ]
    assert none == "none"


def test_ruined_seeds_are_counted(good: Findings, own: Findings) -> None:
    ruined = [{**each, "ruined": float(i < 2)} for i, each in enumerate(good.measures)]
    conditions = judge(good.model_copy(update={"measures": ruined}), own, ONE, GOOD)
    (said,) = [each for each in conditions if not each.passed]
    assert said.name.startswith("largest drawdown")
    assert said.found.endswith(", 2 ruined")


def test_an_estimate_without_skill_varies_by_at_least_its_own_error(
    good: Findings, own: Findings
) -> None:
    """1 / (n - 1): of ten bars 1/9, whatever little the trials differ by; more counts as it is."""
    few = good.model_copy(update={"count": 10, "bars_a_year": 100.0})
    for variance, used in ((0.0, 1 / 9), (1 / 9.5, 1 / 9), (0.25, 0.25)):
        trials = Trials(50, variance, {"dqn": 50})
        hurdle = expected_best_sharpe(50, used) * 10
        name = f"deflated Sharpe ratio, 50 trials (luck alone: {hurdle:.2f})"
        (condition,) = [each for each in judge(few, own, trials, GOOD) if each.name == name]
        assert condition.found == f"{deflated_sharpe(moments_of(few), 50, used):.3f}"


@pytest.mark.parametrize(
    "changes, bound",
    [
        ({"difference_bounds": 0.3}, "sharpe_difference"),
        ({"charged": 0.3}, "cost"),
        ({"max_drawdown": 0.3}, "max_drawdown"),
        ({"trades": 30.0}, "trades"),
    ],
)
def test_a_bound_itself(
    good: Findings, own: Findings, changes: dict[str, float], bound: str
) -> None:
    """What is exactly at a bound fulfils `>=` and `<=`, and not `>`."""
    ((name, value),) = changes.items()
    changed: dict[str, Any] = {name: value}
    if name == "difference_bounds":
        changed = {name: dict.fromkeys(good.difference_bounds, value)}
    elif name in ("max_drawdown", "trades"):
        changed = {"measures": [{**each, name: value} for each in good.measures]}
    found = good.model_copy(update=changed)
    at = Policy.model_validate({bound: value})
    assert passed(judge(found, own, ONE, GOOD, at)) == (bound != "sharpe_difference")


def test_nothing_gained_is_not_enough(good: Findings, own: Findings) -> None:
    zero = [each.model_copy(update={"net_returns": [0.0] * 5}) for each in good.stress]
    for walked, alone, name in (
        (good.model_copy(update={"seed_mean": 0.0}), own, "net return, interquartile"),
        (good.model_copy(update={"stress": zero}), own, "net return at"),
        (good, own.model_copy(update={"stress": [
            each.model_copy(update={"net_returns": [0.0]}) for each in own.stress
        ]}), "its own weights"),
    ):  # fmt: skip
        (condition,) = failed(judge(walked, alone, ONE, GOOD))
        assert condition.startswith(name)
    assert passed(judge(good, own, ONE, GOOD._replace(golden_error=1.0)))


@pytest.mark.parametrize(
    "charged, quoted, passes",
    [
        (0.00008, 1.0, True),  # EUR/USD with its recorded spread
        (0.00008, 0.99, True),
        (0.00008, 0.9899, False),
        (0.00008, 0.0, False),
        (0.0001, 0.0, True),
        (0.0, 1.0, False),
        (None, 1.0, False),
    ],
)
def test_quoted_costs_count_where_nearly_every_bar_has_a_spread(
    good: Findings, own: Findings, charged: float | None, quoted: float, passes: bool
) -> None:
    found = good.model_copy(update={"charged": charged, "quoted": quoted})
    (condition,) = [each for each in judge(found, own, ONE, GOOD) if "costs charged" in each.name]
    assert condition.passed == passes
    assert "or quoted in 99% of bars" in condition.required
    if quoted and charged is not None:
        assert f"quoted in {quoted:.1%} of bars" in condition.found


@pytest.mark.parametrize("zeros, share", [(0, 1.0), (1, 1 - 1 / 200), (150, 0.25)])
def test_the_share_of_bars_with_a_quoted_spread_is_found_on_the_judged_bars(
    zeros: int, share: float
) -> None:
    walk = RandomWalk().bars(400, seed=1).table
    half = pl.Series(np.where(np.arange(400) < 200 + zeros, 0.0, 0.01))
    quoted = walk.with_columns(bid=pl.col("close") - half, ask=pl.col("close") + half)
    bars = Bars.of("quoted", quoted)
    features = FeaturePipeline.fit(bars, FeatureSettings())
    table = MarketTable.of(bars, features, MarketSettings()).last(200)
    assert table.quoted.mean() == pytest.approx(share)
    fixed = MarketTable.of(bars, features, MarketSettings(half_spread=0.01)).last(200)
    assert fixed.quoted.mean() == 0
