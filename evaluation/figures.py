"""Figures of an evaluation, drawn without a display or global state."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from evaluation.backtest import Backtest

COLOURS = ("#1b6ca8", "#d1495b", "#8d99ae", "#2a9d8f")


def equity_figure(title: str, curves: Mapping[str, Backtest]) -> Figure:
    """Equity over time, net of costs, in percent of the first price, above the first one's position.

    Args:
        title: of the figure.
        curves: backtests over the same bars, by name.
    """
    figure = Figure(figsize=(9, 5.2), layout="constrained", dpi=110)
    above, below = figure.subplots(2, sharex=True, height_ratios=(4, 1))
    for (name, run), colour in zip(curves.items(), COLOURS, strict=False):
        change = 100 * (run.equity / run.equity[0] - 1)
        label = f"{name} ({change[-1]:+.1f}%)"
        above.plot(run.table.time, change, label=label, color=colour, linewidth=1.1)
    first = next(iter(curves.values()))
    above.axhline(0, color="black", linewidth=0.6)
    above.set_ylabel("net of costs, % of first price")
    above.set_title(title, loc="left")
    above.legend(loc="upper left", frameon=False)
    positions = np.concatenate([first.positions, first.positions[-1:]]).astype(float)
    below.fill_between(
        first.table.time, positions, step="post", color=COLOURS[0], alpha=0.6, linewidth=0
    )
    below.set_yticks((-1, 0, 1), ("short", "flat", "long"))
    below.set_ylim(-1.2, 1.2)
    for axes in (above, below):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    return figure
