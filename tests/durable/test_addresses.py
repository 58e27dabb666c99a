"""A key in an address is used and kept nowhere: no file, no metric, no line that is printed has it."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path

import pytest
from rich.table import Table

import qdesk
from durable.addresses import BadAddress, hidden, take, take_all, take_from_environment
from durable.terminal import Terminal
from models.last_good import load_last_good
from tests.support.commands import TABULAR, said
from tests.support.paper import WALK, bundle
from tests.support.planted import USER, planted
from tests.support.registered import NAME
from tests.support.servers import KEYS, S3Server, free_port
from tests.support.stores import fresh
from training.checkpoints.settings import CheckpointSettings

__all__ = ["bundle"]  # a fixture

VARIABLES = (
    *("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"),
    *("PGUSER", "PGPASSWORD", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "MLFLOW_TRACKING_URI"),
)


@pytest.fixture(autouse=True)
def environment() -> Iterator[None]:
    """As it was, afterwards."""
    before = dict(os.environ)
    for name in VARIABLES:
        os.environ.pop(name, None)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.mark.parametrize(
    ("given", "left", "kept"),
    [
        ("http://u:p@h:5000/x", "http://h:5000/x", {"USERNAME": "u", "PASSWORD": "p"}),
        ("https://u%40d:p%2F1@h", "https://h", {"USERNAME": "u@d", "PASSWORD": "p/1"}),
        ("HTTP://u:p@h", "HTTP://h", {"USERNAME": "u", "PASSWORD": "p"}),
        ("http://token@h", "http://h", {"TOKEN": "token"}),
        ("http://u:@h", "http://h", {"USERNAME": "u"}),
        ("http://u:a@b@h", "http://h", {"USERNAME": "u", "PASSWORD": "a@b"}),
        (" http://u:p@h ", "http://h", {"USERNAME": "u", "PASSWORD": "p"}),
        ("http://[::1]:5000", "http://[::1]:5000", {}),
        ("postgresql://u:p@h/db", "postgresql://h/db", {"PGUSER": "u", "PGPASSWORD": "p"}),
        ("postgresql+psycopg://u@h/db", "postgresql+psycopg://h/db", {"PGUSER": "u"}),
        (
            "postgresql://h/db?user=u&password=p&sslmode=require",
            "postgresql://h/db?sslmode=require",
            {"PGUSER": "u", "PGPASSWORD": "p"},
        ),
        ("s3://K:S@b/x", "s3://b/x", {"AWS_ACCESS_KEY_ID": "K", "AWS_SECRET_ACCESS_KEY": "S"}),
        ("s3://K:a/b+c@b/x", "s3://b/x", {"AWS_SECRET_ACCESS_KEY": "a/b+c"}),
        ("s3://K:a/b@b1c/p@th", "s3://b1c/p@th", {"AWS_SECRET_ACCESS_KEY": "a/b"}),
        ("s3://b/x@y", "s3://b/x@y", {}),
        ("see http://u:p@h and go", "see http://u:p@h and go", {}),
        ("abfs://container@account/x", "abfs://container@account/x", {}),
        ("sqlite:////a/b@c.db", "sqlite:////a/b@c.db", {}),
        ("synthetic:walk?seed=5", "synthetic:walk?seed=5", {}),
        ("me@here", "me@here", {}),
        ("", "", {}),
    ],
)
def test_credentials_go_into_the_environment(given: str, left: str, kept: dict[str, str]) -> None:
    assert take(given) == left
    assert take(left) == left
    for name, value in kept.items():
        known = name if name in VARIABLES else f"MLFLOW_TRACKING_{name}"
        assert os.environ[known] == value


def test_a_name_alone_is_a_user_where_the_password_is_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "known")
    assert take("http://ada@h") == "http://h"
    assert os.environ["MLFLOW_TRACKING_USERNAME"] == "ada"
    assert "MLFLOW_TRACKING_TOKEN" not in os.environ


@pytest.mark.parametrize("address", ["mysql://u:p@h/x", "gs://u:p@b", "ftp://u:p@h"])
def test_where_there_is_no_place_for_credentials_they_are_refused(address: str) -> None:
    with pytest.raises(BadAddress, match="holds credentials, which would be stored") as refused:
        take(address)
    assert "u:p" not in str(refused.value)


@pytest.mark.parametrize(
    "address",
    [
        *("postgresql://u:12/34@host/db", "postgresql://u:p@ss/w@host/db", "http://h:5000/a@b"),
        *("https://h/?token=secret", "postgresql://h/db?sslpassword=secret", "http://a%00:b@h"),
    ],
)
def test_what_cannot_be_told_apart_is_refused_and_not_repeated(address: str) -> None:
    with pytest.raises(BadAddress) as refused:
        take(address)
    for secret in ("34", "ss/w", "secret"):
        assert secret not in str(refused.value)


def test_a_desk_is_stopped_whatever_an_address_holds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "mysql+pymysql://u:planted@h/db")
    (tmp_path / "desk").mkdir()
    reason = ["--reason", "feed redis://x:planted@h:6379 went mad"]
    said(capsys, "kill", "--desk", tmp_path / "desk", *reason)
    text = (tmp_path / "desk" / "KILL").read_text()
    assert "feed redis://h:6379 went mad" in text
    said(capsys, "resume", "--desk", tmp_path / "desk", *reason)
    assert planted(tmp_path) == []


def test_a_server_without_a_place_for_its_key_is_a_step_down(tmp_path: Path) -> None:
    found = load_last_good(NAME, tmp_path / "cache", "mysql+pymysql://u:planted@h/db")
    assert found.bundle is None
    assert "holds credentials" in found.steps_down[0]
    assert "planted" not in str(found)


def test_every_argument_and_variable_is_looked_at() -> None:
    os.environ["QDESK_CHECKPOINTS__WHERE"] = "s3://K:S@b"
    os.environ["MLFLOW_TRACKING_URI"] = "http://u:p@h"
    given = ["train", "--tracking-uri=http://u:p@h", "--checkpoints", "s3://K:S@b/x", "--seed", "1"]
    assert take_all(given) == [
        *("train", "--tracking-uri=http://h", "--checkpoints", "s3://b/x", "--seed", "1")
    ]
    take_from_environment()
    assert os.environ["QDESK_CHECKPOINTS__WHERE"] == "s3://b"
    assert os.environ["MLFLOW_TRACKING_URI"] == "http://h"
    assert CheckpointSettings(where="s3://K:S@b/x").where == "s3://b/x"


def test_what_is_printed_has_none_either() -> None:
    assert hidden("a http://u:p@h b 's3://K:a/b@c/d' c") == "a http://h b 's3://c/d' c"
    assert hidden("me@here: nothing") == "me@here: nothing"
    assert hidden("postgresql://u:p@SSS@host/x") == "postgresql://host/x"
    assert hidden("a POSTGRESQL://SSS@h b") == "a POSTGRESQL://h b"
    assert hidden("postgresql://h/db?user=u&password=SSS") == "postgresql://h/db?user=…&password=…"
    assert hidden("http://h:5000/a@b") == "http://h:5000/a@b"
    assert hidden("http:/u:SSS@h/x: no desk") == "http:/h/x: no desk"  # as a path
    assert hidden("http:/SSS@h: no desk") == "http:/h: no desk"
    for plain in ("/a/b:c@d and C:/x@y", "nas:/bars:v2@eu.parquet", "see host:/var/log:error@node"):
        assert hidden(plain) == plain
    file = StringIO()
    Terminal(file=file, width=40).print("why: postgresql://alice:S3CRET-and-very-very-long@host/db")
    table = Table("a")
    table.add_row("https://alice:S3CRET-and-very-very-long-indeed@host")
    Terminal(file=file, width=20).print(table)
    assert "S3CRET" not in file.getvalue()
    assert hidden("abfs://container@account/x") == "abfs://container@account/x"


def ran(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """A command as a process; nothing of what was planted is printed."""
    home = {"HOME": str(folder), "AWS_EC2_METADATA_DISABLED": "true"}
    done = subprocess.run(
        [sys.executable, "-m", "qdesk", *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, **home, **variables},
    )
    assert "planted" not in done.stdout + done.stderr, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


ADDRESSES = [
    f"http://{USER}:planted%2Fkey@127.0.0.1:{{port}}",
    "http://planted-token@127.0.0.1:{port}",
    f"postgresql://{USER}:planted%2Fkey@127.0.0.1:{{port}}/mlflow",
    f"mysql://{USER}:planted%2Fkey@127.0.0.1:{{port}}/mlflow",
]


def code_of(command: Callable[[], int]) -> object:
    """How a command ends, whether it returns or leaves."""
    try:
        return command()
    except SystemExit as left:
        return left.code


@pytest.mark.parametrize("address", ADDRESSES)
def test_no_command_prints_or_stores_a_key_of_its_server(
    tmp_path: Path, address: str, bundle: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    uri = address.format(port=free_port())  # nobody is there
    mlruns = str(fresh(tmp_path / "mlruns"))
    desk = str(tmp_path / "desk")
    monkeypatch = pytest.MonkeyPatch()
    for command in (
        ["models", "list", "--tracking-uri", uri],
        ["runs", "list", f"--tracking-uri={uri}"],
        ["evaluate", NAME, "--tracking-uri", uri],
        ["paper", str(bundle), "--bars", WALK, "--tracking-uri", uri, "--desk", desk],
        ["paper", NAME, "--bars", WALK, "--tracking-uri", uri, "--desk", desk],
        ["tracking", "sync", "--mlruns", mlruns, "--tracking-uri", uri],
        ["runs", "list"],
        ["runs", "compare", uri, "b", "--tracking-uri", uri],
        ["runs", "best", "eval/validation/net_return", "--tracking-uri", uri],
        ["models", "promote", NAME, "1", "--reason", uri, "--tracking-uri", uri],
        ["models", "rollback", NAME, "--reason", uri, "--tracking-uri", uri],
        ["models", "show", uri],
        ["models", "verify", uri, "1", "--tracking-uri", uri],
        ["train", "--preset", uri],
        ["train", "--bars", uri],
        ["train", "--resume", uri],
        ["train", "--mlruns", uri],
        ["train", f"--{uri}"],
        ["train", "--seed", uri],
        ["evaluate", uri],
        ["evaluate", NAME, "--bars", uri],
        ["evaluate", NAME, "--mlruns", uri],
        ["backtest", str(bundle), "--bars", uri],
        ["paper", str(bundle), "--events", uri],
        ["paper", uri, "--bars", WALK],
        ["paper", str(bundle), "--bars", WALK, "--limits.max-drawdown", uri],
        ["data", "check", uri],
        ["data", "convert", uri, "--every", "1m", "--out", str(tmp_path / "bars")],
        ["data", "event-log-to-csv", uri],
        ["tracking", "status", "--mlruns", uri],
        ["tracking", "move", uri, str(tmp_path / "elsewhere")],
        ["tracking", "scrub", "--mlruns", uri],
        ["kill", "--desk", uri, "--reason", uri],
        ["resume", "--desk", uri, "--reason", uri],
        [uri],
    ):
        with monkeypatch.context() as patch:
            patch.setenv("MLFLOW_TRACKING_URI", uri)
            patch.setattr(sys, "argv", ["qdesk", *command])
            patch.chdir(tmp_path)
            assert code_of(qdesk.main) in (0, 1, 2)
        said = "".join(capfd.readouterr())
        assert "planted" not in said, said
    assert planted(tmp_path) == []


@pytest.mark.parametrize(
    "how",
    [
        "argument",
        pytest.param("environment", marks=pytest.mark.slow),
        pytest.param("preset", marks=pytest.mark.slow),
    ],
)
def test_a_training_neither_prints_nor_stores_the_keys_it_uses(tmp_path: Path, how: str) -> None:
    """A server that is down, a bucket that takes its key from the address; then gone on with."""
    server = S3Server(tmp_path / "s3")
    user, key = KEYS["AWS_ACCESS_KEY_ID"], KEYS["AWS_SECRET_ACCESS_KEY"]
    at = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.port}", "AWS_DEFAULT_REGION": "us-east-1"}
    uri = ADDRESSES[0].format(port=free_port())
    where = f"s3://{user}:{key}@desk/kept"
    mlruns = tmp_path / "mlruns"
    server.start()
    try:
        (tmp_path / "s3" / "desk").mkdir(parents=True, exist_ok=True)
        command = ["train", *TABULAR, "--steps", "600", "--mlruns", str(mlruns)]
        variables = dict(at)
        if how == "argument":
            command += ["--tracking-uri", uri, "--checkpoints", where]
        elif how == "environment":
            variables |= {"MLFLOW_TRACKING_URI": uri, "QDESK_CHECKPOINTS__WHERE": where}
        else:
            from training.sources import PRESETS

            preset = tmp_path / "mine.toml"
            text = (PRESETS / "tabular.toml").read_text()
            preset.write_text(f'tracking_uri = "{uri}"\ncheckpoints = "{where}"\n{text}')
            command[command.index("tabular")] = str(preset)
        done = ran(tmp_path, *command, **variables)
        assert done.returncode == 0, done.stderr
        assert key not in done.stdout + done.stderr
        if how == "preset":
            preset.unlink()
        assert planted(mlruns) == []
        stored = [path for path in mlruns.rglob("*") if path.is_file()]
        assert not [path for path in stored if key.encode() in path.read_bytes()]
        assert list((tmp_path / "s3" / "desk").rglob("manifest.json"))
    finally:
        server.kill()


def test_a_live_server_is_found_through_an_address_with_a_key(tmp_path: Path) -> None:
    """Whoever listens counts as there: it is not the key that is looked up as a host."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        uri = f"http://{USER}:planted@127.0.0.1:{listening.getsockname()[1]}"
        found = load_last_good(NAME, tmp_path / "cache", uri)
    assert "planted" not in str(found)
