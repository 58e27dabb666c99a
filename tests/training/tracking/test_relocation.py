"""A store that was moved: its models load again, and a store that is not meant stays as it is."""

import hashlib
import sys
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

import qdesk
from durable.errors import InUse
from durable.verified import CorruptError
from models.promotion import load_bundle
from models.promotion_records import resolve
from tests.support.registered import NAME, uri_of
from tests.support.run_journals import entry
from tests.support.stores import fresh
from training.tracking import relocation
from training.tracking.journal import RunJournal
from training.tracking.store import Store


def command(*arguments: str | Path) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["qdesk", "tracking", "move", *map(str, arguments)])
        return qdesk.main()


def test_a_moved_store_is_mended(
    mlruns: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = tmp_path / "elsewhere" / "mlruns"
    moved.parent.mkdir()
    mlruns.rename(moved)
    client = MlflowClient(uri_of(moved), uri_of(moved))
    with pytest.raises(CorruptError, match="cannot be read"):
        load_bundle(client, resolve(client, NAME, "1"))
    assert command(mlruns, moved) == 0
    out = capsys.readouterr().out
    assert "paths mended, in experiments, logged_models, model_versions, runs\n" in out
    assert load_bundle(client, resolve(client, NAME, "1")).sha256
    (run,) = client.search_runs(["1"])
    assert str(run.info.artifact_uri).startswith(str(moved))
    assert command(mlruns, moved) == 2  # nothing leads there any more
    err = capsys.readouterr().err
    assert f"no path begins with {mlruns}; there are {moved}" in err
    (moved / "artifacts" / "models").rename(tmp_path / "models")
    assert command(moved, tmp_path / "elsewhere" / ".." / "elsewhere" / "mlruns") == 1
    assert capsys.readouterr().out.count("missing: ") == 3


def test_a_store_that_is_not_meant_stays_as_it_is(
    mlruns: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def sha256() -> str:
        return hashlib.sha256((mlruns / "mlflow.db").read_bytes()).hexdigest()

    before = sha256()
    assert command(str(mlruns)[:-1], tmp_path / "none") == 2
    assert "there is no mlflow.db here" in capsys.readouterr().err
    assert command(str(mlruns)[:-1], mlruns) == 2  # the beginning of a name is another name
    assert "no path begins with" in capsys.readouterr().err
    assert command("mlruns", mlruns) == 2
    assert "give the absolute path" in capsys.readouterr().err
    journal = RunJournal(mlruns / "journals" / "r1")
    journal.append(entry("run", {"name": "run", "params": {}}))
    assert command(mlruns, mlruns) == 2
    assert "a training writes here (r1); stop it first" in capsys.readouterr().err
    journal.close()
    assert sha256() == before
    (mlruns / "mlflow.db").write_bytes(b"no database at all" * 100)
    spoilt = sha256()
    assert command(mlruns, mlruns) == 2
    assert "file is not a database" in capsys.readouterr().err
    assert sha256() == spoilt


def test_nobody_goes_on_with_a_run_while_paths_are_mended(
    mlruns: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = RunJournal(mlruns / "journals" / "r1")
    journal.append(entry("run", {"name": "run", "params": {}}))
    journal.close()
    moved = tmp_path / "moved"
    mlruns.rename(moved)
    tried: list[str] = []
    mended = relocation._mended

    def meanwhile(*arguments: Any) -> relocation.Mended:
        with pytest.raises(InUse, match="another process writes this journal"):
            RunJournal(moved / "journals" / "r1", make=False)
        tried.append("resume")
        return mended(*arguments)

    monkeypatch.setattr(relocation, "_mended", meanwhile)
    assert command(mlruns, moved) == 0
    assert tried == ["resume"]
    RunJournal(moved / "journals" / "r1", make=False).close()


def test_a_store_in_which_nothing_was_kept_is_moved_without_complaint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The folder of an experiment is made with its first artifact."""
    folder = fresh(tmp_path / "mlruns")
    Store(folder).experiment("qdesk")
    moved = tmp_path / "moved"
    folder.rename(moved)
    assert command(folder, moved) == 0
    assert "missing" not in capsys.readouterr().out
