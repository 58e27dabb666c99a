"""One policy, one market, four ways through it: training's simulator, Gymnasium, backtest, and a desk.

NautilusTrader is the fifth, in tests/trading/test_nautilus.py.
"""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import tensorflow as tf
from numpy.typing import NDArray

from evaluation.backtest import backtest, follow, greedy_choice
from market.accounting import Fill, MarketSettings, Scheme, advanced
from market.bars import Bars
from market.events.journal import convert_journal
from market.features import FeaturePipeline
from market.gym import MarketEnv
from market.simulator import Simulator
from market.table import MarketTable
from market.terms import Sizing
from models.bundle import Bundle
from tests.support.bars import bars_of
from tests.support.desks import bundle_for, desk_at, rows_of, run
from tests.support.parity import BARS, MARKETS, bars_named, lively
from trading.journal import records
from trading.policy import PolicySettings
from trading.records import Session
from trading.sizing import DeskSettings


def of_environment(table: MarketTable, bundle: Bundle) -> tuple[list[int], list[float]]:
    env = MarketEnv(table)
    state, _ = env.reset(options={"bar": 0})
    positions, equity = [], [env.equity]
    for _ in range(len(table) - 1):
        action = np.int64(bundle.q_values(state[np.newaxis])[0].argmax())
        state, _, ruined, _, info = env.step(action)
        positions.append(info["position"])
        equity.append(info["equity"])
        if ruined:
            break
    return positions, equity


def of_simulator(table: MarketTable, bundle: Bundle) -> tuple[list[int], list[float]]:
    simulator = Simulator(table, 1, [1], 1.0)
    step = tf.function(simulator.step)
    positions, equity = [], [float(table.terms.price[0])]
    for _ in range(len(table) - 1):
        state = simulator.observe().numpy()[0]
        action = bundle.q_values(state).argmax(axis=1).astype(np.int32)
        code, reward = step(tf.constant(action[None]), tf.zeros((1, 1), tf.uint32))
        recalled = simulator.unpack(code)
        positions.append(int(recalled.held.numpy()[0, 0]))
        equity.append(float(advanced(table.terms, equity[-1], float(reward.numpy()[0, 0]))))
    return positions, equity


def of_desk(
    folder: Path, bars: Bars, bundle: Bundle, settings: MarketSettings
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    desk = desk_at(folder, bundle, settings, policy=PolicySettings(max_feature=1e9))
    run(desk, rows_of(bars))
    decisions = [each for each in records(folder / "journal.jsonl") if each["type"] == "decision"]
    assert [each["fault"] for each in decisions if "fault" in each] == []
    positions = np.array([each["position"] for each in decisions])
    return positions[1:], np.array([each["equity"] for each in decisions])


@pytest.mark.parametrize("name", MARKETS)
@pytest.mark.parametrize("fill", ["close", "next_open"])
@pytest.mark.parametrize("scheme", ["target", "order"])
def test_four_ways_agree(tmp_path: Path, name: str, fill: Fill, scheme: Scheme) -> None:
    bars = bars_named(name)
    costs = MARKETS[name] | {"fill": fill, "scheme": scheme, "episode_bars": BARS - 2}
    settings = MarketSettings.model_validate(costs)
    bundle, table = lively(bars, settings)
    judged = backtest(table, follow(greedy_choice(bundle.q_values, table)))
    assert not judged.ruined

    positions, equity = of_environment(table, bundle)
    np.testing.assert_array_equal(positions, judged.positions)
    np.testing.assert_allclose(equity, judged.equity, rtol=1e-12)
    positions, equity = of_simulator(table, bundle)
    np.testing.assert_array_equal(positions, judged.positions)
    np.testing.assert_allclose(equity, judged.equity, rtol=1e-5)  # rewards are float32 there
    held, worth = of_desk(tmp_path, bars, bundle, settings)
    np.testing.assert_array_equal(held, judged.positions)
    np.testing.assert_allclose(worth, judged.equity, rtol=1e-12)


@pytest.mark.parametrize("name", MARKETS)
@pytest.mark.parametrize("fill", ["close", "next_open"])
@pytest.mark.parametrize("sizing", ["notional", "equity"])
def test_three_ways_agree_under_every_sizing(name: str, fill: Fill, sizing: Sizing) -> None:
    """Simulator, environment and backtest."""
    bars = bars_named(name)
    costs = MARKETS[name] | {"fill": fill, "sizing": sizing, "episode_bars": BARS - 2}
    bundle, table = lively(bars, MarketSettings.model_validate(costs))
    judged = backtest(table, follow(greedy_choice(bundle.q_values, table)))
    assert not judged.ruined
    positions, equity = of_environment(table, bundle)
    np.testing.assert_array_equal(positions, judged.positions)
    np.testing.assert_allclose(equity, judged.equity, rtol=1e-12)
    positions, equity = of_simulator(table, bundle)
    np.testing.assert_array_equal(positions, judged.positions)
    np.testing.assert_allclose(equity, judged.equity, rtol=1e-5)  # rewards are float32 there


@pytest.mark.parametrize("fill", ["close", "next_open"])
def test_ruin_ends_alike(tmp_path: Path, fill: Fill) -> None:
    """Short in a market that rises for ever: the account is closed in the same bar, at the same price."""
    close = 100 * np.exp(np.cumsum(np.tile([0.02, 0.01, 0.03], 40)))
    bars = bars_of(np.append(close[:1], close[:-1]), close)
    settings = MarketSettings(fill=fill, fee_rate=0.001, half_spread=0.1, equity_floor=0.1)
    bundle = bundle_for(bars)
    pipeline = FeaturePipeline.from_schema(bundle.manifest.origin.features)
    table = MarketTable.of(bars, pipeline, settings)
    judged = backtest(table, np.full(len(table) - 1, -1, np.int8))
    assert judged.ruined_at is not None
    desk = desk_at(tmp_path, bundle, settings, q_values=lambda _: np.array([1.0, 0, 0], np.float32))
    run(desk, rows_of(bars))
    told = list(records(tmp_path / "journal.jsonl"))
    worth = [each["equity"] for each in told if each["type"] == "decision"]
    np.testing.assert_allclose(worth, judged.equity, rtol=1e-12)
    assert desk.account.position == 0
    assert (desk.account.state, desk.account.reason) == (
        "HALTED",
        "the venue closed the position and the account",
    )


@pytest.mark.parametrize("fill", ["close", "next_open"])
def test_a_restart_changes_nothing_but_the_order_under_way(tmp_path: Path, fill: Fill) -> None:
    """The floor stays that of the first funding, and a closed account stays closed."""
    close = 100 * np.exp(np.cumsum(np.tile([0.02, 0.01, 0.03], 40)))
    bars = bars_of(np.append(close[:1], close[:-1]), close)
    settings = MarketSettings(fill=fill, fee_rate=0.001, half_spread=0.1, equity_floor=0.1)
    bundle, rows = bundle_for(bars), rows_of(bars)

    def short(_: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.array([1.0, 0, 0], np.float32)

    whole = desk_at(tmp_path / "whole", bundle, settings, q_values=short)
    run(whole, rows)
    for first in range(0, len(rows), 25):
        desk = desk_at(tmp_path / "parts", bundle, settings, q_values=short)
        run(desk, rows[first : first + 25])
        desk.ledger.journal.close()
    assert desk.account.liquidated
    assert desk.account.equity == pytest.approx(whole.account.equity)
    assert desk.account.state == "HALTED"
    assert desk.account.bars == whole.account.bars == len(rows)


@pytest.mark.parametrize("name", MARKETS)
@pytest.mark.parametrize("fill", ["close", "next_open"])
@pytest.mark.parametrize("scheme", ["target", "order"])
@pytest.mark.parametrize("sizing", ["notional", "equity"])
def test_a_desk_holds_what_the_backtest_holds_under_every_sizing(
    tmp_path: Path, name: str, fill: Fill, scheme: Scheme, sizing: Sizing
) -> None:
    """Orders are sized at the price of their fill: equity agrees to rounding, both fills.

    But for bars that close at the very price of the fill before: there a desk sees nothing to send, while
    the backtest sets the size anew at the next open.
    """
    bars = bars_named(name)
    costs = MARKETS[name] | {"fill": fill, "scheme": scheme, "sizing": sizing}
    settings = MarketSettings.model_validate(costs)
    bundle, table = lively(bars, settings)
    judged = backtest(table, follow(greedy_choice(bundle.q_values, table)))
    assert not judged.ruined
    desk = desk_at(tmp_path, bundle, settings, policy=PolicySettings(max_feature=1e9))
    known: dict[str, Any] = {
        "scheme": scheme,
        "costs": settings.model_dump(mode="json"),
        "quantity": 1.0,
    }
    desk.ledger.record(Session(time=0, gamma=0.9, **known))
    run(desk, rows_of(bars))
    told = list(records(tmp_path / "journal.jsonl"))
    decisions = [each for each in told if each["type"] == "decision"]
    assert [each["fault"] for each in decisions if "fault" in each] == []
    held = np.array([each["exposure"] for each in decisions])[1:]
    np.testing.assert_array_equal(held, judged.positions)
    worth = np.array([each["equity"] for each in decisions])
    unseen = fill == "next_open" and (np.diff(table.close) == 0).any()
    unseen |= fill == "next_open" and np.isin(table.close[1:-1], table.fill_price[:-1]).any()
    close_to = 2e-6 if unseen else 1e-11
    np.testing.assert_allclose(worth / worth[0], judged.equity, rtol=close_to)
    orders = [each for each in told if each.get("status") == "sent"]
    assert len(orders) > (np.diff(judged.positions) != 0).sum()  # the drift of the price is traded
    seen = convert_journal(tmp_path / "journal.jsonl", tmp_path / "seen.parquet")
    whole = seen.filter(pl.col("reward").is_not_null())
    net = judged.net if sizing == "notional" else np.diff(np.log(judged.equity))
    np.testing.assert_allclose(whole["reward"].to_numpy(), net, atol=close_to)
    np.testing.assert_array_equal(np.array([s[-2] for s in whole["next_state"]]), judged.positions)


@pytest.mark.parametrize("sizing", ["notional", "equity"])
def test_a_desk_with_a_band_holds_what_the_backtest_with_it_holds(
    tmp_path: Path, sizing: Sizing
) -> None:
    bars = bars_named("btcusd_30m")
    settings = MarketSettings(sizing=sizing, fee_rate=0.001)
    bundle, table = lively(bars, settings)
    positions = follow(greedy_choice(bundle.q_values, table))
    judged = backtest(table, positions, band=0.02)
    wide = DeskSettings(band=0.02)
    loose = PolicySettings(max_feature=1e9)
    desk = desk_at(tmp_path, bundle, settings, policy=loose, settings=wide)
    run(desk, rows_of(bars))
    told = list(records(tmp_path / "journal.jsonl"))
    worth = np.array([each["equity"] for each in told if each["type"] == "decision"])
    np.testing.assert_allclose(worth / worth[0], judged.equity, rtol=1e-11)
    every = backtest(table, positions)
    assert judged.costs.sum() < every.costs.sum()


@pytest.mark.parametrize("sizing", ["notional", "equity"])
def test_a_sized_desk_goes_on_after_a_restart(tmp_path: Path, sizing: Sizing) -> None:
    bars = bars_named("btcusd_30m")
    settings = MarketSettings(sizing=sizing, fee_rate=0.001)
    bundle, _ = lively(bars, settings)
    loose = PolicySettings(max_feature=1e9)
    whole = desk_at(tmp_path / "whole", bundle, settings, policy=loose)
    run(whole, rows_of(bars))
    for first in range(0, len(bars), 60):
        desk = desk_at(tmp_path / "parts", bundle, settings, policy=loose)
        run(desk, rows_of(bars)[first : first + 60])
        desk.ledger.journal.close()
    assert desk.account.equity == pytest.approx(whole.account.equity, rel=1e-12)
    assert desk.account.exposure == whole.account.exposure
