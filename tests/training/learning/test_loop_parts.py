"""What the compiled loop hands from one part to the next: priorities and noise."""

import itertools
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from market.bars import Bars
from tests.support.loops import loop_of
from training.learning.learner import Learner
from training.learning.ring import Ring


def test_priorities_are_the_td_errors_that_the_learner_found(walk: Bars) -> None:
    """Of each update of an iteration: as they are, and of the slots that were learned from."""
    twice = {"updates_per_iteration": 2, "target_every": 38}
    loop = loop_of(walk, {"learner": twice, "replay": {"prioritised": True}})
    loop.run(60)
    found: list[Any] = []
    given: list[Any] = []
    train_step, prioritise = Learner.train_step, Ring.prioritise

    def step_seen(*arguments: Any) -> Any:
        metrics, td_error = train_step(*arguments)
        found.append(td_error.numpy())
        return metrics, td_error

    def given_seen(ring: Ring, iteration: Any, sample: Any, td_error: Any, **more: Any) -> None:
        assert sample.weight.numpy().min() < 0.9  # so that a weighted error would be another
        given.append(td_error.numpy())
        prioritise(ring, iteration, sample, td_error, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Learner, "train_step", step_seen)
        patch.setattr(Ring, "prioritise", given_seen)
        loop._collect_and_learn(tf.constant(60))
    np.testing.assert_array_equal(given, found)
    assert len(given) == 2


def test_noise_is_drawn_apart_for_each_use_seed_and_iteration(walk: Bars) -> None:
    loop = loop_of(walk, {"network": {"noisy": True}}, seeds=(1, 2))
    drawn = [np.array(loop._noise(tf.constant(iteration))) for iteration in (7, 8)]
    rows = np.concatenate(drawn).reshape(12, -1)  # (iterations, uses, seeds)
    assert rows.shape[1] == loop.learner.noise_size
    for one, other in itertools.combinations(rows, 2):
        assert not np.isclose(one, other).any()
