"""What was tried: configurations scored on some data, read from MLflow, deleted runs included."""

import json
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mlflow import MlflowClient
from mlflow.entities import Run, ViewType

from models.configuration import configuration_hash

SHARPE_A_BAR = "evaluation/sharpe_a_bar"  # metric of a walk-forward
VALIDATION = "eval/validation/"  # how metrics of a training's validations begin
# Undefined of an account that never traded or was ruined.
RATIOS = ("sharpe", "sortino", "calmar", "hit_rate", "profit_factor", "holding_bars", "break_even")


class Trials(NamedTuple):
    """Configurations that were scored on the same data."""

    number: int  # one that was walked through several divisions of time counts as often
    variance: float  # of their Sharpe ratios, a bar
    families: dict[str, int]  # how many of each algorithm and network

    @classmethod
    def of(
        cls,
        sharpes: Mapping[str, Sequence[float]],
        families: Mapping[str, str],
        further: Sequence[float] = (),
    ) -> "Trials":
        """Of the Sharpe ratios, a bar, of configurations' runs, in one division of time or further ones.

        Of one configuration's the middle one counts.
        """
        middles = [statistics.median(values) for values in sharpes.values()]
        tried = [*middles, *further]
        variance = statistics.variance(tried) if len(tried) > 1 else 0.0
        return cls(len(tried), variance, dict(Counter(families[key] for key in sharpes)))


def last_validation(run: Run) -> dict[str, float]:
    """The figures of a training's last validation by name; those that were undefined then are left out.

    What is undefined has no point in MLflow, whose latest value is then that of an earlier validation:
    only what stands at the step of the last one is of it. Figures of one step twice, of a training that
    went back to a checkpoint, are told apart by whether there was anything to divide by.
    """
    points = [each for each in run.data.to_proto().metrics if each.key.startswith(VALIDATION)]
    last = max((each.step for each in points), default=0)
    found = {each.key.removeprefix(VALIDATION): each.value for each in points if each.step == last}
    if found.get("trades", 1.0) == 0 or found.get("ruined", 0.0) > 0:
        return {name: value for name, value in found.items() if name not in RATIOS}
    return found


def trials_on(client: MlflowClient, data_hash: str, bars_per_year: float) -> Trials:
    """Every configuration ever scored on some data, in training or in an evaluation.

    A configuration's Sharpe ratio is that of its walk-forward where there is one, else the middle one of
    its trainings' last validations. One that is undefined, of what never traded, counts as zero.

    Args:
        client: of the store.
        data_hash: of the bars, all of them.
        bars_per_year: that validation's ratios were annualised by.
    """
    trained: dict[str, list[float]] = {}
    last: dict[str, str] = {}
    families: dict[str, str] = {}
    divisions: dict[tuple[str, str], float] = {}
    for run in runs_of(client, f"tags.data_hash = '{data_hash}'"):
        tags = run.data.tags
        metrics = run.data.metrics
        if "configuration" in tags:
            key = tags["configuration"]
            if SHARPE_A_BAR not in metrics:
                continue
            division = json.dumps(sorted(run.data.params.items()))
            divisions[key, division] = metrics[SHARPE_A_BAR]
            last[key] = division
        elif validation := last_validation(run):
            key = configuration_hash(run.data.params)
            annual = validation.get("sharpe", 0.0)
            trained.setdefault(key, []).append(annual / bars_per_year**0.5)
        else:
            continue  # stopped before it was scored
        families[key] = f"{tags.get('algorithm', '?')}, {tags.get('network', '?')}"
    newest = {key: [divisions[key, division]] for key, division in last.items()}
    others = [value for (key, division), value in divisions.items() if last[key] != division]
    return Trials.of({**trained, **newest}, families, others)


def runs_of(client: MlflowClient, query: str) -> list[Run]:
    """All runs that a query finds, deleted ones too, oldest first."""
    kinds: Any = ViewType.ALL
    experiments = [each.experiment_id for each in client.search_experiments(view_type=kinds)]
    found: list[Run] = []
    token: str | None = None
    while True:
        page = client.search_runs(
            experiments, query, kinds, 1000, ["attributes.start_time ASC"], page_token=token
        )
        found += page
        token = page.token
        if not token:
            return found
