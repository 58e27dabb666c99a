"""The candidate: compared within equal bars, costs and fills; never ruined; its moves are explained."""

import os
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from models.registry import propose, register
from tests.support.bundles import bundle_of
from tests.support.networks import linear_q_network
from tests.support.registered import uri_of
from tests.support.stores import fresh
from tests.support.trained import Trained
from training.tracking.store import Store

SEEDS = count(1)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    before = mlflow.get_tracking_uri()
    yield Store(fresh(tmp_path / "mlruns"))
    mlflow.set_tracking_uri(before)
    os.environ.pop("MLFLOW_TRACKING_URI", None)


def version(store: Store, judged_on: str, net_return: float, **tags: str) -> ModelVersion:
    run = store.client.create_run(store.experiment("tested")).info.run_id
    known = {"judged_on": judged_on, "net_return": repr(net_return), **tags}
    return register(store.client, bundle_of(linear_q_network(3, next(SEEDS))), run, known, "")


def proposed(store: Store, made: ModelVersion) -> tuple[str | None, str | None, str]:
    found = propose(store.client, made)
    number = None if found.candidate is None else str(found.candidate.version)
    return number, found.before, found.reason


def test_a_run_under_other_costs_in_between_does_not_lose_the_best_of_these(store: Store) -> None:
    assert proposed(store, version(store, "A", 0.10)) == (
        "1", None, "the only one on these bars, costs and fills, +10.0%",
    )  # fmt: skip
    assert proposed(store, version(store, "B", 0.50)) == (
        "2", "1", "the only one on these bars, costs and fills, +50.0%; v1 was judged on others",
    )  # fmt: skip
    assert proposed(store, version(store, "A", 0.05)) == (
        "1", "2", "best of 2 on these bars, costs and fills, +10.0%; v2 was judged on others",
    )  # fmt: skip
    assert proposed(store, version(store, "A", 0.02)) == (
        "1", "1", "none did better than +10.0% on these bars, costs and fills",
    )  # fmt: skip
    assert proposed(store, version(store, "A", 0.20)) == (
        "5", "1", "best of 4 on these bars, costs and fills, +20.0%; v1 made +10.0%",
    )  # fmt: skip


@pytest.mark.parametrize("ruin", [{"ruined": "yes"}, {}])
def test_a_ruined_version_is_never_the_candidate(store: Store, ruin: dict[str, str]) -> None:
    """By its tag, or, of those registered before there was one, by a loss of everything."""
    lost = -0.8 if ruin else -1.001
    number, before, reason = proposed(store, version(store, "A", lost, **ruin))
    assert (number, before) == (None, None)
    assert reason == "v1 was ruined on its validation bars"
    assert proposed(store, version(store, "A", -0.9, ruined="no"))[0] == "2"
    assert proposed(store, version(store, "B", lost, **ruin))[:2] == ("2", "2")


def test_a_ruined_candidate_of_before_gives_way(store: Store) -> None:
    store.client.set_registered_model_alias(
        "qdesk-linear", "candidate", version(store, "A", -1.2).version
    )
    number, before, reason = proposed(store, version(store, "A", -0.3))
    assert (number, before) == ("2", "1")
    assert reason.endswith("v1 was ruined")


def test_the_older_of_two_that_did_alike_stays(store: Store) -> None:
    proposed(store, version(store, "A", 0.1))
    assert proposed(store, version(store, "A", 0.1))[0] == "1"


def test_a_training_says_what_moved_the_candidate_and_why(tmp_path: Path) -> None:
    trained = Trained(tmp_path)
    given = ["--preset", "tabular", "--steps", "2000", "--bars", "synthetic:ou?seed=3&bars=3000"]
    trained(*given)
    assert "qdesk-tabular@candidate is v" in trained.said.getvalue()
    client = MlflowClient(uri_of(trained.mlruns), uri_of(trained.mlruns))
    first = client.get_model_version_by_alias("qdesk-tabular", "candidate")
    assert first.tags["ruined"] == "no"
    trained(*given, "--market.fee-rate", "0.0001")
    trained(*given, "--seed", "2", "--steps", "300")
    said = " ".join(trained.said.getvalue().split())
    assert f"; it was v{first.version}: " in said
    assert f"v{first.version} was judged on others" in said
    now = client.get_model_version_by_alias("qdesk-tabular", "candidate")
    versions = client.search_model_versions("name = 'qdesk-tabular'")
    same = [each for each in versions if each.tags["judged_on"] == first.tags["judged_on"]]
    best = max(same, key=lambda each: float(each.tags["net_return"]))
    assert now.tags["net_return"] == best.tags["net_return"]
    assert now.tags["judged_on"] == first.tags["judged_on"]
