"""How fast a desk is: a decision, a decision behind the risk engine, whole bars at two venues, start-up.

python -m benchmarks.trading          # prints the table
python -m benchmarks.trading --save   # and writes docs/trading.md
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import record
from evaluation.backtest import follow, greedy_choice
from market.accounting import MarketSettings
from market.bars import Bars
from market.features import FeaturePipeline
from market.source import bars_from
from market.table import MarketTable
from models.bundle import Bundle
from models.last_good import _Cache
from models.manifest import Golden, Manifest, Network, Origin
from trading.desk import Context
from trading.feed import Row, recorded
from trading.journal import TOGETHER
from trading.orders import Order
from trading.paper import settle_memory
from trading.policy import SafePolicy
from trading.risk import breach, denial
from trading.settings import BacktestSettings, load
from trading.startup import Model, open_desk
from trading.venues.nautilus import NautilusVenue, run
from trading.venues.quotes import quotes_of
from trading.venues.simulated import SimulatedVenue

ROUNDS = 7
STARTS = 5
LIMITS = ("--trade.cash", "1000000", "--limits.max-volatility", "1")
NAME = "qdesk-measured"


def untrained(bars: Bars, shares: tuple[float, float] = (0.03, 0.07)) -> Bundle:
    """Two layers of 64 units: the first random weights that trade on such a share of the bars."""
    pipeline = FeaturePipeline.fit(bars)
    table_ = MarketTable.of(bars, pipeline, MarketSettings())
    network = Network(kind="two_layer", state_size=3, hidden=[64, 64])
    for seed in range(1000):
        rng = np.random.default_rng(seed)
        weights = {
            name: rng.normal(0, 1 / np.sqrt(shape[0]), shape).astype(np.float32)
            for name, shape in network.shapes().items()
        }
        origin = Origin(
            name=NAME,
            run_id="",
            step=0,
            seed=seed,
            scheme="target",
            features=pipeline.schema,
            settings={},
            data_hash=bars.content_hash,
            code_version="",
        )
        states = rng.normal(0, 1, (8, 3)).astype(np.float32)
        zeros = Golden(states=states.tolist(), q_values=np.zeros((8, 3)).tolist())
        bundle = Bundle(Manifest(network=network, origin=origin, golden=zeros), weights)
        changes = np.diff(follow(greedy_choice(bundle.q_values, table_))) != 0
        if shares[0] < changes.mean() < shares[1]:
            golden = Golden(states=states.tolist(), q_values=bundle.q_values(states).tolist())
            return Bundle(Manifest(network=network, origin=origin, golden=golden), weights)
    raise AssertionError("no network trades as often")


def decisions(bundle: Bundle, rows: list[Row]) -> dict[str, list[float]]:
    """Microseconds of each decision alone, and with what the risk engine asks of it."""
    settings = load(BacktestSettings, "backtest", [".", "--bars", ".", *LIMITS])
    market = MarketSettings(fee_rate=0.0001)
    policy = SafePolicy(bundle)
    stream = policy.pipeline.stream()
    features = [stream.take(row["time"] // 1000, row) for row in rows]
    alone = []
    guarded = []
    with tempfile.TemporaryDirectory() as folder:
        model = Model(bundle, NAME, "1", "measured", [])
        desk = open_desk(
            settings, model, Path(folder), "X", lambda _: SimulatedVenue(market), Context()
        )
        for row in rows[:100]:
            desk.on_bar(row)
        account = desk.account
        limits = settings.limits
        now = account.time
        settle_memory()
        for number, seen in enumerate(features[1:]):
            assert seen is not None
            position = number % 3 - 1
            began = time.perf_counter_ns()
            decision = policy.decide(seen, position)
            decided = time.perf_counter_ns()
            breach(account, limits)
            side, size = ("buy", 1.0) if decision.action >= 0 else ("sell", 1.0)
            order = Order(f"measured-{number}", side, size, False, account.price, now)  # type: ignore[arg-type]
            denial(order, account, limits, now)
            ended = time.perf_counter_ns()
            alone.append((decided - began) / 1000)
            guarded.append((ended - began) / 1000)
        desk.ledger.journal.close()
    return {"decision": alone, "with the risk engine": guarded}


def bars_per_second(bundle: Bundle, rows: list[Row]) -> dict[str, list[float]]:
    """Whole bars, from features to the journal on disk, at both venues in turns."""
    settings = load(BacktestSettings, "backtest", [".", "--bars", ".", *LIMITS])
    market = MarketSettings(fee_rate=0.0001)
    model = Model(bundle, NAME, "1", "measured", [])
    quotes = quotes_of(rows, market, 0)
    speeds: dict[str, list[float]] = {"SimulatedVenue": [], "NautilusTrader": []}
    orders = set()
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory() as folder:
            desk = open_desk(
                settings,
                model,
                Path(folder) / "a",
                "X",
                lambda _: SimulatedVenue(market),
                Context(),
                together=TOGETHER,
            )
            venue = desk.venue
            assert isinstance(venue, SimulatedVenue)
            settle_memory()
            began = time.perf_counter()
            for row in rows:
                venue.on_bar(row)
                desk.on_bar(row)
            speeds["SimulatedVenue"].append(len(rows) / (time.perf_counter() - began))
            orders.add(desk.account.orders)
            assert desk.account.state == "ACTIVE", desk.account.reason
            engine = NautilusVenue(market)
            desk = open_desk(
                settings,
                model,
                Path(folder) / "b",
                "X",
                lambda _, v=engine: v,  # type: ignore[misc]
                Context(),
                together=TOGETHER,
            )
            settle_memory()
            seconds = run(desk, engine, rows, quotes, settings, 1e6)
            speeds["NautilusTrader"].append(len(rows) / seconds)
            orders.add(desk.account.orders)
            assert desk.account.state == "ACTIVE", desk.account.reason
    assert len(orders) == 1, orders
    speeds["orders"] = [float(orders.pop())]
    return speeds


def start_up(bundle: Bundle) -> list[float]:
    """Seconds of `qdesk paper` from the cached bundle, MLflow being gone, for a market of 100 bars."""
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "made"
        mlruns = Path(folder) / "mlruns"
        made.mkdir()
        sha256 = bundle.save_into(made)
        _Cache(mlruns / "last_good" / NAME).keep(made, "1", sha256, "2026-01-01T00:00:00Z")
        qdesk = str(Path(sys.executable).with_name("qdesk"))
        command = [
            qdesk,
            "paper",
            NAME,
            "--bars",
            "synthetic:walk?bars=100",
            "--mlruns",
            str(mlruns),
        ]
        for number in range(STARTS + 1):
            desk = str(Path(folder) / f"desk{number}")
            began = time.perf_counter()
            subprocess.run([*command, "--desk", desk], check=True, stdout=subprocess.DEVNULL)
            seconds.append(time.perf_counter() - began)
    return seconds[1:]  # the first one found the files cold


def table(result: dict[str, Any]) -> str:
    """The figures in Markdown."""
    lines = ["| | median | 99.9% | range |", "|---|---|---|---|"]
    for name, times in result["decisions"].items():
        lines.append(
            f"| {name}, µs | {times['median']:.1f} | {times['p999']:.0f} | {times['least']:.1f} to "
            f"{times['most']:.0f} |"
        )
    for name in ("SimulatedVenue", "NautilusTrader"):
        speeds = result["bars"][name]
        lines.append(
            f"| whole bars at {name}, bars/s | {statistics.median(speeds):,.0f} | | "
            f"{min(speeds):,.0f} to {max(speeds):,.0f} |"
        )
    starts = result["start_up"]
    lines.append(
        f"| start of `qdesk paper` to its end, 100 bars, s | {statistics.median(starts):.2f} | | "
        f"{min(starts):.2f} to {max(starts):.2f} |"
    )
    lines.append(
        f"\nTwo layers of 64 units, one feature, {result['rows']:,} bars, "
        f"{result['bars']['orders'][0]:,.0f} orders, {ROUNDS} rounds, {result['cpu']}, one core, "
        f"{result['time'][:10]}."
    )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures how fast a desk is.")
    parser.add_argument("--save", action="store_true", help="write the JSON and the table")
    options = parser.parse_args()
    load_before = os.getloadavg()[0]
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    bars = bars_from("btcusd_30m")
    bundle = untrained(bars)
    rows = recorded(bars)
    times = {}
    for name, each in decisions(bundle, rows).items():
        values = np.array(each[1000:])
        times[name] = {
            "median": float(np.median(values)),
            "p999": float(np.quantile(values, 0.999)),
            "least": float(values.min()),
            "most": float(values.max()),
        }
    result = {
        **record.machine(load_before),
        "rows": len(rows),
        "decisions": times,
        "bars": bars_per_second(bundle, rows),
        "start_up": start_up(bundle),
    }
    print(table(result))
    if options.save:
        record.save("trading", result, table(result), record.TRADING)


if __name__ == "__main__":
    main()
