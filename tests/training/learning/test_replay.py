"""Replay buffers against plain lists and other libraries, and what they refuse."""

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from tests.golden import GOLDEN
from tests.oracles.replay import PrioritizedReplayBuffer
from training.learning.replay import ReplayBuffer

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


def test_a_restored_window_still_ends_where_its_episode_was_truncated() -> None:
    """The third of five pushes was truncated: no window of three goes past it, and none ends early."""
    buffer, other = (ReplayBuffer(8, 1, seed=1, n_step=3) for _ in range(2))
    for i in range(5):
        buffer.push([i], 0, 1.0, [i + 1], discount=0.5, truncated=i == 2)
    other.restore(buffer.state())
    batch = other.at(np.arange(5))
    np.testing.assert_array_equal(batch.reward, [1.75, 1.5, 1.0, 1.5, 1.0])
    np.testing.assert_array_equal(batch.discount, [0.125, 0.25, 0.5, 0.25, 0.5])
    np.testing.assert_array_equal(batch.next_state[:, 0], [3, 3, 3, 5, 5])


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


def test_windows_are_those_of_stable_baselines3() -> None:
    """Every slot of rings of 7, with n of 1 to 3, random ends, before and after the ring wraps."""
    seen = set()
    for case in GOLDEN["windows"]:
        pushes, n_step = len(case["reward"]), case["n_step"]
        buffer = ReplayBuffer(7, state_size=1, seed=1, n_step=n_step)
        for i in range(pushes):
            discount = GOLDEN["gamma"] * (1 - case["done"][i])
            truncated = bool(case["truncated"][i])
            buffer.push([i], i % 3, case["reward"][i], [i + 0.5], discount, truncated)
        batch = buffer.at(np.arange(len(buffer)))
        np.testing.assert_array_equal(batch.state[:, 0], case["state"])
        np.testing.assert_allclose(batch.reward, case["return"], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(batch.discount, case["discount"], rtol=1e-6, atol=1e-7)
        alive = batch.discount > 0  # beyond a termination the next state is not looked at
        np.testing.assert_array_equal(
            batch.next_state[alive, 0], np.array(case["next_state"])[alive]
        )
        for start in range(max(0, pushes - 7), pushes - n_step + 1):
            window = range(start, start + n_step)
            ends = tuple((case["done"][i], case["truncated"][i]) for i in window)
            seen.add((ends, start // 7 != (start + n_step - 1) // 7))
    for n_step in (1, 2, 3):  # the whole grid of done x truncated at each step, wrapped or not
        grid = itertools.product(itertools.product((0, 1), repeat=2), repeat=n_step)
        for every in grid:
            for wrapped in (False, True) if n_step > 1 else (False,):
                assert (every, wrapped) in seen


def test_streams_keep_apart() -> None:
    """Two environments push in turns: windows follow each its own."""
    buffer = ReplayBuffer(8, state_size=1, seed=1, n_step=3, streams=2)
    for i in range(6):
        for stream in (0, 100):
            buffer.push([stream + i], 0, stream + i, [stream + i + 1], discount=0.5)
    batch = buffer.at(np.arange(8))
    starts = batch.state[:, 0]
    newest = np.where(starts >= 100, 105, 5)
    steps = np.minimum(3, newest - starts + 1)
    np.testing.assert_array_equal(batch.next_state[:, 0], starts + steps)
    np.testing.assert_array_equal(batch.discount, 0.5**steps)
    expected = [
        sum((s + k) * 0.5**k for k in range(int(n))) for s, n in zip(starts, steps, strict=True)
    ]
    np.testing.assert_allclose(batch.reward, expected)
    with pytest.raises(ValueError, match="capacity is 7; it must be a multiple of streams, 2"):
        ReplayBuffer(7, 1, seed=1, streams=2)


def prioritised(capacity: int = 8, **arguments: Any) -> PrioritizedReplayBuffer:
    buffer = PrioritizedReplayBuffer(capacity, state_size=1, seed=1, **arguments)
    for i in range(capacity):
        buffer.push([i], 0, float(i), [i + 1])
    return buffer


def test_draws_as_often_and_weighs_as_cpprb_does() -> None:
    """Chi-squared of our draws and of theirs against the same priorities; weights up to their scale."""
    made = GOLDEN["priorities"]
    td_error = np.array(made["td_error"])
    buffer = prioritised(len(td_error), alpha=made["alpha"], floor=made["floor"])
    buffer.update_priorities(np.arange(len(td_error)), td_error)
    chance = (td_error + made["floor"]) ** made["alpha"]
    chance /= chance.sum()
    # Strata make our counts steadier than independent draws; so draw one at a time here.
    draws = buffer.draw  # one stratum a call is one independent draw
    bits = np.random.default_rng(5).integers(0, 2**32, (100_000, 1), np.uint32)
    ours = np.bincount([draws(each)[0] for each in bits], minlength=len(chance))
    for counts in (ours, np.array(made["counts"])):
        assert stats.chisquare(counts, chance * counts.sum()).pvalue > 1e-3
    seen = np.flatnonzero(made["weights"])  # the rarest they never drew
    assert len(seen) > 45
    weight = buffer.at(np.arange(len(chance)), made["beta"]).weight
    ratio = weight[seen] / np.array(made["weights"])[seen]
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-4)
    assert weight.max() == 1


def test_a_new_transition_has_the_largest_priority_so_far() -> None:
    buffer = prioritised(8, alpha=1.0, floor=0.0)
    buffer.update_priorities(np.arange(8), np.array([5, 1, 1, 1, 1, 1, 1, 1.0]))
    buffer.update_priorities(np.array([0]), np.array([0.0]))  # never drawn again; 5 is remembered
    assert buffer.push([9], 0, 9.0, [10]) == 0
    counts = np.bincount(buffer.sample(12_000, beta=0).slot, minlength=8)
    np.testing.assert_allclose(counts, [5000, *[1000] * 7], atol=1)


def test_prioritised_restore_goes_on_exactly() -> None:
    buffer, other = prioritised(), prioritised()
    buffer.update_priorities(np.arange(4), np.arange(4) * 10.0)
    other.restore(buffer.state())
    for each in (buffer, other):
        each.push([7], 2, 7.0, [8])
    one, same = buffer.sample(50, beta=0.5), other.sample(50, beta=0.5)
    np.testing.assert_array_equal(one.slot, same.slot)
    np.testing.assert_array_equal(one.weight, same.weight)
    assert len(buffer) == len(other) == 8


def test_a_td_error_that_is_not_finite_changes_nothing() -> None:
    buffer = prioritised()
    before = buffer.state()
    with pytest.raises(ValueError, match="a TD error is nan; it must be finite"):
        buffer.update_priorities(np.array([0, 1]), np.array([1.0, np.nan]))
    with pytest.raises(ValueError, match="leaves are 0 to 7"):
        buffer.update_priorities(np.array([8]), np.array([1.0]))
    for name in ("leaves", "largest_priority"):
        np.testing.assert_array_equal(buffer.state()[name], before[name])


def test_prioritised_refuses_what_uniform_refuses() -> None:
    empty = PrioritizedReplayBuffer(4, 1, seed=1)
    with pytest.raises(ValueError, match="empty"):
        empty.sample(1, beta=0.4)
    with pytest.raises(ValueError, match="batch_size is 0"):
        prioritised().sample(0, beta=0.4)
    with pytest.raises(ValueError, match="action is 3"):
        empty.push([0], 3, 0.0, [1])
    assert len(empty) == 0


def test_exponents_out_of_range_are_refused() -> None:
    for alpha, floor in ((-1.0, 0.0), (1.5, 0.0), (0.6, -1.0), (0.6, np.inf)):
        with pytest.raises(ValueError, match="alpha must be from 0 to 1, floor finite"):
            PrioritizedReplayBuffer(4, 1, seed=1, alpha=alpha, floor=floor)
    with pytest.raises(ValueError, match=r"beta is -3.0; it must be from 0 to 1"):
        prioritised().sample(4, beta=-3.0)


@pytest.mark.parametrize(
    "name, value, message",
    [
        ("leaves", np.full(8, np.nan, np.float32), "priority is nan"),
        ("leaves", np.ones(1, np.float32), r"leaves have shape \(1,\), this tree has 8"),
        ("reward", np.ones(3, np.float32), r"replay reward has shape \(3,\)"),
    ],
)
def test_a_prioritised_state_that_does_not_fit_changes_nothing(
    name: str, value: Any, message: str
) -> None:
    buffer, other = prioritised(), prioritised()
    other.update_priorities(np.arange(4), np.arange(4) * 10.0)
    before = buffer.state()
    with pytest.raises(ValueError, match=message):
        buffer.restore({**other.state(), name: value})
    after = buffer.state()
    for each in ("leaves", "reward", "largest_priority", "pushed"):
        np.testing.assert_array_equal(after[each], before[each])
