"""Figures of a report, as SVG that stands in the page itself."""

import html
import io
from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from evaluation.assessment import MULTIPLES, Assessment, Findings
from evaluation.figures import AGENT, BAD, HOLD, draw_positions, draw_q_values, rows_shown
from evaluation.measures import Backtest
from models.bundle import Bundle

STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "qdesk",
    "font.family": "sans-serif",
    "font.sans-serif": ["Helvetica", "Arial", "DejaVu Sans"],
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
}


def svg(draw: Callable[[Figure], None], says: str, height: float = 3.6) -> str:
    """A figure, 8 inches wide, as an SVG element with `says` in its place for those who do not see it."""
    with rc_context(STYLE):
        figure = Figure(figsize=(8, height), layout="constrained")
        draw(figure)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": ""})
    text = file.getvalue()
    start = text.index("<svg")
    label = html.escape(says, quote=True)
    opened = text[start:].replace("<svg", f'<svg role="img" aria-label="{label}"', 1)
    return opened.replace(">", f"><title>{html.escape(says)}</title>", 1)


def equity(found: Assessment) -> str:
    """Equity of the typical seed with its bootstrap band, of the others and of holding; drawdowns."""
    typical = found.typical
    hold = found.hold
    paths = 100 * (found.resampled.paths - 1)
    low, high = np.quantile(paths, [0.05, 0.95], axis=0)

    def draw(figure: Figure) -> None:
        above, below = figure.subplots(2, sharex=True, height_ratios=(3, 1))
        times = typical.table.time[1:][found.resampled.marks]
        above.fill_between(
            times, low, high, color=AGENT, alpha=0.12, linewidth=0, label="90% of resamples"
        )
        for number, run in enumerate(each for each in found.runs if each is not typical):
            label = "other seeds" if number == 0 else None
            _curve(above, run, color=AGENT, alpha=0.35, linewidth=0.7, label=label)
        _curve(above, hold, color=HOLD, linewidth=1.1, label="buy and hold")
        _curve(above, typical, color=AGENT, linewidth=1.5, label="typical seed")
        above.axhline(0, color="black", linewidth=0.6)
        above.set_ylabel("net of costs, %")
        shown = np.concatenate(
            [[0], *(_change(run) for run in (*found.runs, hold)), high[-1:], low[-1:]]
        )
        margin = 0.05 * np.ptp(shown) + 1
        above.set_ylim(shown.min() - margin, shown.max() + margin)
        above.legend(loc="upper left", frameon=False, fontsize=8, ncols=2)
        for run, colour in ((hold, HOLD), (typical, AGENT)):
            rows = rows_shown(len(run.equity))
            fall = -100 * (1 - run.equity / np.maximum.accumulate(run.equity))
            below.fill_between(
                run.table.time[rows], fall[rows], color=colour, alpha=0.35, linewidth=0
            )
        below.set_ylabel("drawdown, %")
        for edge in found.track.edges[1:-1]:
            for axes in (above, below):
                axes.axvline(run.table.time[edge], color="black", linewidth=0.5, linestyle=":")
        _marked(above, found.findings)

    ends = f"{_change(typical)[-1]:+.1f}%, buy and hold {_change(hold)[-1]:+.1f}%"
    return svg(draw, f"Equity over time: the typical seed ends at {ends}.", 4.6)


def positions(found: Assessment) -> str:
    """Where the typical seed was long and short, on the price."""
    run = found.typical

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        draw_positions(axes, run)
        _marked(axes, found.findings)

    shares = [float(np.mean(run.positions == position)) for position in (1, 0, -1)]
    says = "Positions on the price: long {:.0%}, flat {:.0%}, short {:.0%} of the time.".format(
        *shares
    )
    return svg(draw, says, 3.2)


def cost_curve(found: Assessment) -> str:
    """Net Sharpe ratio against the costs, in time and one bar late; a thin line for each seed."""
    findings = found.findings

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for late, colour, name in ((0, AGENT, "filled in time"), (1, BAD, "one bar late")):
            ratios = np.array(
                [
                    [
                        np.nan if ratio is None else ratio
                        for ratio in findings.stressed(m, late).sharpes
                    ]
                    for m in MULTIPLES
                ]
            )
            axes.plot(MULTIPLES, ratios, color=colour, alpha=0.25, linewidth=0.8)
            axes.plot(
                MULTIPLES,
                ratios[:, findings.typical],
                color=colour,
                marker="o",
                markersize=3,
                label=name,
            )
        axes.axhline(0, color="black", linewidth=0.6)
        axes.set_xlabel("costs, times those of the settings")
        axes.set_ylabel("net Sharpe ratio, annual")
        axes.legend(frameon=False, fontsize=8)
        _marked(axes, findings)

    even = findings.measures[findings.typical]["break_even"]
    said = "undefined" if even is None else f"{even:.2f} times the costs"
    return svg(draw, f"Net Sharpe ratio against costs; nothing is left at {said}.", 3.2)


def q_values(bundle: Bundle) -> str:
    """Q-values of the three actions over the first feature, for each position coming in."""
    first = bundle.manifest.origin.features["features"][0]
    return svg(
        lambda figure: draw_q_values(figure, bundle),
        f"Q-values of the three actions over {first['name']}, for each position coming in.",
        2.9,
    )


def _curve(axes: Axes, run: Backtest, **style: Any) -> None:
    rows = rows_shown(len(run.equity))
    axes.plot(run.table.time[rows], _change(run)[rows], **style)


def _change(run: Backtest) -> NDArray[np.float64]:
    return np.asarray(100 * (run.equity / run.equity[0] - 1))


def _marked(axes: Axes, findings: Findings) -> None:
    """Says on the figure itself that its bars were trained on."""
    if findings.in_sample:
        axes.text(
            0.5,
            0.5,
            "IN SAMPLE",
            transform=axes.transAxes,
            ha="center",
            va="center",
            fontsize=26,
            color=BAD,
            alpha=0.5,
            rotation=12,
        )
