"""Orders of a desk: at the fill's price what a backtest holds, at another off as documented."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.backtest import backtest
from market.accounting import Fill, MarketSettings, unit_cost
from market.rebalance import rebalance
from market.synthetic import RandomWalk
from market.terms import Sizing
from tests.support.measures import positions_of, table_of
from tests.support.sizings import SIZINGS


@pytest.mark.parametrize("sizing", SIZINGS)
@pytest.mark.parametrize("fill", ["close", "next_open"])
def test_a_desk_that_asks_at_the_fill_price_holds_what_the_backtest_holds(
    sizing: Sizing, fill: Fill
) -> None:
    """Cash and units of a desk, over bars that open away from the last close."""
    costs: dict[str, Any] = {"fee_rate": 0.001, "slippage": 0.02, "borrow_rate": 0.0001}
    settings = MarketSettings(sizing=sizing, fill=fill, **costs)
    table = table_of(RandomWalk(sigma=0.02).bars(300, 4), sizing=sizing, fill=fill, **costs)
    wanted = positions_of(len(table) - 1, 4, stay=0.8)
    run = backtest(table, wanted)
    assert not run.ruined
    cash, units = run.equity[0], 0.0
    for t, price in enumerate(table.fill_price.tolist()):
        each = unit_cost(price, 0.0, settings)
        made = rebalance(sizing, wanted[t], units, cash + units * price, price, each)
        assert made.order == pytest.approx(made.units - units)
        assert made.amount == pytest.approx(made.order * price)
        assert made.cost == pytest.approx(abs(made.order) * each)
        cash -= made.amount + made.cost
        units = made.units
        cash -= 0.0001 * table.close[t] * max(-units, 0.0)
        assert cash + units * table.close[t + 1] == pytest.approx(run.equity[t + 1], rel=1e-11)


def test_orders_by_hand() -> None:
    # Two units at 50, 300 in cash: the account holds 400.
    assert rebalance("unit", -1, 2.0, 400, 50, 0.5, full=3)[:3] == (-3, -5, -250)
    assert rebalance("notional", 1, 2.0, 400, 50, 0.5, full=200) == (4, 2, 100, 1)
    # All of 400, less the cost of buying: E+ = 400 - 0.01 (E+ - 100), so E+ = 401 / 1.01.
    made = rebalance("equity", 1, 2.0, 400, 50, 0.5)
    assert made.units == pytest.approx(401 / 1.01 / 50)
    assert made.cost == pytest.approx(400 - 401 / 1.01)
    half = rebalance("equity", 1, 0.0, 400, 50, 0.0, full=0.5)
    assert half.amount == pytest.approx(200)
    with pytest.raises(ValueError, match="the account holds -3; a share of it needs more than"):
        rebalance("equity", 1, 0, -3, 50, 0)
    with pytest.raises(ValueError, match="the price is nan; it must be above zero"):
        rebalance("unit", 1, 0, 10, float("nan"), 0)


@given(
    st.sampled_from([-1.0, 0.0, 1.0]),
    st.floats(-3, 3),
    st.floats(50, 200),
    st.floats(50, 200),
)
def test_what_is_ordered_at_another_price_is_off_by_what_is_documented(
    position: float, units: float, decided: float, filled: float
) -> None:
    """Notional: ordered as units, or as money."""
    made = rebalance("notional", position, units, 1000, decided, 0, full=100)
    right = rebalance("notional", position, units, 1000, filled, 0, full=100)
    move = 1 - decided / filled
    as_units = units + made.order - right.units
    as_money = units + made.amount / filled - right.units
    assert as_units == pytest.approx(made.units * move, abs=1e-12)
    assert as_money == pytest.approx(units * move, abs=1e-12)


@given(st.sampled_from([-1.0, 1.0]), st.floats(50, 200), st.floats(50, 200))
def test_a_share_of_an_account_that_opens_is_exact_as_money(
    position: float, decided: float, filled: float
) -> None:
    """At a fee in proportion to the price, whatever the price has become."""
    made = rebalance("equity", position, 0.0, 1000, decided, 0.001 * decided)
    right = rebalance("equity", position, 0.0, 1000, filled, 0.001 * filled)
    assert made.amount / filled == pytest.approx(right.units, rel=1e-12)
    assert np.sign(right.units) == position
