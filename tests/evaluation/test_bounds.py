"""Settings that money hangs on: what they are by default, and where they end."""

from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from evaluation.gate import Policy
from market.accounting import EPISODE_BARS, MarketSettings
from trading.account import Account
from trading.execution import MOST_PARTS, ExecutionSettings
from trading.risk import Limits, most_notional

# Model, field, the last value that is taken, the first that is not.
BOUNDS: list[tuple[type[BaseModel], str, float, float]] = [
    *((MarketSettings, name, 0.0, -1e-9) for name in ("fee_rate", "half_spread", "slippage")),
    *((MarketSettings, name, 0.0, -1e-9) for name in ("borrow_rate", "equity_floor")),
    *((MarketSettings, name, 0.999, 1.0) for name in ("fee_rate", "borrow_rate", "equity_floor")),
    *(
        (MarketSettings, f"{name}_penalty", 0.0, -1e-9)
        for name in ("drawdown", "inventory", "turnover")
    ),
    (MarketSettings, "risk_aversion", 0.0, -1e-9),
    (MarketSettings, "episode_bars", 1, 0),
    *((Policy, name, 0.0, -1e-9) for name in ("deflated_sharpe", "cost")),
    (Policy, "deflated_sharpe", 1.0, 1.000001),
    (Policy, "max_drawdown", 1e-9, 0.0),
    (Policy, "trades", 0, -1),
    (Policy, "seeds", 1, 0),
    (Policy, "late", 0, -1),
    (Policy, "late", 1, 2),
    *(
        (Limits, name, 1e-9, 0.0)
        for name in (
            *("max_order_quantity", "max_order_notional", "max_position", "max_notional"),
            *("price_collar", "max_volatility", "stale_seconds", "clock_skew"),
            *("max_daily_loss", "max_drawdown"),
        )
    ),
    *((Limits, name, 0.0, -1e-9) for name in ("min_volatility", "position_tolerance")),
    *(
        (Limits, name, 1, 0)
        for name in (
            *("max_orders_per_minute", "max_rejects", "max_faults"),
            *("volatility_bars", "fault_memory"),
        )
    ),
    (Limits, "collar_bars", 2, 1),
    (ExecutionSettings, "order_timeout", 1e-9, 0.0),
]


@pytest.mark.parametrize("model, name, last, first", BOUNDS)
def test_a_setting_ends_where_it_says(
    model: type[BaseModel], name: str, last: float, first: float
) -> None:
    assert getattr(model.model_validate({name: last}), name) == last
    with pytest.raises(ValidationError, match=name):
        model.model_validate({name: first})


@pytest.mark.parametrize("model", [MarketSettings, Policy, Limits, ExecutionSettings])
def test_settings_are_frozen_closed_and_finite(model: type[BaseModel]) -> None:
    name = next(name for name, field in model.model_fields.items() if field.annotation is float)
    with pytest.raises(ValidationError, match="frozen"):
        setattr(model(), name, 0.5)
    with pytest.raises(ValidationError, match="Extra inputs"):
        model.model_validate({"no_such_setting": 1})
    for value in (float("nan"), float("inf")):
        with pytest.raises(ValidationError, match="finite"):
            model.model_validate({name: value})


def test_a_market_costs_nothing_and_lasts_as_long_as_its_data_unless_told() -> None:
    expected: dict[str, Any] = {
        "scheme": "target",
        "fill": "close",
        "half_spread": None,
        "episode_bars": None,
        "equity_floor": 0.0,
        "sizing": "unit",
    }
    costs = ("fee_rate", "slippage", "borrow_rate", "risk_aversion")
    expected |= dict.fromkeys(costs, 0.0)
    expected |= {f"{name}_penalty": 0.0 for name in ("drawdown", "inventory", "turnover")}
    assert EPISODE_BARS == 1000  # what every run before an open default was trained with
    found = MarketSettings().model_dump()
    assert {name: found[name] for name in expected} == expected


def test_limits_and_policy_unless_told() -> None:
    limits = Limits().resolved(2.5, 60.0)
    assert (limits.max_position, limits.max_order_quantity) == (2.5, 5.0)
    assert (limits.max_orders_per_minute, limits.stale_seconds) == (30, 180.0)
    assert (limits.min_volatility, limits.max_volatility, limits.volatility_bars) == (0.0, 0.05, 20)
    assert (limits.clock_skew, limits.collar_bars) == (5.0, 3)
    daily = Limits().resolved(2.5, 86_400.0)
    assert daily.max_volatility == pytest.approx(0.05 * 24**0.5)
    resized = Limits().resolved(None, 1.0)
    assert (resized.max_position, resized.max_order_quantity) == (None, None)
    assert resized.max_orders_per_minute == 90
    account = Account(funded=70.0)
    assert most_notional(limits.max_notional, account) == 700
    assert most_notional(limits.max_order_notional, account, orders=2) == 1400
    assert most_notional("auto", Account()) is None
    assert most_notional(12.0, account, orders=2) == 12
    assert (limits.max_daily_loss, limits.max_drawdown, limits.max_rejects) == (0.1, 0.25, 3)
    assert (limits.max_faults, limits.fault_memory, limits.position_tolerance) == (3, 20, 1e-6)
    policy = Policy()
    assert (policy.confidence, policy.sharpe_difference, policy.deflated_sharpe) == (0.95, 0, 0.95)
    assert (policy.cost_multiple, policy.late, policy.cost) == (2.0, 1, 0.0001)
    assert (policy.max_drawdown, policy.trades, policy.seeds) == (0.35, 30, 5)
    assert (ExecutionSettings().order_timeout, MOST_PARTS) == (60.0, 10_000)
