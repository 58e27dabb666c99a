"""Table, Gymnasium environment and compiled simulator: one market in three forms."""

import copy
import pickle
from pathlib import Path

import gymnasium
import numpy as np
import polars as pl
import pytest
import tensorflow as tf
from gymnasium.utils.env_checker import check_env
from pydantic import ValidationError

from market import gym
from market.accounting import Fill, MarketSettings
from market.bars import Bars, BarsError
from market.features import FeaturePipeline, FeatureSettings
from market.gym import MarketEnv, MarketVectorEnv
from market.render import episode_image
from market.simulator import Simulator
from market.synthetic import RandomWalk
from market.table import MarketTable
from market.terms import Sizing
from tests.support.accounting import account
from tests.support.accounts import keep
from tests.support.bars import bars_of
from tests.support.markets import table_of
from tests.support.sizings import SIZINGS
from training.learning.batches import sampled

SETTINGS = {
    "plain": MarketSettings(episode_bars=20),
    "costly": MarketSettings(episode_bars=20, fee_rate=0.002, half_spread=0.01, slippage=0.02),
}
COSTS: dict[str, dict[str, float]] = {
    "free": {"half_spread": 0.0},
    "fee and slippage": {"fee_rate": 0.002, "half_spread": 0.01, "slippage": 0.02},
    "as quoted": {"fee_rate": 0.001},
    "borrowed": {"borrow_rate": 0.0005, "fee_rate": 0.02, "equity_floor": 0.9},
}
PENALTIES = {
    "none": {},
    "variance": {"risk_aversion": 3.0},
    "drawdown": {"drawdown_penalty": 0.5},
    "inventory": {"inventory_penalty": 0.001},
    "turnover": {"turnover_penalty": 0.002},
}
ALL = {name: value for penalty in PENALTIES.values() for name, value in penalty.items()}
EVERY = [
    pytest.param(
        MarketSettings.model_validate(
            {"episode_bars": 9, "fill": fill, "scheme": scheme} | cost | penalty
        ),
        id=f"{fill}-{scheme}-{cost_name}-{penalty_name}",
    )
    for fill in ("close", "next_open")
    for scheme in ("target", "order")
    for cost_name, cost in COSTS.items()
    for penalty_name, penalty in PENALTIES.items()
] + [
    pytest.param(
        MarketSettings.model_validate(
            {"episode_bars": 9, "sizing": sizing, "fill": fill, "scheme": scheme} | cost | ALL
        ),
        id=f"{sizing}-{fill}-{scheme}-{cost_name}",
    )
    for sizing in ("notional", "equity")
    for fill, scheme in (("close", "order"), ("next_open", "target"))
    for cost_name, cost in COSTS.items()
]
RUIN = {
    sizing: MarketSettings(
        sizing=sizing, episode_bars=20, fee_rate=0.01, equity_floor=0.97, risk_aversion=1.0
    )
    for sizing in SIZINGS
}


@pytest.fixture(scope="module")
def quotes(walk: Bars) -> Bars:
    """Bars that open away from the last close, and know a bid and an ask from the third on."""
    rng = np.random.default_rng(9)
    close = walk.table["close"].to_numpy()
    open = np.append(close[:1], close[:-1]) * (1 + rng.normal(0, 0.002, len(close)))
    table = (
        bars_of(open, close)
        .table.with_row_index("n")
        .with_columns(
            bid=pl.when(pl.col("n") > 1).then(pl.col("close") - pl.Series(rng.random(len(close)))),
            ask=pl.when(pl.col("n") > 1).then(pl.col("close") + pl.Series(rng.random(len(close)))),
        )
    )
    return Bars.of("quotes", table)


def test_state_layout_is_features_position_bias(walk: Bars) -> None:
    table = table_of(walk, MarketSettings())
    states = table.states(np.array([5, 6]), np.array([-1, 1]))
    assert states.dtype == np.float32
    assert states.shape == (2, table.state_size) == (2, 4)
    np.testing.assert_array_equal(states[:, :2], table.features[[5, 6]])
    np.testing.assert_array_equal(states[:, 2:], [[-1, 1], [1, 1]])


def test_too_few_bars_for_an_episode_are_refused() -> None:
    table = table_of(RandomWalk().bars(100, seed=1), MarketSettings(episode_bars=99))
    message = "99 usable bars, but an episode needs 100; .* market.episode_bars to at most 98"
    with pytest.raises(BarsError, match=message):
        table.require_episode()
    with pytest.raises(BarsError, match=message):
        MarketEnv(table)


def test_gymnasium_accepts_the_environments(walk: Bars) -> None:
    """Without a warning: those are errors here."""
    check_env(gymnasium.make(gym.ID, bars=walk, render_mode="rgb_array").unwrapped)
    check_env(MarketEnv(table_of(walk, SETTINGS["costly"])), skip_render_check=True)


@pytest.mark.parametrize("settings", [*EVERY, *RUIN.values()])
def test_simulator_and_environment_agree(quotes: Bars, settings: MarketSettings) -> None:
    """Every stream against an environment of its own, over several episodes; and the transitions that
    the codes stand for against what the environment showed.
    """
    table, streams, scale = table_of(quotes, settings), 4, 0.5
    simulator = Simulator(table, streams, seeds=[1], reward_scale=scale)
    variables = simulator.variables
    starts = variables["stream/bar"].numpy()[0]
    envs = [MarketEnv(table, scale) for _ in range(streams)]
    seen = [env.reset(options={"bar": bar})[0] for env, bar in zip(envs, starts, strict=True)]
    rng = np.random.default_rng(2)
    endings = {"terminated": 0, "truncated": 0}
    for _ in range(60 if settings in RUIN.values() else 20):
        observed = simulator.observe().numpy()[0]
        np.testing.assert_array_equal(observed, np.stack(seen))
        action = rng.integers(0, 3, streams).astype(np.int32)
        bits = rng.integers(0, 2**32, streams, dtype=np.uint32)
        code, rewards = simulator.step(tf.constant(action[None]), tf.constant(bits[None]))
        reward = rewards[0]
        batch = sampled(simulator, code[..., None], tf.zeros((1, streams, 1)), gamma=0.9)
        state, taken, rewarded, discount, then = (np.asarray(part)[0] for part in batch)
        for i, env in enumerate(envs):
            after, expected, terminated, truncated, _ = env.step(action[i])
            assert reward[i].numpy() == pytest.approx(expected, rel=1e-4, abs=1e-5)
            assert rewarded[i] == reward[i].numpy()
            np.testing.assert_array_equal(state[i], seen[i])
            np.testing.assert_array_equal(then[i], after)
            assert taken[i] == action[i]
            assert discount[i] == pytest.approx(0.0 if terminated else 0.9)
            endings["terminated"] += terminated
            endings["truncated"] += truncated
            if terminated or truncated:
                bar = int(variables["stream/bar"].numpy()[0, i])
                assert variables["stream/position"].numpy()[0, i] == 0
                after, _ = env.reset(options={"bar": bar})
            seen[i] = after
    if settings.equity_floor == 0:
        assert endings["truncated"] > 0
        assert endings["terminated"] == 0
    if settings in RUIN.values():
        assert endings["terminated"] > 0


@pytest.mark.parametrize("settings", [*EVERY, *RUIN.values()])
def test_vector_and_scalar_environments_agree(quotes: Bars, settings: MarketSettings) -> None:
    """Bit for bit, through the ends of episodes."""
    table, count = table_of(quotes, settings), 8
    vector = MarketVectorEnv(table, count, reward_scale=0.5)
    envs = [MarketEnv(table, 0.5) for _ in range(count)]
    starts = np.random.default_rng(4).integers(0, 2000, count)
    seen, infos = vector.reset(seed=3, options={"bar": starts})
    for i, env in enumerate(envs):
        first, info = env.reset(options={"bar": starts[i]})
        np.testing.assert_array_equal(seen[i], first)
        assert {name: infos[name][i] for name in info} == info
    rng, over = np.random.default_rng(5), 0
    for _ in range(60):
        actions = rng.integers(0, 3, count)
        seen, rewards, terminations, truncations, infos = vector.step(actions)
        for i, env in enumerate(envs):
            after, reward, terminated, truncated, info = env.step(actions[i])
            assert (rewards[i], terminations[i], truncations[i]) == (reward, terminated, truncated)
            if terminated or truncated:
                over += 1
                assert infos["_final_obs"][i]
                assert infos["_final_info"][i]
                np.testing.assert_array_equal(infos["final_obs"][i], after)
                assert {name: infos["final_info"][name][i] for name in info} == info
                at = int(np.flatnonzero(table.close == infos["price"][i])[0])
                after, info = env.reset(options={"bar": at})
            elif "_final_obs" in infos:
                assert not infos["_final_obs"][i]
            np.testing.assert_array_equal(seen[i], after)
            assert {name: infos[name][i] for name in info} == info
    assert over > 8


@pytest.mark.parametrize("fill", ["close", "next_open"])
@pytest.mark.parametrize("floor", [0.0, 0.97])
def test_rewards_of_an_episode_add_up_to_an_account_of_cash(
    walk: Bars, fill: Fill, floor: float
) -> None:
    """Rewards before the risk penalty, against cash and units that know nothing of rewards."""
    settings = MarketSettings(
        episode_bars=40,
        fill=fill,
        fee_rate=0.003,
        half_spread=0.02,
        borrow_rate=0.0002,
        equity_floor=floor,
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


@pytest.mark.parametrize("sizing", SIZINGS)
@pytest.mark.parametrize("fill", ["close", "next_open"])
@pytest.mark.parametrize("floor", [0.0, 0.97])
def test_an_episode_of_any_sizing_is_an_account_of_cash_and_units(
    walk: Bars, sizing: Sizing, fill: Fill, floor: float
) -> None:
    """Rewards before the risk penalty add up to the change of equity, or of its logarithm."""
    settings = MarketSettings(
        sizing=sizing,
        episode_bars=40,
        fill=fill,
        fee_rate=0.003,
        half_spread=0.02,
        borrow_rate=0.0002,
        equity_floor=floor,
    )
    table = table_of(walk, settings)
    env = MarketEnv(table)
    open, close = (walk.table[name].to_numpy()[1:] for name in ("open", "close"))
    rng = np.random.default_rng(4)
    ruined = 0
    for episode in range(20):
        env.reset(seed=episode)
        start, first = env.bar, env.equity
        total, held, costs, over = 0.0, [], 0.0, False
        terminated = False
        while not over:
            _, reward, terminated, truncated, info = env.step(rng.integers(3))
            total += reward
            costs += info["cost"]
            held.append(info["position"])
            over = terminated or truncated
        kept = keep(open[start:], close[start:], held, settings)
        assert kept.ruined == terminated
        assert info["equity"] == pytest.approx(kept.equity[-1], rel=1e-12)
        change = np.log(info["equity"] / first) if sizing == "equity" else info["equity"] - first
        assert total == pytest.approx(change, rel=1e-11, abs=1e-11 * first)
        if not terminated and fill == "close":  # a short pays 0.02% of the close it is held from
            price = close[start : start + len(held)]
            paid = np.array(kept.traded) * (0.003 * price + 0.02)
            borrow = 0.0002 * price * np.maximum(-np.array(kept.units), 0)
            assert costs == pytest.approx((paid + borrow).sum(), rel=1e-9)
        ruined += terminated
    assert (ruined > 0) == (floor > 0)


def test_every_form_ends_an_account_that_a_step_wipes_out() -> None:
    """It had grown 5,000 times, so that even 1/1024 of it is far above the floor."""
    close = np.array([1.0, 1.0, 5000.0, 1.0, 1.0, 1.0])
    bars = bars_of(close, close)
    pipeline = FeaturePipeline(("log_price",), (0.0,), (1.0,))
    table = MarketTable.of(bars, pipeline, MarketSettings(sizing="equity", episode_bars=4))
    env, vector = MarketEnv(table), MarketVectorEnv(table, 1)
    env.reset(options={"bar": 1})
    vector.reset(options={"bar": [1]})
    simulator = Simulator(table, 1, seeds=[1], reward_scale=3.0)
    start = {"bar": 1, "end": 5, "position": 0}
    for name, value in start.items():
        simulator.variables[f"stream/{name}"].assign([[value]])
    for expected in (False, True):
        _, reward, terminated, _, _ = env.step(np.int64(2))
        assert terminated == expected
        assert vector.step(np.array([2]))[2][0] == expected
        code, scaled = simulator.step(tf.constant([[2]]), tf.zeros((1, 1), tf.uint32))
        assert simulator.unpack(code).ruined.numpy()[0, 0] == expected
        assert scaled.numpy()[0, 0] == pytest.approx(3 * reward, rel=1e-5)
    assert reward == pytest.approx(-np.log(1024))


def test_starts_leave_room_for_a_whole_episode() -> None:
    table = table_of(RandomWalk().bars(60, seed=1), MarketSettings(episode_bars=50))
    simulator = Simulator(table, 64, seeds=[1], reward_scale=1.0)
    rng = np.random.default_rng(0)
    starts = set(simulator.variables["stream/bar"].numpy()[0])
    for _ in range(200):
        bits = tf.constant(rng.integers(0, 2**32, (1, 64), dtype=np.uint32))
        simulator.step(tf.ones((1, 64), tf.int32), bits)
        starts |= set(simulator.variables["stream/end"].numpy()[0] - 50)
    assert starts == set(
        range(len(table) - 50)
    )  # every start is drawn, and none that would run out


def test_made_by_name(walk: Bars, tmp_path: Path) -> None:
    walk.table.write_parquet(tmp_path / "bars.parquet")
    made = [
        gymnasium.make(
            gym.ID, bars=source, settings={"episode_bars": 50}, features=["rsi_14", "log_price"]
        )
        for source, features in (
            (walk, ["rsi_14", "log_price"]),
            (tmp_path / "bars.parquet", "rsi_14,log_price"),
            (str(tmp_path / "bars.parquet"), FeatureSettings(names=("rsi_14", "log_price"))),
        )
    ]
    first = [env.reset(seed=5)[0] for env in made]
    for env, observation in zip(made, first, strict=True):
        assert observation.shape == (4,)
        np.testing.assert_array_equal(observation, first[0])
        assert env.unwrapped.table.settings.episode_bars == 50  # type: ignore[attr-defined]
    envs = gymnasium.make_vec(
        gym.ID, num_envs=3, bars="synthetic:ou?bars=2000", settings={"fee_rate": 0.01}
    )
    observations, _ = envs.reset(seed=1)
    assert observations.shape == (3, 3)
    assert isinstance(envs.unwrapped, MarketVectorEnv)
    with pytest.raises(ValidationError, match="fee_rat"):
        gymnasium.make(gym.ID, bars=walk, settings={"fee_rat": 1})
    with pytest.raises(BarsError, match="no such file"):
        gymnasium.make(gym.ID, bars="nowhere.csv")


def test_bounds_hold_every_state_and_are_reached(quotes: Bars) -> None:
    pipeline = FeaturePipeline.fit(
        quotes, FeatureSettings(names=("zscore_20", "spread", "price_change"))
    )
    table = MarketTable.of(quotes, pipeline, MarketSettings())
    env = MarketEnv(table)
    space = env.observation_space
    assert isinstance(space, gymnasium.spaces.Box)
    np.testing.assert_array_equal(space.low, [*table.features.min(axis=0), -1, 0])
    np.testing.assert_array_equal(space.high, [*table.features.max(axis=0), 1, 1])
    for position in (-1, 0, 1):
        states = table.states(np.arange(len(table)), np.full(len(table), position))
        assert ((states >= space.low) & (states <= space.high)).all()
    assert env.action_space == gymnasium.spaces.Discrete(3)


def test_costs_are_those_quoted_from_the_first_quote_on(quotes: Bars) -> None:
    quoted, priced = (table_of(quotes, MarketSettings(half_spread=half)) for half in (None, 0.5))
    assert len(quoted) == len(quotes) - 2  # no quote in the first two bars
    assert len(priced) == len(quotes) - 1  # no price change in the first
    half = ((quotes.column("ask") - quotes.column("bid")) / 2)[2:]
    np.testing.assert_array_equal(quoted.terms.entry_cost, half[:-1])
    np.testing.assert_array_equal(quoted.terms.exit_cost, half[1:])
    assert set(priced.terms.entry_cost) == {0.5}
    np.testing.assert_array_equal(quoted.features, priced.features[1:])


def test_render_draws_what_was_held(walk: Bars) -> None:
    env = gymnasium.make(gym.ID, bars=walk, render_mode="rgb_array", settings={"episode_bars": 30})
    env.reset(seed=1)
    first = env.render()
    images = []
    for action in (2, 2, 0, 1):
        env.step(action)
        images.append(env.render())
    for image in (first, *images):
        assert isinstance(image, np.ndarray)
        assert image.shape == (480, 800, 3)
        assert image.dtype == np.uint8
    assert len({image.tobytes() for image in (first, *images)}) == 5  # type: ignore[union-attr]
    assert MarketEnv(table_of(walk, SETTINGS["plain"])).render() is None
    with pytest.raises(ValueError, match="render_mode is 'ansi'; it must be None or 'rgb_array'"):
        MarketEnv(table_of(walk, SETTINGS["plain"]), render_mode="ansi")


def test_a_position_of_a_single_bar_is_drawn() -> None:
    price = np.full(21, 100.0)
    held = [(place % 2, 100.0) for place in range(20)]  # flat, long, flat, long ...
    image = episode_image("x", price, held).astype(int)
    green = (image[..., 1] > image[..., 0] + 15) & (image[..., 1] > image[..., 2] + 5)
    changes = np.diff(green[200].astype(int))
    assert (changes == 1).sum() == 10


def test_starts_that_are_none(walk: Bars) -> None:
    table = table_of(walk, SETTINGS["plain"])
    last = len(table) - 21
    for bar in (-1, last + 1, 10**6):
        message = f"an episode cannot start at bar {bar}; it must be from 0 to {last}"
        with pytest.raises(ValueError, match=message):
            MarketEnv(table).reset(options={"bar": bar})
        with pytest.raises(ValueError, match=message):
            MarketVectorEnv(table, 2).reset(options={"bar": [0, bar]})
    MarketEnv(table).reset(options={"bar": last})


def test_environments_can_be_copied_and_pickled(walk: Bars) -> None:
    env = MarketEnv(table_of(walk, SETTINGS["costly"]))
    env.reset(seed=1)
    copies = [copy.deepcopy(env), pickle.loads(pickle.dumps(env))]
    after = env.step(np.int64(2))
    for other in copies:
        state, *rest = other.step(np.int64(2))
        np.testing.assert_array_equal(state, after[0])
        assert tuple(rest) == after[1:]


def test_a_part_without_any_quote_is_refused(quotes: Bars) -> None:
    part = quotes.between(0, 2, "head")
    pipeline = FeaturePipeline(("log_price",), (0.0,), (1.0,))
    with pytest.raises(
        BarsError, match=r"quotes/head: no bid and ask are known .* set market.half_spread"
    ):
        MarketTable.of(part, pipeline, MarketSettings())
