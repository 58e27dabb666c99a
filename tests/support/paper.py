"""A bundle to trade on paper, and a market for it."""

from pathlib import Path

import pytest

from market.synthetic import RandomWalk
from tests.support.desks import bundle_for

WALK = "synthetic:walk?sigma=0.01&seed=5&bars=4000"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    made = bundle_for(RandomWalk(sigma=0.01).bars(500, seed=5), seed=8)
    folder = tmp_path / "bundle"
    folder.mkdir()
    made.save_into(folder)
    return folder
