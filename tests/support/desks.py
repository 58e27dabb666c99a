"""Desks for tests: a bundle without training, a desk around it, and what it did."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from market.accounting import MarketSettings
from market.bars import Bars
from market.features import FeaturePipeline, FeatureSettings
from models.bundle import Bundle
from models.manifest import Golden, Manifest, Network, Origin
from tests.support.lines import replay
from trading.account import Account
from trading.desk import Context, Decider, Desk, Rules
from trading.execution import ExecutionSettings
from trading.journal import Journal, records
from trading.latch import Latch
from trading.ledger import Ledger
from trading.orders import Venue
from trading.policy import PolicySettings, SafePolicy
from trading.risk import Limits
from trading.sizing import DeskSettings
from trading.venues.simulated import SimulatedVenue

OFF = Limits(
    max_order_quantity=None,
    max_order_notional=None,
    max_position=None,
    max_notional=None,
    max_orders_per_minute=None,
    price_collar=None,
    min_volatility=None,
    max_volatility=None,
    stale_seconds=None,
    clock_skew=None,
    max_daily_loss=None,
    max_drawdown=None,
    max_rejects=None,
    max_faults=None,
)
INSTRUMENT = "TEST"


def bundle_for(
    bars: Bars,
    names: tuple[str, ...] = ("price_change",),
    scheme: str = "target",
    hidden: list[int] | None = None,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
) -> Bundle:
    """A two-layer (or linear) network with random weights that trades now and then."""
    pipeline = FeaturePipeline.fit(bars, FeatureSettings(names=names))
    rng = np.random.default_rng(seed)
    hidden = [8, 8] if hidden is None else hidden
    network = Network(
        kind="two_layer" if hidden else "linear", state_size=len(names) + 2, hidden=hidden
    )
    weights = {
        name: rng.normal(0, 1 / np.sqrt(shape[0]), shape).astype(np.float32)
        for name, shape in network.shapes().items()
    }
    origin = Origin(
        name="qdesk-test",
        run_id="0" * 32,
        step=1,
        seed=seed,
        scheme=scheme,  # type: ignore[arg-type]
        features=pipeline.schema,
        settings=dict(settings or {}),
        data_hash="made",
        code_version="test",
    )
    states = rng.normal(0, 1, (16, len(names) + 2)).astype(np.float32)
    empty = Golden(states=states.tolist(), q_values=np.zeros((16, 3)).tolist())
    unproven = Bundle(Manifest(network=network, origin=origin, golden=empty), weights)
    golden = Golden(states=states.tolist(), q_values=unproven.q_values(states).tolist())
    return Bundle(Manifest(network=network, origin=origin, golden=golden), weights, "0" * 64)


def rows_of(bars: Bars) -> list[dict[str, Any]]:
    """Bars as a desk takes them."""
    table = bars.table.with_columns(time=pl.col("time").dt.epoch("us") * 1000)
    return table.to_dicts()


def desk_at(
    folder: Path,
    bundle: Bundle,
    market: MarketSettings | None = None,
    limits: Limits = OFF,
    venue: Venue | None = None,
    q_values: Callable[[NDArray[np.float32]], NDArray[np.float32]] | None = None,
    policy: PolicySettings | None = None,
    settings: DeskSettings | None = None,
    execution: ExecutionSettings | None = None,
    clock: Callable[[], int] | None = None,
    journal: Journal | None = None,
    interval: float | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Desk:
    """A desk in a folder, gone on from what its journal holds."""
    path = folder / "journal.jsonl"
    told = list(records(path)) if path.exists() else []
    journal = journal or Journal(path)
    account = Account(limits.volatility_bars, limits.fault_memory)
    replay(account, told)
    market = market or MarketSettings()
    venue = venue or SimulatedVenue(market, account)
    safe = SafePolicy(bundle, policy, None, account.decisions, q_values)
    features = safe.pipeline.stream()
    for record in told:
        if record["type"] == "bar" and "refused" not in record:
            features.update({**record, "time": record["closed"] // 1000})
    ledger = Ledger(journal, account, INSTRUMENT)
    desk = Desk(
        Decider(safe, features, bundle.manifest.origin.scheme),
        venue,
        ledger,
        Latch(folder),
        Rules(limits, settings or DeskSettings(), execution or ExecutionSettings(), market),
        Context(clock, interval, say),
    )
    desk.start(account.time)
    return desk


def run(desk: Desk, bars: list[dict[str, Any]]) -> tuple[list[float], list[float]]:
    """Positions after each bar's decision, and equity at each bar before it."""
    positions, equity = [], []
    venue: Any = desk.venue
    for bar in bars:
        venue.on_bar(bar)
        desk.on_bar(bar)
        positions.append(desk.account.position)
        told = desk.account
        equity.append(told.equity)
    return positions, equity
