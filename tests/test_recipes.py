"""The recipes of CONTRIBUTING.md work as they are written."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest

import qdesk
from durable.settings import BadSettings
from market.bars import load_bars
from market.feature_kinds import KINDS as FEATURES
from market.feature_kinds import Kind
from market.features import FeaturePipeline, FeatureSettings
from market.synthetic import RandomWalk
from models.architectures import ARCHITECTURES, Architecture, Dense, Rectify
from models.last_good import load_last_good
from models.places import address_of
from models.single import one_state
from models.tabular import TabularQ
from qdesk import COMMANDS, Command
from tests.support.commands import LOOSE, said, said_anyhow
from tests.support.desks import bundle_for
from tests.support.paper import WALK
from tests.support.trained import Trained
from trading.journal import records
from trading.venues import ENGINES, Engine
from training.learning.kinds import KINDS as AGENTS
from training.sources import load_settings

PAGE = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text()


def recipe(title: str) -> str:
    """The code of a section."""
    section = PAGE.partition(f"## {title}\n")[2].partition("\n## ")[0]
    found = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert found is not None
    return found[1]


def test_a_feature_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a batch, bar by bar, and by its name in a pipeline."""
    rows = dict(FEATURES)
    exec(recipe("A feature"), {"KINDS": rows, "Kind": Kind})
    (name,) = rows.keys() - FEATURES.keys()
    monkeypatch.setitem(FEATURES, name, rows[name])
    bars = load_bars("eurusd_1h")
    pipeline = FeaturePipeline.fit(bars, FeatureSettings(names=(name,)))
    batch = pipeline.transform(bars).values
    stream = pipeline.stream()
    single = [stream.update(bar) for bar in bars.table.head(50).iter_rows(named=True)]
    made = np.stack([each for each in single if each is not None])
    np.testing.assert_array_equal(batch[: len(made)], made)
    assert batch.std() > 0


def test_a_network_is_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is trained, registered, promoted and trades; NumPy and Keras agree about it."""
    rows = dict(ARCHITECTURES)
    names = {
        "ARCHITECTURES": rows,
        "Architecture": Architecture,
        "Dense": Dense,
        "Rectify": Rectify,
    }
    exec(recipe("A network"), names)
    (kind,) = rows.keys() - ARCHITECTURES.keys()
    monkeypatch.setitem(ARCHITECTURES, kind, rows[kind])
    store = ["--mlruns", tmp_path / "mlruns"]
    few = ["--network.kind", kind, "--network.hidden", "8,8", "--steps", "1200"]
    said(capsys, "train", "--bars", "synthetic:ou?bars=3000&seed=1", *few, *store)
    name = f"qdesk-{kind.replace('_', '-')}"
    found = load_last_good(name, tmp_path / "cache", address_of(tmp_path / "mlruns"))
    assert found.bundle is None  # none may trade before it was promoted
    said(capsys, "models", "promote", name, "1", "--reason", "x", "--override", "y", *store)
    found = load_last_good(name, tmp_path / "cache", address_of(tmp_path / "mlruns"))
    assert found.bundle is not None
    assert found.bundle.manifest.network.hidden == [8]
    state = np.array([0.3, 1.0, 1.0], np.float32)
    model = found.bundle.model()
    assert not isinstance(model, TabularQ)
    kept = model(state[None]).numpy()[0]
    np.testing.assert_allclose(one_state(found.bundle)(state), kept, atol=1e-6)
    np.testing.assert_allclose(found.bundle.q_values(state[None])[0], kept, atol=1e-6)
    bars = ["--bars", "synthetic:ou?bars=200&seed=2", "--accept-other-market"]
    assert name in said_anyhow(capsys, "paper", name, *bars, *store)[0]


LEARNER = """
import numpy as np
from models.tabular import Discretiser, TabularQ
from training.learning.agent import LogWindow, Policy, require_fits

class Bandits:
    learning_rate = float("nan")

    def __init__(self, settings, table, seeds, reward_scale, name):
        self.seeds, self.reward_scale, self._name = seeds, reward_scale, name
        self._net = table.outcomes().net * reward_scale
        self._cells = Discretiser.fit(table.features, 2)
        self._streams = settings.replay.streams
        self._state = {
            "iteration": np.array(0), "sums": np.zeros((len(seeds), 3)),
            "counts": np.zeros((len(seeds), 3)), "window/began": np.array(0),
            "window/sums": np.zeros(len(seeds)),
        }

    @property
    def iteration(self):
        return int(self._state["iteration"])

    def compile(self):
        pass

    def run(self, iterations, stopped=lambda: False):
        state = self._state
        for index, seed in enumerate(self.seeds):
            for step in range(self.iteration, self.iteration + iterations):
                rng = np.random.default_rng((seed, step))
                action = rng.integers(3, size=self._streams)
                reward = self._net[rng.integers(len(self._net), size=self._streams), 1, action]
                np.add.at(state["sums"][index], action, reward)
                np.add.at(state["counts"][index], action, 1)
                state["window/sums"][index] += reward.mean()
        state["iteration"] = np.array(self.iteration + iterations)
        told = state["window/sums"] / iterations / self.reward_scale
        state["window/sums"] = np.zeros(len(self.seeds))
        nan = float("nan")
        return [LogWindow(nan, nan, nan, nan, float(each), 1.0) for each in told]

    def _means(self, index):
        return self._state["sums"][index] / np.maximum(self._state["counts"][index], 1)

    def policy(self, index):
        best = int(self._means(index).argmax())
        return Policy(lambda states: np.full(len(states), best))

    def model(self, index):
        rows = 3 * self._cells.cells
        table = np.tile(self._means(index), (rows, 1)).astype(np.float32)
        return TabularQ(self._cells, table, self._name)

    def weights(self, index):
        return {"means": self._means(index)}

    def state(self):
        return self._state

    def restore(self, state):
        require_fits(self._state, state)
        self._state = {name: array.copy() for name, array in state.items()}

    def learn_from(self, lived):
        pass

    def set_learning_rate(self, rate):
        raise NotImplementedError

agents = Bandits
"""


def test_a_learner_is_a_class_and_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It knows no Q-values; it is trained, stopped, resumed, compared, promoted and trades."""
    (tmp_path / "my_learner.py").write_text(LEARNER)
    monkeypatch.syspath_prepend(str(tmp_path))
    rows = dict(AGENTS)
    exec(recipe("A learner of another kind"), {"KINDS": rows, "__name__": "my_settings"})
    (kind,) = rows.keys() - AGENTS.keys()
    monkeypatch.setitem(AGENTS, kind, rows[kind])
    trained = Trained(tmp_path)
    few = ("--agent.kind", kind, "--bars", "synthetic:ou?bars=3000&seed=1")
    trained(*few, "--steps", "1000", "--seeds", "2", stop_at=500)
    trained("--resume", "latest")
    said_so = trained.said.getvalue()
    assert "saved at iteration 500" in said_so
    assert "bandit s2, last v" in said_so
    with pytest.raises(BadSettings, match="batch is set, but does nothing where"):
        load_settings([*few, "--learner.batch", "64"])
    store = ("--mlruns", trained.mlruns)
    said(
        capsys, "models", "promote", "qdesk-bandit", "1", "--reason", "x", "--override", "y", *store
    )
    bars = ("--bars", "synthetic:ou?bars=200&seed=2", "--accept-other-market")
    out, _ = said_anyhow(capsys, "paper", "qdesk-bandit", *bars, *store)
    assert "ACTIVE" in out


def test_an_engine_is_a_module_and_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One that charges a unit of money a fill: its fills are in the journal."""
    (tmp_path / "my_engine.py").write_text(
        "from trading.venues.simulated import SimulatedVenue, play\n\n"
        "__all__ = ['play']\n\n"
        "class Dear(SimulatedVenue):\n"
        "    def poll(self):\n"
        "        told = super().poll()\n"
        "        return [e._replace(cost=1.0) if hasattr(e, 'cost') else e for e in told]\n\n"
        "def open_venue(market):\n    return Dear(market)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    rows = dict(ENGINES)
    exec(recipe("A venue"), {"ENGINES": rows, "Engine": Engine})
    (name,) = rows.keys() - ENGINES.keys()
    monkeypatch.setitem(ENGINES, name, rows[name])
    made = bundle_for(RandomWalk(sigma=0.01).bars(500, seed=5), seed=8)
    (tmp_path / "bundle").mkdir()
    made.save_into(tmp_path / "bundle")
    command = ["backtest", str(tmp_path / "bundle"), "--bars", WALK, "--engine", name]
    said_anyhow(capsys, *command, "--desk", tmp_path / "desk", *LOOSE)
    told = [each for each in records(tmp_path / "desk" / "journal.jsonl") if each["type"] == "fill"]
    assert len(told) > 10
    assert {each["cost"] for each in told} == {1.0}
    _, err = said_anyhow(capsys, *command, "--latency", "1s")
    assert "--latency does nothing without --engine nautilus" in err
    _, err = said_anyhow(capsys, *command[:-1], "nothing")
    engines = "'simulated' or 'nautilus' or 'mine'"
    assert f"engine is 'nothing' (--engine on the command line): input should be {engines}" in err


def test_a_command_is_a_module_and_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "my_module.py").write_text(
        "class Refused(ValueError):\n    exit_code = 2\n\n"
        "def run(arguments, console):\n"
        "    if arguments != ['world']:\n        raise Refused('hello whom?')\n"
        "    console.print('hello world')\n    return 0\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    rows = dict(COMMANDS)
    exec(recipe("A command"), {"COMMANDS": rows, "Command": Command})
    monkeypatch.setattr(qdesk, "COMMANDS", rows)

    def ended(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["qdesk", *arguments])
        code = qdesk.main()
        out, err = capsys.readouterr()
        return code, out, err

    assert ended("hello", "world") == (0, "hello world\n", "")
    assert ended("hello") == (2, "", "hello whom?\n")
    assert "  hello    say hello\n" in ended("--help")[1]
    assert '"hello"|"hello "*) options="--help" ;;' in ended("completion", "bash")[1]
