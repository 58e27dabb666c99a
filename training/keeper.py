"""The versions of one run: registered whenever validation improves, and at the end."""

from typing import NamedTuple

from mlflow.entities.model_registry import ModelVersion

from evaluation.backtest import Backtest, backtest
from evaluation.baselines import buy_and_hold
from evaluation.figures import equity_figure
from market.table import MarketTable
from models.registry import model_id_of, propose, register
from training.agent import Agents
from training.data import TrainingData
from training.tracking import Tracker


class Checkpoint(NamedTuple):
    """A registered version and what it did on validation."""

    step: int
    version: ModelVersion
    validation: Backtest


class Checkpoints(NamedTuple):
    """The versions that count at a run's end; they can be one and the same."""

    best: Checkpoint  # on validation
    last: Checkpoint
    candidate: ModelVersion  # the best, or one of an earlier run that did at least as well


class Keeper:
    """Registers what an agent has learned whenever validation improves, and at the end.

    Args:
        agents: those that learn.
        index: of the agent to keep.
        called: what its registered model is called.
        data: what it learns from and is judged on.
        market: the validation bars under the settings' fill.
        tracker: of its run.
        tags: of run and versions.
    """

    def __init__(
        self,
        agents: Agents,
        index: int,
        called: str,
        data: TrainingData,
        market: MarketTable,
        tracker: Tracker,
        tags: dict[str, str],
    ) -> None:
        self.agents, self.index, self.called = agents, index, called
        self.data, self.market, self.tracker, self.tags = data, market, tracker, tags
        self.best: Checkpoint | None = None
        self.last: Checkpoint | None = None

    def judge(self, step: int, validation: Backtest, last: bool) -> None:
        """Records a validation, with a version where it is the best so far or the last."""
        measures = measures_of(self.data, validation)
        metrics = {f"eval/validation/{name}": value for name, value in measures.items()}
        best = better(validation, self.best and self.best.validation)
        if not best and not last:
            self.tracker.log(metrics, step)
            return
        hold = buy_and_hold(self.market).measures["net_return"]
        description = (
            f"{measures['net_return']:+.2%} on the validation split of {self.data.bars.name}, net of "
            f"costs (buy and hold {hold:+.2%}), after {step:,} iterations."
        )
        version = register(
            self.tracker.client,
            self.agents.model(self.index),
            self.called,
            self.tracker.run_id,
            step,
            {**self.tags, "net_return": repr(measures["net_return"])},
            description,
        )
        self.tracker.log(metrics, step, model_id=model_id_of(version))
        checkpoint = Checkpoint(step, version, validation)
        if best:
            self.best = checkpoint
        if last:
            self.last = checkpoint

    def finish(self, name: str) -> Checkpoints:
        """Makes the best version the candidate and draws what it did."""
        if self.best is None or self.last is None:
            raise RuntimeError("a run ends with a validation that is told to be the last")
        candidate = propose(self.tracker.client, self.best.version)
        curves = {
            f"{name} after {self.best.step:,} iterations": self.best.validation,
            "buy and hold": buy_and_hold(self.market),
        }
        title = f"Validation on {self.data.bars.name}, net of costs"
        self.tracker.log_figure("equity_validation", equity_figure(title, curves), self.best.step)
        return Checkpoints(self.best, self.last, candidate)


def better(one: Backtest, other: Backtest | None) -> bool:
    """Whether `one` is to be preferred: by net return, an earlier checkpoint winning a tie."""
    return other is None or one.equity[-1] > other.equity[-1]


def measures_of(data: TrainingData, result: Backtest) -> dict[str, float]:
    """Measures under the settings' fill, and the net return of the same positions under either."""
    both = {
        f"net_return_{fill}": backtest(table, result.positions).measures["net_return"]
        for fill, table in data.validation.items()
    }
    return {**result.measures, **both}
