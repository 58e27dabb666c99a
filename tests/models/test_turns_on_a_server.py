"""Where no lock can be had, behind MLflow's own server: of openings and moves the first goes ahead."""

import threading
from collections.abc import Callable, Iterator

import mlflow
import pytest
from mlflow import MlflowClient

from durable.locks import Busy
from evaluation.errors import BadEvaluation
from evaluation.ledger import asking_tags, openings, requests
from evaluation.opening import open_bars
from market.synthetic import RandomWalk
from models.promotion_records import CHAMPION, PREVIOUS, champion, history, record, unfinished
from tests.support.openings import beginning
from tests.support.registered import NAME, promote, register_some
from tests.support.servers import TrackingServer


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowClient]:
    made = TrackingServer(tmp_path_factory.mktemp("server"))
    made.start()
    yield MlflowClient(made.uri, made.uri)
    made.kill()


def at_once(count: int, act: Callable[[int], None], expected: type[Exception]) -> list[Exception]:
    """Acts in `count` threads that start together; returns the refusals."""
    together = threading.Barrier(count)
    refused: list[Exception] = []
    faults: list[BaseException] = []

    def one(number: int) -> None:
        together.wait()
        try:
            act(number)
        except expected as error:
            refused.append(error)
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults
    return refused


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits for others however slow the machine is."""
    monkeypatch.setattr("models.turns.first.__defaults__", (600.0,))
    monkeypatch.setattr("models.turns.PATIENCE", 600.0)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.usefixtures("patient")
def test_of_four_that_open_at_once_behind_a_server_one_looks(
    server: MlflowClient, seed: int
) -> None:
    bars = RandomWalk(sigma=0.05).bars(400, seed=seed)
    begin = beginning(server)

    def look(number: int) -> None:
        client = MlflowClient(server.tracking_uri, server.tracking_uri)
        open_bars(client, bars, f"m v{number}", None, begin)

    refused = at_once(4, look, BadEvaluation)
    assert len(refused) == 3
    said = ("was opened 1 time before", "is being opened")
    assert all(any(each in str(error) for each in said) for error in refused)
    assert [each.why for each in openings(server, bars)] == ["first opening"]
    assert requests(server, bars, 1e9) == {}


def test_a_request_behind_a_server_counts_until_it_is_old(
    server: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    bars = RandomWalk(sigma=0.05).bars(400, seed=9)
    monkeypatch.setattr("models.turns.first.__defaults__", (0.0,))
    beginning(server)(asking_tags(bars, "ann", "m v7", "first opening"))
    with pytest.raises(BadEvaluation, match="is being opened by ann for m v7 at this moment"):
        open_bars(server, bars, "m v1", None, beginning(server))
    assert openings(server, bars) == []
    monkeypatch.setattr("evaluation.opening.BROKEN_OFF", 0.0)
    open_bars(server, bars, "m v1", None, beginning(server))
    assert [each.version for each in openings(server, bars)] == ["m v1"]


@pytest.fixture(scope="module")
def promoted(server: MlflowClient) -> MlflowClient:
    """The server with three versions, the first of them champion."""
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(server.tracking_uri)
    try:
        register_some(server, server.create_experiment("tested"), 3)
    finally:
        mlflow.set_tracking_uri(before)
    promote(server, NAME, "1", "judged")
    return server


@pytest.mark.usefixtures("patient")
def test_promotions_at_once_behind_a_server_follow_one_another(promoted: MlflowClient) -> None:
    def move(number: int) -> None:
        client = MlflowClient(promoted.tracking_uri, promoted.tracking_uri)
        promote(client, NAME, str(number + 2), "judged")

    refused = at_once(2, move, Busy)
    moves = [each for each in history(promoted, NAME) if not each.undone]
    assert len(moves) == 3 - len(refused)
    assert unfinished(promoted, NAME) == []
    assert [each.before for each in moves] == [None, *(each.version for each in moves[:-1])]
    aliases = [champion(promoted, NAME, alias) for alias in (PREVIOUS, CHAMPION)]
    found = [None if each is None else str(each.version) for each in aliases]
    assert found == [each.version for each in moves[-2:]]


def test_a_move_that_began_behind_a_server_just_now_goes_first(
    promoted: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    was = champion(promoted, NAME, CHAMPION)
    assert was is not None
    other, mine = sorted({"1", "2", "3"} - {str(was.version)})
    theirs = record(
        promoted, NAME, "promote", other, str(was.version), "judged", "ann", "passed", ""
    )
    monkeypatch.setattr("models.turns.PATIENCE", 0.0)
    with pytest.raises(Busy, match="somebody else moves the champion at this moment"):
        promote(promoted, NAME, mine, "judged")
    assert unfinished(promoted, NAME) == [theirs]
    found = champion(promoted, NAME, CHAMPION)
    assert found is not None
    assert found.version == was.version
