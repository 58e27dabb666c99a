"""Where tracking data may be: odd names work, impossible ones and empty databases are refused."""

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException

from models.places import (
    DATABASE,
    BadPlace,
    address_of,
    require_database,
    require_writable,
)
from tests.support.commands import TABULAR, said, said_anyhow
from tests.support.paper import WALK, bundle
from tests.support.servers import free_port
from tests.support.stores import fresh
from training.tracking.store import reason_of, short

__all__ = ["bundle"]  # a fixture
ODD = "m\u00fcn 'q' \"d\" & #1 $HOME x"
MAKEFILE = Path(__file__).parents[2] / "Makefile"


def test_every_command_works_in_a_folder_with_an_odd_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mlruns = tmp_path / ODD / "runs"
    said(capsys, "train", *TABULAR, "--steps", "600", "--mlruns", mlruns)
    where, name = ("--mlruns", mlruns), "qdesk-tabular"
    out, _ = said(capsys, "models", "list", *where)
    assert name in out
    said(capsys, "models", "verify", name, "candidate", *where)
    said(capsys, "models", "promote", name, "candidate", "--reason", "x", "--override", "y", *where)
    said(capsys, "runs", "list", *where)
    said(capsys, "evaluate", name, *where)
    out, _ = said_anyhow(capsys, "paper", name, "--bars", WALK, "--accept-other-market", *where)
    assert f"{name} v" in out
    assert "(champion) decides" in out
    said(capsys, "kill", name, *where)
    out, _ = said(capsys, "tracking", "status", *where)
    assert out == "everything is sent\n"
    assert [path.name for path in tmp_path.iterdir()] == [ODD]


@pytest.mark.parametrize("name", ["runs?x=1", "runs%201", "a%3Fb?"])
def test_a_name_that_no_database_can_have_is_refused_before_anything_is_loaded(
    tmp_path: Path, bundle: Path, name: str
) -> None:
    """Without TensorFlow, MLflow or a file."""
    folder = tmp_path / name / "x"
    command = ["train", *TABULAR[2:], "--preset", "two_layer", "--mlruns", str(folder)]
    code = (
        "import sys; from qdesk import main; code = main(); "
        "print(sorted({'tensorflow', 'mlflow'} & sys.modules.keys())); sys.exit(code)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, *command], capture_output=True, text=True, timeout=60
    )
    assert (run.returncode, run.stdout) == (2, "[]\n")
    assert f"mlruns {folder}: a path with" in run.stderr
    assert run.stderr.count("\n") == 1
    assert not (tmp_path / name).exists()


@pytest.mark.parametrize(
    "command",
    [
        ["models", "list"],
        ["runs", "list"],
        ["evaluate", "qdesk-linear"],
        ["paper", "qdesk-linear", "--bars", WALK],
        ["backtest", "qdesk-linear", "--bars", WALK],
    ],
)
def test_other_commands_refuse_it_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    folder = tmp_path / "runs?x=1"
    _, err = said(capsys, *command, "--mlruns", folder, code=2)
    assert f"mlruns {folder}: a path with ? cannot be the address of a database" in err
    assert list(tmp_path.iterdir()) == []


def test_where_nothing_can_be_written_is_found_out_without_a_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_writable(tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(BadPlace, match=r"file/x: cannot be used \(Not a directory\)"):
        require_writable(tmp_path / "file" / "x")

    def readonly(**_: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("models.places.tempfile.TemporaryFile", readonly)
    with pytest.raises(BadPlace, match=r"cannot be used \(Read-only file system\)"):
        require_writable(tmp_path / "a")


@pytest.mark.parametrize(
    ("content", "reason"), [(b"", "is empty"), (b"SQLite", "is no SQLite"), (b"\xff" * 99, "is no")]
)
def test_a_database_that_is_none_is_named_and_stays_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes, reason: str
) -> None:
    mlruns = tmp_path / "mlruns"
    mlruns.mkdir()
    (mlruns / DATABASE).write_bytes(content)
    for command in (
        ["train", *TABULAR, "--steps", "600"],
        ["models", "list"],
        ["runs", "list"],
        ["evaluate", "qdesk-linear"],
    ):
        _, err = said(capsys, *command, "--mlruns", mlruns, code=2)
        assert f"{mlruns / DATABASE}: {reason}" in err
        assert err.count("\n") == 1
    assert (mlruns / DATABASE).read_bytes() == content
    assert [path.name for path in mlruns.iterdir()] == [DATABASE]


def test_a_damaged_database_is_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mlruns = fresh(tmp_path / "mlruns")
    path = mlruns / DATABASE
    whole = path.read_bytes()
    for start in (100, 5000, len(whole) // 2):
        path.write_bytes(whole[:start] + b"\xff" * 4000 + whole[start + 4000 :])
        before = path.read_bytes()
        for command in (
            ["models", "list"],
            ["runs", "list"],
            ["train", *TABULAR, "--steps", "600"],
        ):
            _, err = said_anyhow(capsys, *command, "--mlruns", mlruns)
            assert "Traceback" not in err
        assert path.read_bytes()[:16] == before[:16]


def test_a_full_disk_is_named() -> None:
    wrapped = (
        "(raised as a result of Query-invoked autoflush; consider using a session.no_autoflush block "
        "if this flush is occurring prematurely)\n"
        "(sqlite3.OperationalError) database or disk is full\n[SQL: INSERT INTO metrics]"
    )
    uri = "sqlite:////data/mlruns/mlflow.db"
    full = "the disk of /data/mlruns/mlflow.db is full"
    assert reason_of(MlflowException(wrapped), uri) == full
    assert reason_of(sqlite3.OperationalError("database or disk is full"), uri) == full
    assert reason_of(OSError(28, "No space left on device"), uri) == full
    assert short(MlflowException("(sqlite3.OperationalError) no such table: runs\n[SQL: x]")) == (
        "no such table: runs"
    )
    assert short(ValueError("one\ntwo")) == "one"


def test_make_ui_does_not_show_somebody_elses_server() -> None:
    port = free_port()
    server = subprocess.Popen(
        [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        check = f"until (exec 3<>/dev/tcp/127.0.0.1/{port}) 2>/dev/null; do sleep 0.1; done"
        subprocess.run(["bash", "-c", check], check=True, timeout=60)
        for target, variable in (("ui", "UI_PORT"), ("tensorboard", "TENSORBOARD_PORT")):
            run = subprocess.run(
                ["make", "-C", MAKEFILE.parent, "-o", ".venv/.ready", target, f"{variable}={port}"],
                capture_output=True,
                text=True,
                timeout=60,
            )
            assert run.returncode == 2
            assert "http" not in run.stdout
            assert f"port {port} is in use; name another: make {target} {variable}=N" in run.stderr
    finally:
        server.kill()
        server.communicate()


@pytest.mark.parametrize("address", ["http://host:5000", "postgresql://host/db", "s3://bucket/x"])
@pytest.mark.parametrize(
    "command",
    [
        ["train", *TABULAR],
        ["models", "list"],
        ["paper", "BUNDLE", "--bars", WALK],
        ["backtest", "BUNDLE", "--bars", WALK, "--tracking-uri", "http://127.0.0.1:9"],
    ],
)
def test_an_address_is_no_folder(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    bundle: Path,
    command: list[str],
    address: str,
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    command = [str(bundle) if each == "BUNDLE" else each for each in command]
    _, err = said(capsys, *command, "--mlruns", address, code=2)
    assert "this is an address, and not a folder; a server is named by --tracking-uri" in err
    assert list((tmp_path / "here").iterdir()) == []


def test_an_address_is_absolute() -> None:
    assert address_of(Path("/a b/c")) == "sqlite:////a b/c/mlflow.db"
    require_database(Path("/nowhere"))
