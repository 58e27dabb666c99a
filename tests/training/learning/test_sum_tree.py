"""The sum tree against a plain array, over random operation streams."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from numpy.typing import NDArray

from tests.oracles.sum_tree import SumTree
from training.learning.ring import LARGEST, level_sizes

WHOLE = st.integers(0, 1000)  # sums of these are exact in float32, so every comparison is
ANY = st.one_of(
    st.just(0.0),
    st.floats(1e-30, 1e-20),
    st.floats(1e-3, 1e3),
    st.floats(1e20, 9e27),
)


class Operations(RuleBasedStateMachine):
    """Writes to a tree and to an array alike, and compares what they say."""

    def __init__(self) -> None:
        super().__init__()
        self.exact = True

    @initialize(capacity=st.integers(1, 700), exact=st.booleans())
    def begin(self, capacity: int, exact: bool) -> None:
        self.tree, self.exact = SumTree(capacity), exact
        self.plain: NDArray[np.float32] = np.zeros(capacity, np.float32)

    @rule(data=st.data(), count=st.integers(1, 40))
    def set(self, data: st.DataObject, count: int) -> None:
        index = data.draw(
            st.lists(st.integers(0, len(self.plain) - 1), min_size=count, max_size=count)
        )
        kind = WHOLE if self.exact else ANY
        value = data.draw(st.lists(kind, min_size=count, max_size=count))
        self.tree.set(index, value)
        for i, v in zip(index, value, strict=True):  # where one is named twice, the last counts
            self.plain[i] = v

    @rule(data=st.data(), wrong=st.sampled_from([np.nan, np.inf, -np.inf, -1.0, 2 * LARGEST]))
    def refuse(self, data: st.DataObject, wrong: float) -> None:
        index = data.draw(st.integers(0, len(self.plain) - 1))
        with pytest.raises(ValueError, match=r"priority is .*; it must be from 0 to 1e\+28"):
            self.tree.set([index, index], [1.0, wrong])
        with pytest.raises(ValueError, match=f"leaves are 0 to {len(self.plain) - 1}"):
            self.tree.set([index, len(self.plain)], [1.0, 1.0])

    @rule()
    def restore(self) -> None:
        state = self.tree.state()
        self.tree = SumTree(len(self.plain))
        self.tree.restore(state)

    @precondition(lambda self: self.plain.any())
    @rule(share=st.lists(st.floats(0, 1, width=32), min_size=1, max_size=40))
    def draw(self, share: list[float]) -> None:
        found = self.tree.find(share)
        assert (self.plain[found] > 0).all()
        ends = np.cumsum(self.plain, dtype=np.float64)
        mass = np.array(share, np.float32) * np.float64(self.tree.total)
        if self.exact:
            mass = (np.array(share, np.float32) * self.tree.total).astype(np.float64)
            expected = np.searchsorted(ends, mass, side="right")
            last = int(np.flatnonzero(self.plain)[-1])
            np.testing.assert_array_equal(found, np.minimum(expected, last))
        else:  # as far as rounding goes
            slack = 1e-5 * ends[-1]
            assert (mass >= ends[found] - self.plain[found] - slack).all()
            assert (mass <= ends[found] + slack).all()

    @invariant()
    def totals_agree(self) -> None:
        if hasattr(self, "tree"):
            exact = self.plain.astype(np.float64).sum()
            np.testing.assert_allclose(self.tree.total, exact, rtol=0 if self.exact else 1e-5)
            np.testing.assert_array_equal(self.tree.values(np.arange(len(self.plain))), self.plain)


TestOperations = Operations.TestCase


def test_nothing_can_be_drawn_where_all_are_zero() -> None:
    with pytest.raises(ValueError, match="every priority is zero"):
        SumTree(10).find([0.5])


def test_draws_in_proportion() -> None:
    """An even comb of shares draws each leaf as often as its part of the total says, to one."""
    value = np.array([0, 1, 3, 0, 2, 10, 0.5, 0, 0, 7.5, 0])
    tree = SumTree(len(value))
    tree.set(np.arange(len(value)), value)
    share = (np.arange(24_000) + 0.5) / 24_000
    counts = np.bincount(tree.find(share), minlength=len(value))
    np.testing.assert_allclose(counts, 24_000 * value / value.sum(), atol=1)


@given(st.integers(1, 10**9))
def test_levels_are_whole_families_up_to_one_root(capacity: int) -> None:
    sizes = level_sizes(capacity)
    assert sizes[0] >= capacity
    assert sizes[-1] == 8
    for lower, upper in itertools.pairwise(sizes):
        assert lower % 8 == 0
        assert lower // 8 <= upper < lower // 8 + 8
    assert sum(sizes) < 1.2 * capacity + 8 * len(sizes) * 2
