"""Tabular Q-learning: the bins, the updates, the walk along the market, and the file."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from market.accounting import MarketSettings
from market.bars import Bars
from market.features import FeaturePipeline, FeatureSettings
from market.gym import MarketEnv
from market.table import MarketTable
from market.terms import Sizing
from models.exploration import EpsilonSettings
from models.tabular import Algorithm, Discretiser, TabularLearner, TabularQ, TooManyCells
from tests.support.bars import bars_of
from training.learning.settings import DiscountSettings, StreamSettings, TabularSettings
from training.learning.tabular import Tabular, TabularAgents

GAMMA = 0.8


def test_bins_hold_about_as_many_each() -> None:
    features = np.random.default_rng(0).normal(size=(10_000, 2)).astype(np.float32)
    features[:, 1] = np.exp(features[:, 1])
    discretiser = Discretiser.fit(features, 10)
    assert discretiser.cells == 100
    cell = discretiser.cell(features)
    for counts in (np.bincount(cell // 10), np.bincount(cell % 10)):
        assert len(counts) == 10
        np.testing.assert_allclose(counts, 1000, atol=1)
    far = discretiser.cell(np.array([[-1e9, -1e9], [1e9, 1e9]], np.float32))
    np.testing.assert_array_equal(far, [0, 99])


def test_a_value_that_repeats_fills_a_bin() -> None:
    features = np.repeat([[0.0], [1.0]], [90, 10], axis=0).astype(np.float32)
    discretiser = Discretiser.fit(features, 10)
    assert discretiser.cells == 2
    np.testing.assert_array_equal(discretiser.cell(features), np.repeat([0, 1], [90, 10]))
    assert Discretiser.fit(features, 1).cells == 1


def test_a_table_too_large_is_refused() -> None:
    features = np.zeros((10, 8), np.float32)
    message = r"tabular.bins is 10, features 8 and tables 1: 100,000,000"
    with pytest.raises(TooManyCells, match=message):
        Discretiser.fit(features, 10)
    with pytest.raises(TooManyCells, match=r"tables 20: 2,000,000 cells, .* features or seeds"):
        Discretiser.fit(features[:, :5], 10, tables=20)


@pytest.mark.parametrize(
    "algorithm, expected",
    [
        # Row 1 holds 1, 5, 3; the old value is 2, the rate 1/2: 2 + (1 + 0.8 * v - 2) / 2
        ("q_learning", 2 + (1 + 0.8 * 5 - 2) / 2),
        ("expected_sarsa", 2 + (1 + 0.8 * (0.7 * 5 + 0.3 * 3) - 2) / 2),
    ],
)
def test_one_update_by_hand(algorithm: Algorithm, expected: float) -> None:
    learner = TabularLearner(2, algorithm, learning_rate=0.5)
    table = np.array([[[0, 2, 0], [1, 5, 3]]], float)
    learner.restore({"tables": table, "visits": np.zeros((1, 2, 3), int)})
    td_error, before = learner.update(0, 1, 1.0, GAMMA, 1, epsilon=0.3)
    assert before == 2
    assert td_error == pytest.approx((expected - 2) * 2)
    assert learner.table()[0, 1] == pytest.approx(expected)


def test_double_q_learning_chooses_with_one_table_and_judges_with_the_other() -> None:
    """Row 1: the first table's best is action 1, which the second values at 7, and vice versa."""
    tables = np.array([[[0, 2, 0], [1, 5, 3]], [[0, 4, 0], [9, 7, 8]]], float)
    for coin, which, value in ((0.7, 0, 7), (0.2, 1, 1)):
        learner = TabularLearner(2, "double_q_learning", learning_rate=0.5)
        learner.restore({"tables": tables, "visits": np.zeros((2, 2, 3), int)})
        assert learner.greedy(1) == 1  # 10, 12, 11 together
        learner.update(0, 1, 1.0, GAMMA, 1, coin=coin)
        after = learner.state()["tables"]
        old = tables[which, 0, 1]
        assert after[which, 0, 1] == pytest.approx(old + (1 + GAMMA * value - old) / 2)
        np.testing.assert_array_equal(after[1 - which], tables[1 - which])


def test_learning_rates_fall_with_visits() -> None:
    """With rate 1/n a value is the mean of what was seen; a constant rate forgets."""
    mean, constant = TabularLearner(1, omega=1.0), TabularLearner(1, learning_rate=0.5)
    for reward in (1.0, 2.0, 6.0):
        mean.update(0, 0, reward, 0.0, 0)
        constant.update(0, 0, reward, 0.0, 0)
    assert mean.table()[0, 0] == pytest.approx(3)
    assert constant.table()[0, 0] == pytest.approx(((0.5 / 2 + 1) / 2) + 3)


# The five probes of tests/training/learning/test_learner.py, for a table: rows are what is seen.


@pytest.mark.parametrize("algorithm", ["q_learning", "expected_sarsa", "double_q_learning"])
def test_probes(algorithm: Algorithm) -> None:
    """Value, state, discount, action, and action by state, each in rows of its own."""
    rng = np.random.default_rng(1)
    learner = TabularLearner(7, algorithm)
    for _ in range(6000):
        action, coin = int(rng.integers(3)), float(rng.random())
        learner.update(0, action, 1.0, 0.0, 0, coin=coin)  # value: 1
        seen = int(rng.integers(2))
        learner.update(1 + seen, action, 2.0 * seen - 1, 0.0, 0, coin=coin)  # state: -1 and 1
        learner.update(3, action, 0.0, GAMMA, 0, coin=coin)  # discount: leads to row 0
        learner.update(4, action, action - 1.0, 0.0, 0, coin=coin)  # action: -1, 0, 1
        learner.update(5 + seen, action, (2.0 * seen - 1) * (action - 1), 0.0, 0, coin=coin)
    flat, up, down = [[1.0] * 3, [-1.0, 0.0, 1.0], [1.0, 0.0, -1.0]]
    expected = [flat, [-1.0] * 3, flat, [GAMMA] * 3, up, down, up]
    np.testing.assert_allclose(learner.table(), expected, atol=0.02)


def market_of(sizing: Sizing = "unit") -> MarketSettings:
    return MarketSettings(
        sizing=sizing, episode_bars=50, fee_rate=0.001, equity_floor=0.97, risk_aversion=0.1
    )


def agents_of(
    bars: Bars, seeds: tuple[int, ...] = (1,), sizing: Sizing = "unit", **changes: Any
) -> TabularAgents:
    features = FeaturePipeline.fit(bars, FeatureSettings(names=("price_change", "volatility_5")))
    market = market_of(sizing)
    table = MarketTable.of(bars, features, market)
    settings = Tabular(
        tabular=TabularSettings(bins=4, **changes),
        learner=DiscountSettings(gamma=GAMMA),
        replay=StreamSettings(streams=3),
        epsilon=EpsilonSettings(start=0.5, min=0.5),
    )
    return TabularAgents(table, settings, seeds, reward_scale=0.5)


@pytest.mark.parametrize("sizing", ["unit", "notional", "equity"])
def test_the_walk_is_that_of_the_environment(
    walk: Bars, monkeypatch: pytest.MonkeyPatch, sizing: Sizing
) -> None:
    """What the table is told of every step is what the Gymnasium environment says of it."""
    agents = agents_of(walk, sizing=sizing)
    (one,) = agents._walks
    features = FeaturePipeline.fit(walk, FeatureSettings(names=("price_change", "volatility_5")))
    table = MarketTable.of(walk, features, market_of(sizing))
    cells = Discretiser.fit(table.features, 4).cell(table.features)
    told: list[tuple[Any, ...]] = []
    update = one.learner.update

    def remember(*arguments: Any) -> tuple[float, float]:
        told.append(arguments)
        return update(*arguments)

    monkeypatch.setattr(one.learner, "update", remember)
    starts = [at[0] for at in one._at]
    envs = [MarketEnv(table, reward_scale=0.5) for _ in range(3)]
    for env, bar in zip(envs, starts, strict=True):
        env.reset(options={"bar": bar})
    bars, ends = list(starts), {"ruined": 0, "truncated": 0}
    for _ in range(120):
        before = [at[2] for at in one._at]
        agents.run(1)
        for stream, env in enumerate(envs):
            row, action, reward, discount, then, _, _ = told[-3 + stream]
            assert row == cells[bars[stream]] * 3 + before[stream]
            _, expected, terminated, truncated, info = env.step(action)
            assert reward == pytest.approx(expected)
            assert discount == (0.0 if terminated else GAMMA)
            assert then == cells[bars[stream] + 1] * 3 + info["position"] + 1
            ends["ruined"] += terminated
            ends["truncated"] += truncated
            bars[stream] = one._at[stream][0]
            if terminated or truncated:
                env.reset(options={"bar": bars[stream]})
    assert min(ends.values()) > 0


def test_a_step_that_wipes_out_an_account_ruins_its_stream(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However far above the floor it was."""
    rng = np.random.default_rng(1)
    close = np.exp(np.cumsum(rng.normal(0, 0.01, 300)))
    close[150:] *= 5.0  # what ruins every short
    bars = bars_of(close, close)
    agents = agents_of(bars, sizing="equity")
    (one,) = agents._walks
    wiped = one.market.net[149 - 5][0][0]  # the first five rows are the features'
    assert wiped == one.market.least
    one._at = [(144, 194, 0, 1e9), (144, 194, 2, 1e9), (100, 150, 0, 1e9)]
    one.exploration = EpsilonSettings(start=0.0, min=0.0)
    monkeypatch.setattr(one.learner, "greedy", lambda state: 0)
    agents.run(1)
    assert one._at[0][3] < 1e6  # begun anew
    assert one._at[1][3] < 1e6
    assert one._at[2][3] > 1e6


def test_calls_do_not_matter_and_restore_goes_on_exactly(walk: Bars) -> None:
    whole, parts, restored = (agents_of(walk, (1, 2)) for _ in range(3))
    whole.run(300)
    for iterations in (1, 99, 50):
        parts.run(iterations)
    restored.restore(parts.state())
    for agents in (parts, restored):
        agents.run(150)
        for index in range(2):
            np.testing.assert_array_equal(
                agents._walks[index].learner.table(), whole._walks[index].learner.table()
            )
    tables = [walked.learner.table() for walked in whole._walks]
    assert not np.array_equal(tables[0], tables[1])
    alone = agents_of(walk, (2,))
    alone.run(300)
    np.testing.assert_array_equal(alone._walks[0].learner.table(), tables[1])


def test_a_state_of_another_shape_changes_nothing() -> None:
    learner = TabularLearner(2)
    learner.update(0, 0, 1.0, 0.0, 0)
    before = learner.table()
    with pytest.raises(ValueError, match=r"tables has shape \(1, 3, 3\), not \(1, 2, 3\)"):
        learner.restore(TabularLearner(3).state())
    np.testing.assert_array_equal(learner.table(), before)


def test_saved_is_what_is_loaded(tmp_path: Path) -> None:
    features = np.random.default_rng(0).normal(size=(100, 2)).astype(np.float32)
    discretiser = Discretiser.fit(features, 4)
    values = np.random.default_rng(1).normal(size=(discretiser.cells * 3, 3)).astype(np.float32)
    table = TabularQ(discretiser, values, "mine")
    table.save(tmp_path)
    loaded = TabularQ.load(tmp_path)
    states = states_of(features)
    np.testing.assert_array_equal(loaded.q_values(states), table.q_values(states))
    assert (loaded.name, loaded.state_size) == ("mine", 4)
    values[0, 0] = np.nan
    table.save(tmp_path)
    with pytest.raises(ValueError, match=r"must be finite and of shape \(48, 3\)"):
        TabularQ.load(tmp_path)


def states_of(features: NDArray[np.float32]) -> NDArray[np.float32]:
    position = np.resize([-1, 0, 1], len(features))
    columns = (features, position[:, None], np.ones((len(features), 1)))
    return np.concatenate(columns, axis=1, dtype=np.float32)


def test_a_row_is_cell_and_position() -> None:
    discretiser = Discretiser((np.array([0.0], np.float32),))
    table = np.arange(18, dtype=np.float32).reshape(6, 3)
    states = np.array([[-1, -1, 1], [-1, 1, 1], [0, 0, 1], [1, 1, 1]], np.float32)
    expected = table[[0, 2, 1, 5]]
    np.testing.assert_array_equal(TabularQ(discretiser, table).q_values(states), expected)


@pytest.mark.parametrize("position", [-2, 2, 0.5, np.nan])
@pytest.mark.filterwarnings("ignore:invalid value encountered in cast")
def test_a_position_that_is_none_is_refused(position: float) -> None:
    table = TabularQ(Discretiser((np.array([0.0], np.float32),)), np.zeros((6, 3), np.float32))
    with pytest.raises(ValueError, match="state 1 holds position"):
        table.q_values(np.array([[1, 0, 1], [1, position, 1]], np.float32))


@pytest.mark.parametrize("edges", [[0.0, np.nan], [1.0, 0.0], [0.0, 0.0]])
def test_edges_that_are_none_are_not_loaded(tmp_path: Path, edges: list[float]) -> None:
    discretiser = Discretiser((np.array(edges, np.float32),))
    TabularQ(discretiser, np.zeros((9, 3), np.float32)).save(tmp_path)
    with pytest.raises(ValueError, match="edges of bins must be finite and ascending"):
        TabularQ.load(tmp_path)
