"""The versions of one run: registered whenever validation improves, and at the end; and its figures."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from durable.verified import Arrays
from evaluation.backtest import backtest
from evaluation.baselines import buy_and_hold, flat
from evaluation.figures import equity_figure, position_figure, q_value_figure
from evaluation.measures import Backtest
from market.table import MarketTable
from models.bundle import Bundle
from models.manifest import Manifest, Origin
from training import describe as labels
from training.checkpoints.checkpoint import part, prefixed
from training.data import TrainingData
from training.learn import better
from training.learning.agent import Agents
from training.settings import TrainSettings
from training.tracking.tracker import Tracker

GOLDEN_STATES = 64


class Version(NamedTuple):
    """A version, on its way to the registry, and what it did on validation."""

    bundle: Bundle
    key: str  # that its run's tracker knows it by
    validation: Backtest

    @property
    def step(self) -> int:
        """Iterations it was trained for."""
        return self.bundle.manifest.origin.step


class BestAndLast(NamedTuple):
    """Those that count at a run's end; they can be one and the same."""

    best: Version | None  # on validation; None where its bars are too few to choose on
    last: Version
    tracker: Tracker  # knows which numbers MLflow gave them, and what the candidate is


@dataclass(eq=False)
class VersionRecorder:
    """Registers what an agent has learned whenever validation improves, and at the end."""

    agents: Agents
    index: int  # of its agent
    settings: TrainSettings
    data: TrainingData
    tracker: Tracker
    tags: Mapping[str, str]  # of run and versions
    about: str  # what each version is, but for what it did
    best: Version | None = None
    last: Version | None = None

    def __post_init__(self) -> None:
        seed = self.agents.seeds[self.index]
        self.origin = labels.origin(self.settings, self.data, seed, self.tracker.run_id)
        self.market = self.data.validation[self.settings.market.fill]
        self._hold = buy_and_hold(self.market)

    def judge(self, step: int, validation: Backtest, last: bool) -> None:
        """Records a validation, with a version where it is the best so far or the last."""
        measures = measures_of(self.data, validation)
        metrics = {f"eval/validation/{name}": value for name, value in measures.items()}
        best = self._is_best(validation)
        if not best and not last:
            self.tracker.log(metrics, step)
            return
        kept = self._keep(step, validation)
        self.tracker.log(metrics, step, kept.key, self.data.split.validation)
        if best:
            self.best = kept
        if last:
            self.last = kept

    def since_best(self, step: int, validation: Backtest) -> int:
        """Iterations since the best validation; none where this one is better, or nothing is chosen."""
        if self.best is None or self._is_best(validation):
            return 0
        return step - self.best.step

    def keep_at_stop(self, step: int, validation: Backtest) -> None:
        """Registers what a run that is stopped has learned. Its curves stay those of a whole run."""
        self.last = self._keep(step, validation)
        if self._is_best(validation):
            self.best = self.last

    def _is_best(self, validation: Backtest) -> bool:
        """Whether a validation is better than those before; on too few bars none ever is."""
        return self.data.chooses and better(validation, self.best and self.best.validation)

    def finish(self, name: str) -> BestAndLast:
        """Makes the best version the candidate, if there is one; draws and describes what was learned."""
        if self.last is None:
            raise RuntimeError("a run must end with a validation that was judged as the last one")
        if self.best is not None:
            self.tracker.propose(self.best.key)
        best = self.best or self.last
        step = best.step
        title = f"Judge on {self.data.bars.name}, net of costs"
        called = f"{name} after {step:,} iterations"
        curves = {called: best.validation, "buy and hold": self._hold}
        figures = {
            "equity_validation": equity_figure(title, curves),
            "positions_validation": position_figure(
                f"Positions of {called}, on validation", best.validation
            ),
            "q_values": q_value_figure(f"Q-values of {called}", best.bundle),
        }
        for figure_name, figure in figures.items():
            self.tracker.log_figure(figure_name, figure, step)
        rows = {}
        if self.best is not None:
            rows[f"best, after {step:,}"] = measures_of(self.data, self.best.validation)
        rows |= {
            f"last, after {self.last.step:,}": measures_of(self.data, self.last.validation),
            "flat": measures_of(self.data, flat(self.market)),
            "buy and hold": measures_of(self.data, self._hold),
        }
        self.tracker.log_table("evaluation/validation", *labels.table(rows))
        self.tracker.describe(labels.with_results(self.about, rows, self._caveat))
        return BestAndLast(self.best, self.last, self.tracker)

    @property
    def _caveat(self) -> str:
        if self.data.chooses:
            return "Chosen on these very bars: expect less of it on others."
        return (
            "Not chosen: these bars are too few to choose on, and what it did on them says nothing."
        )

    def state(self) -> tuple[dict[str, Any], Arrays]:
        """What was kept so far, as JSON and as arrays; `restore` takes it back."""
        known: dict[str, Any] = {}
        arrays: Arrays = {}
        for which, kept in (("best", self.best), ("last", self.last)):
            if kept is not None:
                known[which] = kept.bundle.as_json()
                held = {**kept.bundle.weights, "positions": kept.validation.positions}
                arrays = {**arrays, **prefixed(held, f"{which}/")}
        return known, arrays

    def restore(self, known: Mapping[str, Any], arrays: Arrays) -> None:
        """Takes back what `state` gave; registers anew what this run's journal does not have."""
        for which in ("best", "last"):
            kept = None
            if which in known and (which == "last" or self.data.chooses):
                weights = dict(part(arrays, f"{which}/"))
                positions = weights.pop("positions")
                bundle = Bundle(Manifest.model_validate(known[which]), weights)
                kept = self._register(bundle, backtest(self.market, positions))
            setattr(self, which, kept)

    def _keep(self, step: int, validation: Backtest) -> Version:
        model = self.agents.model(self.index)
        origin = Origin(**self.origin, step=step)
        states = _spread_states(self.data.train, GOLDEN_STATES)
        bundle = Bundle.of(model, origin, states, self.settings.agent.cvar)
        return self._register(bundle, validation)

    def _register(self, bundle: Bundle, validation: Backtest) -> Version:
        """Has a model registered, unless that was done before training went back to a checkpoint."""
        net_return = validation.measures["net_return"]
        hold = self._hold.measures["net_return"]
        key = self.tracker.register(
            bundle,
            {
                **self.tags,
                "net_return": repr(net_return),
                "ruined": "yes" if validation.ruined else "no",
            },
            f"After {bundle.manifest.origin.step:,} iterations: {net_return:+.1%} on the validation "
            f"split of {self.data.bars.name}, net of costs, where buy and hold made {hold:+.1%} and "
            f"holding nothing 0%. {self._caveat}\n\n{self.about}",
        )
        return Version(bundle, key, validation)


def measures_of(data: TrainingData, result: Backtest) -> dict[str, float]:
    """Measures under the settings' fill, and the net return of the same positions under either."""
    both = {
        f"net_return_{fill}": backtest(table, result.positions).measures["net_return"]
        for fill, table in data.validation.items()
    }
    return {**result.measures, **both}


def _spread_states(table: MarketTable, count: int) -> NDArray[np.float32]:
    """States from all over a market, in every position, of shape (count or fewer, state_size)."""
    bars = np.unique(np.linspace(0, len(table) - 1, count).astype(int))
    return table.states(bars, np.arange(len(bars)) % 3 - 1)
