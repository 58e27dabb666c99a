"""Trainings side by side: which there are, how their settings differ, and what seeds together say."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from mlflow import MlflowClient
from mlflow.entities import Run

from evaluation.statistics import interquartile_mean, interquartile_mean_interval
from evaluation.trials import VALIDATION, last_validation
from models.configuration import NO_PART, configuration_hash
from training.tracking.errors import NoRun
from training.tracking.store import RUN

METRICS = (
    "eval/validation/net_return",
    "eval/validation/sharpe",
    "eval/validation/max_drawdown",
    "eval/validation/position_changes",
    "train/reward",
    "train/loss",
    "perf/iterations_per_second",
)
PAGE = 1000


class Figure(NamedTuple):
    """A metric over the seeds of a configuration."""

    mean: float  # of the middle half; of fewer than four seeds of all
    low: float | None  # 95% bootstrap interval over seeds; None of a single one
    high: float | None
    seeds: int  # that have the metric


class Configuration(NamedTuple):
    """Runs that differ in their seeds alone."""

    name: str
    runs: list[Run]
    settings: Mapping[str, str]

    def figure(self, metric: str) -> Figure | None:
        """What the runs' last values of a metric say together; None where none has it."""
        found = [value for run in self.runs if (value := value_of(run, metric)) is not None]
        if not found:
            return None
        if len(found) == 1:
            return Figure(found[0], None, None, 1)
        return Figure(interquartile_mean(found), *interquartile_mean_interval(found), len(found))


def find(
    client: MlflowClient,
    experiment: str,
    filters: Mapping[str, str],
    order: str = "attributes.start_time DESC",
    most: int | None = None,
) -> list[Run]:
    """Runs of an experiment whose tags have these values, at most so many.

    Raises `NoRun` where there is no such experiment.
    """
    found = client.get_experiment_by_name(experiment)
    if found is None:
        names = ", ".join(sorted(each.name for each in client.search_experiments()))
        raise NoRun(f"{experiment}: there is no such experiment; there are {names}")
    query = " and ".join(
        f"tags.`{name}` = '{value.replace(chr(39), '')}'" for name, value in filters.items()
    )
    runs: list[Run] = []
    token: str | None = None
    while most is None or len(runs) < most:
        left = PAGE if most is None else min(PAGE, most - len(runs))
        page = client.search_runs(
            [found.experiment_id], query, max_results=left, order_by=[order], page_token=token
        )
        runs += page
        token = page.token
        if not token:
            break
    return runs


def best(
    client: MlflowClient,
    experiment: str,
    filters: Mapping[str, str],
    metric: str,
    lowest: bool,
    most: int,
) -> list[Run]:
    """The runs whose last value of a metric is best, the best first; those without it are left out.

    Raises `NoRun` where no run has the metric.
    """
    if "`" in metric:
        raise NoRun(f"{metric!r} is no metric's name")
    order = f"metrics.`{metric}` {'ASC' if lowest else 'DESC'}"
    runs = find(client, experiment, filters, order)
    having = [run for run in runs if value_of(run, metric) is not None]
    if not having:
        known = sorted({name for run in runs for name in run.data.metrics})
        raise NoRun(f"{metric}: no run has this metric; there are {', '.join(known) or 'none'}")
    return having[:most]


def named(client: MlflowClient, experiment: str, names: Sequence[str]) -> list[Run]:
    """The runs of groups, or single ones by name or by how their id begins; by default the newest group.

    Raises `NoRun` where there is none such.
    """
    runs = find(client, experiment, {})
    if not runs:
        raise NoRun(f"{experiment}: this experiment has no runs; `qdesk train` makes some")
    if not names:
        names = [runs[0].data.tags.get("group", runs[0].info.run_id)]
    chosen: dict[str, Run] = {}
    for name in names:
        fitting = [run for run in runs if _is(run, name)]
        if not fitting:
            groups = dict.fromkeys(run.data.tags.get("group", "") for run in runs)
            newest = ", ".join([group for group in groups if group][:5])
            raise NoRun(
                f"{name}: no run and no group is called so, nor has an id that begins so; the newest "
                f"groups are {newest or 'none'}"
            )
        chosen |= {run.info.run_id: run for run in fitting}
    return list(chosen.values())


def configurations(runs: Sequence[Run]) -> list[Configuration]:
    """Runs by what they were trained on and with, seeds together, in the order of their beginning."""
    found: dict[tuple[str, str], list[Run]] = {}
    for run in sorted(runs, key=lambda run: int(run.info.start_time)):
        key = configuration_hash(run.data.params), run.data.tags.get("data_hash", "")
        found.setdefault(key, []).append(run)
    names = [_without_seed(str(each[0].info.run_name)) for each in found.values()]
    return [
        Configuration(
            name if names.count(name) == 1 else f"{name} {key[0][:4]}",
            each,
            {"bars": each[0].data.tags.get("bars", "-"), **_settings(each[0])},
        )
        for name, (key, each) in zip(names, found.items(), strict=True)
    ]


def differing(configurations: Sequence[Configuration]) -> Iterator[tuple[str, list[str]]]:
    """Settings that are not the same in all configurations, by name, with each one's value."""
    names = dict.fromkeys(name for each in configurations for name in each.settings)
    for name in names:
        values = [each.settings.get(name, "-") for each in configurations]
        if len(set(values)) > 1:
            yield name, values


def value_of(run: Run, metric: str) -> float | None:
    """The last value of a metric; None where there is none, or it is undefined by now."""
    if metric.startswith(VALIDATION):
        return last_validation(run).get(metric.removeprefix(VALIDATION))
    value: float | None = run.data.metrics.get(metric)
    return value


def id_of(run: Run) -> str:
    """The id that `qdesk train --resume` takes."""
    return str(run.data.tags.get(RUN, run.info.run_id))[:8]


def _is(run: Run, name: str) -> bool:
    tags = run.data.tags
    ids = (str(run.info.run_id), tags.get(RUN, ""))
    whole = name in (tags.get("group"), run.info.run_name)
    return whole or (len(name) >= 4 and any(each.startswith(name) for each in ids))


def _settings(run: Run) -> dict[str, str]:
    return {
        name: value
        for name, value in sorted(run.data.params.items())
        if name not in NO_PART and not name.startswith("checkpoints.")
    }


def _without_seed(name: str) -> str:
    before, dash, seed = name.rpartition("-s")
    return before if dash and seed.isdigit() else name
