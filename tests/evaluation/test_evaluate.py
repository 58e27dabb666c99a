"""`qdesk evaluate` and the gate of `qdesk models promote`, from a training to a champion."""

import json
import re
from datetime import timedelta
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import polars as pl
import pytest
from mlflow import MlflowClient
from mlflow.entities import ViewType

from evaluation.evaluate import Evaluation
from evaluation.ledger import openings
from evaluation.trials import trials_on
from evaluation.walk_forward import Job, Outcome
from market.source import bars_from
from models.promotion_records import champion, history
from tests.support.evaluations import NAME, Desk, newest_run
from training.walk_forward import train_window

EDGE, NOISE = (
    "synthetic:ou?theta=0.05&sigma=0.01&seed=3&bars=5000",
    "synthetic:walk?seed=5&bars=5000",
)
QUICK = ["--walk-forward", "--workers", "1"]


@pytest.fixture
def desk(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Desk:
    return Desk(tmp_path, capsys)


def test_an_edge_becomes_champion(desk: Desk) -> None:
    desk.train("--bars", EDGE)
    code, said, _ = desk("evaluate", NAME, *QUICK)
    assert code == 0
    assert "Yes. It fulfils all 13 conditions." in " ".join(said.split()), said
    assert re.search(r"typical seed\s+\+\d+", said)
    client = desk.client
    run = newest_run(client)
    assert run.info.status == "FINISHED"
    assert run.data.metrics["walk_forward/net_return"] > 0.2
    version = run.data.tags["version"]
    held = {item.path for item in client.list_artifacts(run.info.run_id)}
    assert held == {"evaluation.json", "report.html", "returns.safetensors"}
    registered = client.get_model_version(NAME, version)
    place = registered.tags["report/walk-forward"]
    assert place == f"runs:/{registered.run_id}/reports/{NAME}-v{version}-walk-forward.html"
    beside = client.list_artifacts(str(registered.run_id), "reports")
    assert place.partition("/")[2].endswith(beside[0].path)
    text = Path(client.download_artifacts(run.info.run_id, "evaluation.json")).read_text()
    evaluation = Evaluation.model_validate_json(text)
    assert evaluation.walk_forward is not None
    assert evaluation.walk_forward.seeds == [1, 2, 3, 4, 5]
    assert evaluation.trials.number == 1
    assert evaluation.snooping is not None
    assert evaluation.snooping.spa_flat < 0.05
    jobs = len(list((desk.mlruns / "evaluations").glob("*/choice.safetensors")))
    assert jobs == 20
    assert champion(client, NAME) is None  # to be good is not yet to be promoted
    code, said, err = desk("models", "promote", NAME, version, "--reason", "passed")
    assert code == 0, said + err
    assert f"{NAME}@champion is v{version}" in said
    assert history(client, NAME)[0].gate == "passed"
    check_page(desk.report("walk-forward"), "Yes")
    again = desk("evaluate", NAME, version, *QUICK)
    assert again[0] == 0
    assert trials_on(client, evaluation.data_hash, 1.0).number == 1  # the same configuration
    fewer = ["--seeds", "1", "--windows", "2"]
    assert desk("evaluate", NAME, version, *QUICK, *fewer)[0] == 0
    assert trials_on(client, evaluation.data_hash, 1.0).number == 2  # another go at it
    desk.train("--bars", EDGE, "--learner.gamma", "0.9")
    trials = trials_on(client, evaluation.data_hash, 1.0)
    assert trials.number == 3
    assert trials.families == {"q_learning, tabular": 2}
    for each in client.search_runs(["1"], "params.`learner.gamma` = '0.9'"):
        client.delete_run(each.info.run_id)
    assert trials_on(client, evaluation.data_hash, 1.0).number == 3  # what was seen stays seen


def test_noise_does_not(desk: Desk) -> None:
    desk.train("--bars", NOISE)
    code, said, _ = desk("models", "promote", NAME, "candidate", "--reason", "it looks good")
    assert code == 4
    assert "not evaluated" in said
    code, said, _ = desk("evaluate", NAME, *QUICK)
    assert code == 0
    assert re.search(r"No\. It fails \d+ of 13 conditions", " ".join(said.split()))
    version = newest_run(desk.client).data.tags["version"]
    check_page(desk.report("walk-forward"), "No")
    code, said, err = desk("models", "promote", NAME, version, "--reason", "it looks good")
    assert code == 4
    assert re.fullmatch(
        rf"{NAME} v{version}: the gate says no, \d+ of 13 conditions failed; no alias was moved\n",
        err,
    )
    assert said.count("FAIL") >= 3
    assert champion(desk.client, NAME) is None
    easy = desk.folder / "easy.toml"
    easy.write_text("trades = 0\nmax_drawdown = 9\n")
    less = desk("models", "promote", NAME, version, "--reason", "x", "--policy", str(easy))
    assert less[0] == 4
    override = ["--reason", "a drill", "--override", "the desk's head said so"]
    assert desk("models", "promote", NAME, version, *override)[0] == 0
    found = champion(desk.client, NAME)
    assert found is not None
    assert str(found.version) == version
    assert any("the desk's head said so" in value for value in found.tags.values())


def test_the_test_split_is_opened_once(desk: Desk) -> None:
    desk.train("--bars", EDGE)
    code, said, _ = desk("evaluate", NAME, "--split", "test")
    assert code == 0
    assert "test on synthetic_ou_s3" in said
    client = desk.client
    held_back = bars_from(EDGE).split(gap=48).test
    assert len(openings(client, held_back)) == 1
    assert "was opened 1 time before" in desk.refused("evaluate", NAME, "--split", "test")
    client.delete_run(newest_run(client).info.run_id)  # no way to make it unseen
    assert "--again" in desk.refused("evaluate", NAME, "--split", "test", "--again", " ")
    assert len(openings(client, held_back)) == 1
    assert desk("evaluate", NAME, "--split", "test", "--again", "a bug in costs")[0] == 0
    found = openings(client, held_back)
    assert [each.why for each in found] == ["first opening", "a bug in costs"]
    page = desk.report("test")
    assert "<strong>Not judged.</strong>" in page
    assert "Opening 1 of held-back bars" in page
    assert "(a bug in costs)" in page
    assert "Opening 2 of held-back bars" in page
    desk("evaluate", NAME)  # whatever is evaluated later says so too
    assert "Opening 2 of held-back bars" in desk.report("validation")


def test_an_opening_counts_even_if_nothing_comes_of_it(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.train("--bars", EDGE)

    def breaks(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("evaluation.evaluate.assess", breaks)
    code, _, said = desk("evaluate", NAME, "--split", "test")
    assert (code, said) == (130, "qdesk evaluate: stopped by SIGINT\n")
    assert newest_run(desk.client).info.status == "KILLED"
    assert "was opened 1 time before" in desk.refused("evaluate", NAME, "--split", "test")


def test_bars_that_it_knows_are_refused_or_marked(desk: Desk, tmp_path: Path) -> None:
    desk.train("--bars", EDGE)
    said = desk.refused("evaluate", NAME, "--split", "train")
    assert "was trained on bars from 2020-01-01 00:00 to" in said
    assert "--in-sample" in said
    code, said, _ = desk("evaluate", NAME, "--split", "train", "--in-sample")
    assert code == 0
    assert "train, IN SAMPLE on synthetic_ou_s3" in said
    page = desk.report("train")
    check_page(page, "Not judged")
    figures = re.findall(r"<figure>.*?</figure>", page, re.DOTALL)
    assert (
        sum("IN SAMPLE" in figure for figure in figures) == len(figures) - 1
    )  # Q-values have no bars
    assert "in sample. It was trained in the time of these bars" in page
    assert "holds bars of the test split" in desk.refused("evaluate", NAME, "--bars", EDGE)
    split = bars_from(EDGE).split(gap=48)
    shifted = tmp_path / "shifted.csv"  # by a second, and rounded
    table = split.test.table.with_columns(pl.col("time") + timedelta(seconds=1))
    table.with_columns(pl.col("open", "high", "low", "close").round(2)).write_csv(shifted)
    assert "holds bars of the test split" in desk.refused("evaluate", NAME, "--bars", str(shifted))
    split.validation.table.write_parquet(tmp_path / "chosen_on.parquet")
    known = desk.refused("evaluate", NAME, "--bars", str(tmp_path / "chosen_on.parquet"))
    assert "holds bars of the validation split" in known
    other = "synthetic:ou?seed=9&bars=800"  # another path in the same time
    assert "overlap these" in desk.refused("evaluate", NAME, "--bars", other)
    later = tmp_path / "later.parquet"
    moved = bars_from(other).table.with_columns(pl.col("time") + timedelta(days=30))
    moved.write_parquet(later)
    code, said, _ = desk("evaluate", NAME, "--bars", str(later))
    assert code == 0
    assert "bars on later" in said
    assert "was opened 1 time before" in desk.refused("evaluate", NAME, "--bars", str(later))


def test_what_never_trades_has_no_ratios(desk: Desk, tmp_path: Path) -> None:
    """Zero trades, and bars whose price never changes: a dash, and no."""
    desk.train("--bars", NOISE, "--market.turnover-penalty", "0.5")
    code, said, _ = desk("evaluate", NAME, *QUICK, "--seeds", "2", "--windows", "2")
    assert code == 0
    assert re.search(r"typical seed\s+\+0.0%\s+-\s+0.0%\s+0\s", said)
    page = desk.report("walk-forward")
    assert "no trade was made; ratios are undefined" in page
    assert "nan" not in page.lower().replace("finance", "")
    assert ">inf" not in page
    times = bars_from(NOISE).table["time"][:500] + timedelta(days=30)
    constant = pl.DataFrame(
        {"time": times, **dict.fromkeys(("open", "high", "low", "close"), 100.0), "volume": 1.0}
    )
    constant.write_parquet(tmp_path / "constant.parquet")
    code, said, _ = desk("evaluate", NAME, "--bars", str(tmp_path / "constant.parquet"))
    assert code == 0
    assert re.search(r"buy and hold\s+-0.5%\s+-\s", said) or re.search(r"flat\s+\+0.0%\s+-\s", said)


def test_a_stopped_walk_forward_goes_on(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.train("--bars", EDGE)
    done: list[str] = []

    def counted(job: Job) -> Outcome:
        done.append(job.key)
        if len(done) == 4:
            raise KeyboardInterrupt
        return train_window(job)

    quick = [*QUICK, "--seeds", "2", "--windows", "3"]
    monkeypatch.setattr("qdesk.evaluate.train_window", counted)
    assert desk("evaluate", NAME, *quick)[0] == 130
    first = done[:3]
    done.clear()
    assert desk("evaluate", NAME, *quick)[0] == 0
    assert len(done) == 3  # the other three of six
    assert not set(done) & set(first)


def test_what_cannot_be_evaluated_is_refused(desk: Desk, tmp_path: Path) -> None:
    bars = tmp_path / "bars.parquet"
    bars_from(EDGE).table.write_parquet(bars)
    desk.train("--bars", str(bars))
    assert "there is no version or alias 99" in desk.refused("evaluate", NAME, "99")
    few = [*QUICK, "--windows", "900"]
    assert "4,000 bars are too few for 900 windows" in desk.refused("evaluate", NAME, *few)
    bars_from(EDGE).table[:4000].write_parquet(bars)
    assert "are not those that it was trained on" in desk.refused("evaluate", NAME)
    bars.unlink()
    assert "no such file" in desk.refused("evaluate", NAME)
    for wrong in (
        ["--windows", "3"],
        ["--walk-forward", "--train-share", "1.5"],
        ["--walk-forward", "--workers", "0"],
        ["--split", "test", "--bars", "x"],
        ["--again", "why"],
        ["--walk-forward", "--split", "test"],
    ):
        with pytest.raises(SystemExit) as refused:
            desk("evaluate", NAME, *wrong)
        assert refused.value.code == 2
    client = desk.client
    runs = client.search_runs(
        [e.experiment_id for e in client.search_experiments()], "tags.model != ''", ViewType.ALL
    )
    assert runs == []  # a denial leaves nothing behind


def test_damage_is_named_and_hurts_nobody_else(desk: Desk, tmp_path: Path) -> None:
    desk.train("--bars", NOISE, "--steps", "500")
    few = [*QUICK, "--seeds", "1", "--windows", "1"]
    assert "give a file in a folder" in desk.refused(
        "evaluate", NAME, *few, "--report", str(tmp_path)
    )
    desk.code = "c0ffee-dirty"
    assert desk("evaluate", NAME, *few)[0] == 0
    assert "c0ffee, c0ffee-dirty" in desk.report("walk-forward")
    client = desk.client
    first = newest_run(client)
    artifacts = Path(str(first.info.artifact_uri))
    (artifacts / "evaluation.json").write_bytes(b"\xff\xfe\x00")
    said = desk.refused("models", "promote", NAME, first.data.tags["version"], "--reason", "x")
    assert "cannot be read" in said
    assert "evaluate it again" in said
    (artifacts / "returns.safetensors").write_bytes(b"torn")
    client.set_tag(first.info.run_id, "configuration", "another")
    assert desk("evaluate", NAME, *few)[0] == 0
    run = newest_run(client)
    text = Path(client.download_artifacts(run.info.run_id, "evaluation.json")).read_text()
    snooping = Evaluation.model_validate_json(text).snooping
    assert snooping is not None
    assert (snooping.trials, snooping.skipped) == (1, 1)
    client.delete_experiment(run.info.experiment_id)
    assert desk("evaluate", NAME)[0] == 0  # what was opened stays on record
    for nothing in (["--windows", "0"], ["--train-share", "0"], ["--seeds", "0"]):
        with pytest.raises(SystemExit):
            desk("evaluate", NAME, *QUICK, *nothing)


def test_a_version_of_other_features_is_refused(
    client: MlflowClient, mlruns: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    desk = Desk(mlruns.parent, capsys)
    said = desk.refused("evaluate", "qdesk-linear", "1")
    assert "was trained on features or a market that this code does not know" in said


def check_page(page: str, said: str) -> None:
    """One file, no script, nothing from elsewhere, every figure with a text in its place."""
    assert page.index(f"<strong>{said}.</strong>") < page.index("<h2>Conditions</h2>")
    for never in ("<script", "src=", "@import", "<link", "<img"):
        assert never not in page
    addresses = set(re.findall(r"https?://[^\s\"'<]+", page))
    assert all(
        address.startswith(("http://www.w3.org/", "http://purl.org/", "http://creativecommons"))
        for address in addresses
    )
    figures = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(figures) >= 4
    for figure in figures:
        root = ElementTree.fromstring(figure)
        assert root.get("role") == "img"
        assert len(root.get("aria-label", "")) > 30
    json.dumps(page)
