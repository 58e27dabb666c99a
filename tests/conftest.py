"""What several tests share."""

import os
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
for name in [name for name in os.environ if name.startswith(("QDESK_", "DQN_EPSILON_"))]:
    del os.environ[name]

import numpy as np
import polars as pl
import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis.configuration import set_hypothesis_home_dir
from numpy.typing import NDArray

from market.bars import Bars
from market.synthetic import RandomWalk

_hypothesis_home = tempfile.TemporaryDirectory()  # tests leave nothing in the repository
set_hypothesis_home_dir(_hypothesis_home.name)
hypothesis_settings.register_profile("qdesk", deadline=None, derandomize=True, database=None)
hypothesis_settings.load_profile("qdesk")


def bars_of(open: NDArray[np.float64], close: NDArray[np.float64], name: str = "made") -> Bars:
    """Bars with given opens and closes, one a minute."""
    count = len(close)
    start = np.datetime64("2020-01-01T00:00", "us")
    table = pl.DataFrame(
        {
            "time": start + np.arange(count) * np.timedelta64(1, "m"),
            "open": open,
            "high": np.maximum(open, close),
            "low": np.minimum(open, close),
            "close": close,
            "volume": np.ones(count),
        }
    )
    return Bars.of(name, table)


@pytest.fixture(scope="session")
def walk() -> Bars:
    """3,000 bars without anything to learn."""
    return RandomWalk().bars(3000, seed=7)
