"""The versions of one run: registered whenever validation improves, and at the end."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from mlflow.entities.model_registry import ModelVersion

from evaluation.backtest import Backtest, backtest
from evaluation.baselines import buy_and_hold
from evaluation.figures import equity_figure
from market.table import MarketTable
from models.bundle import Bundle
from models.manifest import Manifest, Origin
from models.registry import find_version, model_id_of, propose, register
from models.sealed import Arrays
from training.agent import Agents
from training.data import TrainingData
from training.guards import spread_states
from training.learn import better
from training.tracking import Tracker

GOLDEN_STATES = 64


class Kept(NamedTuple):
    """A registered version and what it did on validation."""

    bundle: Bundle
    version: ModelVersion
    validation: Backtest

    @property
    def step(self) -> int:
        """Iterations it was trained for."""
        return self.bundle.manifest.origin.step


class Versions(NamedTuple):
    """Those that count at a run's end; they can be one and the same."""

    best: Kept  # on validation
    last: Kept
    candidate: ModelVersion  # the best, or one of an earlier run that did at least as well


class Keeper:
    """Registers what an agent has learned whenever validation improves, and at the end.

    Args:
        agents: those that learn.
        index: of the agent to keep.
        data: what it learns from and is judged on.
        market: the validation bars under the settings' fill.
        cvar: share of worst outcomes that quantiles are averaged over.
        tracker: of its run.
        tags: of run and versions.
        origin: of its models, but for the step.
    """

    def __init__(
        self,
        agents: Agents,
        index: int,
        data: TrainingData,
        market: MarketTable,
        cvar: float,
        tracker: Tracker,
        tags: dict[str, str],
        origin: dict[str, Any],
    ) -> None:
        self.agents, self.index, self.data, self.market = agents, index, data, market
        self.cvar, self.tracker, self.tags, self.origin = cvar, tracker, tags, origin
        self.best: Kept | None = None
        self.last: Kept | None = None
        self._went_back = False

    def judge(self, step: int, validation: Backtest, last: bool) -> None:
        """Records a validation, with a version where it is the best so far or the last."""
        measures = measures_of(self.data, validation)
        metrics = {f"eval/validation/{name}": value for name, value in measures.items()}
        best = better(validation, self.best and self.best.validation)
        if not best and not last:
            self.tracker.log(metrics, step)
            return
        kept = self._keep(step, validation)
        self.tracker.log(metrics, step, model_id=model_id_of(kept.version))
        if best:
            self.best = kept
        if last:
            self.last = kept

    def since_best(self, step: int, validation: Backtest) -> int:
        """Iterations since the best validation; none where this one is better."""
        if self.best is None or better(validation, self.best.validation):
            return 0
        return step - self.best.step

    def keep_at_stop(self, step: int, validation: Backtest) -> None:
        """Registers what a run that is stopped has learned. Its curves stay those of a whole run."""
        self.last = self._keep(step, validation)
        if better(validation, self.best and self.best.validation):
            self.best = self.last

    def finish(self, name: str) -> Versions:
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
        return Versions(self.best, self.last, candidate)

    def state(self) -> tuple[dict[str, Any], Arrays]:
        """What was kept so far, as JSON and as arrays; `restore` takes it back."""
        known: dict[str, Any] = {}
        arrays: Arrays = {}
        for which, kept in (("best", self.best), ("last", self.last)):
            if kept is not None:
                known[which] = kept.bundle.as_json()
                weights = {f"{which}/{n}": a for n, a in kept.bundle.weights.items()}
                arrays = {**arrays, **weights, f"{which}/positions": kept.validation.positions}
        return known, arrays

    def restore(self, known: Mapping[str, Any], arrays: Arrays) -> None:
        """Takes back what `state` gave; registers anew what this store does not have."""
        self._went_back = True
        for which in ("best", "last"):
            kept = None
            if which in known:
                own = f"{which}/"
                weights = {n.removeprefix(own): a for n, a in arrays.items() if n.startswith(own)}
                positions = weights.pop("positions")
                bundle = Bundle(Manifest.model_validate(known[which]), weights)
                kept = self._register(bundle, backtest(self.market, positions))
            setattr(self, which, kept)

    def _keep(self, step: int, validation: Backtest) -> Kept:
        model = self.agents.model(self.index)
        origin = Origin(**self.origin, step=step)
        bundle = Bundle.of(model, origin, spread_states(self.data.train, GOLDEN_STATES), self.cvar)
        return self._register(bundle, validation, model)

    def _register(self, bundle: Bundle, validation: Backtest, model: Any = None) -> Kept:
        """Registers a model, unless that was done before training went back to a checkpoint."""
        client, version = self.tracker.client, None
        if self._went_back:
            version = find_version(client, self.tracker.run_id, bundle)
        if version is None:
            net_return = validation.measures["net_return"]
            hold = buy_and_hold(self.market).measures["net_return"]
            step = bundle.manifest.origin.step
            version = register(
                client,
                bundle.model() if model is None else model,
                bundle,
                self.tracker.run_id,
                {**self.tags, "net_return": repr(net_return)},
                f"{net_return:+.2%} on the validation split of {self.data.bars.name}, net of costs "
                f"(buy and hold {hold:+.2%}), after {step:,} iterations.",
            )
        return Kept(bundle, version, validation)


def measures_of(data: TrainingData, result: Backtest) -> dict[str, float]:
    """Measures under the settings' fill, and the net return of the same positions under either."""
    both = {
        f"net_return_{fill}": backtest(table, result.positions).measures["net_return"]
        for fill, table in data.validation.items()
    }
    return {**result.measures, **both}
