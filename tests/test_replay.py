"""The replay buffer against a plain list, and what it refuses."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.replay import ReplayBuffer

STATE, NEXT = [0.0, 1.0], [1.0, 2.0]


def filled(count: int, capacity: int = 8) -> ReplayBuffer:
    buffer = ReplayBuffer(capacity, state_size=2, seed=1)
    for i in range(count):
        buffer.push([i, 0], i % 3, float(i), [i + 1, 0], discount=0.9)
    return buffer


@given(capacity=st.integers(1, 12), pushes=st.integers(1, 60), batch=st.integers(1, 40))
def test_holds_the_newest_and_samples_nothing_else(capacity: int, pushes: int, batch: int) -> None:
    buffer = filled(pushes, capacity)
    kept = range(max(0, pushes - capacity), pushes)
    assert len(buffer) == len(kept)
    sampled = buffer.sample(batch)
    assert sampled.state.shape == sampled.next_state.shape == (batch, 2)
    for i, reward in enumerate(sampled.reward):
        assert int(reward) in kept  # and all parts belong to one transition
        assert sampled.state[i, 0] == reward
        assert sampled.next_state[i, 0] == reward + 1
        assert sampled.action[i] == reward % 3
        assert sampled.discount[i] == np.float32(0.9)


def test_samples_uniformly() -> None:
    rewards = filled(8).sample(80_000).reward.astype(int)
    counts = np.bincount(rewards, minlength=8)
    assert abs(counts - 10_000).max() < 5 * np.sqrt(10_000)


def test_discount_is_one_unless_given() -> None:
    buffer = ReplayBuffer(4, 2, seed=1)
    buffer.push(STATE, 0, 1.0, NEXT)
    assert buffer.sample(1).discount == 1.0


def test_a_seed_decides_the_samples() -> None:
    np.testing.assert_array_equal(filled(8).sample(32).reward, filled(8).sample(32).reward)


def test_an_empty_buffer_is_not_sampled() -> None:
    buffer = ReplayBuffer(4, 2, seed=1)
    assert len(buffer) == 0
    with pytest.raises(ValueError, match="empty"):
        buffer.sample(1)
    with pytest.raises(ValueError, match="batch_size is 0"):
        filled(1).sample(0)
    with pytest.raises(ValueError, match="capacity is 0"):
        ReplayBuffer(0, 2, seed=1)


BAD = {
    "state of the wrong shape": (
        (STATE[:1], 0, 1.0, NEXT),
        r"state has shape \(1,\); it must be \(2,\)",
    ),
    "next state of the wrong shape": ((STATE, 0, 1.0, [NEXT]), r"next_state has shape \(1, 2\)"),
    "state not finite": (([np.nan, 0], 0, 1.0, NEXT), "state is .*; it must be finite"),
    "reward not finite": ((STATE, 0, np.inf, NEXT), "reward is inf; it must be finite"),
    "reward beyond float32": ((STATE, 0, 1e300, NEXT), "reward is 1e.300; it must be finite"),
    "reward of a wrong shape": ((STATE, 0, [1.0, 2.0], NEXT), "reward has shape"),
    "action not an index": ((STATE, 0.5, 1.0, NEXT), "action is 0.5"),
    "action below zero": ((STATE, -1, 1.0, NEXT), "action is -1"),
    "action past the last": ((STATE, 3, 1.0, NEXT), "action is 3"),
    "action beyond 32 bits": ((STATE, 2**32 + 1, 1.0, NEXT), "action is 4294967297"),
    "discount not finite": ((STATE, 0, 1.0, NEXT, np.nan), "discount is nan"),
}


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
@pytest.mark.parametrize("arguments, message", BAD.values(), ids=BAD)
def test_a_bad_transition_leaves_the_buffer_unchanged(arguments: Any, message: str) -> None:
    buffer = filled(9)
    before = buffer.state()
    with pytest.raises(ValueError, match=message):
        buffer.push(*arguments)
    after = buffer.state()
    assert before.keys() == after.keys()
    for name in before:
        np.testing.assert_array_equal(before[name], after[name])


@given(pushes=st.integers(1, 20))
def test_restore_goes_on_exactly(pushes: int) -> None:
    buffer = filled(pushes)
    buffer.sample(3)
    other = ReplayBuffer(8, 2, seed=99)
    other.restore(buffer.state())
    for each in (buffer, other):
        each.push(STATE, 2, 7.0, NEXT)
    for ours, theirs in zip(buffer.sample(50), other.sample(50), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_restore_refuses_another_shape() -> None:
    state = filled(8).state()
    other = ReplayBuffer(8, 3, seed=1)
    with pytest.raises(
        ValueError, match=r"replay state has shape \(8, 2\), this buffer needs \(8, 3\)"
    ):
        other.restore(state)
    assert len(other) == 0
    for pushes in (3, 8):
        smaller = ReplayBuffer(4, 2, seed=1)
        with pytest.raises(ValueError, match="of capacity 8, this one has 4"):
            smaller.restore(filled(pushes).state())
        assert len(smaller) == 0


def test_restore_changes_nothing_where_the_generator_is_bad() -> None:
    buffer = filled(2)
    before = buffer.state()
    with pytest.raises((ValueError, TypeError, KeyError)):
        buffer.restore({**filled(5).state(), "random": {"bit_generator": "other"}})
    np.testing.assert_array_equal(buffer.state()["reward"], before["reward"])
