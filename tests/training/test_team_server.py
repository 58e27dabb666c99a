"""A team's server as docs/team-server.md has it: PostgreSQL, an S3 store, passwords; `make test-team`."""

import os
import subprocess
import sys
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psycopg
import pytest
import s3fs

from models.last_good import load_last_good
from tests.support.kills import QDESK
from tests.support.servers import KEYS, PostgreSQL, S3Server, free_port, wait_for

pytestmark = pytest.mark.team

SCRIPT = Path(__file__).parents[2] / "docs/examples/team_server.sh"
ADMIN, PASSWORD = "the-password-of-admin", "the-password-of-ada"
QUICK = ["--steps", "2000", "--bars", "synthetic:ou?theta=0.05&sigma=0.01&seed=3&bars=6000"]


class Team(NamedTuple):
    """A server that runs, and what lies behind it."""

    uri: str
    database: str
    files: s3fs.S3FileSystem


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    programs = PostgreSQL.programs()
    if programs is None:
        pytest.skip("there is no PostgreSQL here: apt-get install postgresql")
    folder = tmp_path_factory.mktemp("team")
    database, store = PostgreSQL(programs), S3Server(folder)
    process = None
    try:
        database.start()
        store.start()
        endpoint = f"http://127.0.0.1:{store.port}"
        files = s3fs.S3FileSystem(
            key=KEYS["AWS_ACCESS_KEY_ID"],
            secret=KEYS["AWS_SECRET_ACCESS_KEY"],
            client_kwargs={"endpoint_url": endpoint, "region_name": "us-east-1"},
        )
        files.mkdir("desk")
        port, log = free_port(), folder / "server.log"
        environment = {
            **os.environ,
            **KEYS,
            "AWS_DEFAULT_REGION": "us-east-1",
            "MLFLOW_S3_ENDPOINT_URL": endpoint,
            "DATABASE_URL": database.url,
            "ARTIFACTS": "s3://desk/mlflow",
            "ALLOWED_HOSTS": "mlflow.desk.example,127.0.0.1:*",
            "PORT": str(port),
            "WORKERS": "1",
            "MLFLOW": str(Path(sys.executable).with_name("mlflow")),
            "MLFLOW_AUTH_ADMIN_PASSWORD": ADMIN,
            "MLFLOW_FLASK_SERVER_SECRET_KEY": "only for this test",
        }
        with log.open("wb") as file:
            process = subprocess.Popen(
                [str(SCRIPT)],
                env=environment,
                cwd=folder,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        uri = f"http://127.0.0.1:{port}"
        wait_for(f"{uri}/health", process, log)
        yield Team(uri, database.url, files)
    finally:
        if process is not None and process.poll() is None:
            os.killpg(process.pid, 15)
            process.wait()
        store.kill()
        database.stop()
        s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture(scope="module")
def ada(team: Team) -> dict[str, str]:
    """The environment of somebody with an account, and without any key of the S3 store."""
    status, _ = asked(team, "/api/2.0/mlflow/users/create", ("admin", ADMIN), body=ACCOUNT.encode())
    assert status == 200
    plain = {name: text for name, text in os.environ.items() if not name.startswith("AWS_")}
    return {
        **plain,
        "MLFLOW_TRACKING_URI": team.uri,
        "MLFLOW_TRACKING_USERNAME": "ada",
        "MLFLOW_TRACKING_PASSWORD": PASSWORD,
    }


ACCOUNT = f'{{"username": "ada", "password": "{PASSWORD}"}}'


def asked(
    team: Team,
    path: str,
    account: tuple[str, str] | None = None,
    host: str | None = None,
    body: bytes | None = None,
) -> tuple[int, str]:
    """Status and text of a page."""
    request = urllib.request.Request(team.uri + path, data=body)
    request.add_header("Content-Type", "application/json")
    if account is not None:
        given = b64encode(":".join(account).encode()).decode()
        request.add_header("Authorization", f"Basic {given}")
    if host is not None:
        request.add_header("Host", host)
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def qdesk(
    folder: Path, environment: dict[str, str], *arguments: str
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [str(QDESK), *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )


SEARCH = "/api/2.0/mlflow/experiments/search?max_results=5"


def test_it_lets_in_whom_it_knows_by_a_name_that_it_has(team: Team, ada: dict[str, str]) -> None:
    assert asked(team, SEARCH)[0] == 401
    assert asked(team, SEARCH, ("ada", "wrong"))[0] == 401
    assert asked(team, SEARCH, ("ada", PASSWORD))[0] == 200
    assert asked(team, SEARCH, ("ada", PASSWORD), host="mlflow.desk.example")[0] == 200
    status, said = asked(team, SEARCH, ("ada", PASSWORD), host="evil.example")
    assert status == 403
    assert "Invalid Host header" in said


def test_it_is_trained_registered_promoted_and_loaded_through(
    team: Team, ada: dict[str, str], tmp_path: Path
) -> None:
    trained = qdesk(tmp_path, ada, "train", "--preset", "linear", *QUICK)
    assert (trained.returncode, trained.stderr) == (0, "")
    assert "not sent" not in trained.stdout
    assert "qdesk-linear@candidate is v" in trained.stdout
    assert not (tmp_path / "mlruns" / "mlflow.db").exists()
    assert list((tmp_path / "mlruns" / "artifacts").iterdir()) == []
    with psycopg.connect(team.database) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM metrics WHERE key = 'train/reward'")
        assert cursor.fetchone() == (200,)
        cursor.execute("SELECT DISTINCT status FROM runs")
        assert cursor.fetchall() == [("FINISHED",)]
    stored = team.files.find("desk/mlflow")
    for name in ("figures/equity_validation.png", "bundle/weights.safetensors", "model.keras"):
        assert any(path.endswith(name) for path in stored), stored
    listed = qdesk(tmp_path, ada, "runs", "list")
    assert "linear-synthetic_ou_s3-s1" in listed.stdout
    judged = qdesk(tmp_path, ada, "evaluate", "qdesk-linear")
    assert judged.returncode == 0, judged.stderr
    refused = qdesk(
        tmp_path, ada, "models", "promote", "qdesk-linear", "candidate", "--reason", "a test"
    )
    assert refused.returncode == 4
    promoted = qdesk(
        tmp_path, ada, "models", "promote", "qdesk-linear", "candidate", "--reason", "a test",
        *("--override", "to be loaded"),
    )  # fmt: skip
    assert promoted.returncode == 0, promoted.stderr
    assert "qdesk-linear@champion is v" in promoted.stdout
    code = (
        "import sys, mlflow, numpy as np\n"
        "model = mlflow.keras.load_model('models:/qdesk-linear@champion')\n"
        "np.save(sys.argv[1], model(np.array([[0.3, 0, 1]], np.float32)))\n"
    )
    path = tmp_path / "q_values.npy"
    subprocess.run([sys.executable, "-c", code, path], env=ada, check=True, capture_output=True)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
            patch.setenv(name, ada[name])
        found = load_last_good("qdesk-linear", tmp_path / "cache", team.uri)
    assert (found.source, found.steps_down) == ("champion", [])
    assert found.bundle is not None
    q_values = found.bundle.q_values(np.array([[0.3, 0, 1]], np.float32))
    np.testing.assert_allclose(q_values, np.load(path), atol=1e-5)


def test_a_wrong_password_is_said_and_loses_nothing(
    team: Team, ada: dict[str, str], tmp_path: Path
) -> None:
    wrong = {**ada, "MLFLOW_TRACKING_PASSWORD": "wrong"}
    trained = qdesk(tmp_path, wrong, "train", "--preset", "tabular", *QUICK)
    assert (trained.returncode, trained.stderr) == (0, "")
    said = " ".join(trained.stdout.split())
    assert f"not sent to MLflow ({team.uri} does not let us in" in said
    assert "the-password" not in said
    sent = qdesk(tmp_path, ada, "tracking", "sync")
    assert sent.returncode == 0, sent.stdout
    assert "tabular-synthetic_ou_s3-s1" in qdesk(tmp_path, ada, "runs", "list").stdout


@pytest.mark.parametrize(
    "missing", ["DATABASE_URL", "ARTIFACTS", "ALLOWED_HOSTS", "MLFLOW_AUTH_ADMIN_PASSWORD"]
)
def test_the_script_says_what_it_needs(missing: str) -> None:
    given = {
        "DATABASE_URL": "x",
        "ARTIFACTS": "x",
        "ALLOWED_HOSTS": "x",
        "MLFLOW_AUTH_ADMIN_PASSWORD": "x",
    }
    del given[missing]
    run = subprocess.run(
        [str(SCRIPT)], env={"PATH": os.environ["PATH"], **given}, capture_output=True, text=True
    )
    assert run.returncode != 0
    assert missing in run.stderr
