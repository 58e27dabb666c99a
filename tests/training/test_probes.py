"""Five probe environments, each of which isolates one fault, for every preset and every target."""

from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from models.networks import q_values_of
from tests.oracles.replay import PrioritizedReplayBuffer
from tests.support.agents import dqn_of
from training.learning.batches import Transition
from training.learning.dqn import Dqn
from training.learning.learner import Learner
from training.learning.loop import build_network
from training.learning.settings import LearnerSettings
from training.sources import load_settings, preset_names

GAMMA = 0.8
Given = tuple[list[float], int, float, list[float], float]  # state, action, reward, next, discount
Probe = Callable[[np.random.Generator], Iterator[Given]]
UPDATES = 1000


# Each probe isolates one fault. Action indices are 0, 1, 2; the state is (what is seen, bias).


def value(rng: np.random.Generator) -> Iterator[Given]:
    """One state, one step, reward 1: is a value learned at all?"""
    yield [0, 1], int(rng.integers(3)), 1.0, [0, 1], 0.0


def state(rng: np.random.Generator) -> Iterator[Given]:
    """Reward is what is seen: does the value depend on the state?"""
    seen = float(rng.choice([-1, 1]))
    yield [seen, 1], int(rng.integers(3)), seen, [seen, 1], 0.0


def discount(
    rng: np.random.Generator,
) -> Iterator[Given]:
    """Two steps, reward only at the second: does value flow back, discounted once?"""
    yield [0, 1], int(rng.integers(3)), 0.0, [1, 1], GAMMA
    yield [1, 1], int(rng.integers(3)), 1.0, [0, 1], 0.0


def action(
    rng: np.random.Generator,
) -> Iterator[Given]:
    """Reward is the action, -1, 0 or +1: does the value depend on the action taken?"""
    taken = int(rng.integers(3))
    yield [0, 1], taken, taken - 1.0, [0, 1], 0.0


def both(rng: np.random.Generator) -> Iterator[Given]:
    """Reward is the action times what is seen: does the policy follow the state?"""
    seen, taken = float(rng.choice([-1, 1])), int(rng.integers(3))
    yield [seen, 1], taken, seen * (taken - 1), [seen, 1], 0.0


PROBES: list[Probe] = [value, state, discount, action, both]
# What is asked of each, and the answer: Q-values of short, flat and long in some states.
ASKED = [
    ([[0, 1]], [[1, 1, 1]]),
    ([[-1, 1], [1, 1]], [[-1] * 3, [1] * 3]),
    ([[0, 1], [1, 1]], [[GAMMA] * 3, [1] * 3]),
    ([[0, 1]], [[-1, 0, 1]]),
    ([[-1, 1], [1, 1]], [[1, 0, -1], [-1, 0, 1]]),
]


def learned(settings: Dqn) -> list[keras.Model]:
    """Trains a network on each probe, side by side, by priority, from windows on the host.

    Uniform replay is prioritised replay with an exponent of zero.
    """
    rng, replay, learner = np.random.default_rng(1), settings.replay, settings.learner
    alpha = replay.priority.alpha if replay.prioritised else 0.0
    buffers = []
    for probe in PROBES:
        buffer = PrioritizedReplayBuffer(1000, 2, 1, n_step=learner.n_step, alpha=alpha)
        while len(buffer) < 1000:
            for transition in probe(rng):
                buffer.push(*transition)
        buffers.append(buffer)
    networks = [build_network(settings.network, 2, seed) for seed in range(len(PROBES))]
    learning = Learner(networks, learner, settings.network.cvar)
    step = tf.function(learning.train_step, autograph=False)
    for update in range(1, UPDATES + 1):
        samples = [buffer.sample(learner.batch, beta=0.4) for buffer in buffers]
        batch = Transition(*(np.stack(p) for p in zip(*(s.batch for s in samples), strict=True)))
        if learner.backup == "all_actions":
            batch = counterfactual_batch(batch)
        _, td_error = step(batch, np.stack([s.weight for s in samples]))
        for buffer, sample, size in zip(buffers, samples, td_error.numpy(), strict=True):
            buffer.update_priorities(sample.slot, size)
        if learner.tau is None and update % learner.target_every == 0:
            learning.copy_target()
    online = learning.online
    return [online.network(online.weights(index)) for index in range(len(PROBES))]


def counterfactual_batch(batch: Transition) -> Transition:
    """What each action would have given: the probes' answers, `ASKED`, one step at a time."""
    columns: list[list[Any]] = [[], [], []]  # reward, discount, next state
    for index, probe in enumerate(PROBES):
        known: dict[tuple[float, int], tuple[float, float, list[float]]] = {}
        rng = np.random.default_rng(0)
        while len(known) < 3 * len(ASKED[index][0]):
            for at, taken, earned, following, rate in probe(rng):
                known[at[0], taken] = earned, rate, following
        every = [[known[float(at[0]), taken] for taken in range(3)] for at in batch.state[index]]
        for part, column in enumerate(columns):
            column.append([[each[part] for each in row] for row in every])
    return Transition(batch.state, None, *(np.array(column, np.float32) for column in columns))


NETWORKS = [
    name for name in preset_names() if name != "tabular"
]  # see tests/models/test_tabular.py
TARGETS: dict[str, dict[str, object]] = {
    "double, huber, soft copies": {"target": "double", "loss": "huber", "tau": 0.02},
    "expected SARSA": {"target": "expected_sarsa"},  # called with an epsilon of zero
    "munchausen": {"target": "munchausen", "munchausen_alpha": 0.0},  # soft, without its bonus
}


@pytest.mark.parametrize("preset", NETWORKS)
def test_every_preset_learns_the_probes(preset: str) -> None:
    (settings,) = load_settings(["--preset", preset, "--network.hidden", "16,16"])
    answers_are_known(dqn_of(settings), {})


@pytest.mark.parametrize("change", TARGETS.values(), ids=TARGETS)
def test_every_target_learns_the_probes(change: dict[str, object]) -> None:
    (settings,) = load_settings(["--preset", "two_layer", "--network.hidden", "16,16"])
    answers_are_known(dqn_of(settings), change)


def answers_are_known(settings: Dqn, change: dict[str, object]) -> None:
    rate = 1e-2 if settings.network.kind == "linear" else 3e-3
    faster = {"learning_rate": rate, "target_every": 50, "gamma": GAMMA, **change}
    learner = LearnerSettings(**{**settings.learner.model_dump(), **faster})
    networks = learned(settings.model_copy(update={"learner": learner}))
    for network, (states, expected) in zip(networks, ASKED, strict=True):
        found = q_values_of(network, np.array(states, np.float32), settings.network.cvar)
        # The soft value of the best of three equals lies above it by the temperature times log 3.
        np.testing.assert_allclose(found, np.array(expected, float), atol=0.06)
