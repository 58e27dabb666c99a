"""An episode as a picture: price with what was held, and equity. For people who watch an agent."""

from collections.abc import Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from market.findings import amount

HELD = {1: ("#2a9d5c", "long"), -1: ("#c8553d", "short")}


def episode_image(
    name: str,
    price: NDArray[np.float64],
    history: Sequence[tuple[int, float]],
    funded: float | None = None,
) -> NDArray[np.uint8]:
    """Draws an episode so far; red, green and blue, shape (480, 800, 3).

    `price` is that at the start and after each step, shape (steps + 1,), `history` position and equity
    after each step, `funded` the equity at the start; none: the price there.
    """
    figure = Figure(figsize=(8, 4.8), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    bars = np.arange(len(price))
    held = np.array([position for position, _ in history], np.int64)
    start = price[0] if funded is None else funded
    equity = np.array([start, *(worth for _, worth in history)])
    upper.plot(bars, price, color="#333333", linewidth=1)
    for position, (colour, label) in HELD.items():
        edges = np.flatnonzero(np.diff((held == position).astype(int), prepend=0, append=0))
        spans = [(start, stop - start) for start, stop in edges.reshape(-1, 2).tolist()]
        upper.broken_barh(
            spans, (0, 1), color=colour, alpha=0.2, linewidth=0, label=label,
            transform=upper.get_xaxis_transform(),
        )  # fmt: skip
    now = {1: "long", 0: "flat", -1: "short"}[int(held[-1]) if len(held) else 0]
    upper.set_title(f"{name}, bar {len(history)}: {now}, equity {amount(equity[-1])}", fontsize=10)
    upper.set_ylabel("price")
    upper.legend(loc="upper left", fontsize=8, frameon=False, ncols=2)
    lower.plot(np.arange(len(equity)), equity, color="#3465a4", linewidth=1)
    lower.axhline(start, color="#999999", linewidth=0.5)
    lower.set_ylabel("equity")
    lower.set_xlabel("bars since the episode began")
    lower.set_xlim(0, max(len(price) - 1, 1))
    for axes in (upper, lower):
        axes.spines[["top", "right"]].set_visible(False)
        axes.ticklabel_format(useOffset=False)
    canvas.draw()  # type: ignore[no-untyped-call]
    pixels = np.asarray(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
    return pixels[..., :3].copy()
