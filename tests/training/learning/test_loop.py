"""The compiled loop: exact repetition, known answers, and what it stores."""

import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray

from market.accounting import MarketSettings
from market.bars import Bars
from market.features import FeaturePipeline, FeatureSettings
from market.table import MarketTable
from models.exploration import EpsilonSettings
from models.stacked import StackedNetwork
from tests.support.bars import bars_of
from tests.support.loops import QUICK, SMALL, digest, loop_of, window_of
from tests.support.networks import linear_q_network, two_layer_q_network
from training.learning.agent import Diverged
from training.learning.dqn import Dqn
from training.learning.learner import Learner
from training.learning.loop import TrainingLoop
from training.learning.ring import Ring
from training.learning.settings import LearnerSettings, ReplaySettings

VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "plain": {},
    "soft, sgd, huber, clipped, expected": {
        "learner": {
            **{"tau": 0.01, "optimizer": "sgd", "loss": "huber", "clip_norm": 1.0},
            "target": "expected_sarsa",
        }
    },
    "rainbow": {
        "network": {"dueling": True, "quantiles": 5},
        "learner": {"target": "double", "n_step": 3},
        "replay": {"prioritised": True},
    },
    "noisy, quantiles, all actions, munchausen, prioritised, three updates an iteration": {
        "network": {"quantiles": 5, "noisy": True},
        "learner": {
            **{"backup": "all_actions", "target": "munchausen"},
            **{"updates_per_iteration": 3, "target_every": 36},
        },
        "replay": {"prioritised": True},
    },
}


def weights_of(network: StackedNetwork) -> list[NDArray[np.float32]]:
    return [variable.numpy()[0] for variable in network.variables.values()]


@pytest.mark.parametrize(
    "variant",
    [
        pytest.param(each, id=name, marks=[pytest.mark.slow] if "noisy" in name else [])
        for name, each in VARIANTS.items()
    ],
)
def test_trip_counts_do_not_matter(walk: Bars, variant: dict[str, dict[str, Any]]) -> None:
    """600 iterations are, bit for bit, the same in one call and in several that cut through warm-up,
    stretches between target copies and the ring's wrap; and nothing is traced twice."""
    digests = set()
    for calls in ([600], [1, 10, 13, 1, 37, 38, 500]):
        loop = loop_of(walk, variant, fee_rate=0.001)
        for iterations in calls:
            loop.run(iterations)
        assert loop.iteration == 600
        assert loop._program.experimental_get_tracing_count() == 1
        digests.add(digest(loop))
    assert len(digests) == 1


LAYER_NORM = {"network": {"layer_norm": True}}


@pytest.mark.parametrize(
    "variant, tolerance",
    [
        pytest.param(each, 1e-5, marks=pytest.mark.slow, id=name)
        if name in ("rainbow", "layer norm")
        else pytest.param(each, 0, id=name)
        for name, each in {**VARIANTS, "layer norm": LAYER_NORM}.items()
    ],
)
def test_a_seed_among_others_is_the_seed_alone(
    walk: Bars, variant: dict[str, dict[str, Any]], tolerance: float
) -> None:
    """A seed learns, bit for bit, what it learns alone, through 600 iterations.

    Means over a layer's units (layer normalisation) and over actions (dueling heads) XLA adds up in an
    order that depends on the shape, hence a tolerance for those two.
    """
    together = loop_of(walk, variant, (4, 2, 9), fee_rate=0.001)
    windows = together.run(600)
    alone = loop_of(walk, variant, (2,), fee_rate=0.001)
    (window,) = alone.run(600)
    for path, variable in together.learner.online.variables.items():
        expected = alone.learner.online.variables[path].numpy()[0]
        np.testing.assert_allclose(
            variable.numpy()[1], expected, rtol=0, atol=tolerance, err_msg=path
        )
    np.testing.assert_allclose(windows[1], window, rtol=1e-4)
    np.testing.assert_array_equal(
        together.variables["replay/ring"].numpy()[:, 1],
        alone.variables["replay/ring"].numpy()[:, 0],
    )
    first, second = (together.model(index).get_weights()[0] for index in (0, 1))
    assert not np.array_equal(first, second)


def test_a_fresh_process_gives_the_same_weights(walk: Bars) -> None:
    code = (
        "from market.synthetic import RandomWalk\n"
        "from tests.support.loops import digest, loop_of\n"
        "loop = loop_of(RandomWalk().bars(3000, seed=7))\n"
        "loop.run(400)\n"
        "print(digest(loop))\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    here = loop_of(walk)
    here.run(400)
    assert run.stdout.strip() == digest(here)


def test_another_seed_gives_another_run(walk: Bars) -> None:
    one, other = loop_of(walk), loop_of(walk, seeds=(2,))
    one.run(50), other.run(50)
    names = ("stream/bar", "replay/ring", "online/hidden_1/kernel")
    for name in names:
        assert not np.array_equal(one.variables[name], other.variables[name])


@pytest.mark.parametrize("variant", ["plain", "rainbow"])
def test_restoring_the_variables_is_an_exact_checkpoint(walk: Bars, variant: str) -> None:
    loop = loop_of(walk, VARIANTS[variant], seeds=(1, 2))
    loop.run(250)
    saved = {name: variable.numpy() for name, variable in loop.variables.items()}
    loop.run(250)
    fresh = loop_of(walk, VARIANTS[variant], seeds=(1, 2))
    for name, value in saved.items():
        fresh.variables[name].assign(value)
    fresh.run(250)
    assert digest(fresh) == digest(loop)


def test_a_policy_stays_as_it_was(walk: Bars) -> None:
    """Neither what was learned since nor another agent changes it, though policies share a network."""
    loop = loop_of(walk, seeds=(1, 2))
    states = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    loop.run(60)
    first, second = loop.policy(0).q_values, loop.policy(1).q_values
    assert first is not None
    assert second is not None
    before, other = first(states), second(states)
    np.testing.assert_array_equal(before, np.asarray(loop.model(0)(states)))
    assert not np.array_equal(before, other)
    loop.run(60)
    now = loop.policy(0).q_values
    assert now is not None
    assert not np.array_equal(now(states), before)
    np.testing.assert_array_equal(first(states), before)
    np.testing.assert_array_equal(second(states), other)


def test_nothing_is_learned_before_learning_starts(walk: Bars) -> None:
    loop = loop_of(walk)
    before = weights_of(loop.learner.online)
    window = window_of(loop, 25)  # 4 streams: 100 transitions
    assert np.isnan(window.loss)
    for was, now in zip(before, weights_of(loop.learner.online), strict=True):
        np.testing.assert_array_equal(was, now)
    assert np.isfinite(window_of(loop, 1).loss)
    assert not np.array_equal(before[0], weights_of(loop.learner.online)[0])


@pytest.mark.parametrize(
    "learner, copies",
    [({}, [37, 74]), ({"updates_per_iteration": 5, "target_every": 100}, [20, 40, 60])],
)
def test_target_is_copied_every_so_many_updates(
    walk: Bars, learner: dict[str, Any], copies: list[int]
) -> None:
    loop = loop_of(walk, {"learner": learner})

    def same() -> bool:
        pairs = zip(weights_of(loop.learner.online), weights_of(loop.learner.target), strict=True)
        return all(np.array_equal(ours, theirs) for ours, theirs in pairs)

    copied = []
    loop.run(25)
    for iteration in range(1, 80):
        loop.run(1)
        if same():
            copied.append(iteration)
    assert copied == copies


def test_further_updates_know_what_was_just_stored(walk: Bars) -> None:
    """In a ring of one row the first update learns from the row before, those after it from the new;
    and what an iteration reports is the mean over its updates."""
    changes = {"updates_per_iteration": 3, "target_every": 3}
    loop = loop_of(walk, {"learner": changes, "replay": {"capacity": 4, "learning_starts": 4}})
    loop.run(1)
    learned_from: list[NDArray[np.int32]] = []
    reported: list[NDArray[np.float32]] = []
    windows, train_step = Ring.windows, Learner.train_step

    def windows_seen(*arguments: Any) -> Any:
        codes, known = windows(*arguments)
        learned_from.append(codes.numpy().ravel())
        return codes, known

    def metrics_seen(*arguments: Any) -> Any:
        metrics, td_error = train_step(*arguments)
        reported.append(np.stack(metrics, axis=1))
        return metrics, td_error

    before = loop.variables["replay/ring"].numpy().ravel()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Ring, "windows", windows_seen)
        patch.setattr(Learner, "train_step", metrics_seen)
        means = loop._collect_and_learn(tf.constant(1)).numpy()[:, 1:]
    after = loop.variables["replay/ring"].numpy().ravel()
    assert set(before).isdisjoint(after)
    assert set(learned_from[0]) <= set(before)
    assert set(learned_from[1]) | set(learned_from[2]) <= set(after)
    assert not np.array_equal(learned_from[1], learned_from[2])
    np.testing.assert_allclose(means, np.mean(reported, axis=0), rtol=1e-5)
    assert loop.learner.optimizer.iterations.numpy() == 3


def test_ring_holds_the_newest_transitions(walk: Bars) -> None:
    """Followed through a restart of every stream and a wrap of the ring."""
    loop = loop_of(walk)
    rows = QUICK.capacity // QUICK.streams
    history = []
    for _ in range(620):
        bar = loop.variables["stream/bar"].numpy()
        position = loop.variables["stream/position"].numpy()
        loop.run(1)
        history.append((bar[0], position[0]))
    ring = loop.variables["replay/ring"].numpy()
    for k in range(620 - rows, 620):
        code = ring[k % rows, 0]
        bar, position = history[k]
        np.testing.assert_array_equal(code // 27, bar)
        np.testing.assert_array_equal(code // 9 % 3 - 1, position)
        assert set(code % 3) <= {0, 1}


def test_epsilon_greedy_explores_as_often_as_it_says(walk: Bars) -> None:
    features = FeaturePipeline.fit(walk, FeatureSettings())
    table = MarketTable.of(walk, features, MarketSettings(episode_bars=200))
    online = linear_q_network(3, seed=1)
    online.set_weights(
        [np.array([[0, 0, 0], [0, 0, 0], [-1, 0, 1]], np.float32)]
    )  # greedy: always long
    never = LearnerSettings()
    replay = ReplaySettings(streams=64, capacity=64_000, learning_starts=5 * 10**8)
    schedule = EpsilonSettings(start=0.3, min=0.3)
    loop = TrainingLoop(
        table,
        [online],
        Dqn(learner=never, replay=replay, epsilon=schedule),
        seeds=[5],
        reward_scale=1.0,
    )
    assert window_of(loop, 1000).epsilon == pytest.approx(0.3)
    action = loop.variables["replay/ring"].numpy()[:, 0] // 3 % 3
    share = np.bincount(action.ravel(), minlength=3) / action.size
    np.testing.assert_allclose(share, [0.1, 0.1, 0.8], atol=0.006)  # 5 standard deviations
    streams_differ = np.mean(action[:, 0] != action[:, 1])
    assert streams_differ == pytest.approx(1 - (0.8**2 + 2 * 0.1**2), abs=0.08)


def rising(price: NDArray[np.float64], **market: Any) -> MarketTable:
    """A market with nothing to see: the feature is zero."""
    bars = bars_of(price, price)
    features = FeaturePipeline(("price_change",), (0.0,), (1.0,))
    table = MarketTable.of(bars, features, MarketSettings(**market))
    return replace(table, features=np.zeros_like(table.features))


def known(table: MarketTable, gamma: float) -> NDArray[np.float32]:
    """Q-values of the flat state after learning on a market with a known answer."""
    learner = LearnerSettings(gamma=gamma, learning_rate=0.02, target_every=20)
    replay = ReplaySettings(learning_starts=200, capacity=4000)
    explore = EpsilonSettings(start=1.0, min=1.0)
    online = linear_q_network(3, seed=1)
    loop = TrainingLoop(
        table,
        [online],
        Dqn(learner=learner, replay=replay, epsilon=explore),
        seeds=[1],
        reward_scale=1.0,
    )
    loop.run(4000)
    return np.asarray(loop.model(0)(np.array([[0, 0, 1]], np.float32)), np.float32).ravel()


def test_truncation_keeps_the_future() -> None:
    """A price that rises by 1 a bar for ever, met in episodes of five bars: being long is worth
    1 / (1 - gamma) = 10. Had the episode's end counted as an end, it would be 4.1 at most."""
    table = rising(np.linspace(100, 1099, 1000), episode_bars=5)
    np.testing.assert_allclose(known(table, gamma=0.9), [8, 9, 10], atol=0.1)


def test_termination_ends_it() -> None:
    """The same market with equity of 1 and ruin at 0.5, one bar an episode: a short loses 1, is ruined
    and has no future, so -1 and not 8; liquidating costs what closing costs."""
    table = rising(np.linspace(100, 1099, 1000), episode_bars=1, equity_floor=0.5, half_spread=0.05)
    table = replace(table, terms=table.terms._replace(price=np.ones(len(table) - 1)))
    # Long: 1 - 0.05, then 0.95 + 1 / (1 - 0.9) * 0.9 ahead, but its position coming in is now 1, which
    # a linear network values apart; the short's value alone is exact: -1 - 0.05 - 0.05.
    assert known(table, gamma=0.9)[0] == pytest.approx(-1.1, abs=0.02)


def test_divergence_is_named(walk: Bars) -> None:
    loop = loop_of(walk, {"learner": {"optimizer": "sgd", "learning_rate": 1e6}}, seeds=(1, 5))
    with pytest.raises(
        Diverged, match=r"seed 1 diverged by iteration \d+, and .* learner.learning_rate"
    ):
        loop.run(1000)


def test_a_run_can_be_stopped_between_chunks(walk: Bars) -> None:
    """The window stays open: what is run later gives the means of it all, also after a restart."""
    whole, stopped, resumed = (loop_of(walk) for _ in range(3))
    chunk = 300
    for loop in (whole, stopped, resumed):
        loop.chunk = chunk
    (expected,) = whole.run(5 * chunk)
    asked: list[int] = []

    def twice() -> bool:
        asked.append(stopped.iteration)
        return len(asked) == 2

    assert stopped.run(5 * chunk, twice) == []
    assert asked == [chunk, 2 * chunk]
    assert stopped.iteration == 2 * chunk
    resumed.restore(stopped.state())
    for loop in (stopped, resumed):
        assert loop.run(3 * chunk) == [expected]
        assert digest(loop) == digest(whole)


def test_a_call_is_short_whatever_it_computes(walk: Bars) -> None:
    small, large = loop_of(walk), loop_of(walk, {"learner": {"batch": 4096}})
    assert small.chunk == 10_000
    products = 4096 * sum(weights.size for weights in weights_of(large.learner.online))
    assert large.chunk == int(3e8 / products)


def test_a_state_of_other_agents_changes_nothing(walk: Bars) -> None:
    loop = loop_of(walk)
    before = digest(loop)
    other = loop_of(walk, {"replay": {"capacity": 1000}})
    other.run(30)
    with pytest.raises(ValueError, match=r"int32 \[250, 1, 4\] as replay/ring; .* \[500, 1, 4\]"):
        loop.restore(other.state())
    assert digest(loop) == before


def test_a_state_is_a_view(walk: Bars) -> None:
    """Saving a large ring takes no second one of memory."""
    loop = loop_of(walk)
    assert all(array.base is not None for name, array in loop.state().items() if "ring" in name)


def test_window_reports_in_price_units(walk: Bars) -> None:
    """The same run with another reward scale reports the same reward: only learning is scaled."""
    features = FeaturePipeline.fit(walk, FeatureSettings())
    table = MarketTable.of(walk, features, MarketSettings(episode_bars=200, fee_rate=0.001))
    rewards = []
    for scale in (0.5, 2.0):
        online = two_layer_q_network(3, (16, 16), 1)
        never = ReplaySettings(learning_starts=5 * 10**8)
        loop = TrainingLoop(
            table,
            [online],
            Dqn(learner=SMALL, replay=never, epsilon=EpsilonSettings(min=1)),
            [1],
            scale,
        )
        rewards.append(window_of(loop, 200).reward)
    assert rewards[0] == pytest.approx(rewards[1], rel=1e-4)
