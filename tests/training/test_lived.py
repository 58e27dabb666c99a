"""Training that begins with what desks lived: their transitions, out of their journals."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from durable.settings import BadSettings
from market.accounting import MarketSettings
from market.bars import Bars, SplitSettings
from market.synthetic import RandomWalk
from tests.support.agents import agents_of
from tests.support.desks import bundle_for, desk_at, rows_of, run
from tests.support.trained import Trained, refused
from trading.records import Session
from training.checkpoints.errors import NoCheckpoint
from training.data import TrainingData, with_lived
from training.learning.agent import Agents
from training.settings import TrainSettings
from training.sources import load_settings

DAYS = RandomWalk(sigma=0.01).bars(400, seed=5)  # lie before what a training is judged on
WALK = "synthetic:walk?sigma=0.01&seed=3&bars=3000"


@pytest.fixture(scope="module")
def journal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a desk lived that paid two hundredths of a unit of money for every unit that it traded."""
    return lived_under(tmp_path_factory.mktemp("desk"))


def lived_under(
    folder: Path,
    scheme: str = "target",
    sizing: str = "unit",
    bars: Bars = DAYS,
    gamma: float | None = 0.9,
) -> Path:
    costs = MarketSettings(half_spread=0.02)
    desk = desk_at(folder, bundle_for(bars, seed=8), costs)
    session: Any = {"quantity": 1.0, "gamma": gamma, "scheme": scheme, "costs": {"sizing": sizing}}
    desk.ledger.record(Session(time=0, **session))
    run(desk, rows_of(bars))
    desk.ledger.journal.close()
    return folder / "journal.jsonl"


def prepared(*arguments: str) -> tuple[TrainSettings, TrainingData]:
    (settings,) = load_settings(["--bars", WALK, *arguments])
    return settings, TrainingData.of(settings)


def test_they_are_what_training_would_have_made_of_the_same_positions(journal: Path) -> None:
    """States by this training's features, rewards by its scale: as the market's own arithmetic says."""
    settings, data = prepared("--replay.prefill", str(journal), "--learner.gamma", "0.7")
    buffer = with_lived(settings, data).lived
    assert buffer is not None
    batch = buffer.at(np.arange(len(buffer)))
    assert len(buffer) > 300
    features, skipped = data.features.transform(DAYS)
    close = DAYS.column("close")[skipped:]
    rows = np.arange(len(features) - len(buffer) - 1, len(features) - 1)
    np.testing.assert_allclose(batch.state[:, :-2], features[rows], rtol=1e-6)
    np.testing.assert_allclose(batch.next_state[:, :-2], features[rows + 1], rtol=1e-6)
    held = batch.action - 1
    before = np.append(batch.state[0, -2], held[:-1])
    np.testing.assert_array_equal(batch.state[:, -2], before)
    np.testing.assert_array_equal(batch.next_state[:, -2], held)
    assert {-1, 1} <= set(held.tolist())
    reward = held * np.diff(close)[rows] - 0.02 * abs(held - before)
    np.testing.assert_allclose(batch.reward, reward * data.reward_scale, atol=1e-4)
    np.testing.assert_allclose(batch.discount, 0.7)


@pytest.mark.parametrize("kind", ["dqn", "tabular"])
def test_agents_know_what_was_lived_before_their_first_iteration(journal: Path, kind: str) -> None:
    """With gamma 0 a Q-value is the reward: those of what was lived are better known than before."""
    faster = ["--learner.learning-rate", "0.01", "--replay.streams", "1"] if kind == "dqn" else []
    few = ["--tabular.bins", "2"] if kind == "tabular" else []
    settings, data = prepared(
        "--agent.kind",
        kind,
        "--learner.gamma",
        "0",
        "--replay.prefill",
        str(journal),
        *faster,
        *few,
    )
    lived = with_lived(settings, data).lived
    assert lived is not None

    def error(agents: Agents) -> float:
        q_values = agents.policy(0).q_values
        assert q_values is not None
        batch = lived.at(np.arange(len(lived)))
        taken = np.asarray(q_values(batch.state))[np.arange(len(lived)), batch.action]
        return float(np.mean((taken - batch.reward) ** 2))

    fresh, taught, again = (agents_of(settings, data.train, data.reward_scale) for _ in range(3))
    taught.learn_from(lived)
    again.learn_from(with_lived(settings, data).lived or lived)
    assert taught.iteration == 0
    assert error(taught) < {"dqn": 0.95, "tabular": 0.99}[kind] * error(fresh)
    for name, array in taught.state().items():
        np.testing.assert_array_equal(array, again.state()[name], err_msg=name)


def test_a_training_begins_with_them_and_resumes_without(journal: Path, tmp_path: Path) -> None:
    """Once they were learned from, the journal may be gone: the checkpoint has all of it."""
    mine = tmp_path / "journal.jsonl"
    mine.write_bytes(journal.read_bytes())
    trained = Trained(tmp_path)
    few = ["--preset", "tabular", "--bars", WALK, "--steps", "600"]
    trained(*few, "--replay.prefill", str(mine), stop_at=300)
    assert "transitions that desks lived" in trained.said.getvalue()
    mine.unlink()
    trained("--resume", "latest")
    assert trained.said.getvalue().count("transitions that desks lived") == 1


def test_what_they_must_not_be_is_refused(
    journal: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of another sizing or scheme, nothing but bars that versions are judged on, or not there."""
    few = ("--preset", "tabular", "--steps", "600")
    for folder, scheme, sizing in (("a", "order", "unit"), ("b", "target", "equity")):
        (tmp_path / folder).mkdir()
        other = lived_under(tmp_path / folder, scheme, sizing)
        settings, data = prepared("--replay.prefill", f"{journal},{other}")
        with pytest.raises(
            BadSettings, match=f"traded under scheme {scheme}, sizing {sizing}; this"
        ):
            with_lived(settings, data)
    settings, data = prepared("--replay.prefill", str(journal), "--market.episode-bars", "20")
    tiny = TrainingData.on(DAYS.between(0, 60, "tiny"), settings, SplitSettings(gap=1))
    later = replace(tiny, bars=DAYS)
    with pytest.raises(BadSettings, match=r"to begin with, but \d+ among the bars that versions"):
        with_lived(settings, replace(later, split=tiny.split._replace(validation=DAYS)))
    gone = ("--bars", WALK, "--replay.prefill", str(tmp_path / "none.jsonl"))
    assert "none.jsonl" in refused(capsys, tmp_path / "m", *few, *gone)
    assert not (tmp_path / "m").exists()


def test_what_was_lived_among_judged_bars_is_left_out(journal: Path, tmp_path: Path) -> None:
    """Before them and after the last bar it is welcome, and a note says how much was left out."""
    settings, _ = prepared("--replay.prefill", str(journal), "--market.episode-bars", "20")
    data = TrainingData.on(DAYS.between(0, 300, "some"), settings, SplitSettings(gap=1))
    found = with_lived(settings, data)
    assert found.lived is not None
    first = data.split.validation.table["time"][0]
    judged = int((DAYS.table["time"][:300] >= first).sum())
    assert found.left_out == judged + 1  # the first of them ends on the first judged bar
    assert len(found.lived) + found.left_out > 390
    (note,) = [each for each in found.notes if "desks lived" in each]
    assert f"{found.left_out} lie among the bars that versions are judged on: left out" in note
    later = lived_under(tmp_path, bars=DAYS.between(200, 400, "later"))
    settings, _ = prepared("--replay.prefill", str(later), "--market.episode-bars", "20")
    early = TrainingData.on(DAYS.between(0, 200, "the first days"), settings, SplitSettings(gap=1))
    assert with_lived(settings, early).left_out == 0


def test_a_seed_beside_others_learns_from_what_was_lived_as_alone(journal: Path) -> None:
    few = ("--replay.prefill", str(journal), "--network.hidden", "8,8")
    learned = []
    for seeds in ("1", "2"):
        settings, data = prepared(*few, "--seeds", seeds)
        found = with_lived(settings, data).lived
        assert found is not None
        agents = agents_of(settings, data.train, data.reward_scale)
        agents.learn_from(found)
        learned.append(agents.weights(0))
    for name, array in learned[0].items():
        np.testing.assert_array_equal(array, learned[1][name], err_msg=name)


def test_what_was_lived_ends_where_the_account_did_whatever_the_desk_discounted(
    tmp_path: Path,
) -> None:
    """A model of gamma 0, or of one that is not known, lived through no ruin at every bar."""
    for gamma in (0.0, None):
        folder = tmp_path / str(gamma)
        folder.mkdir()
        found = lived_under(folder, gamma=gamma)
        settings, data = prepared("--replay.prefill", str(found))
        buffer = with_lived(settings, data).lived
        assert buffer is not None
        assert len(buffer) > 300
        np.testing.assert_allclose(buffer.at(np.arange(len(buffer))).discount, 0.99)


def test_a_fork_cannot_begin_with_what_desks_lived(journal: Path, tmp_path: Path) -> None:
    trained = Trained(tmp_path)
    few = ["--preset", "tabular", "--bars", WALK, "--steps", "600"]
    trained(*few, stop_at=300)
    more = ("--resume", "latest", "--fork", "--replay.prefill", str(journal))
    with pytest.raises(NoCheckpoint, match="a fork begins where its parent stood"):
        trained(*more)
