"""The champion is what the promotion records say: an alias that was set elsewhere is not traded."""

import json
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from models.last_good import INDEX, load_last_good
from models.promotion import rollback
from models.promotion_records import RECORD, history, recorded
from tests.support.commands import said
from tests.support.registered import NAME, promote, spoil, uri_of

WALK = "synthetic:walk?sigma=0.01&seed=5&bars=100"
NOWHERE = "sqlite:////nowhere/mlflow.db"


def test_an_alias_that_was_set_elsewhere_is_not_traded(
    client: MlflowClient, mlruns: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A button in MLflow's page: the desk goes on with the version that was promoted, and says so."""
    promote(client, NAME, "1", "judged")
    client.set_registered_model_alias(NAME, "champion", "3")
    found = load_last_good(NAME, tmp_path / "cache", uri_of(mlruns))
    assert (found.version, found.source) == ("1", "champion")
    assert found.steps_down == [
        "champion: the alias champion stands for v3, but the newest record of a promotion names v1: it "
        "was set elsewhere"
    ]
    out, err = said(
        capsys, "paper", NAME, "--bars", WALK, "--mlruns", mlruns, "--desk", tmp_path / "desk"
    )
    assert err == ""
    assert "the alias champion stands for v3" in out
    assert f"{NAME} v1 (champion) decides" in out


def test_without_any_promotion_there_is_no_champion_whatever_the_alias_says(
    client: MlflowClient, mlruns: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for given in (NAME, f"{NAME}@champion"):
        client.set_registered_model_alias(NAME, "champion", "3")
        out, err = said(
            capsys, "paper", given, "--bars", WALK, "--mlruns", mlruns, "--desk", tmp_path / "desk",
            code=4,
        )  # fmt: skip
        assert out == ""
        assert err.count("\n") == 1
        assert "the alias champion stands for v3, but no promotion is on record" in err
        assert f"qdesk models promote {NAME}" in err
    client.delete_registered_model_alias(NAME, "champion")
    _, err = said(
        capsys, "paper", NAME, "--bars", WALK, "--mlruns", mlruns, "--desk", tmp_path / "d", code=4
    )
    assert "no record of a promotion" in err
    assert not (tmp_path / "desk").exists()


def test_the_alias_of_a_promoted_version_by_name_is_checked_too(
    client: MlflowClient, mlruns: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    promote(client, NAME, "2", "judged")
    given = ["--bars", WALK, "--mlruns", mlruns]
    said(capsys, "paper", f"{NAME}@champion", *given, "--desk", tmp_path / "a")
    client.set_registered_model_alias(NAME, "champion", "1")
    _, err = said(capsys, "paper", f"{NAME}@champion", *given, "--desk", tmp_path / "b", code=4)
    assert "names v2: it was set elsewhere" in err
    said(capsys, "paper", f"{NAME}/1", *given, "--desk", tmp_path / "c")  # as asked for


def test_an_alias_that_was_taken_away_elsewhere_is_said(
    client: MlflowClient, mlruns: Path, tmp_path: Path
) -> None:
    promote(client, NAME, "2", "judged")
    client.delete_registered_model_alias(NAME, "champion")
    found = load_last_good(NAME, tmp_path, uri_of(mlruns))
    assert found.version == "2"
    assert "stands for no version" in found.steps_down[0]


def test_both_lists_say_that_the_alias_was_set_elsewhere(
    client: MlflowClient, mlruns: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    client.set_registered_model_alias(NAME, "champion", "3")
    out, _ = said(capsys, "models", "list", "--mlruns", mlruns)
    assert "v3 (set elsewhere)" in " ".join(out.split())
    out, _ = said(capsys, "models", "show", NAME, "--mlruns", mlruns)
    assert "the alias champion stands for v3, but no promotion is on record" in out
    assert "no champion yet" in out
    promote(client, NAME, "2", "judged")
    out, _ = said(capsys, "models", "show", NAME, "--mlruns", mlruns)
    assert "set elsewhere" not in out


def test_a_bundle_that_was_exchanged_after_its_promotion_is_not_traded(
    client: MlflowClient, mlruns: Path, tmp_path: Path
) -> None:
    """Version and tag agree with each other, but not with what was promoted."""
    promote(client, NAME, "1", "judged")
    made = promote(client, NAME, "2", "judged")
    assert len(made.bundle_sha256) == 64
    forged = made._asdict() | {"bundle_sha256": "0" * 64}
    client.set_registered_model_tag(NAME, f"{RECORD}{made.when}", json.dumps(forged))
    found = load_last_good(NAME, tmp_path, uri_of(mlruns))
    assert (found.version, found.source) == ("1", "previous_champion")
    assert f"but {'0' * 64} was promoted" in found.steps_down[0]


def test_a_record_without_a_hash_counts_and_it_is_said(
    client: MlflowClient, mlruns: Path, tmp_path: Path
) -> None:
    made = promote(client, NAME, "1", "judged")
    older = {name: value for name, value in made._asdict().items() if name != "bundle_sha256"}
    client.set_registered_model_tag(NAME, f"{RECORD}{made.when}", json.dumps(older))
    assert history(client, NAME)[0].bundle_sha256 == ""
    found = load_last_good(NAME, tmp_path, uri_of(mlruns))
    assert (found.version, found.steps_down) == ("1", [])
    assert "older than hashes in records" in found.notes[0]


def test_an_alias_set_elsewhere_can_be_promoted_properly_and_rolled_back_from(
    client: MlflowClient,
) -> None:
    """Chains are those of the records."""
    promote(client, NAME, "1", "judged")
    client.set_registered_model_alias(NAME, "champion", "3")
    made = promote(client, NAME, "3", "judged after all")
    assert (made.version, made.before) == ("3", "1")
    client.set_registered_model_alias(NAME, "champion", "2")
    client.set_registered_model_alias(NAME, "previous_champion", "2")
    back = rollback(client, NAME, "3 is bad")
    assert (back.version, back.before) == ("1", "3")
    assert recorded(client, NAME).elsewhere is None


def test_the_cache_keeps_the_promotion_and_reads_lists_of_before(
    client: MlflowClient, mlruns: Path, tmp_path: Path
) -> None:
    made = promote(client, NAME, "1", "judged")
    load_last_good(NAME, tmp_path, uri_of(mlruns))
    index = tmp_path / NAME / INDEX
    (kept,) = json.loads(index.read_text())
    assert kept["promoted"] == made.when
    assert load_last_good(NAME, tmp_path, NOWHERE).notes == []
    del kept["promoted"]  # as earlier versions wrote it
    index.write_text(json.dumps([kept]))
    found = load_last_good(NAME, tmp_path, NOWHERE)
    assert (found.version, found.source) == ("1", "cache")
    assert "without its promotion record" in found.notes[0]


def test_a_damaged_champion_falls_back_along_the_records_not_the_aliases(
    client: MlflowClient, mlruns: Path, tmp_path: Path
) -> None:
    promote(client, NAME, "1", "judged")
    promote(client, NAME, "2", "judged")
    client.set_registered_model_alias(NAME, "previous_champion", "3")
    spoil(client, "2")
    found = load_last_good(NAME, tmp_path, uri_of(mlruns))
    assert (found.version, found.source) == ("1", "previous_champion")


def test_a_promotion_that_was_broken_off_counts_for_nothing(
    client: MlflowClient, mlruns: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Killed between the record and the aliases: the champion before trades on."""
    promote(client, NAME, "1", "judged")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MlflowClient, "set_registered_model_alias", interrupted)
        with pytest.raises(KeyboardInterrupt):
            promote(client, NAME, "2", "judged")
    assert [move.completed for move in history(client, NAME)] == [True, False]
    found = load_last_good(NAME, tmp_path, uri_of(mlruns))
    assert (found.version, found.source, found.steps_down) == ("1", "champion", [])
    out, _ = said(capsys, "models", "show", NAME, "--mlruns", mlruns)
    assert "broken off" in out
    assert "set elsewhere" not in out
    made = promote(client, NAME, "2", "again")
    assert (made.before, made.completed) == ("1", True)
    assert [move.undone for move in history(client, NAME)] == [False, True, False]
    out, _ = said(capsys, "models", "show", NAME, "--mlruns", mlruns)
    assert "broken off and undone" in out


def interrupted(*_: Any) -> None:
    raise KeyboardInterrupt


def test_a_tag_that_is_no_record_is_passed_over(
    client: MlflowClient, mlruns: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    promote(client, NAME, "1", "judged")
    for text in ("no JSON", "[]", "{}", "7"):
        client.set_registered_model_tag(NAME, f"{RECORD}junk", text)
        assert [move.version for move in history(client, NAME)] == ["1"]
    said(capsys, "models", "list", "--mlruns", mlruns)
    said(capsys, "models", "show", NAME, "--mlruns", mlruns)


def test_a_promoted_copy_trades_where_the_records_are_gone(
    client: MlflowClient, mlruns: Path, tmp_path: Path
) -> None:
    made = promote(client, NAME, "1", "judged")
    load_last_good(NAME, tmp_path, uri_of(mlruns))
    client.delete_registered_model_tag(NAME, f"{RECORD}{made.when}")
    found = load_last_good(NAME, tmp_path, uri_of(mlruns))
    assert (found.version, found.source, found.unpromoted) == ("1", "cache", False)


def test_a_copy_that_was_rolled_back_from_does_not_trade(
    client: MlflowClient, mlruns: Path, tmp_path: Path
) -> None:
    promote(client, NAME, "1", "judged")
    promote(client, NAME, "2", "judged")
    load_last_good(NAME, tmp_path, uri_of(mlruns))
    rollback(client, NAME, "2 is bad")
    spoil(client, "1")
    found = load_last_good(NAME, tmp_path, uri_of(mlruns))
    assert found.bundle is None
    assert "cached v2: was rolled back from, as the records have it" in found.steps_down
