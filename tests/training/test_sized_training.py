"""Training under every sizing: the unit of rewards, the compiled loop, and earlier trainings."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from durable.verified import MANIFEST, read_verified, write_verified
from evaluation.backtest import backtest
from market.accounting import MarketSettings
from market.bars import Bars
from market.features import FeaturePipeline, FeatureSettings
from market.source import bars_from
from market.synthetic import RandomWalk
from market.table import MarketTable
from market.terms import Sizing
from models.configuration import configuration_hash
from models.exploration import EpsilonSettings
from tests.support.loops import SMALL, window_of
from tests.support.networks import two_layer_q_network
from tests.support.sizings import SIZED, SIZINGS
from tests.support.trained import Trained, refused, runs_of
from training import describe as labels
from training.checkpoints.checkpoint import STATE
from training.data import TrainingData
from training.learning.dqn import Dqn
from training.learning.loop import TrainingLoop
from training.learning.settings import ReplaySettings
from training.observers.q_guard import explained_q
from training.sources import load_settings

TABLE = [
    *("--preset", "tabular", "--features", "log_price", "--market.episode-bars", "300"),
    *("--bars", "synthetic:ou?theta=0.05&sigma=0.01&seed=3&bars=3000"),
]


def data_of(sizing: str, *arguments: str) -> TrainingData:
    (settings,) = load_settings(["--market.sizing", sizing, *arguments])
    return TrainingData.of(settings)


@pytest.mark.parametrize("sizing", SIZINGS)
@pytest.mark.parametrize("fill", ["close", "next_open"])
def test_rewards_are_of_order_one_under_every_sizing(sizing: Sizing, fill: str) -> None:
    data = data_of(sizing, "--market.fill", fill)
    held = backtest(data.train, np.ones(len(data.train) - 1, np.int8))
    rewards = np.diff(np.log(held.equity)) if sizing == "equity" else held.net
    assert (data.reward_scale * rewards).std() == pytest.approx(1, rel=0.02)
    assert data.validation["close"].settings.sizing == sizing


@pytest.mark.parametrize("sizing", SIZED)
def test_a_window_reports_in_the_unit_of_its_sizing(walk: Bars, sizing: Sizing) -> None:
    """The compiled loop under another reward scale reports the same: only learning is scaled. And it is
    what a random policy earns on these bars.
    """
    features = FeaturePipeline.fit(walk, FeatureSettings())
    market = MarketSettings(sizing=sizing, episode_bars=200, fee_rate=0.001)
    table = MarketTable.of(walk, features, market)
    rewards = []
    for scale in (0.5, 100.0):
        online = two_layer_q_network(3, (16, 16), 1)
        never = ReplaySettings(learning_starts=5 * 10**8)
        loop = TrainingLoop(
            table,
            [online],
            Dqn(learner=SMALL, replay=never, epsilon=EpsilonSettings(min=1)),
            [1],
            scale,
        )
        rewards.append(window_of(loop, 2000).reward)
    assert rewards[0] == pytest.approx(rewards[1], rel=1e-4)
    outcomes = table.outcomes()
    assert rewards[0] == pytest.approx(float(outcomes.net.mean()), rel=0.1)


@pytest.mark.parametrize("sizing", SIZED)
def test_the_compiled_loop_learns_from_finite_rewards(sizing: Sizing) -> None:
    """Prices that double and halve within a bar ruin shorts; nothing of it is infinite."""
    bars = RandomWalk(sigma=0.6).bars(2000, seed=2)
    features = FeaturePipeline.fit(bars, FeatureSettings())
    market = MarketSettings(sizing=sizing, episode_bars=50, fee_rate=0.001, drawdown_penalty=0.1)
    table = MarketTable.of(bars, features, market)
    online = two_layer_q_network(3, (16, 16), 1)
    replay = ReplaySettings(learning_starts=100)
    loop = TrainingLoop(
        table, [online], Dqn(learner=SMALL, replay=replay, epsilon=EpsilonSettings(min=1)), [1], 1.0
    )
    window = window_of(loop, 500)
    assert np.isfinite([window.reward, window.loss, window.q_mean]).all()


@pytest.mark.parametrize("sizing", SIZINGS)
def test_explained_q_covers_liquidation_under_every_sizing(walk: Bars, sizing: Sizing) -> None:
    (settings,) = load_settings(["--learner.gamma", "0.5"])
    market = MarketSettings(sizing=sizing, fee_rate=0.01)
    table = MarketTable.of(walk, FeaturePipeline.fit(walk, FeatureSettings()), market)
    outcomes = table.outcomes()
    worst = abs(outcomes.net - outcomes.penalty).max() + outcomes.closing.max()
    assert explained_q(settings, table, 3.0) == pytest.approx(2 * 3 * worst)
    assert outcomes.closing.max() >= 0.0095 * (table.close.max() if sizing == "unit" else 1)
    assert (outcomes.closing[..., 1] == 0).all()  # flat


def test_a_training_of_before_is_the_same_configuration() -> None:
    """It says nothing of sizing; its hash, and what its validation is compared by, are as they were."""
    (settings,) = load_settings(TABLE)
    flat = settings.flat()
    before = {name: value for name, value in flat.items() if name != "market.sizing"}
    assert flat["market.sizing"] == "unit"
    assert configuration_hash(flat) == configuration_hash(before)
    others = {configuration_hash(flat | {"market.sizing": sizing}) for sizing in SIZINGS}
    assert len(others) == 3
    data = TrainingData.of(settings)
    fields = json.loads(settings.market.model_dump_json())
    assert fields.pop("sizing") == "unit"
    as_before = data.split.validation.content_hash + json.dumps(fields, separators=(",", ":"))
    expected = hashlib.sha256(as_before.encode()).hexdigest()[:16]
    assert labels.tags(settings, data, 1, "g")["judged_on"] == expected
    equity = settings.model_copy(
        update={"market": settings.market.model_copy(update={"sizing": "equity"})}
    )
    assert labels.tags(equity, data, 1, "g")["judged_on"] != expected
    assert "sizing" not in labels.title(settings, data)
    assert "fills at close, sizing equity, fee" in labels.title(equity, data)


def test_a_checkpoint_of_another_sizing_is_refused_also_where_it_says_nothing_of_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = Trained(tmp_path)
    trained(*TABLE, "--steps", "4000", "--log-every", "100", stop_at=200)
    (run,) = runs_of(trained)
    assert run.data.params["market.sizing"] == "unit"
    for path in list((trained.mlruns / "checkpoints").rglob(MANIFEST)):  # as they were before
        sealed = read_verified(path.parent, STATE)
        manifest = dict(sealed.manifest)
        del manifest["settings"]["market"]["sizing"]
        write_verified(path.parent, STATE, sealed.arrays, manifest)
    again = ("--resume", "latest", "--market.sizing", "equity")
    said = refused(capsys, trained.mlruns, *again)
    assert "market.sizing is unit there and equity here" in said
    said = refused(capsys, trained.mlruns, *again, "--fork", "--steps", "5000")
    assert "market.sizing is unit in the checkpoint and equity now" in said
    assert trained("--resume", "latest", "--steps", "4000") is None
    assert runs_of(trained)[0].info.status == "FINISHED"


def test_the_sample_is_tabulated_under_every_sizing() -> None:
    bars = bars_from("eurusd_1h")
    features = FeaturePipeline.fit(bars, FeatureSettings())
    tables = {s: MarketTable.of(bars, features, MarketSettings(sizing=s)) for s in SIZINGS}
    for table in tables.values():
        assert len(table.terms.price) == len(table) - 1
        assert all(np.isfinite(column).all() for column in table.terms)
