"""The gate: every condition on its own, what is undefined, and policies."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evaluation.assessment import Findings, PositionTrack, assess
from evaluation.gate import BadPolicy, Policy, judge, moments_of, passed
from evaluation.report import _sentences, verdict
from evaluation.trials import Trials
from market.accounting import Fill, MarketSettings
from market.features import FeaturePipeline
from market.synthetic import RandomWalk
from market.table import MarketTable
from tests.support.bars import bars_of
from tests.support.gated import GOOD, LAW, ONE, failed, findings, own_of, track


@pytest.fixture(scope="module")
def good() -> Findings:
    return findings(track(LAW))


@pytest.fixture(scope="module")
def own(good: Findings) -> Findings:
    return own_of(good)


def test_a_real_edge_passes(good: Findings, own: Findings) -> None:
    conditions = judge(good, own, ONE, GOOD)
    assert failed(conditions) == []
    assert passed(conditions)
    assert len(conditions) == 13


def test_noise_fails(own: Findings) -> None:
    conditions = judge(findings(track(RandomWalk(), edge=False)), own, ONE, GOOD)
    assert not passed(conditions)
    names = " ".join(failed(conditions))
    for part in ("Sharpe ratio less that of", "deflated", "2 times the costs"):
        assert part in names


def test_nothing_is_not_enough() -> None:
    conditions = judge(None, None, Trials(0, 0.0, {}), GOOD)
    assert failed(conditions)[0].startswith("walk-forward")
    assert any("its own weights" in name for name in failed(conditions))
    assert not passed([])


BROKEN: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "out of sample": ({"in_sample": True}, {}),
    "Sharpe ratio less that": ({"difference_bounds": {"0.95": 0.0}}, {}),
    "less that of": ({"difference_bounds": {"0.95": None}}, {}),
    "deflated": ({"sharpe_a_bar": 0.001}, {}),
    "deflated Sharpe": ({"dependence": 400.0}, {}),
    "costs charged": ({"charged": 0.00009}, {}),
    "charged for a unit": ({"charged": None}, {}),
    "drawdown": ({"measures": {"max_drawdown": 0.36}}, {}),
    "worst seed": ({"measures": {"ruined": 1.0}}, {}),
    "trades": ({"measures": {"trades": 29.0}}, {}),
    "seeds": ({"seeds": [1, 2, 3, 4]}, {}),
    "net return, interquartile": ({"seed_mean": -0.0001}, {}),
    "late": ({"stress": -0.1}, {}),
    "walk-forward of this version": ({}, {"same_bundle": False}),
    "golden": ({}, {"golden_error": 1.1}),
    "data it was trained on": ({}, {"evaluated_data": "others"}),
    "data it was": ({}, {"data_hash": "", "evaluated_data": ""}),
    "code": ({}, {"code": "abc-dirty"}),
    "code that is known": ({}, {"code": ""}),
    "evaluated by code": ({}, {"walked_by": "abc-dirty"}),
}


@pytest.mark.parametrize("name", BROKEN)
def test_each_condition_alone_says_no(good: Findings, own: Findings, name: str) -> None:
    of_findings, of_facts = BROKEN[name]
    changes: dict[str, Any] = dict(of_findings)
    if "measures" in changes:  # of one seed of five
        last = {**good.measures[-1], **changes["measures"]}
        changes["measures"] = [*good.measures[:-1], last]
    if "stress" in changes:
        less = [changes["stress"]] * 5
        changes["stress"] = [each.model_copy(update={"net_returns": less}) for each in good.stress]
    conditions = judge(good.model_copy(update=changes), own, ONE, GOOD._replace(**of_facts))
    assert len(failed(conditions)) == 1
    assert name in failed(conditions)[0]
    assert not passed(conditions)


def test_what_is_undefined_fails(good: Findings, own: Findings) -> None:
    undefined = {"sharpe_a_bar": None, "skew": None, "kurtosis": None}
    conditions = judge(good.model_copy(update=undefined), own, ONE, GOOD)
    assert [each.found for each in conditions if not each.passed] == ["undefined"]
    lost = [{**each, "max_drawdown": None, "trades": None} for each in good.measures]
    conditions = judge(good.model_copy(update={"measures": lost}), own, ONE, GOOD)
    assert [each.found for each in conditions if not each.passed] == ["100.0%", "0"]


def test_trials_raise_the_bar(good: Findings, own: Findings) -> None:
    bar = good.model_copy(update={"sharpe_a_bar": 0.06})
    assert passed(judge(bar, own, ONE, GOOD))
    many = Trials(50, 0.03**2, {"dqn": 50})
    assert "deflated Sharpe ratio, 50 trials" in failed(judge(bar, own, many, GOOD))[0]


def test_divisions_of_time_are_trials(good: Findings, own: Findings) -> None:
    """Walking one configuration again and again is no way around."""
    trials = Trials.of({"a": [0.01]}, {"a": "dqn"}, further=[0.01, 0.012, 0.011])
    assert trials.number == 4
    low = good.model_copy(update={"sharpe_a_bar": 0.05})
    assert passed(judge(low, own, ONE, GOOD))
    (name,) = failed(judge(low, own, trials, GOOD))
    assert "4 trials" in name
    assert "luck alone: 0.00" not in name


def test_policies(tmp_path: Path, good: Findings, own: Findings) -> None:
    path = tmp_path / "gate.toml"
    path.write_text("trades = 1_000_000\nconfidence = 0.8\ncost_multiple = 5\nlate = 0\n")
    policy = Policy.load(path)
    conditions = judge(good, own, ONE, GOOD, policy)
    assert any(name.startswith("trades") for name in failed(conditions))
    assert any("80.0%" in each.name for each in conditions)
    assert any("5 times the costs, 0 bar" in each.name for each in conditions)
    assert Policy.load(None) == Policy()
    assert Policy().changes == ""
    assert policy.changes == "confidence = 0.8, cost_multiple = 5, late = 0, trades = 1e+06"
    for text, said in {
        "trades = -1": "trades: Input should be greater than or equal to 0",
        "confidence = 0.7": "confidence: must be one of 0.8, 0.9, 0.95, 0.975, 0.99",
        "cost_multiple = 2.2": "cost_multiple: must be one of 0, 0.5, 1",
        "sharpe = 1": "sharpe: no such condition; there are confidence, sharpe_difference",
        "trades = ": "cannot be read as TOML",
    }.items():
        path.write_text(text)
        with pytest.raises(BadPolicy, match=said) as refused:
            Policy.load(path)
        assert str(refused.value).startswith(f"policy {path}")
    with pytest.raises(BadPolicy, match=r"cannot be read as TOML \(No such file or directory\)$"):
        Policy.load(tmp_path / "none.toml")


def test_the_committed_policy_is_the_default() -> None:
    assert Policy.load(Path(__file__).parents[2] / "evaluation/gate.toml") == Policy()


def test_findings_survive_json(good: Findings) -> None:
    assert Findings.model_validate_json(good.model_dump_json()) == good


def test_findings_of_before_are_judged_as_they_were(good: Findings, own: Findings) -> None:
    """Stored without `dependence`: the probability of independent returns."""
    stored = good.model_dump(mode="json")
    del stored["dependence"]
    read = Findings.model_validate(stored)
    assert read.dependence == 1
    assert moments_of(read) == moments_of(good)._replace(dependence=1.0)
    assert passed(judge(read, own, ONE, GOOD))


def test_luck_is_worth_more_where_returns_are_autocorrelated(good: Findings, own: Findings) -> None:
    """The hurdle of several trials follows the variance of an estimate without skill."""
    trials = Trials(20, 0.0, {"dqn": 20})

    def hurdle(dependence: float) -> float:
        found = good.model_copy(update={"dependence": dependence})
        (name,) = (each.name for each in judge(found, own, trials, GOOD) if "luck" in each.name)
        return float(name.partition("luck alone: ")[2].rstrip(")"))

    assert hurdle(4.0) == pytest.approx(2 * hurdle(1.0), rel=1e-2)
    assert hurdle(0.25) == hurdle(1.0)


def test_a_report_has_one_interval_for_one_difference(good: Findings) -> None:
    """The verdict spoke of all seeds and the list beneath the figures of one, in the same words."""
    assert good.better == "buy and hold"
    words = " ".join([verdict([], good), *_sentences(good)])
    found = re.findall(r"Sharpe ratio less that of buy and hold is (\S+ to [^\s:]+)", words)
    assert len(found) == 2
    assert len(set(found)) == 1
    assert words.count("over all seeds the Sharpe ratio less") == 2
    assert good.intervals["sharpe_difference"] == good.intervals["sharpe_difference_to_hold"]


def test_agents_that_never_trade_have_no_interval_of_a_ratio() -> None:
    still = track(LAW)
    still = replace(still, positions=np.zeros_like(still.positions))
    found = findings(still)
    assert found.intervals["sharpe"] is None
    assert found.dependence is None
    assert found.probabilistic_sharpe is None
    assert "Sharpe ratio -;" in " ".join(_sentences(found))
    assert Findings.model_validate_json(found.model_dump_json()) == found
    (deflated,) = (
        each for each in judge(found, None, Trials(20, 0.0, {}), GOOD) if "luck" in each.name
    )
    assert (deflated.passed, deflated.found) == (False, "undefined")
    assert "nan" not in deflated.name


def test_findings_say_what_was_seen(good: Findings) -> None:
    assert good.kind == "walk-forward"
    assert len(good.measures) == 5
    assert good.random_percentile == 1
    nets = [each["net_return"] or 0.0 for each in good.measures]
    assert (good.baselines["perfect foresight"]["net_return"] or 0.0) > max(nets)
    typical = [each["sharpe"] or 0.0 for each in good.measures]
    assert len(set(typical)) == 5
    assert typical[good.typical] == sorted(typical)[2]
    once = good.stressed(1, 0)
    assert once.net_returns == [each["net_return"] for each in good.measures]
    by_costs = np.array([good.stressed(m, 0).net_returns for m in (0, 1, 2, 5)])
    assert (np.diff(by_costs, axis=0) < 0).all()
    assert good.variations["at the close"]["net_return"] == once.net_returns[good.typical]
    assert set(good.variations) == {
        "at the close",
        "at the close, one bar late",
        "at the next open",
        "at the next open, one bar late",
    }
    bounds = [
        good.difference_bounds[level] or np.nan for level in ("0.8", "0.9", "0.95", "0.975", "0.99")
    ]
    assert bounds == sorted(bounds, reverse=True)
    low, high = good.intervals["sharpe_difference"] or (np.nan, np.nan)
    assert low == pytest.approx(good.difference_bounds["0.95"])  # one definition of it
    assert low < high
    with pytest.raises(ValueError, match="costs times 7"):
        good.stressed(7, 0)


def test_a_trade_carried_over_a_windows_edge_earns_in_each_what_it_earned_there() -> None:
    """Long over both edges, bought once: the fee is the first window's, each share its own price's."""
    close = np.array([90.0, *[100.0] * 9, 100, 110, 120, 121, 121, 132, 143])
    path = bars_of(close, close)
    fills: tuple[Fill, ...] = ("close", "next_open")
    tables = {
        fill: MarketTable.of(
            path, FeaturePipeline.fit(path), MarketSettings(fill=fill, half_spread=1.0)
        )
        for fill in fills
    }
    steps = len(close) - 2
    held = np.array([[0] * 9 + [1] * (steps - 9), [0] * steps], np.int8)
    volume, edges = np.ones(steps + 1), [0, 10, 12, steps]  # closes of 110 and 121 begin the others
    made = PositionTrack("walk-forward", tables, "close", held, [1, 2], edges, volume)
    found = assess(made, draws=5, random_draws=2).findings
    # bought at 100 for 1: 110 - 100 - 1; from 110 to 121; from 121 to 143
    np.testing.assert_allclose(found.windows[0], [9 / 100, 11 / 110, 22 / 121])
    np.testing.assert_array_equal(found.windows[1], [0, 0, 0])


def test_windows_add_up_to_the_whole(good: Findings) -> None:
    of = track(LAW)
    run = assess(of, draws=2, random_draws=1)
    first = run.track.table.close[list(of.edges[:-1])]
    for row, each in zip(run.findings.windows, run.runs, strict=True):
        assert (np.array(row) * first).sum() == pytest.approx(each.net.sum())
