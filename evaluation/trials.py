"""What was tried, and what was looked at: configurations scored on some data, and openings of it.

Both are read from MLflow, deleted runs included: what was seen stays seen.
"""

import json
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from mlflow import MlflowClient
from mlflow.entities import Run, ViewType

from models.configuration import configuration_hash

SHARPE_A_BAR = "evaluation/sharpe_a_bar"  # metric of a walk-forward
VALIDATION_SHARPE = "eval/validation/sharpe"  # metric of a training, annualised
OPENED = "opened"  # tag of a run that looked at held-back bars: their hash


class Trials(NamedTuple):
    """Configurations that were scored on the same data."""

    number: int  # one that was walked through several divisions of time counts as often
    variance: float  # of their Sharpe ratios, a bar
    families: dict[str, int]  # how many of each algorithm and network

    @classmethod
    def of(
        cls, sharpes: Mapping[str, Sequence[float]], families: Mapping[str, str], further: int = 0
    ) -> "Trials":
        """Of the Sharpe ratios, a bar, of each configuration's runs; the middle one counts.

        Args:
            sharpes: by configuration.
            families: by configuration.
            further: trials of the same configurations in other divisions of time.
        """
        middles = [statistics.median(values) for values in sharpes.values()]
        variance = statistics.variance(middles) if len(middles) > 1 else 0.0
        return cls(
            len(middles) + further, variance, dict(Counter(families[key] for key in sharpes))
        )


class Opening(NamedTuple):
    """One look at bars that training and choosing had not touched."""

    when: str
    who: str
    version: str
    why: str


def trials_on(client: MlflowClient, data_hash: str, bars_a_year: float) -> Trials:
    """Every configuration ever scored on some data, in training or in an evaluation.

    A configuration's Sharpe ratio is that of its walk-forward where there is one, else the middle one of
    its trainings' last validations. One that never traded counts as zero.

    Args:
        client: of the store.
        data_hash: of the bars, all of them.
        bars_a_year: that validation's ratios were annualised by.
    """
    trained: dict[str, list[float]] = {}
    walked: dict[str, list[float]] = {}
    families: dict[str, str] = {}
    divisions: set[str] = set()
    for run in _runs(client, f"tags.data_hash = '{data_hash}'"):
        tags, metrics = run.data.tags, run.data.metrics
        if "configuration" in tags:
            key = tags["configuration"]
            if SHARPE_A_BAR not in metrics:
                continue
            walked.setdefault(key, []).append(metrics[SHARPE_A_BAR])
            divisions.add(json.dumps([key, sorted(run.data.params.items())]))
        elif "eval/validation/net_return" in metrics:
            key = configuration_hash(run.data.params)
            annual = metrics.get(VALIDATION_SHARPE, 0.0)
            trained.setdefault(key, []).append(annual / bars_a_year**0.5)
        else:
            continue  # stopped before it was scored
        families[key] = f"{tags.get('algorithm', '?')}, {tags.get('network', '?')}"
    newest = {key: values[-1:] for key, values in walked.items()}
    return Trials.of({**trained, **newest}, families, further=len(divisions) - len(walked))


def openings(client: MlflowClient, data_hash: str) -> list[Opening]:
    """Who looked at the held-back part of some data, oldest first."""
    runs = _runs(client, f"tags.{OPENED} = '{data_hash}'")
    return [Opening(**json.loads(run.data.tags["opening"])) for run in runs]


def opening_tags(data_hash: str, who: str, version: str, why: str) -> dict[str, str]:
    """Tags of the run that opens held-back bars, set before anybody looks."""
    made = Opening(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}", who, version, why)
    return {OPENED: data_hash, "opening": json.dumps(made._asdict())}


def _runs(client: MlflowClient, query: str) -> list[Run]:
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
