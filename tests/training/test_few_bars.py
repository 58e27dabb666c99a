"""Short histories, and bars of sessions, from a training to an evaluation of what it made."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from evaluation.walk_forward import Job, Window
from market.bars import Bars, BarsError, load_bars
from market.gym import market_table
from models.configuration import configuration_hash, flatten
from tests.support.evaluations import Desk, newest_run
from tests.support.registered import uri_of
from tests.support.sessions import bars_at, session_times
from tests.support.trained import Trained, runs_of
from training.checkpoints.errors import NoCheckpoint
from training.data import TrainingData
from training.resume import require_same_data, resumed
from training.settings import TrainSettings
from training.sources import load_settings
from training.walk_forward import train_window

NAME = "qdesk-tabular"


def daily(count: int) -> Bars:
    return bars_at(session_times("2020-01-02", count, 390), sigma=0.01, name="daily")


def written(folder: Path, bars: Bars, **columns: pl.Expr) -> str:
    path = folder / "bars.parquet"
    bars.table.with_columns(**columns).write_parquet(path)
    return str(path)


def arguments(path: str, *more: str) -> list[str]:
    return ["--preset", "tabular", "--bars", path, "--steps", "400", *more]


def data_of(path: str, *more: str) -> TrainingData:
    return TrainingData.of(load_settings(arguments(path, *more))[0])


@pytest.fixture
def desk(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Desk:
    return Desk(tmp_path, capsys)


def test_three_validation_bars_crown_no_candidate(tmp_path: Path, desk: Desk) -> None:
    """252 daily bars leave three: what was learned is registered, nothing is chosen, and it is said.

    Nor does patience end a training that has no best.
    """
    path = written(tmp_path, daily(252))
    trained = Trained(tmp_path)
    trained(*arguments(path, "--patience", "1", "--evaluate-every", "20"))
    said = trained.said.getvalue()
    assert (
        "note: bars/validation: 3 bars with a state are too few to choose on, which takes 30"
        in said
    )
    assert "best v" not in said
    client = MlflowClient(uri_of(trained.mlruns), uri_of(trained.mlruns))
    (version,) = client.search_model_versions(f"name = '{NAME}'")
    assert version.tags["step"] == "400"
    assert "Not chosen: these bars are too few" in str(version.description)
    with pytest.raises(MlflowException):
        client.get_model_version_by_alias(NAME, "candidate")
    (run,) = runs_of(trained)
    assert "Chosen" not in run.data.tags["mlflow.note.content"]
    assert run.data.tags["episode_bars"] == "149"  # of 151 bars, the first has no past
    assert run.data.params["market.episode_bars"] == "none"

    code, out, _ = desk("evaluate", NAME, "1")
    assert code == 0
    told = f"{NAME} v1: was not chosen among checkpoints, since its validation split has 3 bars"
    assert told in " ".join(out.split())
    assert told in desk.report("validation")


@pytest.mark.parametrize(
    "bars, more, chooses",
    [
        (30, (), True),
        (29, (), False),
        (30, ("--features", "log_price"), True),
        (29, ("--features", "log_price"), False),
        (45, ("--features", "volatility_20"), False),  # 25 have a state
        (50, ("--features", "volatility_20"), True),
    ],
)
def test_thirty_bars_choose(
    tmp_path: Path, bars: int, more: tuple[str, ...], chooses: bool
) -> None:
    path = written(tmp_path, daily(5 * bars))
    data = data_of(path, "--split.gap", "0", *more)
    assert len(data.split.validation) == bars
    assert data.chooses == chooses
    assert bool(data.notes) != chooses


@pytest.mark.parametrize("bars, step", [(150, 400), (900, None)])
def test_a_window_with_few_bars_to_choose_on_takes_the_last_checkpoint(
    tmp_path: Path, bars: int, step: int | None
) -> None:
    made = daily(1000)
    path = written(tmp_path, made)
    more = ("--split.gap", "10", "--evaluate-every", "20")
    (settings,) = load_settings(arguments(path, *more))
    window = Window(1, (0, bars), (920, 990))
    job = Job(settings.tree(), 1, window, load_bars(path).content_hash, "code")
    outcome = train_window(job)
    assert step is None or outcome.step == step
    assert len(outcome.choice) == 70


def test_the_default_episode_follows_the_data(tmp_path: Path) -> None:
    for bars, episode in ((900, 538), (1500, 898), (3000, 1000)):
        path = written(tmp_path, daily(bars))
        data = data_of(path)
        assert data.train.episode_bars == episode == min(1000, len(data.train) - 1)
        with pytest.raises(BarsError, match=r"an episode needs 2001; .*market\.episode_bars"):
            data_of(path, "--market.episode-bars", "2000")
        assert data_of(path, "--market.episode-bars", "50").train.episode_bars == 50


@pytest.mark.parametrize("vector", [False, True])
def test_environments_take_short_bars_by_default(vector: bool) -> None:
    import gymnasium

    import market.gym

    bars = daily(100)
    assert market_table(bars).episode_bars == 98
    if vector:
        envs = gymnasium.make_vec(market.gym.ID, num_envs=3, bars=bars)
        envs.reset(seed=1)
        ends = [bool(envs.step(np.ones(3, np.int64))[3].all()) for _ in range(98)]
        envs.close()
    else:
        env = gymnasium.make(market.gym.ID, bars=bars)
        env.reset(seed=1)
        ends = [bool(env.step(np.int64(1))[3]) for _ in range(98)]
        env.close()
    assert ends == [False] * 97 + [True]


def test_a_length_that_was_said_before_is_the_one_left_open_now(tmp_path: Path) -> None:
    """Runs, bundles and evaluations of before say 1000: the same configuration, market and judge."""
    (now,) = load_settings(["--preset", "linear"])
    before = TrainSettings.of(
        {**now.tree(), "market": {**now.tree()["market"], "episode_bars": 1000}}
    )
    assert now.market.episode_bars is None
    assert before.market.episode_bars == 1000
    assert configuration_hash(flatten(now.tree())) == configuration_hash(flatten(before.tree()))
    assert now.market.fingerprint() == before.market.fingerprint()
    assert before.market.fingerprint() == before.market.model_dump_json(exclude={"sizing"})
    other = now.market.model_copy(update={"episode_bars": 999})
    assert other.fingerprint() != now.market.fingerprint()


def learned(trained: Trained) -> tuple[list[float], set[str]]:
    """Every TD error that was logged, and the weights at the end."""
    (run,) = runs_of(trained)
    client = MlflowClient(uri_of(trained.mlruns), uri_of(trained.mlruns))
    history = client.get_metric_history(run.info.run_id, "train/td_error")
    versions = client.search_model_versions(f"name = '{NAME}'")
    weights = {v.tags["weights_sha256"] for v in versions if v.tags["step"] == "400"}
    return [point.value for point in history], weights


def test_a_checkpoint_of_before_is_resumed_bit_for_bit(tmp_path: Path) -> None:
    """It says 1000, where settings of now leave it open; and the reverse."""
    path = written(tmp_path, daily(2500))
    whole = Trained(tmp_path / "whole")
    whole(*arguments(path))
    said = ("--market.episode-bars", "1000")
    open_now = ("--market.episode-bars", "none")
    for place, (first, then) in enumerate([(said, open_now), ((), said)]):
        halves = Trained(tmp_path / str(place))
        halves(*arguments(path, *first), stop_at=200)
        halves("--resume", "latest", *then)
        assert learned(halves) == learned(whole)


def test_another_length_is_still_another(tmp_path: Path) -> None:
    path = written(tmp_path, daily(2500))
    trained = Trained(tmp_path)
    trained(*arguments(path, "--market.episode-bars", "999"), stop_at=200)
    command = ["--resume", "latest", "--mlruns", str(trained.mlruns), "--market.episode-bars"]
    with pytest.raises(NoCheckpoint, match=r"market\.episode_bars is 999 there and 500 here"):
        resumed([*command, "500"], trained.say)
    found = resumed([*command, "none"], trained.say)
    assert found is not None
    settings, start = found
    data = TrainingData.of(settings)
    with pytest.raises(NoCheckpoint, match="is 999 in the checkpoint and 1000 now"):
        require_same_data(start, settings, data)
    start.close()


def findings_of(client: MlflowClient, folder: Path) -> dict[str, Any]:
    path = client.download_artifacts(newest_run(client).info.run_id, "evaluation.json", str(folder))
    return json.loads(Path(path).read_text())


def test_training_and_evaluation_annualise_alike(tmp_path: Path, desk: Desk) -> None:
    """25 sessions of minutes: 101,748 bars a year in validation, walk-forward and test."""
    path = written(tmp_path, bars_at(session_times("2024-05-06", 25)))
    trained = Trained(tmp_path)
    trained(*arguments(path, "--features", "log_price", "--split.gap", "0"))
    client = desk.client
    version = client.get_model_version_by_alias(NAME, "candidate")
    logged = client.get_run(str(version.run_id)).data.metrics
    for more in ((), ("--walk-forward", "--seeds", "1", "--workers", "1"), ("--split", "test")):
        assert desk("evaluate", NAME, *more)[0] == 0
        found = findings_of(client, tmp_path)
        for part in (found["own"], found["walk_forward"]):
            if part is not None:
                assert round(part["bars_a_year"]) == 101_748
                assert part["calendar"].startswith("sessions, a bar every minute, 101,748 a year")
        if not more:
            sharpe = found["own"]["measures"][0]["sharpe"]
    assert version.tags["step"] == "400" or sharpe is not None
    history = client.get_metric_history(str(version.run_id), "eval/validation/sharpe")
    at = [each.value for each in history if str(each.step) == version.tags["step"]]
    assert at == ([] if sharpe is None else [pytest.approx(sharpe)])
    assert "eval/validation/net_return" in logged


def test_many_carried_bars_are_said_by_training_and_evaluation(tmp_path: Path, desk: Desk) -> None:
    times = session_times("2024-05-06", 10)
    third = pl.int_range(pl.len()) % 3 == 0
    path = written(tmp_path, bars_at(times), carried=third)
    assert load_bars(path).content_hash == bars_at(times).content_hash
    trained = Trained(tmp_path)
    trained(*arguments(path))
    told = (
        "nothing was traded in 33% of these bars, whose price is carried forward; make longer bars"
    )
    assert f"note: bars: {told}" in trained.said.getvalue()
    _, out, _ = desk("evaluate", NAME)
    assert f"note: bars/validation: {told}" in " ".join(out.split())

    few = pl.int_range(pl.len()) % 10 == 0
    assert load_bars(written(tmp_path, bars_at(times), carried=few)).carried == pytest.approx(0.1)
    assert data_of(written(tmp_path, bars_at(times), carried=few)).notes == []
    for other in (pl.lit("maybe"), pl.lit(3), pl.lit(None)):  # a column that says something else
        assert load_bars(written(tmp_path, bars_at(times), carried=other)).carried == 0
