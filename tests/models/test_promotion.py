"""Who may trade: the champion's aliases, their record, and `qdesk models`."""

import shutil
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

import qdesk
from durable.verified import CorruptError
from models.promotion import Condition, GateSaidNo, Judgement, load_bundle, rollback
from models.promotion import promote as promote_judged
from models.promotion_records import NoReason, NoVersion, history, resolve
from tests.support.registered import NAME, bundle_folder, promote, register_three, spoil, uri_of


def aliases(client: MlflowClient) -> dict[str, int]:
    found: dict[str, Any] = client.get_registered_model(NAME).aliases
    return {name: int(version) for name, version in found.items()}


def test_champions_come_and_go_with_a_record(client: MlflowClient) -> None:
    promote(client, NAME, "1", "the first", "ann")
    assert aliases(client) == {"champion": 1}
    promote(client, NAME, "2", "better", "bob")
    promote(client, NAME, "3", "better still", "bob")
    assert aliases(client) == {"champion": 3, "previous_champion": 2}
    rollback(client, NAME, "it lost", "ann")
    assert aliases(client) == {"champion": 2, "previous_champion": 1}
    rollback(client, NAME, "that one too", "ann")
    assert aliases(client) == {"champion": 1}
    with pytest.raises(NoVersion, match="there is no previous champion to go back to"):
        rollback(client, NAME, "no more", "ann")
    moves = history(client, NAME)
    assert [(move.kind, move.version, move.before) for move in moves] == [
        ("promote", "1", None),
        ("promote", "2", "1"),
        ("promote", "3", "2"),
        ("rollback", "2", "3"),
        ("rollback", "1", "2"),
    ]
    assert [move.who for move in moves] == ["ann", "bob", "bob", "ann", "ann"]
    assert moves[3].why == "it lost"
    assert moves[0].when.endswith("Z")
    assert moves == sorted(moves)


def test_a_rejected_version_is_nobodys_predecessor(client: MlflowClient) -> None:
    for which in ("1", "2", "1"):
        promote(client, NAME, which, "back and forth")
    rollback(client, NAME, "1 is bad")
    assert aliases(client) == {"champion": 2}
    client.set_registered_model_alias(NAME, "previous_champion", "2")  # as a crash could leave it
    with pytest.raises(NoVersion, match="there is no previous champion to go back to"):
        rollback(client, NAME, "to itself")


def test_one_goes_back_champion_by_champion_the_latest_first(tmp_path: Path) -> None:
    """Past one that is gone meanwhile to the one before it."""
    register_three(tmp_path / "mlruns", versions=5)
    uri = uri_of(tmp_path / "mlruns")
    client = MlflowClient(uri, uri)
    for which in "12345":
        promote(client, NAME, which, "better")
    rollback(client, NAME, "it lost")
    assert aliases(client) == {"champion": 4, "previous_champion": 3}
    client.delete_model_version(NAME, "2")
    rollback(client, NAME, "that one too")
    assert aliases(client) == {"champion": 3, "previous_champion": 1}
    rollback(client, NAME, "and that")
    assert aliases(client) == {"champion": 1}


def test_what_cannot_be_trusted_is_not_promoted(client: MlflowClient) -> None:
    promote(client, NAME, "1", "the first")
    spoil(client, "2")
    with pytest.raises(CorruptError, match=r"weights.safetensors: it does not have the sha256"):
        promote(client, NAME, "2", "looks good")
    with pytest.raises(NoVersion, match="v1 is the champion already"):
        promote(client, NAME, "champion", "again")
    with pytest.raises(NoVersion, match="there is no version or alias 9"):
        promote(client, NAME, "9", "typo")
    assert aliases(client) == {"champion": 1}
    assert len(history(client, NAME)) == 1
    promote(client, NAME, "3", "good")
    spoil(client, "1")
    with pytest.raises(CorruptError):
        rollback(client, NAME, "to a damaged one")
    assert aliases(client) == {"champion": 3, "previous_champion": 1}


def test_a_bundle_of_another_version_is_refused(client: MlflowClient) -> None:
    """Each is whole; but it is not the one that was registered."""
    shutil.rmtree(bundle_folder(client, "1"))
    shutil.copytree(bundle_folder(client, "2"), bundle_folder(client, "1"))
    with pytest.raises(CorruptError, match=r"its sha256 is \w+, but \w+ was registered"):
        load_bundle(client, resolve(client, NAME, "1"))
    link = bundle_folder(client, "3") / "weights.safetensors"
    link.rename(link.parent.parent / "weights")
    link.symlink_to(link.parent.parent / "weights")
    with pytest.raises(CorruptError, match=r"artifacts/bundle/weights.safetensors.*symbolic link"):
        load_bundle(client, resolve(client, NAME, "3"))


def test_a_version_registered_without_a_sha256_is_refused(client: MlflowClient) -> None:
    """Whatever its bundle is, nobody can know that it is the one that was registered."""
    promote(client, NAME, "1", "the first")
    client.delete_model_version_tag(NAME, "2", "bundle_sha256")
    with pytest.raises(CorruptError, match=r"its sha256 is \w+, but None was registered"):
        load_bundle(client, resolve(client, NAME, "2"))
    with pytest.raises(CorruptError, match="but None was registered"):
        promote(client, NAME, "2", "looks good")
    assert aliases(client) == {"champion": 1}


def test_the_gate_stands_before_the_alias(client: MlflowClient) -> None:
    """Nothing is moved or recorded where a condition fails, or where nobody judged."""
    bad = [Condition("a", True, "1", "> 0"), Condition("b", False, "-1", "> 0")]
    for conditions in (bad, []):
        with pytest.raises(GateSaidNo, match=r"v1: the gate says no, \d of \d conditions failed"):
            promote_judged(client, NAME, "1", "hope", judge=lambda *_, c=conditions: Judgement(c))
    assert aliases(client) == {}
    assert history(client, NAME) == []
    with pytest.raises(NoReason, match="not overridden without a reason"):
        promote_judged(client, NAME, "1", "hope", judge=lambda *_: Judgement(bad), override="  ")
    judged = Judgement(bad, "trades = 0")
    made = promote_judged(client, NAME, "1", "hope", judge=lambda *_: judged, override="told to")
    assert made.gate == "overridden: told to; failed: b; by a policy of its own: trades = 0"
    assert history(client, NAME) == [made]
    tags = client.get_model_version(NAME, "1").tags
    assert tags[f"gate/{made.when}"] == made.gate
    assert promote(client, NAME, "2", "good").gate == "passed"


def ran(*arguments: str) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["qdesk", "models", *arguments])
        return qdesk.main()


def test_the_command_line(
    client: MlflowClient, mlruns: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = ["--mlruns", str(mlruns)]
    assert ran("promote", NAME, "1", "--reason", "the first", *store) == 4
    refused = capsys.readouterr()
    assert f"{NAME} v1: the gate says no, " in refused.err
    assert refused.err.count("\n") == 1
    assert "not evaluated" in refused.out
    assert ran("show", NAME, *store) == 0
    assert "no champion yet" in capsys.readouterr().out
    override = ["--override", "a test"]
    assert ran("promote", NAME, "1", "--reason", "the first", *override, *store) == 0
    more = ["--reason", "more", "--by", "ann"]
    assert ran("promote", NAME, "2", *more, *override, *store) == 0
    said = capsys.readouterr().out
    assert f"{NAME}@champion is v2 (+20.0% on validation), in place of v1 (+10.0%" in said
    assert ran("show", NAME, *store) == 0
    shown = capsys.readouterr().out
    assert "promote v2 in place of v1 by ann: more (gate overridden: a test; failed: " in shown
    assert "+20.0%" in shown
    assert ran("list", *store) == 0
    assert NAME in capsys.readouterr().out
    assert ran("compare", NAME, "1", "champion", *store) == 0
    assert "v1" in capsys.readouterr().out
    assert ran("show", NAME, "champion", *store) == 0
    assert "number 2" in capsys.readouterr().out
    assert ran("verify", NAME, "champion", *store) == 0
    assert f"{NAME} v2 is good" in capsys.readouterr().out
    assert ran("rollback", NAME, "--reason", "worse", *store) == 0
    said = capsys.readouterr().out
    assert f"{NAME}@champion is v1 (+10.0% on validation) again, in place of v2" in said
    spoil(client, "3")
    assert ran("verify", NAME, "3", *store) == 2
    assert "does not have the sha256" in capsys.readouterr().err
    for wrong in (
        ["show", "qdesk-none"],
        ["verify", NAME, "77"],
        ["rollback", NAME, "--reason", "x"],
        ["promote", NAME, "2", "--reason", " ", "--override", "x"],
        ["promote", NAME, "2", "--reason", "x", "--override", " "],
        ["promote", NAME, "2", "--reason", "x", "--policy", "none.toml"],
    ):
        assert ran(*wrong, *store) == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert ran("list", "--mlruns", str(mlruns / "none")) == 2
    assert "there is no store here" in capsys.readouterr().err
    assert not (mlruns / "none").exists()
    began = time.monotonic()
    assert ran("list", "--tracking-uri", "http://127.0.0.1:9") == 2
    assert time.monotonic() - began < 30  # MLflow alone would ask for minutes
    said = capsys.readouterr().err
    assert said.startswith("http://127.0.0.1:9: this store cannot be used (no server answers there")
    assert said.count("\n") == 1
