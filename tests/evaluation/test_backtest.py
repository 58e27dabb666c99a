"""Backtest: accounts by hand, against the Gymnasium environment, and blind to the future."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from evaluation.backtest import backtest, follow, greedy_choice
from evaluation.baselines import buy_and_hold, flat
from evaluation.figures import equity_figure
from market.accounting import MarketSettings
from market.bars import Bars
from market.features import FeaturePipeline, FeatureSettings
from market.gym import MarketEnv
from market.synthetic import RandomWalk
from market.table import MarketTable
from tests.support.bars import bars_of


def table_of(bars: Bars, **market: object) -> MarketTable:
    settings = MarketSettings(**market)
    return MarketTable.of(bars, FeaturePipeline.fit(bars, FeatureSettings()), settings)


def test_account_by_hand() -> None:
    # The first bar is the features' warm-up; the table's closes are 100, 110, 99, 99, 108.9.
    close = np.array([90, 100, 110, 99, 99, 108.9])
    table = table_of(bars_of(close, close), half_spread=1.0)
    result = backtest(table, np.array([1, -1, -1, 0], np.int8))
    # +10 - 1; +11 - 2; 0; 0 - 1
    np.testing.assert_allclose(result.net, [9, 9, 0, -1])
    np.testing.assert_allclose(result.equity, [100, 109, 118, 118, 117])
    measures = result.measures
    assert measures["net_return"] == pytest.approx(0.17)
    assert measures["max_drawdown"] == pytest.approx(1 / 118)
    assert measures["position_changes"] == 0.75
    assert measures["turnover"] == 1.0
    assert measures["exposure"] == 0.75
    assert measures["cost"] == pytest.approx(0.04)
    returns = np.array([9 / 100, 9 / 109, 0, -1 / 118])
    minutes_per_year = 365.25 * 24 * 60
    year = minutes_per_year**0.5
    assert measures["sharpe"] == pytest.approx(returns.mean() / returns.std(ddof=1) * year)


def test_ruin_liquidates_and_ends_trading() -> None:
    close = np.array([90, 100, 150, 250, 10, 10])
    table = table_of(bars_of(close, close), fee_rate=0.01)
    result = backtest(table, np.array([-1, -1, 1, 1], np.int8))
    # Short from 100: -50 - 1, then -100: equity is below zero; closing at 250 costs 2.5; flat after.
    np.testing.assert_allclose(result.net, [-51, -102.5, 0, 0])
    np.testing.assert_array_equal(result.positions, [-1, -1, 0, 0])
    assert result.measures["net_return"] == pytest.approx(-1.535)
    assert result.measures["ruined"] == 1


def test_flat_earns_nothing_and_buy_and_hold_the_market(walk: Bars) -> None:
    table = table_of(walk, fee_rate=0.001)
    assert flat(table).measures["net_return"] == 0
    assert np.isnan(flat(table).measures["sharpe"])
    close = walk.table["close"].to_numpy()[1:]
    held = buy_and_hold(table).measures["net_return"]
    assert held == pytest.approx(close[-1] / close[0] - 1 - 0.001)


@pytest.mark.parametrize("scheme", ["target", "order"])
@pytest.mark.parametrize("fill", ["close", "next_open"])
def test_agrees_with_an_episode_of_the_environment(walk: Bars, scheme: str, fill: str) -> None:
    """One episode over all bars, the same greedy policy: the same rewards step by step."""
    steps = len(walk) - 2
    table = table_of(walk, scheme=scheme, fill=fill, fee_rate=0.0001, episode_bars=steps)
    weights = np.array([[-1, 0, 1], [0.3, 0, -0.3], [0, 0.5, 0]])

    def q_values(states: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray(states @ weights, np.float32)

    result = backtest(table, follow(greedy_choice(q_values, table)))
    env = MarketEnv(table)
    state, _ = env.reset(options={"bar": 0})
    for t in range(steps):
        state, reward, _, _, info = env.step(q_values(state[None]).argmax())
        assert reward == pytest.approx(result.net[t], abs=1e-9)
        assert info["position"] == result.positions[t]
    assert len(set(result.positions)) == 3


@given(st.integers(2, 196), st.floats(0.2, 5))
def test_positions_do_not_see_the_bars_after(t: int, factor: float) -> None:
    bars = RandomWalk().bars(200, seed=11)
    features = FeaturePipeline.fit(bars, FeatureSettings(names=("price_change", "log_price")))
    weights = np.random.default_rng(1).normal(size=(4, 3))
    open, close = (bars.table[name].to_numpy().copy() for name in ("open", "close"))
    open[t + 1 :] *= factor
    close[t + 1 :] *= factor
    runs = []
    for each in (bars, bars_of(open, close)):
        table = MarketTable.of(each, features, MarketSettings(fill="next_open", fee_rate=0.001))
        runs.append(
            backtest(
                table, follow(greedy_choice(lambda s: (s @ weights).astype(np.float32), table))
            )
        )
    # Row t of the bars is row t - 1 of the table, and its position is held until t + 1.
    np.testing.assert_array_equal(runs[0].positions[:t], runs[1].positions[:t])
    np.testing.assert_array_equal(runs[0].net[: t - 1], runs[1].net[: t - 1])


def test_a_q_value_that_is_not_finite_is_refused(walk: Bars) -> None:
    table = table_of(walk)
    with pytest.raises(FloatingPointError, match="a Q-value is not finite"):
        greedy_choice(lambda states: np.full((len(states), 3), np.nan, np.float32), table)


def test_figure_draws_every_curve(walk: Bars) -> None:
    table = table_of(walk)
    figure = equity_figure("title", {"agent": flat(table), "buy and hold": buy_and_hold(table)})
    above, below = figure.axes
    assert above.get_title(loc="left") == "title"
    legend = above.get_legend()
    assert legend is not None
    assert len(legend.get_texts()) == 2
    assert [label.get_text() for label in below.get_yticklabels()] == ["short", "flat", "long"]
