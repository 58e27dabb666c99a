"""Sizing: literal numbers, an account of cash and units, and one market in all its forms."""

import math
from functools import partial
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from market.accounting import (
    Fill,
    MarketSettings,
    bar_terms,
    booked,
    carried,
    cost,
    drifted,
    earned,
    equity_above_floor,
    growth,
    liquidation_cost,
    money,
    risk_penalty,
    ruins,
    traded,
    worst_growth,
)
from market.equity import LEAST, rebalanced
from market.terms import EquityTerms, NotionalTerms, Sizing, scaled, times_cost
from tests.support.accounts import keep
from tests.support.sizings import SIZED, SIZINGS

KINDS = {"notional": NotionalTerms, "equity": EquityTerms}
Prices = NDArray[np.float64]


def rewards_of(
    open: Prices, close: Prices, held: list[int], settings: MarketSettings, liquidate: bool
) -> NDArray[np.float64]:
    """Rewards before penalties, from flat, to ruin or the end."""
    terms = bar_terms(open, close, settings)
    position = np.array(held)
    previous = np.concatenate([[0], position[:-1]])
    net = earned(terms, previous, position) - cost(terms, previous, position)
    start = float(terms.price[0])
    floor = max(settings.equity_floor, LEAST if settings.sizing == "equity" else 0.0)
    room = start * (-math.log(floor) if settings.sizing == "equity" else 1 - floor)
    before = np.concatenate([[0.0], np.cumsum(growth(terms, net))[:-1]])
    ruined = np.flatnonzero(ruins(terms, room + before, net))
    end = int(ruined[0]) if len(ruined) else len(held) - 1
    if len(ruined) or liquidate:
        net[end] -= liquidation_cost(terms, position, previous)[end]
    return np.asarray(growth(terms, net)[: end + 1])


def test_notional_step_by_hand() -> None:
    # N = 1. At 100 a long is 1/100 units. At 110 they are worth 1.1, and a tenth is sold at 1%.
    settings = MarketSettings(sizing="notional", fee_rate=0.01)
    close = np.array([100.0, 110.0, 99.0])
    terms = bar_terms(close, close, settings)
    previous, position = np.array([0, 1]), np.array([1, 1])
    np.testing.assert_allclose(traded(terms, previous, position), [1.0, 0.1])
    np.testing.assert_allclose(earned(terms, previous, position), [0.1, -0.1])
    np.testing.assert_allclose(cost(terms, previous, position), [0.01, 0.001])
    # A short of 1/100 units is worth -1.1 at 110: turning it long buys 2.1, and keeping it buys 0.1 back.
    np.testing.assert_allclose(traded(terms, -1, 1)[1], 2.1)
    np.testing.assert_allclose(traded(terms, -1, -1)[1], 0.1)
    # Liquidated at 99 after a fill at 110: 1% of 99/110.
    np.testing.assert_allclose(liquidation_cost(terms, np.array([1, -1])), [0.011, 0.009])


def test_notional_step_filled_at_the_next_open() -> None:
    # Long 1/100 units from the open at 100; close 105, next open 120, where it goes short; close 114.
    settings = MarketSettings(sizing="notional", fill="next_open", fee_rate=0.01, borrow_rate=0.001)
    open, close = np.array([90.0, 100.0, 120.0]), np.array([95.0, 105.0, 114.0])
    terms = bar_terms(open, close, settings)
    np.testing.assert_allclose(earned(terms, 0, 1)[0], 0.05)
    # (120 - 105) / 100 from close to open, then (120 - 114) / 120.
    np.testing.assert_allclose(earned(terms, 1, -1)[1], 0.15 + 0.05)
    # 1.2 sold and 1 sold short at 1%; borrowing 0.1% of the close of 105, for 1/120 units.
    np.testing.assert_allclose(cost(terms, 1, -1)[1], 0.022 + 0.001 * 105 / 120)


def test_equity_step_by_hand() -> None:
    # From flat, long at 1%: E+ = 1 - 0.01 E+, so E+ = 1/1.01; the price then rises by a tenth.
    settings = MarketSettings(sizing="equity", fee_rate=0.01)
    close = np.array([100.0, 110.0, 99.0])
    terms = bar_terms(close, close, settings)
    net = earned(terms, 0, 1) - cost(terms, 0, 1)
    assert growth(terms, net)[0] == pytest.approx(math.log(1.1 / 1.01), abs=1e-15)
    # Long all the while: it is the whole account still, and nothing is traded.
    assert traded(terms, 1, 1)[1] == pytest.approx(0, abs=1e-15)
    assert growth(terms, earned(terms, 1, 1) - cost(terms, 1, 1))[1] == pytest.approx(
        math.log(0.9), abs=1e-15
    )
    # A short of 1 that rose to 1.1 in an account of 0.9: w = -11/9. Bought back to -1 of E+ with
    # E+ = 0.9 - 0.01 (1.1 - E+), so E+ = 0.889 / 0.99, which earns a tenth as the price falls by one.
    left = 0.889 / 0.99
    assert drifted(terms, -1)[1] == pytest.approx(-11 / 9)
    assert traded(terms, -1, -1)[1] == pytest.approx((1.1 - left) / 0.9)
    net = earned(terms, -1, -1) - cost(terms, -1, -1)
    assert growth(terms, net)[1] == pytest.approx(math.log(left * 1.1 / 0.9), abs=1e-15)


def test_equity_step_filled_at_the_next_open() -> None:
    # Short of the whole account at the open at 100, having borrowed 95 / 100 at 0.1%. At the close of
    # 105 the account is 1 - 0.05 - b', at the open of 110 it is 1 - 0.1 - b', and it is bought flat.
    settings = MarketSettings(sizing="equity", fill="next_open", borrow_rate=0.001, fee_rate=0.02)
    open, close = np.array([90.0, 100.0, 110.0]), np.array([95.0, 105.0, 114.0])
    terms = bar_terms(open, close, settings)
    borrowed = 0.001 * 95 / 100
    at_close, at_fill = 0.95 - borrowed, 0.9 - borrowed
    assert carried(terms, -1)[1] == pytest.approx(at_fill / at_close - 1, abs=1e-15)
    assert traded(terms, -1, 0)[1] == pytest.approx(1.1 / at_close)
    net = earned(terms, -1, 0) - cost(terms, -1, 0)
    assert growth(terms, net)[1] == pytest.approx(
        math.log((at_fill - 0.02 * 1.1) / at_close), abs=1e-14
    )


@given(st.floats(-3, 3), st.floats(-1, 1), st.floats(0, 0.5))
def test_equity_after_its_own_cost_solves_the_equation(
    weight: float, position: float, unit_cost: float
) -> None:
    """x = 1 - c |p' x - w|, whatever the sign of the trade."""
    size = float(rebalanced(weight, position, unit_cost, np))
    left = 1 - unit_cost * size
    assert size == pytest.approx(abs(position * left - weight), abs=1e-12)
    assert size >= 0


STEPS = st.integers(1, 30)


@given(
    st.data(),
    st.sampled_from(SIZINGS),
    st.sampled_from(["close", "next_open"]),
    st.sampled_from([0.0, 0.001, 0.1]),
    st.sampled_from([0.0, 0.5]),
    st.sampled_from([0.0, 0.01]),
    st.sampled_from([0.0, 0.6]),
    st.booleans(),
)
def test_rewards_are_those_of_an_account_of_cash_and_units(
    data: st.DataObject,
    sizing: Sizing,
    fill: Fill,
    fee_rate: float,
    half_spread: float,
    borrow_rate: float,
    equity_floor: float,
    liquidate: bool,
) -> None:
    """Step by step, rebalanced at every fill, with shorts that are ruined where the price doubles."""
    steps = data.draw(STEPS)
    prices = st.lists(st.floats(60, 160), min_size=steps + 1, max_size=steps + 1)
    open, close = np.array(data.draw(prices)), np.array(data.draw(prices))
    held = data.draw(st.lists(st.sampled_from([-1, 0, 1]), min_size=steps, max_size=steps))
    settings = MarketSettings(
        sizing=sizing,
        fill=fill,
        fee_rate=fee_rate,
        half_spread=half_spread,
        slippage=half_spread / 4,
        borrow_rate=borrow_rate,
        equity_floor=equity_floor,
    )
    rewards = rewards_of(open, close, held, settings, liquidate)
    kept = keep(open, close, held, settings, liquidate=liquidate)
    start = kept.equity[0]
    equity = start + np.cumsum(rewards)
    if sizing == "equity":
        equity = np.exp(np.cumsum(rewards))
    np.testing.assert_allclose(equity, kept.equity[1:], rtol=0, atol=1e-12 * start * steps)


@pytest.mark.parametrize("fill", ["close", "next_open"])
@pytest.mark.parametrize("position", [-1, 1])
def test_a_ruined_account_loses_no_more_than_is_documented(fill: Fill, position: int) -> None:
    """A gap that takes more than everything ends the account; the reward stays finite."""
    settings = MarketSettings(sizing="equity", fill=fill, fee_rate=0.001)
    for last in (1e-9, 1e-3, 2e2, 1e9):
        close = np.array([100.0, 100.0, last, last])
        rewards = rewards_of(close, close, [position] * 3, settings, liquidate=True)
        assert np.isfinite(rewards).all()
        kept = keep(close, close, [position] * 3, settings, liquidate=True)
        assert len(rewards) == len(kept.equity) - 1
        assert kept.ruined == ((last < 1) == (position > 0))
        assert rewards.sum() >= math.log(LEAST) - 1
        if kept.ruined:
            assert rewards.sum() <= math.log(0.1)


@given(
    st.lists(st.floats(1e-6, 1e6), min_size=3, max_size=12),
    st.floats(0, 0.99),
    st.sampled_from(["close", "next_open"]),
    st.sampled_from([-1, 0, 1]),
    st.sampled_from([-1, 0, 1]),
)
def test_growth_is_finite_out_of_any_position_on_any_bar(
    prices: list[float], fee_rate: float, fill: Fill, previous: int, position: int
) -> None:
    settings = MarketSettings(
        sizing="equity", fill=fill, fee_rate=fee_rate, slippage=0.1, borrow_rate=0.5
    )
    close = np.array(prices)
    terms = bar_terms(close[::-1], close, settings)
    net = earned(terms, previous, position) - cost(terms, previous, position)
    closed = net - liquidation_cost(terms, position, previous)
    for each in (growth(terms, net), growth(terms, closed)):
        assert (each >= math.log(LEAST)).all()
        assert np.isfinite(each).all()


@pytest.mark.parametrize("sizing", SIZED)
@given(st.lists(st.floats(50, 150), min_size=4, max_size=20), st.integers(0, 18))
def test_sized_terms_up_to_a_bar_do_not_see_the_bars_after(
    sizing: Sizing, prices: list[float], t: int
) -> None:
    close = np.array(prices)
    t = min(t, len(close) - 1)
    changed = close.copy()
    changed[t + 1 :] *= 1.5
    for fill in ("close", "next_open"):
        settings = MarketSettings(sizing=sizing, fill=fill, fee_rate=0.01, borrow_rate=0.01)
        before, after = bar_terms(close, close, settings), bar_terms(changed, changed, settings)
        for column, other in zip(before, after, strict=True):
            np.testing.assert_array_equal(column[:t], other[:t])


@pytest.mark.parametrize("sizing", SIZED)
def test_numpy_and_tensorflow_agree(sizing: Sizing) -> None:
    rng = np.random.default_rng(0)
    close = 100 * np.exp(np.cumsum(rng.normal(0, 0.3, 101)))
    open = close * rng.uniform(0.8, 1.2, 101)
    settings = MarketSettings(
        sizing=sizing,
        fill="next_open",
        fee_rate=0.003,
        slippage=0.2,
        borrow_rate=0.001,
        risk_aversion=0.3,
        drawdown_penalty=0.2,
        inventory_penalty=0.1,
        turnover_penalty=0.4,
    )
    terms = bar_terms(open, close, settings)
    assert type(terms) is KINDS[sizing]
    tensors = type(terms)(*(tf.constant(column) for column in terms))
    previous, position = rng.integers(-1, 2, (2, 100)).astype(np.float64)
    p, q = tf.constant(previous), tf.constant(position)

    def net(of: Any, before: Any, after: Any, xp: Any = np) -> Any:
        return growth(of, earned(of, before, after, xp) - cost(of, before, after, xp), xp)

    for function in (earned, cost, traded, net, partial(risk_penalty, settings=settings)):
        ours = function(terms, previous, position)
        theirs = function(tensors, p, q, xp=tf.math).numpy()
        np.testing.assert_allclose(theirs, ours, rtol=1e-12, atol=1e-14)
    closing = liquidation_cost(tensors, q, p, tf.math).numpy()
    np.testing.assert_allclose(closing, liquidation_cost(terms, position, previous), rtol=1e-12)


@pytest.mark.parametrize("sizing", SIZINGS)
def test_scaled_terms_scale_rewards_and_penalties_alone(sizing: Sizing) -> None:
    rng = np.random.default_rng(3)
    close = 100 * np.exp(np.cumsum(rng.normal(0, 0.1, 51)))
    settings = MarketSettings(
        sizing=sizing,
        fee_rate=0.01,
        borrow_rate=0.001,
        risk_aversion=0.3,
        drawdown_penalty=0.2,
        inventory_penalty=0.1,
        turnover_penalty=0.4,
    )
    terms = bar_terms(close, close, settings)
    larger = scaled(terms, 7.0)
    previous, position = rng.integers(-1, 2, (2, 50))
    for before, after in ((previous, position), (position, previous)):
        rewards, penalties = (
            [
                growth(each, earned(each, before, after) - cost(each, before, after))
                for each in (terms, larger)
            ],
            [risk_penalty(each, before, after, settings) for each in (terms, larger)],
        )
        np.testing.assert_allclose(rewards[1], 7 * rewards[0], rtol=1e-12, atol=1e-13)
        np.testing.assert_allclose(penalties[1], 7 * penalties[0], rtol=1e-12, atol=1e-13)


def test_penalties_are_in_the_unit_of_the_reward() -> None:
    """Doubling every price doubles penalties of one unit, and leaves the others as they are."""
    close = np.array([100.0, 104.0, 101.0])
    for sizing in SIZINGS:
        settings = MarketSettings(
            sizing=sizing,
            fee_rate=0.01,
            risk_aversion=0.5,
            drawdown_penalty=2,
            inventory_penalty=0.01,
            turnover_penalty=0.02,
        )
        once, twice = (
            risk_penalty(bar_terms(p, p, settings), -1, 1, settings) for p in (close, 2 * close)
        )
        np.testing.assert_allclose(twice, once * (2 if sizing == "unit" else 1), rtol=1e-12)


def penalty_of(sizing: Sizing, previous: int, position: int, **of: float) -> float:
    """In the second step of closes 100, 110, 99 at a fee of 1%."""
    settings = MarketSettings(sizing=sizing, fee_rate=0.01, **of)
    close = np.array([100.0, 110.0, 99.0])
    terms = bar_terms(close, close, settings)
    return float(np.broadcast_to(risk_penalty(terms, previous, position, settings), 2)[1])


def test_penalties_by_their_formulas_under_every_sizing() -> None:
    # A long of N is kept: a tenth is sold at 1%, then a tenth of N is lost.
    assert penalty_of("notional", 1, 1, turnover_penalty=0.02) == pytest.approx(0.02 * 0.1)
    assert penalty_of("notional", 1, 1, inventory_penalty=0.02) == pytest.approx(0.02)
    assert penalty_of("notional", 1, 1, risk_aversion=0.5) == pytest.approx(0.25 * 0.1**2)
    assert penalty_of("notional", 1, 1, drawdown_penalty=2) == pytest.approx(2 * 0.101)
    # A long of the account is kept for nothing, and a tenth of it is lost: the logarithm falls by more.
    assert penalty_of("equity", 1, 1, turnover_penalty=0.02) == pytest.approx(0, abs=1e-15)
    assert penalty_of("equity", 1, 1, risk_aversion=0.5) == pytest.approx(0.25 * 0.1**2)
    assert penalty_of("equity", 1, 1, drawdown_penalty=2) == pytest.approx(-2 * math.log(0.9))
    # A short of it is bought back from 11/9 to 1 of what is left, as in the step by hand above.
    bought = (1.1 - 0.889 / 0.99) / 0.9
    assert penalty_of("equity", -1, -1, turnover_penalty=0.02) == pytest.approx(0.02 * bought)


@pytest.mark.parametrize("sizing", SIZINGS)
def test_times_the_costs_is_settings_of_so_much(sizing: Sizing) -> None:
    """Of all costs, what a short has paid to borrow since the fill before included."""
    rng = np.random.default_rng(5)
    close = 100 * np.exp(np.cumsum(rng.normal(0, 0.05, 31)))
    open = close * rng.uniform(0.95, 1.05, 31)
    once, thrice = (
        bar_terms(
            open,
            close,
            MarketSettings(
                sizing=sizing,
                fill="next_open",
                fee_rate=n * 0.001,
                half_spread=n * 0.1,
                borrow_rate=n * 0.002,
            ),
        )
        for n in (1, 3)
    )
    for column, other in zip(times_cost(once, 3), thrice, strict=True):
        np.testing.assert_allclose(column, other, rtol=1e-12)


def test_a_step_that_wipes_out_an_account_ruins_it_however_much_it_had_grown() -> None:
    settings = MarketSettings(sizing="equity")
    close = np.array([1.0, 5000.0, 1.0])
    terms = bar_terms(close, close, settings)
    net = earned(terms, 1, 1) - cost(terms, 1, 1)
    far = equity_above_floor(1.0, settings) + math.log(5000)
    np.testing.assert_array_equal(ruins(terms, far, net), [False, True])
    reward, equity, ruined = booked(terms, np.array([1.0, 5000.0]), net, LEAST)
    np.testing.assert_array_equal(ruined, [False, True])
    np.testing.assert_allclose(reward, [math.log(5000), math.log(LEAST)])
    np.testing.assert_allclose(equity, [5000, 5000 * LEAST])


def test_unit_is_the_default_and_its_terms_are_as_ever() -> None:
    close = np.array([100.0, 104.0, 101.0])
    assert MarketSettings().sizing == "unit"
    terms = bar_terms(close, close, MarketSettings(fee_rate=0.01))
    np.testing.assert_array_equal(terms.gain, [4.0, -3.0])
    np.testing.assert_array_equal(terms.price, [100.0, 104.0])
    assert terms._fields == ("carry", "gain", "entry_cost", "exit_cost", "borrow", "price")


@pytest.mark.parametrize(
    ("sizing", "above_floor"),
    [("unit", 70.0), ("notional", 70.0), ("equity", -100 * math.log(0.3))],
)
def test_an_account_is_ruined_where_it_has_fallen_to_the_share_that_the_floor_names(
    sizing: Sizing, above_floor: float
) -> None:
    settings = MarketSettings(sizing=sizing, equity_floor=0.3)
    assert equity_above_floor(100.0, settings) == pytest.approx(above_floor)


def test_what_wipes_out_an_account_of_its_own_size_is_bounded_and_of_any_other_is_not() -> None:
    assert worst_growth(MarketSettings(sizing="equity")) == pytest.approx(math.log(LEAST))
    assert worst_growth(MarketSettings(sizing="unit")) == -math.inf


def test_an_amount_is_a_share_of_equity_only_where_equity_is_what_a_position_is_sized_by() -> None:
    close, equity, amount = (
        np.array([100.0, 110.0, 99.0]),
        np.array([2.0, 3.0]),
        np.array([0.1, 0.2]),
    )
    for sizing, counted in (("unit", [0.1, 0.2]), ("notional", [0.1, 0.2]), ("equity", [0.2, 0.6])):
        terms = bar_terms(close, close, MarketSettings(sizing=sizing))
        np.testing.assert_allclose(money(terms, equity, amount), counted)
