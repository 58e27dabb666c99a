"""`qdesk runs`: tables over trainings, with what seeds together say; and what is refused."""

import csv
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from evaluation.statistics import interquartile_mean, interquartile_mean_interval
from models.promotion_records import NoVersion
from qdesk.runs import run
from tests.support.stores import fresh
from training.tracking.errors import NoRun
from training.tracking.runs import value_of
from training.tracking.store import RUN, Store

RETURNS = {"linear": (0.1, 0.3, -0.2, 0.4), "two_layer": (0.5, 0.7)}


@pytest.fixture
def mlruns(tmp_path: Path) -> Path:
    """Four seeds of one configuration and two of another in one group, and a run of another group."""
    folder = tmp_path / "mlruns"
    store = Store(fresh(folder))
    experiment = store.experiment("qdesk")
    began = 1_700_000_000_000

    def make(name: str, group: str, seed: int, metrics: dict[str, float], rate: str) -> None:
        nonlocal began
        tags = {
            "group": group,
            "seed": str(seed),
            "bars": "made",
            "network": name,
            RUN: f"{name}{seed}",
        }
        run = store.client.create_run(experiment, began, tags, f"{name}-made-s{seed}")
        for key, value in {"seed": str(seed), "learner.learning_rate": rate, "steps": "9"}.items():
            store.client.log_param(run.info.run_id, key, value)
        for metric, figure in metrics.items():
            store.client.log_metric(run.info.run_id, metric, figure)
        store.client.set_terminated(run.info.run_id, "FINISHED", began + 61_000)
        began += 1

    make("older", "g0", 1, {"eval/validation/net_return": 9.0}, "0.5")
    for name, returns in RETURNS.items():
        for seed, value in enumerate(returns, start=1):
            found = {"eval/validation/net_return": value, "eval/validation/sharpe": 10 * value}
            found |= {"eval/validation/trades": float(value != -0.2), "train/loss": 12345.0}
            make(name, "g1", seed, found, "0.1" if name == "linear" else "0.2")
    return folder


def said(mlruns: Path, *arguments: str, width: int = 200) -> str:
    file = StringIO()
    assert run([*arguments, "--mlruns", str(mlruns)], Console(file=file, width=width)) == 0
    return file.getvalue()


def table(mlruns: Path, *arguments: str) -> list[list[str]]:
    path = mlruns.parent / "table.csv"
    said(mlruns, *arguments, "--csv", str(path))
    with path.open(newline="") as file:
        return list(csv.reader(file))


def test_list_shows_the_newest_first_and_filters(mlruns: Path) -> None:
    columns, *rows = table(mlruns, "list")
    assert len(rows) == 7
    assert rows[-1][0] == "older-made-s1"
    first = dict(zip(columns, rows[0], strict=True))
    assert first["group"] == "g1"
    assert first["status"] == "FINISHED"
    assert first["took"] == "1:01"
    assert first["began, UTC"] == "2023-11-14 22:13"
    assert len(table(mlruns, "list", "--network", "linear", "--seed", "2")) == 2
    assert len(table(mlruns, "list", "--most", "3")) == 4
    narrow = said(mlruns, "list", width=80)
    assert "two_layer-made-s2" in narrow
    assert max(map(len, narrow.splitlines())) <= 80
    assert "network" not in narrow


def test_best_ranks_by_the_last_value_and_leaves_out_what_is_undefined(mlruns: Path) -> None:
    assert [row[1] for row in table(mlruns, "best", "--group", "g1")[1:4]] == [
        "+70.0%",
        "+50.0%",
        "+40.0%",
    ]
    ratios = table(mlruns, "best", "--metric", "eval/validation/sharpe", "--lowest")
    assert [row[1] for row in ratios[1:]] == ["1", "3", "4", "5", "7"]  # -2 never traded
    first = table(mlruns, "best", "--metric", "eval/validation/sharpe", "--lowest", "--most", "1")
    assert [row[1] for row in first[1:]] == ["1"]
    with pytest.raises(NoRun, match="no/such: no run has this metric; there are eval/validation/"):
        said(mlruns, "best", "--metric", "no/such")
    with pytest.raises(NoRun, match="is no metric's name"):
        said(mlruns, "best", "--metric", "x` = 1")


def test_what_was_undefined_at_the_last_validation_has_no_value(tmp_path: Path) -> None:
    """MLflow's latest value of it is that of an earlier validation, whatever made it undefined."""
    folder = tmp_path / "mlruns"
    store = Store(fresh(folder))
    run = store.client.create_run(store.experiment("qdesk"), run_name="one").info.run_id
    both = {"net_return": -0.1, "trades": 40.0, "ruined": 0.0, "sharpe": -0.7, "sortino": -0.9}
    first = {**both, "break_even": 1.5, "profit_factor": 0.9}
    for step, measures in ((100, first), (200, {**both, "net_return": -0.2, "sharpe": -1.1})):
        for name, value in measures.items():
            store.client.log_metric(run, f"eval/validation/{name}", value, step=step)
    store.client.log_metric(run, "train/loss", 0.5, step=150)
    found = store.client.get_run(run)
    assert found.data.metrics["eval/validation/break_even"] == 1.5
    assert value_of(found, "eval/validation/break_even") is None
    assert value_of(found, "eval/validation/profit_factor") is None
    assert value_of(found, "eval/validation/sharpe") == -1.1
    assert value_of(found, "train/loss") == 0.5
    shown = table(folder, "compare", "one", "--metric", "eval/validation/break_even")
    assert shown[-1] == ["eval/validation/break_even", "-"]


def test_compare_puts_settings_beside_metrics_with_intervals_over_seeds(mlruns: Path) -> None:
    columns, *rows = table(mlruns, "compare")
    assert columns == ["", "linear-made", "two_layer-made"]
    cells = {row[0]: row[1:] for row in rows}
    assert cells["runs"] == ["4", "2"]
    assert cells["seeds"] == ["1, 2, 3, 4", "1, 2"]
    assert cells["learner.learning_rate"] == ["0.1", "0.2"]
    assert "steps" not in cells  # the same in both
    for name, column in (("linear", 0), ("two_layer", 1)):
        low, high = interquartile_mean_interval(RETURNS[name])
        mean = interquartile_mean(RETURNS[name])
        expected = f"{mean:+.1%} [{low:+.1%} to {high:+.1%}]"
        assert cells["eval/validation/net_return"][column] == expected
    assert cells["train/loss"][0] == "12,345 [12,345 to 12,345]"
    one = {
        row[0]: row[1:]
        for row in table(mlruns, "compare", "older1", "g1", "--metric", "train/loss")
    }
    assert one["train/loss"] == ["-", "12,345 [12,345 to 12,345]", "12,345 [12,345 to 12,345]"]
    assert one["runs"] == ["1", "4", "2"]


def test_what_is_not_there_is_named(mlruns: Path, tmp_path: Path) -> None:
    with pytest.raises(NoRun, match=r"nobody: no run and no group .* groups are g1, g0$"):
        said(mlruns, "compare", "nobody")
    with pytest.raises(NoRun, match="other: there is no such experiment; there are Default, qdesk"):
        said(mlruns, "list", "--experiment", "other")
    with pytest.raises(NoRun, match="no run fits"):
        said(mlruns, "list", "--bars", "it's")
    with pytest.raises(NoRun, match=r"none of these runs has this metric; there are eval"):
        said(mlruns, "compare", "--metric", "x")
    with pytest.raises(NoRun, match=r"cannot be written \(No such file or directory\)"):
        said(mlruns, "list", "--csv", str(tmp_path / "no" / "where.csv"))
    with pytest.raises(NoVersion, match="there is no store here"):
        said(tmp_path / "nowhere", "list")
    with pytest.raises(SystemExit) as ended:
        said(mlruns, "list", "--most", "0")
    assert ended.value.code == 2
