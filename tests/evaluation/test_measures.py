"""Measures: against a library, by hand, as identities, and undefined where they must be."""

import empyrical
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.backtest import backtest
from evaluation.baselines import buy_and_hold, flat
from evaluation.measures import Backtest, trade_profits
from market.bars import Bars
from market.synthetic import RandomWalk
from tests.support.bars import bars_of
from tests.support.measures import positions_of, table_of

RATIOS = ("sharpe", "sortino", "calmar", "hit_rate", "profit_factor", "holding_bars", "break_even")


def test_ratios_and_drawdown_are_those_of_empyrical(walk: Bars) -> None:
    table = table_of(walk, fee_rate=0.0002)
    run = backtest(table, positions_of(len(table) - 1, 3))
    assert not run.ruined
    returns, year = pd.Series(run.returns), round(365.25 * 24 * 60)
    measures = run.measures
    sharpe = empyrical.sharpe_ratio(returns, annualization=year)
    assert measures["sharpe"] == pytest.approx(sharpe)
    assert measures["sortino"] == pytest.approx(
        empyrical.sortino_ratio(returns, annualization=year)
    )
    assert measures["max_drawdown"] == pytest.approx(-empyrical.max_drawdown(returns))
    assert measures["net_return"] == pytest.approx(empyrical.cum_returns_final(returns))


def test_trades_by_hand() -> None:
    close = np.array([90, 100, 110, 99, 99, 108.9, 108.9])
    run = backtest(
        table_of(bars_of(close, close), half_spread=1.0), np.array([1, -1, -1, 0, 1], np.int8)
    )
    # long +10 - 1 - half of the turn's 2; short -1 + 11 + 0 and 1 to close; long pays 1 and earns 0
    np.testing.assert_allclose(trade_profits(run), [8, 9, -1])
    measures = run.measures
    assert measures["trades"] == 3
    assert measures["hit_rate"] == pytest.approx(2 / 3)
    assert measures["profit_factor"] == pytest.approx(17)
    assert measures["holding_bars"] == pytest.approx(4 / 3)
    assert measures["gross_return"] == pytest.approx(0.21)
    assert measures["break_even"] == pytest.approx(21 / 5)
    shares = np.array([1, 2, 2]) / 5
    assert measures["action_entropy"] == pytest.approx(-(shares * np.log2(shares)).sum())


def test_a_trade_filled_at_the_next_open_earns_until_its_own_fill() -> None:
    """What happens from the close to the fill is still the old trade's, and borrow is the holder's."""
    close = np.array([90.0, 100, 110, 99, 99, 108])
    open = np.array([90.0, 95, 104, 105, 99, 103])  # of the steps: 104, 105, 99, 103
    table = table_of(bars_of(open, close), fill="next_open", half_spread=1.0, borrow_rate=0.01)
    run = backtest(table, np.array([1, -1, -1, 0], np.int8))
    # long from 104 to 105 pays 1 and half of 2; short from 105 to 103 pays 1, 1 and 1.1 + 0.99 of borrow
    np.testing.assert_allclose(trade_profits(run), [1 - 2, 2 - 2 - 2.09])
    assert run.equity[-1] - run.equity[0] == pytest.approx(-1 - 2.09)


@given(
    seed=st.integers(0, 2**31),
    fill=st.sampled_from(["close", "next_open"]),
    stay=st.floats(0, 1),
    borrow=st.sampled_from([0.0, 0.001]),
    sigma=st.sampled_from([0.01, 0.3]),  # the wilder one ruins
)
def test_parts_add_up(seed: int, fill: str, stay: float, borrow: float, sigma: float) -> None:
    """Trades, and net returns, add up to the change of equity; gross less costs is net."""
    bars = RandomWalk(sigma=sigma).bars(60, seed)
    table = table_of(bars, fill=fill, fee_rate=0.002, slippage=0.1, borrow_rate=borrow)
    run = backtest(table, positions_of(len(table) - 1, seed, stay))
    change = run.equity[-1] - run.equity[0]
    scale = 1e-9 * abs(run.equity).max()
    assert run.net.sum() == pytest.approx(change, abs=scale)
    assert trade_profits(run).sum() == pytest.approx(change, abs=scale)
    measures = run.measures
    assert measures["gross_return"] - measures["cost"] == pytest.approx(
        measures["net_return"], abs=1e-9
    )
    assert measures["trades"] == len(trade_profits(run))
    if not run.ruined and measures["cost"] > 0 and measures["break_even"] > 0:
        even = backtest(table.at_costs(measures["break_even"]), run.positions)
        if not even.ruined:
            assert even.measures["net_return"] == pytest.approx(0, abs=1e-9)


def test_drawdowns_last_until_the_peak_is_there_again() -> None:
    close = np.array([90, 100, 95, 97, 100, 99, 101, 100, 99, 98])
    run = backtest(table_of(bars_of(close, close)), np.ones(8, np.int8))
    assert run.measures["drawdown_bars"] == 3  # from 100 to 101 it takes 2 and 1, at the end 3
    assert run.measures["max_drawdown"] == pytest.approx(0.05)


def test_what_is_undefined_is_no_number(walk: Bars) -> None:
    """Not zero and not infinite."""
    idle = flat(table_of(walk, fee_rate=0.001)).measures
    assert all(np.isnan(idle[name]) for name in RATIOS)
    assert idle["net_return"] == idle["trades"] == idle["max_drawdown"] == 0
    assert idle["action_entropy"] == 0
    prices = np.full(50, 7.0)
    prices[0] = 6.9  # features need some variation
    still = table_of(bars_of(prices, prices))
    held = buy_and_hold(still.last(40)).measures
    assert np.isnan(held["sharpe"])
    assert np.isnan(held["profit_factor"])
    rises = np.linspace(100, 110, 50)
    rising = buy_and_hold(table_of(bars_of(rises, rises**1.01))).measures
    assert np.isnan(rising["profit_factor"])  # nothing was lost
    wild = table_of(bars_of(np.full(5, 100.0), np.array([99, 100, 250, 10, 10.0])))
    ruined: Backtest = backtest(wild, np.array([-1, -1, 1], np.int8))
    assert ruined.ruined_at == 0
    assert np.isnan(ruined.measures["sharpe"])
    assert np.isnan(ruined.measures["calmar"])
