"""Table, Gymnasium environment and compiled simulator: one market in three forms."""

import gymnasium
import numpy as np
import pytest
import tensorflow as tf
from gymnasium.utils.env_checker import check_env

from market.accounting import Fill, MarketSettings
from market.bars import Bars, BarsError
from market.features import FeaturePipeline, FeatureSettings
from market.gym import MarketEnv
from market.simulator import Simulator
from market.synthetic import random_walk
from market.table import MarketTable
from tests.test_accounting import account

SETTINGS = {
    "plain": MarketSettings(episode_bars=20),
    "costly": MarketSettings(episode_bars=20, fee_rate=0.002, half_spread=0.01, slippage=0.02),
    "next open": MarketSettings(episode_bars=20, fill="next_open", fee_rate=0.002),
    "orders": MarketSettings(episode_bars=20, scheme="order", fee_rate=0.001),
    "risk": MarketSettings(episode_bars=20, risk_aversion=3.0),
    "ruin": MarketSettings(episode_bars=20, fee_rate=0.01, equity_floor=0.97, risk_aversion=1.0),
}


def table_of(bars: Bars, settings: MarketSettings) -> MarketTable:
    names = FeatureSettings(names=("price_change", "log_price"))
    return MarketTable.of(bars, FeaturePipeline.fit(bars, names), settings)


def test_state_layout_is_features_position_bias(walk: Bars) -> None:
    table = table_of(walk, MarketSettings())
    states = table.states(np.array([5, 6]), np.array([-1, 1]))
    assert states.dtype == np.float32
    assert states.shape == (2, table.state_size) == (2, 4)
    np.testing.assert_array_equal(states[:, :2], table.features[[5, 6]])
    np.testing.assert_array_equal(states[:, 2:], [[-1, 1], [1, 1]])


def test_too_few_bars_for_an_episode_are_refused() -> None:
    table = table_of(random_walk(100, seed=1), MarketSettings(episode_bars=99))
    message = "99 usable bars, but an episode needs 100; .* market.episode_bars to at most 98"
    with pytest.raises(BarsError, match=message):
        table.require_episode()
    with pytest.raises(BarsError, match=message):
        MarketEnv(table)


@pytest.mark.filterwarnings("ignore:.*A Box observation space")  # a price change has no bounds
def test_gymnasium_accepts_the_environment(walk: Bars) -> None:
    env = MarketEnv(table_of(walk, SETTINGS["costly"]))
    check_env(env, skip_render_check=True)


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_simulator_and_environment_agree(walk: Bars, settings: MarketSettings) -> None:
    """Every stream against an environment of its own, over several episodes; and the transitions that
    the codes stand for against what the environment showed.
    """
    table, streams, scale = table_of(walk, settings), 4, 0.5
    simulator = Simulator(table, streams, seed=1, reward_scale=scale)
    variables = simulator.variables
    starts = variables["stream/bar"].numpy()
    envs = [MarketEnv(table, scale) for _ in range(streams)]
    seen = [env.reset(options={"bar": bar})[0] for env, bar in zip(envs, starts, strict=True)]
    rng = np.random.default_rng(2)
    endings = {"terminated": 0, "truncated": 0}
    for _ in range(60):
        observed = simulator.observe().numpy()
        np.testing.assert_array_equal(observed, np.stack(seen))
        action = rng.integers(0, 3, streams).astype(np.int32)
        bits = rng.integers(0, 2**32, streams, dtype=np.uint32)
        code, reward = simulator.step(tf.constant(action), tf.constant(bits))
        batch = simulator.transitions(code, gamma=0.9)
        for i, env in enumerate(envs):
            after, expected, terminated, truncated, _ = env.step(action[i])
            assert reward[i].numpy() == pytest.approx(expected, rel=1e-4, abs=1e-5)
            assert batch.reward[i].numpy() == reward[i].numpy()
            np.testing.assert_array_equal(batch.state[i].numpy(), seen[i])
            np.testing.assert_array_equal(batch.next_state[i].numpy(), after)
            assert batch.action[i].numpy() == action[i]
            assert batch.discount[i].numpy() == pytest.approx(0.0 if terminated else 0.9)
            endings["terminated"] += terminated
            endings["truncated"] += truncated
            if terminated or truncated:
                bar = int(variables["stream/bar"].numpy()[i])
                assert variables["stream/position"].numpy()[i] == 0
                after, _ = env.reset(options={"bar": bar})
            seen[i] = after
    assert endings["truncated"] > 0 or settings is SETTINGS["ruin"]
    assert (endings["terminated"] > 0) == (settings is SETTINGS["ruin"])


@pytest.mark.parametrize("fill", ["close", "next_open"])
@pytest.mark.parametrize("floor", [0.0, 0.97])
def test_rewards_of_an_episode_add_up_to_an_account_of_cash(
    walk: Bars, fill: Fill, floor: float
) -> None:
    """Rewards before the risk penalty, against cash and units that know nothing of rewards."""
    settings = MarketSettings(
        episode_bars=40, fill=fill, fee_rate=0.003, half_spread=0.02, equity_floor=floor
    )
    table = table_of(walk, settings)
    env = MarketEnv(table)
    open, close = (walk.table[name].to_numpy()[1:] for name in ("open", "close"))
    rng = np.random.default_rng(4)
    ruined = 0
    for episode in range(30):
        env.reset(seed=episode)
        start, first = env.bar, env.equity
        total, held, over = 0.0, [], False
        while not over:
            _, reward, terminated, truncated, info = env.step(rng.integers(3))
            total += reward
            held.append(info["position"])
            over = terminated or truncated
        worth = account(open[start:], close[start:], held, settings, liquidate=terminated)
        assert total == pytest.approx(worth, abs=1e-9)
        assert info["equity"] == pytest.approx(first + worth)
        ruined += terminated
    assert (ruined > 0) == (floor > 0)


def test_starts_leave_room_for_a_whole_episode() -> None:
    table = table_of(random_walk(60, seed=1), MarketSettings(episode_bars=50))
    simulator = Simulator(table, 64, seed=1, reward_scale=1.0)
    rng = np.random.default_rng(0)
    starts = set(simulator.variables["stream/bar"].numpy())
    for _ in range(200):
        bits = tf.constant(rng.integers(0, 2**32, 64, dtype=np.uint32))
        simulator.step(tf.ones(64, tf.int32), bits)
        starts |= set(simulator.variables["stream/end"].numpy() - 50)
    assert starts == set(
        range(len(table) - 50)
    )  # every start is drawn, and none that would run out


def test_environment_is_typed_as_gymnasium_expects(walk: Bars) -> None:
    env = MarketEnv(table_of(walk, SETTINGS["plain"]))
    assert isinstance(env.action_space, gymnasium.spaces.Discrete)
    observation, _ = env.reset(seed=1)
    assert env.observation_space.contains(observation)
