"""May this version become champion? A list of conditions, each passed or failed with its number.

Conditions fail where a number is undefined or missing: what cannot be shown is not assumed.
"""

import math
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import Field, ValidationError, field_validator

from durable.settings import Fault, Settings
from evaluation.assessment import LEVELS, MULTIPLES, Findings
from evaluation.statistics import Moments, deflated_sharpe, expected_best_sharpe, interquartile_mean
from evaluation.trials import Trials
from market.terms import Sizing
from models.promotion import Condition

CHARGED: dict[Sizing, str] = {
    "unit": "costs charged for a unit traded, share of the first price",
    "notional": "costs charged, share of the money traded",
    "equity": "costs charged, share of the money traded",
}
# Share of the bars with a quoted spread above zero, from which on quotes are believed.
QUOTED = 0.99


class BadPolicy(ValueError):
    """A policy file that cannot be used. The message names the file, the condition and the fault."""

    exit_code = 2


class Policy(Settings):
    """What a version must fulfil, in the file that `--policy` names."""

    confidence: float = Field(
        0.95, description=f"of the bound below, one-sided; one of {', '.join(map(str, LEVELS))}"
    )
    sharpe_difference: float = Field(
        0.0,
        description="lower bound of the annual Sharpe difference to the better of flat and hold",
    )
    deflated_sharpe: float = Field(0.95, ge=0, le=1, description="probability, after all trials")
    cost_multiple: float = Field(
        2.0,
        description=f"of the costs under stress; one of {', '.join(f'{m:g}' for m in MULTIPLES)}",
    )
    late: int = Field(1, ge=0, le=1, description="bars that fills are late under stress")
    cost: float = Field(
        0.0001,
        ge=0,
        description="charged for a unit traded on average, as a share of the first price (of one unit) "
        "or of the money traded",
    )
    max_drawdown: float = Field(0.35, gt=0, description="of the worst seed, share of the peak")
    trades: int = Field(30, ge=0, description="of the seed with the fewest")
    seeds: int = Field(5, ge=1, description="agents, whose interquartile mean must be above zero")

    @field_validator("confidence")
    @classmethod
    def _known_level(cls, value: float) -> float:
        if value not in LEVELS:
            raise ValueError(f"must be one of {', '.join(map(str, LEVELS))}")
        return value

    @field_validator("cost_multiple")
    @classmethod
    def _known_multiple(cls, value: float) -> float:
        if value not in MULTIPLES:
            raise ValueError(f"must be one of {', '.join(f'{m:g}' for m in MULTIPLES)}")
        return value

    @property
    def changes(self) -> str:
        """Values that are not the defaults, for the record; of the defaults nothing."""
        changed = {name: value for name, value in self if value != getattr(Policy(), name)}
        return ", ".join(f"{name} = {value:g}" for name, value in changed.items())

    @classmethod
    def load(cls, path: Path | None) -> "Policy":
        """The policy of a TOML file; without one the defaults.

        Raises `BadPolicy` where it cannot be read, or is not a policy.
        """
        if path is None:
            return cls()
        try:
            return cls.model_validate(tomllib.loads(path.read_text()))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise BadPolicy(f"policy {path}: cannot be read as TOML ({reason})") from error
        except ValidationError as error:
            fault = Fault.of(error)
            reason = fault.reason
            if fault.kind == "extra_forbidden":
                reason = f"no such condition; there are {', '.join(cls.model_fields)}"
            raise BadPolicy(f"policy {path}: {fault.path}: {reason}") from error


class Provenance(NamedTuple):
    """What is known of a version beside its figures."""

    data_hash: str  # of the bundle
    evaluated_data: str  # of the bars that it was evaluated on
    code: str  # that trained it
    walked_by: str  # code that evaluated it
    golden_error: float  # largest difference of a golden Q-value, as a share of what may be
    same_bundle: bool  # the evaluation was of this very bundle


def judge(
    walk_forward: Findings | None,
    own: Findings | None,
    trials: Trials,
    facts: Provenance,
    policy: Policy | None = None,
) -> list[Condition]:
    """All conditions, in the order of a report.

    Args:
        walk_forward: of agents trained anew with the version's settings, out of sample.
        own: of the version's own weights on its validation bars.
        trials: all configurations that were scored on these data.
        facts: what else is known.
        policy: what is required.
    """
    policy = policy or Policy()
    made = [
        Condition(
            "walk-forward of this version, out of sample",
            walk_forward is not None and not walk_forward.in_sample and facts.same_bundle,
            _state(walk_forward, facts),
            "evaluated",
        )
    ]
    if walk_forward is not None:
        made += _of_walk_forward(walk_forward, trials, policy)
    made += [_own(own, policy), *_of_facts(facts)]
    return made


def passed(conditions: Sequence[Condition]) -> bool:
    """Whether all are fulfilled, and there are any."""
    return bool(conditions) and all(condition.passed for condition in conditions)


def _state(walk_forward: Findings | None, facts: Provenance) -> str:
    if walk_forward is None:
        return "none"
    if not facts.same_bundle:
        return "of another bundle"
    if walk_forward.in_sample:
        return "in sample"
    sizing = "" if walk_forward.sizing == "unit" else f", sizing {walk_forward.sizing}"
    return f"{len(walk_forward.seeds)} seeds, {len(walk_forward.windows[0])} windows{sizing}"


def _of_walk_forward(found: Findings, trials: Trials, policy: Policy) -> list[Condition]:
    level = f"{policy.confidence:g}"
    bound = _value(found.difference_bounds[level], math.nan)
    year = found.bars_a_year**0.5
    moments = moments_of(found)
    # Trials that are alike say little of luck: an estimate without skill varies by at least this much,
    # and by more where returns are positively autocorrelated.
    variance = max(trials.variance, max(1.0, moments.dependence) / (found.count - 1))
    deflated = deflated_sharpe(moments, trials.number, variance)
    hurdle = expected_best_sharpe(trials.number, variance) * year
    stress = found.stressed(policy.cost_multiple, policy.late)
    stressed = interquartile_mean(stress.net_returns)
    charged = _value(found.charged, math.nan)
    quoted = f", quoted in {found.quoted:.1%} of bars" if found.quoted else ""
    worst = max(_value(each["max_drawdown"], 1.0) for each in found.measures)
    ruined = sum(bool(each["ruined"]) for each in found.measures)
    fewest = min(_value(each["trades"], 0.0) for each in found.measures)
    return [
        Condition(
            f"Sharpe ratio less that of {found.better}, lower {policy.confidence:.1%} bound",
            bound > policy.sharpe_difference,
            "undefined" if math.isnan(bound) else f"{bound:+.2f}",
            f"> {policy.sharpe_difference:g}",
        ),
        Condition(
            f"deflated Sharpe ratio, {trials.number} trials (luck alone: {hurdle:.2f})",
            deflated > policy.deflated_sharpe,
            "undefined" if math.isnan(deflated) else f"{deflated:.3f}",
            f"> {policy.deflated_sharpe:g}",
        ),
        Condition(
            f"net return at {policy.cost_multiple:g} times the costs, {policy.late} bar late",
            stressed > 0,
            f"{stressed:+.1%}",
            "> 0%",
        ),
        Condition(
            CHARGED[found.sizing],
            charged >= policy.cost or (charged > 0 and found.quoted >= QUOTED),
            "undefined" if math.isnan(charged) else f"{charged:.3%}{quoted}",
            f">= {policy.cost:.3%}, or quoted in {QUOTED:.0%} of bars",
        ),
        Condition(
            "largest drawdown of the worst seed",
            worst <= policy.max_drawdown and not ruined,
            f"{worst:.1%}" + (f", {ruined} ruined" if ruined else ""),
            f"<= {policy.max_drawdown:.0%}",
        ),
        Condition(
            "trades of each seed", fewest >= policy.trades, f"{fewest:.0f}", f">= {policy.trades}"
        ),
        Condition(
            "seeds", len(found.seeds) >= policy.seeds, f"{len(found.seeds)}", f">= {policy.seeds}"
        ),
        Condition(
            "net return, interquartile mean over seeds",
            found.seed_mean > 0,
            f"{found.seed_mean:+.1%}",
            "> 0%",
        ),
    ]


def _own(own: Findings | None, policy: Policy) -> Condition:
    name = f"its own weights at {policy.cost_multiple:g} times the costs, {policy.late} bar late"
    if own is None:
        return Condition(name, passed=False, found="not evaluated", required="> 0%")
    (net,) = own.stressed(policy.cost_multiple, policy.late).net_returns
    return Condition(name, net > 0, f"{net:+.1%}", "> 0%")


def _of_facts(facts: Provenance) -> list[Condition]:
    codes = (facts.code, facts.walked_by)
    known = all(code and not code.endswith("-dirty") for code in codes)
    named = [
        f"{code.removesuffix('-dirty')[:8]}{'-dirty' if code.endswith('-dirty') else ''}"
        or "unknown"
        for code in codes
    ]
    return [
        Condition(
            "golden Q-values, difference as a share of what may be",
            facts.golden_error <= 1,
            f"{facts.golden_error:.2g}",
            "<= 1",
        ),
        Condition(
            "evaluated on the data it was trained on",
            bool(facts.data_hash) and facts.data_hash == facts.evaluated_data,
            facts.evaluated_data[:12] or "unknown",
            facts.data_hash[:12] or "known",
        ),
        Condition(
            "trained and evaluated by code that is known",
            known,
            ", ".join(dict.fromkeys(named)),
            "not dirty",
        ),
    ]


def moments_of(found: Findings) -> Moments:
    """The moments of the typical seed's returns; NaN where undefined."""
    nan = float("nan")
    return Moments(
        _value(found.sharpe_a_bar, nan),
        found.count,
        _value(found.skew, nan),
        _value(found.kurtosis, nan),
        _value(found.dependence, nan),
    )


def _value(number: float | None, missing: float) -> float:
    return missing if number is None else number
