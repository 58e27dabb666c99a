"""Baselines: the ceiling against brute force, luck at equal turnover, rules by hand."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.backtest import backtest
from evaluation.baselines import (
    mean_reversion,
    momentum,
    perfect_foresight,
    random_returns,
    short_and_hold,
)
from market.accounting import next_position
from market.bars import Bars
from market.synthetic import RandomWalk
from tests.support.bars import bars_of
from tests.support.measures import positions_of, table_of


@settings(max_examples=30)
@given(
    seed=st.integers(0, 2**31),
    scheme=st.sampled_from(["target", "order"]),
    fill=st.sampled_from(["close", "next_open"]),
    fee=st.sampled_from([0.0, 0.005, 0.05]),
)
def test_nothing_beats_perfect_foresight(seed: int, scheme: str, fill: str, fee: float) -> None:
    bars = RandomWalk().bars(8, seed)
    table = table_of(bars, scheme=scheme, fill=fill, fee_rate=fee, borrow_rate=0.001)
    best = -np.inf
    for actions in product((-1, 0, 1), repeat=len(table) - 1):
        position, positions = 0, []
        for action in actions:
            position = int(next_position(position, action, table.settings.scheme))
            positions.append(position)
        best = max(best, backtest(table, np.array(positions, np.int8)).equity[-1])
    assert perfect_foresight(table).equity[-1] == pytest.approx(best)


def test_luck_trades_as_much_as_the_agent(walk: Bars) -> None:
    """Without cost it earns nothing on average; with cost what the agent's own turnover costs."""
    positions = positions_of(len(walk) - 2, 5)
    free = random_returns(table_of(walk), positions, draws=400)
    costly = random_returns(table_of(walk, slippage=0.01), positions, draws=400)
    change = abs(np.diff(positions.astype(int), prepend=0)).sum()
    first = table_of(walk).close[0]
    assert (free - costly).mean() == pytest.approx(0.01 * change / first, rel=0.05)
    assert abs(free.mean()) < 4 * free.std() / 20
    again = random_returns(table_of(walk), positions, draws=400)
    np.testing.assert_array_equal(free, again)


def test_an_agent_with_an_edge_is_above_luck() -> None:
    bars = RandomWalk().bars(1000, 1)
    table = table_of(bars, fee_rate=0.001)
    run = perfect_foresight(table)
    assert (random_returns(table, run.positions, draws=100) < run.measures["net_return"]).all()


def test_rules_by_hand() -> None:
    close = np.array([1.0, 2, 3, 2, 1, 2, 4, 3])
    table = table_of(bars_of(close, close))
    # closes in the table: 2 3 2 1 2 4 3; compared with two bars before
    np.testing.assert_array_equal(momentum(table, 2).positions, [0, 0, 0, -1, 0, 1])
    # against the mean of the last two: 2.5 2.5 1.5 1.5 3
    np.testing.assert_array_equal(mean_reversion(table, 2).positions, [0, -1, 1, 1, -1, -1])
    assert (momentum(table, 50).positions == 0).all()
    assert (mean_reversion(table, 50).positions == 0).all()
    held = short_and_hold(table)
    np.testing.assert_array_equal(held.positions, [-1, -1, -1, -1, -1, 0])  # ruined at last
    assert held.ruined_at == 4
