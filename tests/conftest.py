"""What several tests share."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
for name in [name for name in os.environ if name.startswith(("QDESK_", "DQN_EPSILON_"))]:
    del os.environ[name]

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis.configuration import set_hypothesis_home_dir

from market.bars import Bars
from market.synthetic import RandomWalk

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from tests.support.trained import Trained

if "PYTEST_XDIST_WORKER" not in os.environ:  # all processes of a session compile a program once
    _programs = tempfile.TemporaryDirectory()
    os.environ["TF_XLA_FLAGS"] = f"--tf_xla_persistent_cache_directory={_programs.name}"

_hypothesis_home = tempfile.TemporaryDirectory()  # tests leave nothing in the repository
set_hypothesis_home_dir(_hypothesis_home.name)
hypothesis_settings.register_profile("qdesk", deadline=None, derandomize=True, database=None)
hypothesis_settings.load_profile("qdesk")


LONGEST = (
    "test_resume",
    "test_uploader",
    "test_loop",
    "test_evaluate",
    "test_train",
    "test_guards",
    "test_learning",
    "test_agents",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files begin, so that no worker ends alone with one of them."""
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else 99)


@pytest.fixture(autouse=True)
def _no_server() -> Iterator[None]:
    """MLflow's `set_tracking_uri` sets a variable that a user may set, and that processes inherit."""
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    yield
    os.environ.pop("MLFLOW_TRACKING_URI", None)


@pytest.fixture(scope="session")
def walk() -> Bars:
    """3,000 bars without anything to learn."""
    return RandomWalk().bars(3000, seed=7)


@pytest.fixture
def trained(tmp_path: Path) -> "Trained":
    """Trains in this process, into a store of its own."""
    from tests.support.trained import Trained

    return Trained(tmp_path)


@pytest.fixture
def mlruns(tmp_path: Path) -> Path:
    """A store with three registered versions."""
    from tests.support.registered import register_three

    register_three(tmp_path / "mlruns")
    return tmp_path / "mlruns"


@pytest.fixture
def client(mlruns: Path) -> "MlflowClient":
    from mlflow import MlflowClient

    from tests.support.registered import uri_of

    return MlflowClient(uri_of(mlruns), uri_of(mlruns))
