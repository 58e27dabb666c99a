"""Figures of a training and of an evaluation, drawn without a display or global state."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from evaluation.measures import Backtest
from models.bundle import Bundle

AGENT = "#1b6ca8"
HOLD = "#8d99ae"
GOOD = "#2a9d8f"
BAD = "#d1495b"
COLOURS = (AGENT, BAD, HOLD, GOOD)
# Fixed, since to have edges found for every figure doubles the time that drawing it takes.
EDGES = {"left": 0.08, "right": 0.98, "bottom": 0.1, "top": 0.92, "hspace": 0.08}
POINTS = 1200  # of a curve; more are not seen


def equity_figure(title: str, curves: Mapping[str, Backtest]) -> Figure:
    """Equity over time, net of costs, in percent of that at the start, above the first one's position.

    The curves are backtests over the same bars, by name.
    """
    figure = Figure(figsize=(9, 5.2), dpi=110)
    above, below = figure.subplots(2, sharex=True, height_ratios=(4, 1), gridspec_kw=EDGES)
    for (name, run), colour in zip(curves.items(), COLOURS, strict=False):
        change = 100 * (run.equity / run.equity[0] - 1)
        label = f"{name} ({change[-1]:+.1f}%)"
        rows = rows_shown(len(change))
        above.plot(run.table.time[rows], change[rows], label=label, color=colour, linewidth=1.1)
    first = next(iter(curves.values()))
    above.axhline(0, color="black", linewidth=0.6)
    unit = first.table.settings.sizing == "unit"
    above.set_ylabel(f"net of costs, % of {'first price' if unit else 'the account'}")
    above.set_title(title, loc="left")
    above.legend(loc="upper left", frameon=False)
    positions = np.concatenate([first.positions, first.positions[-1:]]).astype(float)
    below.fill_between(
        first.table.time, positions, step="post", color=COLOURS[0], alpha=0.6, linewidth=0
    )
    below.set_yticks((-1, 0, 1), ("short", "flat", "long"))
    below.set_ylim(-1.2, 1.2)
    return _plain(figure)


def position_figure(title: str, run: Backtest) -> Figure:
    """Where a policy was long and short, on the price."""
    figure = Figure(figsize=(9, 3.8), dpi=110)
    axes = figure.subplots(gridspec_kw=EDGES)
    draw_positions(axes, run)
    axes.set_title(title, loc="left")
    return _plain(figure)


def q_value_figure(title: str, bundle: Bundle) -> Figure:
    """Q-values over two features, the position coming in being flat; beside it the best action.

    Where states hold one feature alone: Q-values over it, for each position coming in.
    """
    figure = Figure(figsize=(9, 3.8), dpi=110)
    surface = bundle.manifest.network.state_size > 3
    draw = draw_q_surface if surface else draw_q_values
    draw(figure, bundle)
    apart = 0.2 if surface else 0.08
    figure.subplots_adjust(left=0.08, right=0.98, bottom=0.14, top=0.82, wspace=apart)
    figure.suptitle(title, x=0.08, ha="left")
    return _plain(figure)


def draw_positions(axes: Axes, run: Backtest) -> None:
    """The price, green where a policy was long and red where it was short."""
    table = run.table
    rows = rows_shown(len(table))
    axes.plot(table.time[rows], table.close[rows], color="black", linewidth=0.7)
    low = float(table.close.min())
    high = float(table.close.max())
    held = np.concatenate([run.positions, run.positions[-1:]])
    for position, colour, name in ((1, GOOD, "long"), (-1, BAD, "short")):
        changes = np.flatnonzero(np.diff((held == position).astype(int), prepend=0, append=0))
        # spans closer than a pixel are one
        spans = _merged(changes.reshape(-1, 2), max(len(held) // POINTS, 1))
        for number, (start, stop) in enumerate(spans):
            axes.axvspan(
                table.time[start],
                table.time[min(stop, len(table) - 1)],
                color=colour,
                alpha=0.25,
                linewidth=0,
                label=name if number == 0 else None,
            )
    margin = max(0.03 * (high - low), 0.001 * high)
    axes.set_ylim(low - margin, high + margin)
    axes.set_ylabel("price")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="upper left", frameon=False, fontsize=8)


def draw_q_values(figure: Figure, bundle: Bundle) -> None:
    """Q-values of the three actions over the first feature, for each position coming in."""
    first = bundle.manifest.origin.features["features"][0]
    grid = np.linspace(-4, 4, 161, dtype=np.float32)
    raw = grid * first["scale"] + first["offset"]
    panels = figure.subplots(1, 3, sharey=True, sharex=True)
    for axes, position, name in zip(panels, (-1, 0, 1), ("short", "flat", "long"), strict=True):
        values = bundle.q_values(_states(bundle, grid[:, None], position))
        for action, colour, label in zip(
            range(3), (BAD, HOLD, GOOD), _actions(bundle), strict=True
        ):
            axes.plot(raw, values[:, action], color=colour, linewidth=1.3, label=label)
        axes.set_title(f"coming in {name}", fontsize=9, loc="left")
    panels[0].set_ylabel("Q-value, learning units")
    panels[1].set_xlabel(f"{first['name']}; other features at their means")
    panels[0].legend(frameon=False, fontsize=8, title="action", title_fontsize=8)


def draw_q_surface(figure: Figure, bundle: Bundle) -> None:
    """What the best action is worth over the first two features, and which it is, coming in flat."""
    features = bundle.manifest.origin.features["features"][:2]
    grid = np.linspace(-3, 3, 61, dtype=np.float32)
    across, up = np.meshgrid(grid, grid)
    values = bundle.q_values(_states(bundle, np.stack([across.ravel(), up.ravel()], 1), 0))
    raw = [grid * each["scale"] + each["offset"] for each in features]
    left, right = figure.subplots(1, 2, sharey=True)
    shown = left.contourf(*raw, values.max(axis=1).reshape(61, 61), levels=14, cmap="viridis")
    figure.colorbar(shown, ax=left, label="largest Q-value, learning units")
    right.contourf(
        *raw,
        values.argmax(axis=1).reshape(61, 61),
        levels=[-0.5, 0.5, 1.5, 2.5],
        colors=(BAD, HOLD, GOOD),
        alpha=0.7,
    )
    for colour, label in zip((BAD, HOLD, GOOD), _actions(bundle), strict=True):
        right.fill_between([], [], [], color=colour, alpha=0.7, label=label)
    right.legend(frameon=True, fontsize=8, title="best action", title_fontsize=8, loc="upper right")
    left.set_title("coming in flat, what the best action is worth", fontsize=9, loc="left")
    right.set_title("and which it is", fontsize=9, loc="left")
    for axes in (left, right):
        axes.set_xlabel(features[0]["name"])
    left.set_ylabel(features[1]["name"])


def rows_shown(count: int) -> NDArray[np.intp]:
    """The points of a curve that are drawn."""
    return np.unique(np.linspace(0, count - 1, min(POINTS, count)).astype(np.intp))


def _states(bundle: Bundle, features: NDArray[np.float32], position: int) -> NDArray[np.float32]:
    """States with the first features given, the others at their means."""
    states = np.zeros((len(features), bundle.manifest.network.state_size), np.float32)
    states[:, : features.shape[1]] = features
    states[:, -2] = position
    states[:, -1] = 1
    return states


def _actions(bundle: Bundle) -> tuple[str, str, str]:
    order = bundle.manifest.origin.scheme == "order"
    return ("sell", "nothing", "buy") if order else ("short", "flat", "long")


def _merged(spans: NDArray[np.intp], gap: int) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for start, stop in spans.tolist():
        if merged and start - merged[-1][1] < gap:
            merged[-1] = (merged[-1][0], stop)
        else:
            merged.append((start, stop))
    return merged


def _plain(figure: Figure) -> Figure:
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    return figure
