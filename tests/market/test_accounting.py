"""The timing contract: literal numbers, and conservation against a cash account."""

from functools import partial

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from market.accounting import (
    Fill,
    MarketSettings,
    bar_terms,
    cost,
    earned,
    liquidation_cost,
    next_position,
    risk_penalty,
)
from market.terms import Terms
from tests.support.accounting import account

PRICES = arrays(np.float64, st.integers(2, 30), elements=st.floats(0.5, 1e4))


def test_reward_of_one_step_filled_at_the_close() -> None:
    # From short to long at a close of 100, next close 103: earns 3, pays 2 * (0.01 * 100 + 0.5 + 0.25).
    settings = MarketSettings(fee_rate=0.01, half_spread=0.5, slippage=0.25)
    terms = bar_terms(np.array([99.0, 101.0]), np.array([100.0, 103.0]), settings)
    assert earned(terms, -1, 1) == [3.0]
    assert cost(terms, -1, 1) == [3.5]
    assert liquidation_cost(terms, 1) == [0.01 * 103 + 0.75]


def test_reward_of_one_step_filled_at_the_next_open() -> None:
    # The short is carried from 100 to the open at 101 (-1); the long earns 101 to 103 (+2).
    settings = MarketSettings(fill="next_open", fee_rate=0.01)
    terms = bar_terms(np.array([99.0, 101.0]), np.array([100.0, 103.0]), settings)
    assert earned(terms, -1, 1) == [1.0]
    assert cost(terms, -1, 1) == [2 * 0.01 * 101]


def penalty(previous: int, position: int, **of: float) -> float:
    """From a close of 100 to one of 104, at a fee of 1%."""
    settings = MarketSettings(fee_rate=0.01, **of)
    terms = bar_terms(np.array([100.0, 100.0]), np.array([100.0, 104.0]), settings)
    return float(np.ravel(risk_penalty(terms, previous, position, settings))[0])


def test_penalties_by_their_formulas() -> None:
    assert penalty(0, 1, risk_aversion=0.5) == 0.5 / 2 * 4**2 / 100
    assert penalty(0, -1, risk_aversion=0.5) == 0.04
    assert penalty(1, 0, risk_aversion=0.5) == 0.0
    assert penalty(1, 1, drawdown_penalty=2) == 0.0  # it earned 4
    assert penalty(-1, -1, drawdown_penalty=2) == 2 * 4  # it lost 4
    assert penalty(0, -1, drawdown_penalty=2) == 2 * (4 + 1)  # and paid 1
    assert penalty(0, -1, inventory_penalty=0.001) == pytest.approx(0.001 * 100)
    assert penalty(1, 0, inventory_penalty=0.001) == 0.0
    assert penalty(-1, 1, turnover_penalty=0.001) == pytest.approx(2 * 0.001 * 100)
    together = penalty(
        0, -1, risk_aversion=0.5, drawdown_penalty=2, inventory_penalty=1, turnover_penalty=1
    )
    assert together == pytest.approx(0.04 + 10 + 100 + 100)
    assert penalty(0, -1) == 0.0


@given(st.lists(st.floats(-50, 50), min_size=1, max_size=60))
def test_rises_of_the_drawdown_need_no_memory_of_the_peak(nets: list[float]) -> None:
    """The docstring's claim: max(0, rise) is max(0, -net), and they add up to the largest drawdown."""
    equity = np.cumsum([1000.0, *nets])
    drawdown = np.maximum.accumulate(equity) - equity
    rises = np.maximum(np.diff(drawdown), 0)
    np.testing.assert_allclose(rises, np.maximum(0, -np.array(nets)), atol=1e-9)
    assert rises.sum() >= drawdown.max() - 1e-9


def test_a_short_pays_to_borrow_for_every_bar() -> None:
    settings = MarketSettings(borrow_rate=0.001)
    terms = bar_terms(np.array([100.0, 104.0]), np.array([100.0, 104.0]), settings)
    assert cost(terms, -1, -1) == [0.1]
    assert cost(terms, 0, -1) == [0.1]
    assert cost(terms, -1, 0) == cost(terms, 1, 1) == [0.0]


def test_the_half_spread_of_the_bars() -> None:
    """At the fill, the last one known; at liquidation, that of the bar that has closed."""
    close, half = np.array([100.0, 101.0, 102.0]), np.array([0.1, 0.2, 0.3])
    for fill in ("close", "next_open"):
        terms = bar_terms(close, close, MarketSettings(fill=fill, slippage=1.0), half)
        assert terms.entry_cost.tolist() == [1.1, 1.2]
        assert terms.exit_cost.tolist() == [1.2, 1.3]


@pytest.mark.parametrize("position", [-1, 0, 1])
@pytest.mark.parametrize("action", [-1, 0, 1])
def test_schemes(position: int, action: int) -> None:
    assert next_position(position, action, "target") == action
    assert next_position(position, action, "order") == max(-1, min(1, position + action))


@given(
    PRICES, st.data(), st.sampled_from(["close", "next_open"]), st.floats(0, 0.1), st.floats(0, 1)
)
def test_rewards_add_up_to_the_change_of_equity(
    close: NDArray[np.float64], data: st.DataObject, fill: Fill, fee_rate: float, half_spread: float
) -> None:
    """Against an account of cash and units that knows nothing of rewards."""
    steps = len(close) - 1
    open = np.array(
        data.draw(st.lists(st.floats(0.5, 1e4), min_size=steps + 1, max_size=steps + 1))
    )
    held = data.draw(st.lists(st.sampled_from([-1, 0, 1]), min_size=steps, max_size=steps))
    borrow_rate = data.draw(st.sampled_from([0.0, 0.01]))
    settings = MarketSettings(
        fill=fill, fee_rate=fee_rate, half_spread=half_spread, borrow_rate=borrow_rate
    )
    terms = bar_terms(open, close, settings)
    positions = np.array(held)
    previous = np.concatenate([[0], positions[:-1]])
    net = earned(terms, previous, positions) - cost(terms, previous, positions)
    net[-1] -= liquidation_cost(terms, positions)[-1]

    worth = account(open, close, held, settings, liquidate=True)
    assert net.sum() == pytest.approx(worth, rel=1e-9, abs=1e-6)


@given(PRICES, st.integers(0, 28))
def test_terms_up_to_a_bar_do_not_see_the_bars_after(close: NDArray[np.float64], t: int) -> None:
    t = min(t, len(close) - 1)
    changed = close.copy()
    changed[t + 1 :] *= 1.5
    for fill in ("close", "next_open"):
        settings = MarketSettings(fill=fill, fee_rate=0.01, borrow_rate=0.01)
        before, after = bar_terms(close, close, settings), bar_terms(changed, changed, settings)
        for column, other in zip(before, after, strict=True):
            np.testing.assert_array_equal(column[:t], other[:t])


@pytest.mark.parametrize("scheme", ["target", "order"])
def test_numpy_and_tensorflow_agree(scheme: str) -> None:
    rng = np.random.default_rng(0)
    arrays64 = [rng.normal(size=100) + 10 for _ in Terms._fields]
    previous, action = rng.integers(-1, 2, (2, 100)).astype(np.int32)
    terms = Terms(*(tf.constant(a) for a in arrays64))
    position = next_position(previous, action, scheme)  # type: ignore[arg-type]
    tensor = next_position(tf.constant(previous), tf.constant(action), scheme)  # type: ignore[arg-type]
    np.testing.assert_array_equal(tensor.numpy(), position)
    p, q = tf.cast(previous, tf.float64), tf.cast(tensor, tf.float64)
    settings = MarketSettings(
        risk_aversion=0.3, drawdown_penalty=0.2, inventory_penalty=0.1, turnover_penalty=0.4
    )
    for function in (earned, cost, partial(risk_penalty, settings=settings)):
        ours = function(Terms(*arrays64), previous, position)
        np.testing.assert_allclose(function(terms, p, q).numpy(), ours, rtol=1e-12)
