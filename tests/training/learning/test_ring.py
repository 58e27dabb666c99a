"""Replay in the compiled loop: against replay on the host, and on its own."""

import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray

from tests.oracles.replay import PrioritizedReplayBuffer
from tests.oracles.sum_tree import SumTree
from training.learning.replay import ReplayBuffer
from training.learning.ring import Ring, Sample, TensorSumTree, strata
from training.learning.settings import PrioritySettings, ReplaySettings

STREAMS, ROWS, BATCH = 3, 11, 8


@pytest.mark.parametrize("n_step", [1, 3])
@pytest.mark.parametrize("prioritised", [False, True])
def test_ring_and_host_draw_the_same(prioritised: bool, n_step: int) -> None:
    """The same pushes, the same TD errors and the same random bits, through three wraps of the ring:
    the same transitions, windows and weights. A transition's code serves as the host's state.
    """
    rng = np.random.default_rng(1)
    settings = ReplaySettings(
        streams=STREAMS,
        capacity=ROWS * STREAMS,
        prioritised=prioritised,
        priority=PrioritySettings(beta=0.4, beta_end=0.4),
    )
    ring = Ring(1, settings)
    arguments = {"capacity": ROWS * STREAMS, "state_size": 1, "seed": 1, "n_step": n_step}
    host = ReplayBuffer(**arguments, streams=STREAMS)
    by_priority = PrioritizedReplayBuffer(**arguments, streams=STREAMS)
    for iteration in range(4 * ROWS):
        now = tf.constant(iteration)
        sample = td_error = codes = None
        if iteration:
            bits = rng.integers(0, 2**32, (1, BATCH), dtype=np.uint32)
            sample = ring.sample(tf.constant(bits), now)
            slot = sample.slot.numpy()[0]
            if prioritised:
                drawn = by_priority.draw(bits[0])
                batch, _, weight = by_priority.at(drawn, beta=0.4)
                assert sample.weight is not None
                np.testing.assert_allclose(sample.weight.numpy()[0], weight, rtol=1e-5)
            else:
                drawn = host.draw(bits[0])
                batch = host.at(drawn)
                assert sample.weight is None
            np.testing.assert_array_equal(slot, drawn)
            codes, known = ring.windows(sample.slot, n_step, now)
            np.testing.assert_array_equal(codes.numpy()[0, :, 0], batch.state[:, 0])
            # The window ends where the host's does: its next state is its last code and a half.
            last = codes.numpy()[0, np.arange(BATCH), steps_of(codes.numpy()[0], known.numpy()[0])]
            np.testing.assert_array_equal(last + 0.5, batch.next_state[:, 0])
            td_error = tf.constant(rng.exponential(size=(1, BATCH)).astype(np.float32))
            # One slot drawn twice has one TD error.
            td_error = tf.gather(td_error, first_of_each(slot), axis=1)
            by_priority.update_priorities(drawn, td_error.numpy()[0])
        code = rng.integers(1, 10**6, STREAMS).astype(np.int32) * 3
        code += rng.choice([0, 0, 0, 1, 2], STREAMS).astype(np.int32)
        ring.store(tf.constant(code[None]), now, after=codes)
        ring.prioritise(now, sample, td_error)
        for each in code:
            pushed = ([each], 0, 0.0, [each + 0.5])
            for buffer in (host, by_priority):
                buffer.push(
                    *pushed, discount=0.0 if each % 3 == 2 else 1.0, truncated=each % 3 == 1
                )


def steps_of(codes: NDArray[np.int32], known: NDArray[np.float32]) -> NDArray[np.int64]:
    """The place of the last transition of each window: the first that ends, or the newest."""
    stops = (codes % 3 != 0) | (known == 0)
    stops[:, -1] = True
    return stops.argmax(axis=1)


def first_of_each(slot: NDArray[np.int32]) -> NDArray[np.int64]:
    _, first, which = np.unique(slot, return_index=True, return_inverse=True)
    return first[which]


def test_tensor_tree_is_the_host_tree_to_the_bit() -> None:
    """Two seeds of 5,000 leaves, priorities over eight decades and a third of zeros."""
    rng = np.random.default_rng(3)
    tree, hosts = TensorSumTree(2, 5000), [SumTree(5000), SumTree(5000)]
    find = tf.function(tree.find, jit_compile=True)
    write = tf.function(tree.set, jit_compile=True)
    assert not tree.nodes.trainable
    for _ in range(30):
        leaf = np.stack([rng.choice(5000, 400, replace=False) for _ in range(2)])
        value = (10 ** rng.uniform(-4, 4, leaf.shape) * (rng.random(leaf.shape) < 0.7)).astype("f4")
        write(tf.constant(leaf, tf.int32), tf.constant(value))
        bits = rng.integers(0, 2**32, (2, 3000), dtype=np.uint32)
        share = strata(tf.constant(bits))
        found = find(share).numpy()
        for seed, host in enumerate(hosts):
            host.set(leaf[seed], value[seed])
            np.testing.assert_array_equal(found[seed], host.find(share.numpy()[seed]))
    for seed, host in enumerate(hosts):
        assert tree.total().numpy()[seed, 0] == host.total


def test_draws_are_one_from_each_stratum() -> None:
    bits = np.array([[0, 2**32 - 1, 2**31, 0]], np.uint32)
    np.testing.assert_allclose(strata(tf.constant(bits))[0], [0, 0.5, 0.625, 0.75], rtol=1e-6)


def test_exponents_move_linearly() -> None:
    """alpha from 0 to 1 over 10 iterations: at 0 every priority counts alike, at 10 in proportion."""
    priority = PrioritySettings(alpha=0.0, alpha_end=1.0, beta=0.0, beta_end=1.0, steps=10, floor=0)
    settings = ReplaySettings(streams=1, capacity=4, prioritised=True, priority=priority)
    for iteration, leaves in ((0, [1, 1]), (5, [2, 3]), (10, [4, 9]), (25, [4, 9])):
        ring = Ring(1, settings)
        for row in (0, 1):
            ring.store(tf.constant([[0]]), tf.constant(row))
            ring.prioritise(tf.constant(row))
        sample = ring.sample(tf.constant([[0, 2**32 - 1]], tf.uint32), tf.constant(2))
        np.testing.assert_array_equal(sample.slot, [[0, 1]])
        # Written back while the next row is stored: iteration 2, 5 + 4 k ... all are row 2 or 1 mod 4.
        ring.prioritise(tf.constant(iteration), sample, tf.constant([[4.0, 9.0]]))
        found = ring._tree.values(tf.constant([[0, 1]])).numpy()[0]
        overwritten = iteration % 4
        for slot in {0, 1} - {overwritten}:
            assert found[slot] == pytest.approx(leaves[slot], rel=1e-6)
        if overwritten < 2:  # a new transition has the largest priority so far
            assert found[overwritten] == pytest.approx(max(leaves), rel=1e-6)
    ring._tree.set(tf.constant([[0, 1]]), tf.constant([[1.0, 4.0]]))
    ring._tree.set(tf.constant([[2, 3]]), tf.constant([[0.0, 0.0]]))
    for iteration, lighter in ((0, 1), (5, 0.5), (10, 0.25), (25, 0.25)):  # (1 / 4)^beta
        bits = tf.constant([[0, 2**32 - 1]], tf.uint32)
        weight = ring.sample(bits, tf.constant(iteration)).weight
        assert weight is not None
        np.testing.assert_allclose(weight.numpy()[0], [1.0, lighter], rtol=1e-5)


def test_a_slot_learned_from_and_overwritten_at_once_gets_the_new_priority(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Both are written in one go, in an order that nobody promises: so both must say the same."""
    priority = PrioritySettings(alpha=1.0, floor=0.0)
    settings = ReplaySettings(streams=2, capacity=6, prioritised=True, priority=priority)
    ring = Ring(1, settings)
    for row in range(3):
        ring.store(tf.constant([[0, 0]]), tf.constant(row))
        ring.prioritise(tf.constant(row))
    written: list[dict[int, set[float]]] = []
    put = TensorSumTree.set

    def seen(tree: TensorSumTree, leaf: tf.Tensor, value: tf.Tensor) -> None:
        values: dict[int, set[float]] = {}
        for slot, each in zip(leaf.numpy()[0], value.numpy()[0], strict=True):
            values.setdefault(int(slot), set()).add(round(float(each), 4))
        written.append(values)
        put(tree, leaf, value)

    monkeypatch.setattr(TensorSumTree, "set", seen)
    sample = Sample(tf.constant([[1, 2, 3, 4]]), tf.ones((1, 4)))
    td_error = tf.constant([[0.5, 0.25, 3.0, 0.125]])
    ring.prioritise(tf.constant(4), sample, td_error)  # row 1: slots 2 and 3
    assert written.pop() == {1: {0.5}, 2: {3.0}, 3: {3.0}, 4: {0.125}}
    ring.prioritise(tf.constant(4), sample, td_error / 2, stored=False)
    assert written.pop() == {1: {0.25}, 2: {0.125}, 3: {1.5}, 4: {0.0625}}


@pytest.mark.parametrize("iterations", [2, 5, 9])  # of five rows: some, all, and again
def test_weights_are_those_of_the_paper_however_full_the_ring_is(iterations: int) -> None:
    """Schaul et al. (2016), section 3.4: (N P(i))^-beta over the largest of the batch, N those held."""
    priority = PrioritySettings(alpha=1.0, beta=0.7, beta_end=0.7, floor=0.0)
    settings = ReplaySettings(streams=2, capacity=10, prioritised=True, priority=priority)
    ring = Ring(1, settings)
    host = PrioritizedReplayBuffer(10, 1, seed=1, streams=2, alpha=1.0, floor=0.0)
    for iteration in range(iterations):
        ring.prioritise(tf.constant(iteration))
        for _ in range(2):
            host.push([0], 0, 0.0, [0])
    held = min(2 * iterations, 10)
    size = np.random.default_rng(iterations).exponential(size=held).astype(np.float32)
    ring._tree.set(tf.range(held)[None], tf.constant(size[None]))
    host.update_priorities(np.arange(held), size)
    bits = np.random.default_rng(1).integers(0, 2**32, (1, 64), dtype=np.uint32)
    slot, weight = ring.sample(tf.constant(bits), tf.constant(iterations))
    chance = size.astype(np.float64) / size.sum()
    expected = (held * chance[slot.numpy()[0]]) ** -0.7
    assert weight is not None
    np.testing.assert_allclose(weight.numpy()[0], expected / expected.max(), rtol=1e-4)
    on_host = host.at(host.draw(bits[0]), beta=0.7).weight
    np.testing.assert_allclose(on_host, expected / expected.max(), rtol=1e-4)


def test_largest_priority_lasts_and_seeds_are_apart() -> None:
    settings = ReplaySettings(streams=1, capacity=4, prioritised=True)
    ring = Ring(2, settings)
    ring.store(tf.constant([[3], [6]]), tf.constant(0))
    ring.prioritise(tf.constant(0))
    np.testing.assert_array_equal(ring.variables["replay/largest_priority"], [1, 1])
    sample = ring.sample(tf.constant([[0], [0]], tf.uint32), tf.constant(1))
    ring.prioritise(tf.constant(1), sample, tf.constant([[7.0], [0.5]]))
    ring.prioritise(tf.constant(2), sample, tf.constant([[1.0], [0.5]]))
    np.testing.assert_allclose(ring.variables["replay/largest_priority"], [7.001, 1])
    values = ring._tree.values(tf.constant([[0, 2], [0, 2]])).numpy()
    np.testing.assert_allclose(values[0], [1.001**0.6, 7.001**0.6], rtol=1e-5)
    np.testing.assert_allclose(values[1], [0.501**0.6, 1], rtol=1e-5)


def test_a_priority_is_never_too_large_for_the_tree() -> None:
    ring = Ring(1, ReplaySettings(streams=1, capacity=4, prioritised=True))
    ring.store(tf.constant([[0]]), tf.constant(0))
    ring.prioritise(tf.constant(0))
    sample = ring.sample(tf.constant([[0]], tf.uint32), tf.constant(1))
    ring.prioritise(tf.constant(1), sample, tf.constant([[3e38]]))
    assert np.isfinite(ring.variables["replay/tree"].numpy()).all()
