"""What the version at 061f840 stored is read, resumed, promoted and traded.

`stored/before/store.tar.xz` is its `mlruns`, without pictures: a linear training that ended and whose
version was promoted and traded on paper; a table and a linear training that were stopped half-way. Its
settings had no kinds of agents: a table was a kind of network. The bars move by halves around 100, so
that every machine fits and scales them alike.
"""

import hashlib
import json
import tarfile
from pathlib import Path

import pytest

from models.configuration import completed, configuration_hash, flatten
from tests.support.commands import said
from tests.support.kills import client_of
from trading.journal import records
from training.checkpoints.checkpoint import AGENTS, Checkpoint, newest
from training.learning.dqn import Dqn
from training.learning.tabular import Tabular
from training.settings import TrainSettings
from training.sources import load_settings

STORED = Path(__file__).parent / "stored" / "before" / "store.tar.xz"
WAS = "/tmp/stored_before"
TABLE = "b10482a1"
LINEAR = "f6d75dcf"
# Of the arrays of learning after 4,000 iterations, of a training that was never stopped.
ENDED_ALONE = "e9bd96b8dc7bde296e647690a9ee6716f0d42df8d9bb0a2134f5bcb86139f9e0"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of before, unpacked somewhere else and moved to there."""
    folder = tmp_path_factory.mktemp("before") / "mlruns"
    folder.mkdir()
    with tarfile.open(STORED) as packed:
        packed.extractall(folder, filter="data")
    return folder


@pytest.fixture(scope="module")
def moved(store: Path) -> Path:
    from training.tracking.relocation import move

    move(Path(WAS), store)
    return store


def manifest_of(store: Path, run: str) -> dict[str, object]:
    (folder,) = (store / "checkpoints").glob(f"{run}*")
    read: dict[str, object] = json.loads(
        (sorted(folder.glob("step-*"))[-1] / "manifest.json").read_text()
    )
    return read


def test_trees_of_before_become_agents_of_a_kind(store: Path) -> None:
    """What stood in the settings of the other kind is gone; in flat form it says no less than before."""
    for run, kind in ((TABLE, Tabular), (LINEAR, Dqn)):
        tree = manifest_of(store, run)["settings"]
        assert isinstance(tree, dict)
        assert "agent" not in tree
        assert {"network", "tabular", "learner"} <= tree.keys()
        settings = TrainSettings.of(tree)
        assert isinstance(settings.agent, kind)
        now = completed(flatten(settings.tree()))
        was = completed(flatten(tree))
        assert {name: now.get(name) for name in was} == was
        assert configuration_hash(flatten(tree)) == configuration_hash(flatten(settings.tree()))


def test_presets_and_flags_of_before_are_read(tmp_path: Path) -> None:
    preset = tmp_path / "old.toml"
    preset.write_text("[network]\nkind = 'tabular'\n[tabular]\nbins = 7\n[learner]\ngamma = 0.5\n")
    (settings,) = load_settings(["--preset", str(preset)])
    assert isinstance(settings.agent, Tabular)
    assert (settings.agent.tabular.bins, settings.agent.learner.gamma) == (7, 0.5)
    (settings,) = load_settings(["--network.kind", "tabular"])
    assert settings.agent.kind == "tabular"


def test_a_table_is_resumed_bit_for_bit(moved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, err = said(capsys, "train", "--resume", TABLE, *ours(moved))
    assert "this checkpoint was made by code" in out
    assert not err
    (folder,) = (moved / "checkpoints").glob(f"{TABLE}*")
    ended: Checkpoint = newest(folder, None, print)
    assert ended.step == 4000
    digest = hashlib.sha256()
    for name in sorted(ended.arrays):
        if name.startswith(AGENTS):
            digest.update(name.encode())
            digest.update(ended.arrays[name].tobytes())
    assert digest.hexdigest() == ENDED_ALONE


def test_a_network_is_resumed_and_its_run_has_no_gap(
    moved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said(capsys, "train", "--resume", LINEAR, *ours(moved))
    with client_of(moved) as client:
        (run,) = [
            each
            for each in client.search_runs(["1"])
            if str(each.info.run_name).startswith("stopped-")
        ]
        assert run.info.status == "FINISHED"
        history = client.get_metric_history(run.info.run_id, "train/reward")
        assert [point.step for point in history] == [400, 600, 800, 1200]
        assert run.data.params["tabular.bins"] == "10"  # as it was logged


def test_versions_are_promoted_and_traded(moved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And the desk goes on from its journal, which has no checksums."""
    journal = moved / "desks" / "qdesk-linear" / "journal.jsonl"
    before = list(records(journal))
    reason = ("--reason", "x", "--override", "y")
    said(capsys, "models", "promote", "qdesk-table", "1", *reason, "--mlruns", moved)
    for name in ("qdesk-table", "qdesk-linear"):
        out, _ = said(capsys, "paper", name, *ours(moved), "--on-stop", "hold")
        assert "state" in out
    after = list(records(journal))
    assert after[: len(before)] == before
    assert len(after) > len(before)
    out, _ = said(capsys, "runs", "compare", "table-steps-s1", "--mlruns", moved)
    assert "train/reward" in out


def ours(store: Path) -> tuple[object, ...]:
    return ("--bars", store / "steps.csv", "--mlruns", store)
