"""What a person sees while a run trains, and after it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import isnan
from typing import Protocol

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from training.learning.agent import LogWindow

CAVEAT = (
    "At close, next open: net return by when orders fill. Trades: share of bars with one. † Ruined: "
    "equity fell to the floor, flat since. IQM: mean of the middle half of the seeds. The best "
    "checkpoints were chosen on these very bars: expect less of them on new ones."
)


class Show(Protocol):
    """Takes the iterations done, each agent's means since the last call, and iterations a second."""

    def __call__(self, step: int, windows: list[LogWindow], rate: float) -> None:
        """Draws them."""


@contextmanager
def progress(
    console: Console, name: str, steps: int, backlog: Callable[[], str], begun_at: int = 0
) -> Iterator[Show]:
    """A progress bar; where the output is no terminal, one line when a run starts and ends.

    Args:
        console: to draw on.
        name: of what trains.
        steps: iterations in all.
        backlog: says what tracking has not sent, or nothing.
        begun_at: iterations that were done before.
    """
    columns = (
        TextColumn("{task.description}", style="bold", markup=False),
        BarColumn(bar_width=10),
        MofNCompleteColumn(),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[state]}", markup=False),
    )
    if not console.is_terminal:
        goes_on = f", from {begun_at:,} on" if begun_at else ""
        console.print(f"{name}: {steps:,} iterations{goes_on}")
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(name, total=steps, completed=begun_at, state="compiling")
        last = ""

        def show(step: int, windows: list[LogWindow], rate: float) -> None:
            nonlocal last
            reward = sum(window.reward for window in windows) / len(windows)
            loss = sum(window.loss for window in windows) / len(windows)
            each = " each" if len(windows) > 1 else ""
            last = (
                f"ε {windows[0].epsilon:.3f}  reward {reward:+.4g}  loss {loss:.3g}  "
                f"{rate:,.0f} steps/s{each}"
            )
            if late := backlog():
                last += f"  {late}"
            bar.update(task, completed=step, state=last)

        yield show
    if not console.is_terminal:
        console.print(f"{name}: {last}")


def comparison(title: str, rows: dict[str, dict[str, float]]) -> Table:
    """Measures side by side; rows are agents and baselines by name."""
    table = Table(title=title, caption=CAVEAT, title_justify="left", caption_justify="left")
    table.box = SIMPLE_HEAD  # without rules between columns the table fits 80 characters
    table.padding = (0, 0, 0, 1)
    table.show_edge = False
    table.add_column("policy", no_wrap=True)
    columns = {
        "at close": ("net_return_close", "{:+.1%}"),
        "next open": ("net_return_next_open", "{:+.1%}"),
        "Sharpe": ("sharpe", "{:+.2f}"),
        "drawdown": ("max_drawdown", "{:.1%}"),
        "trades": ("position_changes", "{:.2%}"),
        "costs": ("cost", "{:.1%}"),
    }
    for heading in columns:
        table.add_column(heading, justify="right", no_wrap=True)
    for name, measures in rows.items():
        label = f"{name} †" if measures["ruined"] else name
        cells = [
            "-" if isnan(measures[key]) else form.format(measures[key])
            for key, form in columns.values()
        ]
        table.add_row(label, *cells)
    return table
