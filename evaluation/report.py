"""One self-contained HTML page: the verdict first, in words, then everything it rests on."""

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from evaluation import charts
from evaluation.assessment import Assessment, Findings
from evaluation.evaluate import Evaluated, Evaluation
from evaluation.gate import passed
from market.terms import Sizing
from models.bundle import Bundle
from models.configuration import flatten
from models.promotion import Condition

UNDEFINED = "-"
MEASURES = (
    ("net return", "net_return", "{:+.1%}"),
    ("gross return", "gross_return", "{:+.1%}"),
    ("costs", "cost", "{:.1%}"),
    ("Sharpe ratio, annual", "sharpe", "{:+.2f}"),
    ("Sortino ratio, annual", "sortino", "{:+.2f}"),
    ("largest drawdown", "max_drawdown", "{:.1%}"),
    ("longest drawdown, bars", "drawdown_bars", "{:,.0f}"),
    ("Calmar ratio", "calmar", "{:+.2f}"),
    ("trades", "trades", "{:,.0f}"),
    ("turnover, units a bar", "turnover", "{:.4f}"),
    ("exposure", "exposure", "{:.1%}"),
    ("hit rate", "hit_rate", "{:.1%}"),
    ("profit factor", "profit_factor", "{:.2f}"),
    ("mean holding time, bars", "holding_bars", "{:,.1f}"),
    ("action entropy, bits", "action_entropy", "{:.2f}"),
    ("break-even, times the costs", "break_even", "{:.2f}"),
)
SIZES: dict[Sizing, str] = {
    "unit": "sizing unit",
    "notional": "sizing notional (a constant amount of money)",
    "equity": "sizing equity (a share of the account)",
}
TITLES = {
    "walk-forward": "Walk-forward: trained anew in every window, judged on the bars after it",
    "validation": "The version itself, on the validation bars that it was chosen on",
    "test": "The version itself, on the test bars",
    "train": "The version itself, on bars that it was trained on",
    "bars": "The version itself, on other bars",
}


def verdict(conditions: Sequence[Condition], walked: Findings | None) -> str:
    """What came out, in words, after yes or no."""
    if walked is None:
        return "Without a walk-forward nothing is known of bars that it has not seen."
    failed = sum(not each.passed for each in conditions)
    said = f"It fulfils all {len(conditions)} conditions."
    if failed:
        said = f"It fails {failed} of {len(conditions)} conditions."
    typical = walked.measures[walked.typical]
    hold = walked.baselines["buy and hold"]
    difference = walked.intervals["sharpe_difference"]
    over = "over all seeds the" if len(walked.seeds) > 1 else "the"
    return (
        f"{said} Out of sample and net of costs, the typical of {len(walked.seeds)} seeds made "
        f"{formatted(typical['net_return'], '{:+.1%}')} where buy and hold made "
        f"{formatted(hold['net_return'], '{:+.1%}')}; {over} Sharpe ratio less that of "
        f"{'holding nothing' if walked.better == 'flat' else 'buy and hold'} is "
        f"{_between(difference, '{:+.2f}')} (90% interval)."
    )


def misleading(found: Findings) -> str | None:
    """What is to be said where an account of one unit misleads; None where it does not."""
    if found.equity_sized is None:
        return None
    agent = found.equity_sized["agent"]
    hold = found.equity_sized["buy and hold"]
    figures = [
        f"{formatted(each['net_return'], '{:+.1%}')} "
        f"(drawdown {formatted(each['max_drawdown'], '{:.1%}')})"
        for each in (agent, hold)
    ]
    return (
        f"The highest price of these bars is {found.price_range:.3g} times the lowest, so that an "
        "account of one unit, funded with its first price, misleads here: what a unit is of the account "
        "changes with the price. As a share of the account the same positions made "
        f"{figures[0]} where buy and hold made {figures[1]}."
    )


def page(evaluated: Evaluated, conditions: Sequence[Condition]) -> str:
    """The report as HTML that needs no other file and no script."""
    evaluation = evaluated.evaluation
    found = [each for each in (evaluated.walk_forward, evaluated.own) if each is not None]
    environment = Environment(
        loader=PackageLoader("evaluation", ""), autoescape=True, undefined=StrictUndefined
    )
    return environment.get_template("report.html.jinja").render(
        name=f"{evaluation.model} v{evaluation.version}",
        bars=evaluated.own.findings.bars.split("/")[0],
        answer=_answer(evaluation, conditions),
        words=verdict(conditions, evaluation.walk_forward),
        warnings=[
            *(warning for each in found for warning in _warnings(each.findings)),
            *evaluation.notes,
        ],
        conditions=conditions,
        tracks=[_track(each) for each in found],
        q_values=Markup(charts.q_values(evaluated.bundle)),  # noqa: S704 - ours, labels escaped
        evaluation=evaluation,
        tried=_tried(evaluation),
        known=list(_known(evaluation, evaluated.bundle).items()),
    )


def _answer(evaluation: Evaluation, conditions: Sequence[Condition]) -> str:
    if evaluation.walk_forward is None:
        return "Not judged"
    return "Yes" if passed(conditions) else "No"


def _warnings(found: Findings) -> list[str]:
    where = TITLES[found.kind].split(":")[0]
    said = []
    if found.in_sample:
        said.append(
            f"{where}: in sample. It was trained in the time of these bars, and looks too good."
        )
    ruined = sum(bool(each["ruined"]) for each in found.measures)
    if ruined:
        of = f" in {ruined} of {len(found.measures)} seeds" if len(found.measures) > 1 else ""
        said.append(f"{where}: ruined{of}. Equity fell to the floor; ratios are undefined.")
    if (misled := misleading(found)) is not None:
        said.append(f"{where}: {misled[0].lower()}{misled[1:]}")
    if not any(each["trades"] for each in found.measures):
        said.append(f"{where}: no trade was made; ratios are undefined.")
    return said


def _track(found: Assessment) -> dict[str, Any]:
    """What the template needs of a track."""
    findings = found.findings
    several = len(findings.seeds) > 1
    columns: dict[str, Mapping[str, float | None]] = {
        "typical seed" if several else "agent": findings.measures[findings.typical],
        **findings.baselines,
    }
    forms = {key: form for _, key, form in MEASURES}
    shown = ("net_return", "sharpe", "max_drawdown", "cost")
    return {
        "title": TITLES[findings.kind],
        "in_sample": findings.in_sample,
        "about": f"{findings.first} to {findings.last} UTC, {findings.count:,} bars "
        f"({findings.calendar}); fills at {findings.fill}, {SIZES[findings.sizing]}, {findings.costs}",
        "equity": Markup(charts.equity(found)),  # noqa: S704
        "positions": Markup(charts.positions(found)),  # noqa: S704
        "costs": Markup(charts.cost_curve(found)),  # noqa: S704
        "heads": ["", *columns],
        "measures": [
            [label, *(formatted(each[key], form) for each in columns.values())]
            for label, key, form in MEASURES
        ],
        "sentences": _sentences(findings),
        "equity_sized": [
            ["typical seed" if name == "agent" and several else name]
            + [formatted(each[key], forms[key]) for key in shown]
            for name, each in (findings.equity_sized or {}).items()
        ],
        "variations": [
            [name, *(formatted(each[key], forms[key]) for key in shown)]
            for name, each in findings.variations.items()
        ],
        "months": _months(found),
        "window_heads": [
            "",
            *(f"window {n}" for n in range(1, len(findings.windows[0]) + 1)),
            "together",
        ],
        "windows": _windows(findings) if len(findings.windows[0]) > 1 else [],
    }


def _sentences(found: Findings) -> list[str]:
    """Intervals, and what else is one number."""
    sharpe, difference, net, fall = (
        found.intervals[key]
        for key in ("sharpe", "sharpe_difference_to_hold", "net_return", "max_drawdown")
    )
    needed = "no number of such bars is enough to say so at 95%"
    if found.minimum_track_record is not None:
        needed = f"to say so at 95% takes {found.minimum_track_record:,.0f} bars of {found.count:,}"
    over = "over all seeds the" if len(found.seeds) > 1 else "the"
    said = [
        f"Sharpe ratio {_between(sharpe, '{:+.2f}')}; {over} Sharpe ratio less that of buy and hold is "
        f"{_between(difference, '{:+.2f}')}: 90% intervals. They hold for returns that depend on one "
        f"another; the first ratio's variance is {formatted(found.dependence, '{:.2f}')} times that of "
        "independent ones.",
        f"Net return {_between(net, '{:+.1%}')}, largest drawdown {_between(fall, '{:.1%}')}: 90% "
        f"intervals of a stationary bootstrap in blocks of {found.block} bars on average.",
        "Probability that the true Sharpe ratio is above zero: "
        f"{formatted(found.probabilistic_sharpe, '{:.3f}')}; {needed}.",
    ]
    if found.random_percentile is not None:
        said.append(
            f"Better than {found.random_percentile:.1%} of random policies that trade as much, whose "
            f"median is {formatted(found.random_middle, '{:+.1%}')}."
        )
    if len(found.seeds) > 1:
        low, high = found.seed_interval
        said.append(
            f"Net return, interquartile mean over {len(found.seeds)} seeds: {found.seed_mean:+.1%}; of a "
            f"seed in a window {low:+.1%} to {high:+.1%} (95% stratified bootstrap)."
        )
    capacity = "not known, for these bars have no volume or nothing was traded"
    if found.capacity is not None:
        capacity = (
            f"about {found.capacity:,.3g} units a trade, 1% of the median volume of bars traded in"
        )
    return [*said, f"Capacity: {capacity}."]


def _months(found: Assessment) -> list[tuple[int, list[float | None]]]:
    """Net earnings of the typical seed in each month, as shares of the equity at its start."""
    run = found.typical
    steps = pl.DataFrame({"time": run.table.time[1:], "net": run.net, "before": run.equity[:-1]})
    months = steps.group_by(
        year=pl.col("time").dt.year(), month=pl.col("time").dt.month(), maintain_order=True
    ).agg(pl.col("net").sum(), pl.col("before").first())
    cells = {
        (year, month): net / before if before > 0 else None
        for year, month, net, before in months.iter_rows()
    }
    years = sorted({year for year, _ in cells})
    return [(year, [cells.get((year, month)) for month in range(1, 13)]) for year in years]


def _windows(found: Findings) -> list[tuple[str, list[float | None]]]:
    rows: list[tuple[str, list[float | None]]] = []
    for index, (seed, values) in enumerate(zip(found.seeds, found.windows, strict=True)):
        name = f"seed {seed}, typical" if index == found.typical else f"seed {seed}"
        rows.append((name, [*values, found.measures[index]["net_return"]]))
    return rows


def _tried(evaluation: Evaluation) -> list[str]:
    trials = evaluation.trials
    snooping = evaluation.snooping
    families = "; ".join(f"{name}: {count}" for name, count in sorted(trials.families.items()))
    said = [
        f"Configurations scored on these data so far: {trials.number} ({families}). The variance of "
        f"their Sharpe ratios is {trials.variance:.3g} a bar."
    ]
    if snooping is not None:
        said.append(
            f"Of {snooping.trials} that walked these bars, none is better than holding nothing: "
            f"p = {snooping.spa_flat:.3f}; none is better than buy and hold: p = {snooping.spa_hold:.3f} "
            "(Hansen's test of superior predictive ability)."
        )
        said.append(
            f"Probability of backtest overfitting: {formatted(snooping.overfitting, '{:.2f}')}. For "
            "information: on pure noise it is 0.5 on average, and seldom near."
        )
    if not evaluation.openings:
        return [*said, "None of these bars were ever opened that had been held back."]
    return [
        *said,
        *(
            f"Opening {number} of held-back bars, {each.first} to {each.last}: {each.when[:16]} by "
            f"{each.who} for {each.version} ({each.why})."
            for number, each in enumerate(evaluation.openings, start=1)
        ),
    ]


def _known(evaluation: Evaluation, bundle: Bundle) -> dict[str, str]:
    origin = bundle.manifest.origin
    return {
        "trained": f"{origin.step:,} iterations, seed {origin.seed}, run {origin.run_id}",
        "trained by code": origin.code_version,
        "evaluated by code": evaluation.code,
        "data": origin.data_hash,
        "bundle": evaluation.bundle_sha256,
        "command": evaluation.command,
        **flatten(origin.settings),
    }


def formatted(value: float | None, form: str) -> str:
    """A figure as text; perfect foresight compounds to shares that have no place in a table otherwise."""
    if value is None:
        return UNDEFINED
    if form.endswith("%}") and abs(value) >= 100:
        sign = "+" if "+" in form else ""
        return f"{100 * value:{sign}.3g}%"
    return form.format(value)


def _between(interval: tuple[float, float] | None, form: str) -> str:
    if interval is None:
        return UNDEFINED
    low, high = interval
    return f"{form.format(low)} to {form.format(high)}"
