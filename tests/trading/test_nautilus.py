"""NautilusTrader's engine around the same desk: the same fills and equity, to rounding.

A venue charges its fee on the price that was paid, spread included; the contract on the price without it.
That difference is known, fee rate times width times units traded, and allowed for here and nowhere else.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evaluation.backtest import backtest, follow, greedy_choice
from market.accounting import Fill, MarketSettings, Scheme
from market.bars import Bars
from market.terms import Sizing
from tests.support.bars import bars_of
from tests.support.desks import OFF, bundle_for, desk_at, rows_of
from tests.support.parity import BARS, MARKETS, bars_named, lively
from trading.desk import Desk
from trading.journal import records
from trading.orders import Order
from trading.policy import PolicySettings
from trading.settings import BacktestSettings
from trading.sizing import DeskSettings
from trading.venues.nautilus import NautilusVenue, run
from trading.venues.quotes import Quote, digits_of, quotes_of

FREE = PolicySettings(max_feature=1e9)


def engine_settings(**changed: Any) -> BacktestSettings:
    return BacktestSettings(model="any", bars="any", engine="nautilus", **changed)


def run_engine(
    folder: Path, bars: Bars, desk: Desk, market: MarketSettings, settings: BacktestSettings
) -> list[dict[str, Any]]:
    rows = rows_of(bars)
    quotes = quotes_of(rows, market, round(settings.latency * 1e9))
    venue = desk.venue
    assert isinstance(venue, NautilusVenue)
    run(desk, venue, rows, quotes, settings, 1e6)
    return list(records(folder / "journal.jsonl"))


@pytest.mark.parametrize("name", MARKETS)
@pytest.mark.parametrize("fill", ["close", "next_open"])
@pytest.mark.parametrize("scheme", ["target", "order"])
def test_the_engine_agrees_with_the_backtest(
    tmp_path: Path, name: str, fill: Fill, scheme: Scheme
) -> None:
    """Without latency orders fill at the close; with less than a bar's, at the next open."""
    bars = bars_named(name)
    costs = MARKETS[name] | {"fill": fill, "scheme": scheme, "episode_bars": BARS - 2}
    market = MarketSettings.model_validate(costs)
    bundle, table = lively(bars, market)
    judged = backtest(table, follow(greedy_choice(bundle.q_values, table)))
    desk = desk_at(tmp_path, bundle, market, venue=NautilusVenue(market), policy=FREE)
    settings = engine_settings(latency=0.0 if fill == "close" else 0.25)
    told = run_engine(tmp_path, bars, desk, market, settings)
    decisions = [each for each in told if each["type"] == "decision"]
    np.testing.assert_array_equal([d["position"] for d in decisions][1:], judged.positions)
    trades = int((np.diff(judged.positions, prepend=0) != 0).sum())
    fills = [each for each in told if each["type"] == "fill"]
    assert len(fills) - trades in (0, 1)  # the last decision trades beyond the last step
    units = np.abs(np.diff(judged.positions, prepend=0))
    widths = market.slippage + (market.half_spread or (0.05 if name == "quotes" else 0.0))
    allowed = 10.0 ** -digits_of(rows_of(bars)) * trades + market.fee_rate * widths * units.sum()
    worth = np.array([each["equity"] for each in decisions])
    np.testing.assert_allclose(worth, judged.equity, rtol=1e-9, atol=allowed)
    if widths == 0:
        np.testing.assert_allclose(worth, judged.equity, rtol=1e-9, atol=1e-6)


@pytest.mark.parametrize("fill", ["close", "next_open"])
@pytest.mark.parametrize("sizing", ["notional", "equity"])
def test_the_engine_agrees_under_every_sizing(tmp_path: Path, fill: Fill, sizing: Sizing) -> None:
    """Without latency to its six decimals of a unit.

    Ordered in units at the close and filled at the next open, a position is off by the move between them.
    """
    bars = bars_named("synthetic:ou?theta=0.05&sigma=0.01&seed=3&bars=300")
    market = MarketSettings(fee_rate=0.001, fill=fill, sizing=sizing)
    bundle, table = lively(bars, market)
    judged = backtest(table, follow(greedy_choice(bundle.q_values, table)))
    desk = desk_at(tmp_path, bundle, market, venue=NautilusVenue(market), policy=FREE)
    settings = engine_settings(latency=0.0 if fill == "close" else 0.25)
    told = run_engine(tmp_path, bars, desk, market, settings)
    decisions = [each for each in told if each["type"] == "decision"]
    np.testing.assert_array_equal([d["exposure"] for d in decisions][1:], judged.positions)
    worth = np.array([each["equity"] for each in decisions])
    assert len([each for each in told if each["type"] == "fill"]) > 50
    np.testing.assert_allclose(worth / worth[0], judged.equity, rtol=2e-5)


def test_depth_is_walked_and_the_rest_canceled(tmp_path: Path) -> None:
    """Three units against one at 101 and one at 102: filled in two parts, the third ends unfilled."""
    bars = bars_of(np.full(5, 100.0), np.array([100.0, 100.5, 100.0, 100.5, 100.0]))
    market = MarketSettings(fee_rate=0.01)
    desk = desk_at(
        tmp_path,
        bundle_for(bars),
        market,
        venue=NautilusVenue(market),
        q_values=lambda _: np.array([0, 0, 1], np.float32),
        settings=DeskSettings(quantity=3.0),
        limits=OFF,
    )
    rows = rows_of(bars)
    quotes = [
        Quote(row["time"] - 1, [(99.0, 5.0)], [(101.0, 1.0), (102.0, 1.0)]) for row in rows[:2]
    ]
    assert isinstance(desk.venue, NautilusVenue)
    run(desk, desk.venue, rows[:3], quotes, engine_settings(), 1e6)
    told = list(records(tmp_path / "journal.jsonl"))
    fills = [(r["size"], r["price"], r["cost"]) for r in told if r["type"] == "fill"]
    assert fills[:2] == [(1.0, 101.0, 1.01), (1.0, 102.0, 1.02)]


def test_what_fails_inside_the_engine_comes_out(tmp_path: Path) -> None:
    """The engine swallows exceptions; ours must end the run."""
    bars = bars_named("quotes")
    market = MarketSettings()
    desk = desk_at(tmp_path, bundle_for(bars), market, venue=NautilusVenue(market), policy=FREE)
    assert isinstance(desk.venue, NautilusVenue)

    def fail(order: Order) -> None:
        raise RuntimeError("no line to the exchange")

    desk.venue.submit = fail  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="no line to the exchange"):
        run_engine(tmp_path, bars, desk, market, engine_settings())


def test_an_order_past_the_margin_is_rejected(tmp_path: Path) -> None:
    bars = bars_named("quotes")
    market = MarketSettings()
    limits = OFF.model_copy(update={"max_rejects": 3})
    always = bundle_for(bars)
    desk = desk_at(
        tmp_path,
        always,
        market,
        limits,
        NautilusVenue(market),
        lambda _: np.array([0, 0, 1], np.float32),
    )
    rows = rows_of(bars)
    assert isinstance(desk.venue, NautilusVenue)
    settings = engine_settings(margin=0.5, leverage=1.0)
    run(desk, desk.venue, rows, quotes_of(rows, market, 0), settings, 10.0)
    told = list(records(tmp_path / "journal.jsonl"))
    assert [r["status"] for r in told if r["type"] == "order"].count("rejected") == 3
    assert (desk.account.state, desk.account.reason) == ("HALTED", "3 orders rejected in a row")
