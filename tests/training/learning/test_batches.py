"""From the ring to batches: windows and all actions, against the Gymnasium environment."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from market.accounting import MarketSettings
from market.bars import Bars
from market.features import FeaturePipeline, FeatureSettings
from market.gym import MarketEnv
from market.simulator import Simulator
from market.table import MarketTable
from training.learning.batches import counterfactual_batch, sampled
from training.learning.ring import Ring
from training.learning.settings import ReplaySettings

GAMMA, SCALE = 0.9, 0.5
COSTLY: dict[str, Any] = {"fee_rate": 0.002, "borrow_rate": 0.001, "risk_aversion": 0.2}


def table_of(bars: Bars, **settings: Any) -> MarketTable:
    features = FeaturePipeline.fit(bars, FeatureSettings(names=("price_change", "log_price")))
    return MarketTable.of(bars, features, MarketSettings(**settings))


@pytest.mark.parametrize("n_step", [1, 2, 3, 5])
def test_windows_are_what_the_environments_did(walk: Bars, n_step: int) -> None:
    """Two seeds of three streams, through ruin, truncation and two wraps of the ring."""
    table = table_of(walk, episode_bars=11, equity_floor=0.985, **COSTLY)
    seeds, streams, rows = (1, 2), 3, 17
    simulator = Simulator(table, streams, seeds, SCALE)
    ring = Ring(len(seeds), ReplaySettings(streams=streams, capacity=rows * streams))
    rng = np.random.default_rng(3)
    starts = simulator.variables["stream/bar"].numpy()
    envs = {at: MarketEnv(table, SCALE) for at in np.ndindex(len(seeds), streams)}
    seen = {at: env.reset(options={"bar": int(starts[at])})[0] for at, env in envs.items()}
    told: dict[tuple[int, ...], list[tuple[Any, ...]]] = {at: [] for at in envs}
    ends = {"terminated": 0, "truncated": 0}
    for iteration in range(2 * rows + 5):
        action = rng.integers(0, 3, (len(seeds), streams)).astype(np.int32)
        bits = rng.integers(0, 2**32, action.shape, dtype=np.uint32)
        code, _ = simulator.step(tf.constant(action), tf.constant(bits))
        ring.store(code, tf.constant(iteration))
        restarted = simulator.variables["stream/bar"].numpy()
        for at, env in envs.items():
            after, reward, terminated, truncated, _ = env.step(np.int64(action[at]))
            told[at].append((seen[at], action[at], reward, after, terminated, truncated))
            ends["terminated"] += terminated
            ends["truncated"] += truncated
            seen[at] = after
            if terminated or truncated:
                seen[at], _ = env.reset(options={"bar": int(restarted[at])})
    assert min(ends.values()) > 5

    slots = np.tile(np.arange(rows * streams, dtype=np.int32), (len(seeds), 1))
    done = 2 * rows + 5
    codes, known = ring.windows(tf.constant(slots), n_step, tf.constant(done))
    batch = sampled(simulator, codes, known, GAMMA)
    for seed in range(len(seeds)):
        for slot in range(rows * streams):
            row, stream = divmod(slot, streams)
            first = max(k for k in range(done) if k % rows == row)
            total, rate, history = 0.0, 1.0, told[seed, stream]
            for k in range(first, min(first + n_step, done)):
                _, _, reward, after, terminated, truncated = history[k]
                total += rate * reward
                rate *= 0.0 if terminated else GAMMA
                if terminated or truncated:
                    break
            assert batch.action is not None
            np.testing.assert_array_equal(batch.state[seed, slot], history[first][0])
            assert batch.action[seed, slot] == history[first][1]
            assert batch.reward[seed, slot].numpy() == pytest.approx(total, rel=1e-4, abs=1e-5)
            assert batch.discount[seed, slot].numpy() == pytest.approx(rate)
            np.testing.assert_array_equal(batch.next_state[seed, slot], after)


@pytest.mark.parametrize("scheme", ["target", "order"])
@pytest.mark.parametrize("fill", ["close", "next_open"])
def test_all_actions_are_what_the_environment_would_have_done(
    walk: Bars, scheme: str, fill: str
) -> None:
    """At some bars, out of every position, each action in an environment of its own."""
    table = table_of(walk, scheme=scheme, fill=fill, **COSTLY)
    simulator = Simulator(table, 1, [1], SCALE)
    bars = np.array([[5, 5, 5, 700, 700, 700]], np.int32)
    bits = np.array([[0, 1, 2, 3, 4, 5]], np.uint32)  # positions -1, 0, 1, -1, 0, 1
    batch = counterfactual_batch(simulator, tf.constant(bars * 27), tf.constant(bits), GAMMA)
    assert batch.action is None
    outcomes = table.outcomes()
    for i, (bar, position) in enumerate(zip(bars[0], [-1, 0, 1] * 2, strict=True)):
        for action in range(3):
            env = MarketEnv(table, SCALE)
            env.reset(options={"bar": int(bar) - 1})
            before, *_ = env.step(np.int64(position + 1))  # out of flat, in both schemes
            after, reward, *_ = env.step(np.int64(action))
            np.testing.assert_array_equal(batch.state[0, i], before)
            assert batch.reward[0, i, action].numpy() == pytest.approx(reward, rel=1e-4, abs=1e-5)
            assert batch.discount[0, i, action].numpy() == pytest.approx(GAMMA)
            np.testing.assert_array_equal(batch.next_state[0, i, action], after)
            told = (outcomes.net - outcomes.penalty)[bar, position + 1, action] * SCALE
            assert told == pytest.approx(reward)
            assert outcomes.held[bar, position + 1, action] == after[-2]
