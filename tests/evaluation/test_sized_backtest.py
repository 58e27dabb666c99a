"""Backtests under every sizing: against an account of cash and units, their parts and figures."""

from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from evaluation.backtest import backtest, follow, greedy_choice
from evaluation.baselines import buy_and_hold, perfect_foresight, random_returns, short_and_hold
from evaluation.measures import trade_profits
from market.accounting import Fill, MarketSettings, next_position
from market.bars import Bars
from market.gym import MarketEnv
from market.synthetic import RandomWalk
from market.terms import Sizing
from tests.support.accounts import keep
from tests.support.bars import bars_of
from tests.support.measures import positions_of, table_of
from tests.support.sizings import SIZED, SIZINGS
from tests.support.stocks import grown_stock

COSTS: dict[str, Any] = {"fee_rate": 0.002, "slippage": 0.1, "borrow_rate": 0.0005}


@pytest.mark.parametrize("sizing", SIZINGS)
@pytest.mark.parametrize("fill", ["close", "next_open"])
@pytest.mark.parametrize("sigma", [0.01, 0.3])  # the wilder one ruins
def test_a_backtest_is_an_account_of_cash_and_units(
    sizing: Sizing, fill: Fill, sigma: float
) -> None:
    ruined = 0
    floor = 0.0 if sigma < 0.1 else 0.3
    for seed in range(10):
        bars = RandomWalk(sigma=sigma).bars(80, seed)
        table = table_of(bars, sizing=sizing, fill=fill, equity_floor=floor, **COSTS)
        wanted = positions_of(len(table) - 1, seed, stay=0.7)
        run = backtest(table, wanted)
        open, close = (bars.column(name)[1:] for name in ("open", "close"))
        kept = keep(open, close, wanted.tolist(), table.settings)
        count = len(kept.equity)
        np.testing.assert_allclose(run.equity[:count], kept.equity, rtol=1e-12, atol=1e-12)
        np.testing.assert_array_equal(run.equity[count:], run.equity[count - 1])
        assert run.ruined == kept.ruined
        assert run.ruined_at == (count - 2 if kept.ruined else None)
        np.testing.assert_allclose(run.net.sum(), run.equity[-1] - run.equity[0], rtol=1e-9)
        ruined += run.ruined
        if run.ruined:
            continue
        # What is traded, in units, of the sizing's own measure.
        size: Any = 1.0
        if sizing == "notional":
            size = 1 / table.fill_price
        elif sizing == "equity":
            size = run.equity[:-1] / table.fill_price
        np.testing.assert_allclose(run.traded * size, kept.traded, rtol=1e-9, atol=1e-12)
        each = 0.002 * table.fill_price + 0.1
        borrow = 0.0005 * table.close[:-1] * np.maximum(-np.array(kept.units), 0)
        np.testing.assert_allclose(
            run.costs, each * np.array(kept.traded) + borrow, rtol=1e-8, atol=1e-13
        )
    assert (ruined > 0) == (sigma > 0.1)


@pytest.mark.parametrize("sizing", SIZED)
@settings(max_examples=60)
@example(seed=24569, fill="close", stay=0.0, borrow=0.0, sigma=0.3)  # ruined as it closes
@given(
    seed=st.integers(0, 2**31),
    fill=st.sampled_from(["close", "next_open"]),
    stay=st.floats(0, 1),
    borrow=st.sampled_from([0.0, 0.001]),
    sigma=st.sampled_from([0.01, 0.3]),
)
def test_parts_add_up_under_every_sizing(
    sizing: Sizing, seed: int, fill: str, stay: float, borrow: float, sigma: float
) -> None:
    """As `test_parts_add_up` has it for one unit; trades that follow the drift of price are costs too."""
    bars = RandomWalk(sigma=sigma).bars(60, seed)
    table = table_of(
        bars, sizing=sizing, fill=fill, fee_rate=0.002, slippage=0.1, borrow_rate=borrow
    )
    run = backtest(table, positions_of(len(table) - 1, seed, stay))
    change = run.equity[-1] - run.equity[0]
    scale = 1e-9 * abs(run.equity).max()
    assert run.net.sum() == pytest.approx(change, abs=scale)
    assert trade_profits(run).sum() == pytest.approx(change, abs=scale)
    measures = run.measures
    assert measures["gross_return"] - measures["cost"] == pytest.approx(
        measures["net_return"], abs=1e-9
    )
    if not run.ruined and measures["cost"] > 0 and measures["break_even"] > 0:
        even = backtest(table.at_costs(measures["break_even"]), run.positions)
        if not even.ruined:
            assert even.measures["net_return"] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("sizing", SIZED)
def test_break_even_is_found_where_there_is_one(sizing: Sizing, walk: Bars) -> None:
    """With and without something left at the costs themselves, twice and half of it included."""
    table = table_of(walk, sizing=sizing, fee_rate=0.0005)
    best = perfect_foresight(table)
    for multiple in (1.0, 3.0):
        run = backtest(table.at_costs(multiple), best.positions)
        even = run.measures["break_even"]
        assert even > 0
        left = backtest(table.at_costs(multiple * even), best.positions)
        assert left.measures["net_return"] == pytest.approx(0, abs=1e-9)
        assert even == pytest.approx(best.measures["break_even"] / multiple, rel=1e-9)


@pytest.mark.parametrize("sizing", SIZED)
@settings(max_examples=15)
@given(
    seed=st.integers(0, 2**31),
    scheme=st.sampled_from(["target", "order"]),
    fill=st.sampled_from(["close", "next_open"]),
    fee=st.sampled_from([0.0, 0.005, 0.05]),
)
def test_nothing_beats_perfect_foresight_under_any_sizing(
    sizing: Sizing, seed: int, scheme: str, fill: str, fee: float
) -> None:
    bars = RandomWalk().bars(7, seed)
    table = table_of(bars, sizing=sizing, scheme=scheme, fill=fill, fee_rate=fee, borrow_rate=0.001)
    best = -np.inf
    for actions in product((-1, 0, 1), repeat=len(table) - 1):
        position, positions = 0, []
        for action in actions:
            position = int(next_position(position, action, table.settings.scheme))
            positions.append(position)
        best = max(best, backtest(table, np.array(positions, np.int8)).equity[-1])
    assert perfect_foresight(table).equity[-1] == pytest.approx(best)


@pytest.mark.parametrize("sizing", SIZED)
@pytest.mark.parametrize("fill", ["close", "next_open"])
def test_a_sized_backtest_agrees_with_an_episode(walk: Bars, sizing: Sizing, fill: Fill) -> None:
    steps = len(walk) - 2
    table = table_of(
        walk, sizing=sizing, fill=fill, fee_rate=0.0001, borrow_rate=1e-5, episode_bars=steps
    )
    weights = np.array([[-1, 0, 1], [0.3, 0, -0.3], [0, 0.5, 0]])

    def q_values(states: Any) -> Any:
        return np.asarray(states @ weights, np.float32)

    run = backtest(table, follow(greedy_choice(q_values, table)))
    growth = np.diff(np.log(run.equity)) if sizing == "equity" else run.net
    env = MarketEnv(table)
    state, _ = env.reset(options={"bar": 0})
    for t in range(steps):
        state, reward, _, _, info = env.step(q_values(state[None]).argmax())
        assert reward == pytest.approx(growth[t], abs=1e-12)
        assert info["position"] == run.positions[t]
        assert info["equity"] == pytest.approx(run.equity[t + 1], rel=1e-12)
        assert info["cost"] == pytest.approx(run.costs[t], abs=1e-12)
    assert len(set(run.positions)) == 3


def test_a_stock_that_multiplied_is_not_ruined_by_its_own_rise() -> None:
    """Long in the last tenth: +38% of the account, which is what it made; one unit is "ruined, -103%"."""
    table = grown_stock()
    start = 4499
    wanted = np.zeros(len(table) - 1, np.int8)
    wanted[start:] = 1
    unit = backtest(table, wanted)
    assert unit.ruined
    assert unit.measures["net_return"] < -1
    for sizing in SIZED:
        run = backtest(table.sized(sizing), wanted)
        assert not run.ruined
    # Bought at a fee of half a thousandth, E+ = E / 1.0005, and held.
    assert run.equity[-1] == pytest.approx(1.38 / 1.0005)
    path = table.close[start:] / np.maximum.accumulate(table.close[start:])
    assert run.measures["max_drawdown"] == pytest.approx(1 - path.min(), abs=0.0006)
    assert run.measures["max_drawdown"] < 0.2
    held = buy_and_hold(table.sized("equity"))
    assert held.equity[-1] == pytest.approx(table.close[-1] / table.close[0] / 1.0005)
    assert held.measures["turnover"] == pytest.approx(1 / 1.0005 / (len(table) - 1))
    assert short_and_hold(table).ruined
    with pytest.raises(ValueError, match="only a table of one unit can be sized anew"):
        table.sized("equity").sized("unit")


def test_sizing_a_table_anew_is_tabulating_it_so() -> None:
    bars = RandomWalk().bars(200, 3)
    for sizing, fill in product(SIZINGS, ("close", "next_open")):
        once = table_of(bars, sizing=sizing, fill=fill, **COSTS)
        anew = table_of(bars, fill=fill, **COSTS).sized(sizing)
        assert anew.settings == once.settings
        for column, other in zip(anew.terms, once.terms, strict=True):
            np.testing.assert_array_equal(column, other)
        # Rows that are left out do not change the ones that stay.
        part = once.last(50)
        for column, other in zip(part.terms, once.terms, strict=True):
            np.testing.assert_array_equal(column, other[-49:])


@pytest.mark.parametrize("sizing", SIZED)
def test_luck_trades_as_much_under_every_sizing(walk: Bars, sizing: Sizing) -> None:
    positions = positions_of(len(walk) - 2, 5)
    draws = random_returns(table_of(walk, sizing=sizing, fee_rate=0.0001), positions, draws=50)
    assert draws.shape == (50,)
    assert np.isfinite(draws).all()
    assert len(set(draws)) == 50


def test_windows_of_a_share_of_the_account_compound(walk: Bars) -> None:
    edges = [0, 700, 1500]
    positions = positions_of(len(walk) - 2, 5)
    run = backtest(table_of(walk, sizing="equity", fee_rate=0.0001), positions)
    whole = np.prod(1 + run.returns_from(edges))
    assert whole == pytest.approx(run.equity[-1])
    run = backtest(table_of(walk, sizing="notional", fee_rate=0.0001), positions)
    assert run.returns_from(edges).sum() == pytest.approx(run.equity[-1] - 1)


def test_a_band_leaves_small_drifts_alone() -> None:
    # Sized at 100; 1.04 of it at 104 is within 5%, 1.11 at 111 is not: 0.11 is sold.
    close = np.array([90.0, 100, 104, 111, 111, 50])
    table = table_of(bars_of(close, close), sizing="notional", fee_rate=0.01)
    wanted = np.array([1, 1, 1, 1], np.int8)
    run = backtest(table, wanted, band=0.05)
    np.testing.assert_allclose(run.exposures, [1, 1.04, 1, 1])
    np.testing.assert_allclose(run.traded, [1, 0, 0.11, 0], atol=1e-15)
    np.testing.assert_allclose(
        run.net, [0.04 - 0.01, 1.04 * (111 / 104 - 1), -0.0011, 50 / 111 - 1]
    )
    np.testing.assert_array_equal(run.positions, wanted)
    assert trade_profits(run).sum() == pytest.approx(run.equity[-1] - 1)
    # What is wanted anew is always taken, and flat is flat.
    turned = backtest(table, np.array([1, -1, 0, 0], np.int8), band=10.0)
    np.testing.assert_array_equal(turned.exposures, [1, -1, 0, 0])
    with pytest.raises(ValueError, match=r"the band is -0\.1; it must be a share"):
        backtest(table, wanted, band=-0.1)


@pytest.mark.parametrize("sizing", SIZINGS)
def test_a_band_of_none_or_nothing_is_no_band(walk: Bars, sizing: Sizing) -> None:
    table = table_of(walk, sizing=sizing, fee_rate=0.001, borrow_rate=1e-5)
    positions = positions_of(len(table) - 1, 2)
    without, tight, wide = (backtest(table, positions, band) for band in (None, 0.0, 0.02))
    np.testing.assert_allclose(tight.equity, without.equity, rtol=1e-12)
    assert wide.traded.sum() <= without.traded.sum() + 1e-9
    if sizing == "unit":
        np.testing.assert_array_equal(wide.equity, without.equity)
    else:
        assert wide.measures["turnover"] < without.measures["turnover"]
        assert wide.equity[-1] > without.equity[-1]
        shorts = wide.exposures[positions < 0]
        assert abs(shorts + 1).max() <= 0.02 + 1e-9


def test_figures_of_an_equity_backtest_are_those_of_its_returns(walk: Bars) -> None:
    settings = MarketSettings(sizing="equity", fee_rate=0.0002)
    table = table_of(walk, **settings.model_dump(include={"sizing", "fee_rate"}))
    run = backtest(table, positions_of(len(table) - 1, 3))
    growth = np.diff(np.log(run.equity))
    np.testing.assert_allclose(run.returns, np.expm1(growth), rtol=1e-9, atol=1e-15)
    assert run.measures["net_return"] == pytest.approx(np.expm1(growth.sum()))


def test_perfect_foresight_of_a_long_wild_stretch_stays_finite() -> None:
    table = table_of(RandomWalk(sigma=0.3).bars(6000, 1), sizing="equity")
    run = perfect_foresight(table)
    assert np.log(run.equity[-1]) == pytest.approx(700)
    assert np.isfinite(run.equity).all()
    assert np.isfinite(run.measures["net_return"])


def test_a_trade_is_given_what_it_made_of_the_account_at_its_time() -> None:
    # Long of all from the open at 100, which is 200 at the next close: the account is 2. It opens at
    # 210, so 2.1, and is turned short for 1%: x = (1 - 0.01) / (1 + 0.01), and stays so at 210, then
    # falls to 105 at the close and is bought back at 105.
    open = np.array([90.0, 90, 100, 210, 105, 105])
    close = np.array([90.0, 95, 200, 105, 105, 105])
    table = table_of(bars_of(open, close), sizing="equity", fill="next_open", fee_rate=0.01)
    run = backtest(table, np.array([1, -1, 0, 0], np.int8))
    bought = 1 / 1.01  # E+ of the first fill, from an account of 1
    at_close = bought * 2
    at_open = bought * 2.1
    left = at_open * 0.99 / 1.01
    made = left * 1.5
    np.testing.assert_allclose(run.equity[:3], [1, at_close, made])
    # Half of what turning cost, and the rise from close to open, are the long's.
    turning = at_open - left
    long = (at_close - 1) + (at_open - at_close) - turning / 2
    short = (made - left) - turning / 2 - 0.01 * left / 2
    np.testing.assert_allclose(trade_profits(run), [long, short])


@pytest.mark.parametrize("sizing", SIZINGS)
def test_a_liquidation_is_traded_in_the_step_after_it(sizing: Sizing) -> None:
    close = np.array([90.0, 100, 150, 350, 10, 10])
    table = table_of(bars_of(close, close), sizing=sizing, fee_rate=0.01)
    run = backtest(table, np.array([-1, -1, 1, 1], np.int8))
    end = run.ruined_at
    assert end == 1
    assert run.traded[end + 1 :].tolist() == [1.0, 0.0]
    assert run.traded[0] == pytest.approx(1 / 1.01 if sizing == "equity" else 1.0)
    assert run.exposures[end + 1 :].tolist() == [0, 0]
