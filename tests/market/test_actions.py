"""Actions outside the space, and steps outside an episode, are errors in every environment."""

from typing import Any

import gymnasium
import numpy as np
import pytest

from market import gym
from market.accounting import MarketSettings
from market.actions import BadAction, EpisodeOver
from market.bars import Bars
from market.gym import MarketEnv, MarketVectorEnv
from tests.support.markets import table_of

NO_ACTIONS: tuple[Any, ...] = (
    *(-1, 3, 7, 1.5, 1.0, np.nan, True, None, "1", [1], [0, 1]),
    *(np.int64(-1), np.int32(3), np.float32(1), np.array([1]), np.bool_(True)),
)
SHORT = MarketSettings(episode_bars=5)


@pytest.mark.parametrize("action", NO_ACTIONS, ids=repr)
def test_an_action_outside_the_space_is_refused(walk: Bars, action: Any) -> None:
    env = MarketEnv(table_of(walk, SHORT))
    env.reset(seed=1)
    bar = env.bar
    with pytest.raises(BadAction, match=r"0 \(be short\), 1 \(be flat\) or 2 \(be long\)"):
        env.step(action)
    assert (env.bar, env.position) == (bar, 0)
    orders = MarketEnv(table_of(walk, SHORT.model_copy(update={"scheme": "order"})))
    orders.reset(seed=1)
    with pytest.raises(ValueError, match=r"0 \(sell one\), 1 \(do nothing\) or 2 \(buy one\)"):
        orders.step(action)


@pytest.mark.parametrize(
    "action", [0, np.int8(0), np.uint8(0), np.int32(0), np.int64(0), np.array(0)], ids=repr
)
def test_every_integer_of_the_space_is_taken(walk: Bars, action: Any) -> None:
    env = MarketEnv(table_of(walk, SHORT))
    env.reset(seed=1)
    *_, info = env.step(action)
    assert info["position"] == -1


@pytest.mark.parametrize(
    "actions, said",
    [
        ([0, 1, 3], r"the action of stream 2 is 3; it must be the integer 0 \(be short\)"),
        ([0, -1, 2], "the action of stream 1 is -1"),
        ([0, 1], r"of shape \(2,\) and type int64; they must be 3 integers"),
        (1, r"of shape \(\)"),
        ([[0, 1, 2]], r"of shape \(1, 3\)"),
        ([0.0, 1.0, 2.0], "type float64"),
        ([0, 1.5, 2], "type float64"),
        ([np.nan, 1, 2], "type float64"),
        ([True, False, True], "type bool"),
    ],
)
def test_actions_outside_the_space_are_refused_in_the_vector_environment(
    walk: Bars, actions: Any, said: str
) -> None:
    envs = MarketVectorEnv(table_of(walk, SHORT), 3)
    envs.reset(seed=1)
    with pytest.raises(BadAction, match=said):
        envs.step(np.array(actions))
    *_, infos = envs.step(np.array([0, 1, 2], np.int32))
    np.testing.assert_array_equal(infos["position"], [-1, 0, 1])


def test_a_step_outside_an_episode_is_refused(walk: Bars) -> None:
    env = MarketEnv(table_of(walk, SHORT))
    with pytest.raises(EpisodeOver, match=r"call reset\(\) before the first step"):
        env.step(np.int64(1))
    for _ in range(2):
        env.reset(seed=1)
        for step in range(5):
            *_, truncated, _ = env.step(np.int64(1))
            assert truncated == (step == 4)
        with pytest.raises(gymnasium.error.ResetNeeded, match="after an episode's end"):
            env.step(np.int64(1))
    ruined = MarketEnv(table_of(walk, MarketSettings(fee_rate=0.1, equity_floor=0.95)))
    ruined.reset(seed=1)
    assert ruined.step(np.int64(2))[2]
    with pytest.raises(EpisodeOver):
        ruined.step(np.int64(1))
    with pytest.raises(EpisodeOver, match=r"call reset\(\)"):
        MarketVectorEnv(table_of(walk, SHORT), 3).step(np.array([0, 1, 2]))


def test_refusals_reach_through_the_wrappers(walk: Bars) -> None:
    env = gymnasium.make(gym.ID, bars=walk, settings={"episode_bars": 5})
    env.reset(seed=1)
    with pytest.raises((BadAction, AssertionError)):
        env.step(7)
