"""A move of the champion is one step: killed anywhere, or made twice at once, the chain stays whole."""

import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from durable.locks import Busy, locked
from models import turns
from models.promotion import mend, rollback
from models.promotion_records import (
    CHAMPION,
    PREVIOUS,
    champion,
    history,
    record,
    recorded,
    unfinished,
)
from tests.support.registered import NAME, promote

CALLS = (
    "set_registered_model_tag",
    "set_model_version_tag",
    "set_registered_model_alias",
    "delete_registered_model_alias",
    "delete_registered_model_tag",
)


class Killed(BaseException):
    """The process ended here."""


def kill_at(patch: pytest.MonkeyPatch, number: int) -> list[str]:
    """Has the process end before the so-manieth write to the store; names of those that were made."""
    made: list[str] = []

    def counted(name: str) -> Any:
        call = getattr(MlflowClient, name)

        def counting(*arguments: Any) -> Any:
            if len(made) == number:
                raise Killed
            made.append(name)
            return call(*arguments)

        return counting

    for name in CALLS:
        patch.setattr(MlflowClient, name, counted(name))
    return made


def aliases(client: MlflowClient) -> tuple[str | None, str | None]:
    now, before = (champion(client, NAME, alias) for alias in (CHAMPION, PREVIOUS))
    return None if now is None else str(now.version), None if before is None else str(
        before.version
    )


def require_agreement(client: MlflowClient) -> None:
    """Aliases and records name the same two versions, which differ."""
    known = recorded(client, NAME)
    assert not unfinished(client, NAME)
    assert known.champion is not None
    assert aliases(client) == (known.champion.version, known.previous and known.previous.version)
    assert known.previous is None or known.previous.version != known.champion.version


@pytest.mark.parametrize("number", range(6))
@pytest.mark.parametrize("kind", ["promote", "rollback"])
def test_a_move_that_is_killed_anywhere_is_completed_or_undone_by_the_next(
    client: MlflowClient, kind: str, number: int
) -> None:
    for version in ("1", "2"):
        promote(client, NAME, version, "judged")
    with pytest.MonkeyPatch.context() as patch:
        made = kill_at(patch, number)
        try:
            if kind == "promote":
                promote(client, NAME, "3", "judged")
            else:
                rollback(client, NAME, "worse")
        except Killed:
            assert len(made) == number
    mended = mend(client, NAME, locked=True)
    assert len(mended) == (0 < number < len(made) + 1 and not made_whole(made))
    require_agreement(client)
    now = aliases(client)[0]
    moved = "set_registered_model_alias" in made and made[-1] != "set_registered_model_alias"
    if made_whole(made) or moved:
        assert now == ("3" if kind == "promote" else "1")
    mend(client, NAME, locked=True)
    require_agreement(client)
    while recorded(client, NAME).previous is not None:
        rollback(client, NAME, "further")
        require_agreement(client)
    assert aliases(client) == ("1", None)  # nothing dropped out of the chain


def made_whole(made: list[str]) -> bool:
    return made.count("set_registered_model_tag") == 2


def test_two_promotions_at_once_follow_one_another(
    client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "PATIENCE", 600.0)  # however slow the machine is
    promote(client, NAME, "1", "judged")
    faults: list[BaseException] = []

    def move(version: str) -> None:
        try:
            promote(MlflowClient(client.tracking_uri, client.tracking_uri), NAME, version, "judged")
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=move, args=(version,)) for version in ("2", "3")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults
    require_agreement(client)
    moves = history(client, NAME)
    assert [move.before for move in moves] == [None, "1", moves[1].version]
    assert {move.version for move in moves[1:]} == {"2", "3"}


def test_a_process_that_does_not_let_go_is_named(
    client: MlflowClient, mlruns: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "PATIENCE", 0.0)
    lock = mlruns / f".promotion-{NAME}.lock"
    with locked(lock), pytest.raises(Busy, match=f"{lock.name}: another process has it"):
        promote(client, NAME, "1", "judged")
    promote(client, NAME, "1", "judged")


@pytest.fixture
def server(client: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    """A store as if it were behind a server: no lock can be had."""
    monkeypatch.setattr(turns, "_folder", lambda _: None)
    return client


def test_without_a_lock_what_began_just_now_goes_first(server: MlflowClient) -> None:
    promote(server, NAME, "1", "judged")
    theirs = record(server, NAME, "promote", "2", "1", "judged", "ann", "passed", "")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(turns, "PATIENCE", 0.0)
        with pytest.raises(Busy, match="somebody else moves the champion at this moment"):
            promote(server, NAME, "3", "judged")
    assert unfinished(server, NAME) == [theirs]  # ours is withdrawn, and theirs is left to them
    assert aliases(server) == ("1", None)


def test_without_a_lock_what_began_long_ago_is_broken_off(server: MlflowClient) -> None:
    promote(server, NAME, "1", "judged")
    theirs = record(server, NAME, "promote", "2", "1", "judged", "ann", "passed", "")
    old = datetime.now(UTC) - timedelta(seconds=turns.BROKEN_OFF + 60)
    server.delete_registered_model_tag(NAME, f"promotion/{theirs.when}")
    when = f"{old:%Y-%m-%dT%H:%M:%S.%fZ}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("models.promotion_records.datetime", Fixed(old))
        aged = record(server, NAME, "promote", "2", "1", "judged", "ann", "passed", "")
    assert aged.when == when
    promote(server, NAME, "3", "judged")
    require_agreement(server)
    assert [(move.version, move.undone) for move in history(server, NAME)] == [
        ("2", True),
        ("1", False),
        ("3", False),
    ]


class Fixed:
    """A clock that stands still."""

    def __init__(self, moment: datetime) -> None:
        self.moment = moment

    def now(self, _: Any) -> datetime:
        return self.moment


@pytest.mark.parametrize("mine", ["a", "b"])
def test_of_two_requests_the_first_goes_ahead_once_the_other_is_gone(mine: str) -> None:
    looks = [{"a", "b"}, {"a", "b"}, {mine}]
    monkeypatch = pytest.MonkeyPatch()
    with monkeypatch.context() as patch:
        patch.setattr(turns, "LOOK_EVERY", 0.0)
        assert turns.first(mine, lambda: looks.pop(0)) is (mine == "a")
    assert len(looks) == (0 if mine == "a" else 2)


def test_a_request_that_stays_is_not_waited_for_without_end() -> None:
    assert turns.first("a", lambda: {"a", "b"}, 0.0) is False
    assert turns.first("a", lambda: {"a"}, 0.0) is True
