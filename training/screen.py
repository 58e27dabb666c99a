"""What a person sees while a run trains, and after it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from evaluation.measures import cells
from training.learning.agent import LogWindow

# Draws the iterations done, each agent's means since the last call, and iterations a second.
Show = Callable[[int, list[LogWindow], float], None]
CAVEAT = (
    "At close, next open: net return by when orders fill. Trades: share of bars with one. † Ruined: "
    "equity fell to the floor, flat since. IQM: mean of the middle half of the seeds. The best "
    "checkpoints were chosen on these very bars: expect less of them on new ones."
)


def teller(console: Console) -> Callable[[str], None]:
    """Shows a user sentences, whatever is in them."""
    return lambda sentence: console.print(sentence, highlight=False, soft_wrap=True)


@contextmanager
def progress(
    console: Console, name: str, steps: int, backlog: Callable[[], str], begun_at: int = 0
) -> Iterator[Show]:
    """A progress bar; where the output is no terminal, one line when a run starts and ends.

    `begun_at` iterations were done before; `backlog` says what tracking has not sent.
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
    for heading in ("at close", "next open", "Sharpe", "drawdown", "trades", "costs"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, measures in rows.items():
        label = f"{name} †" if measures["ruined"] else name
        table.add_row(label, *cells(measures))
    return table
