"""What latency, spread and depth take from the same policy: the contract's fills beside NautilusTrader's.

python -m benchmarks.simulation          # prints the tables
python -m benchmarks.simulation --save   # and writes docs/simulation.md
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import record
from benchmarks.trading import LIMITS, untrained
from tests.support.synthetic_events import write_event_log
from trading.feed import Rejections, logged
from trading.journal import records
from trading.paper import backtest
from trading.settings import BacktestSettings, load

EVENTS = 200_000
WAYS: dict[str, list[str]] = {
    "contract, fill at the close": ["--costs.fill", "close"],
    "contract, fill at the next open": ["--costs.fill", "next_open"],
    "NautilusTrader, no latency": ["--engine", "nautilus"],
    "NautilusTrader, latency 250 ms": ["--engine", "nautilus", "--latency", "250ms"],
    "NautilusTrader, latency 31 min, past a whole bar": [
        "--engine",
        "nautilus",
        "--latency",
        "1860s",
    ],
    "contract, at the close, half spread 1": ["--costs.fill", "close", "--costs.half-spread", "1"],
    "NautilusTrader, no latency, half spread 1": [
        "--engine",
        "nautilus",
        "--costs.half-spread",
        "1",
    ],
    "contract, at the close, half spread 5": ["--costs.fill", "close", "--costs.half-spread", "5"],
    "NautilusTrader, no latency, half spread 5": [
        "--engine",
        "nautilus",
        "--costs.half-spread",
        "5",
    ],
}
FREE = [*LIMITS, "--execution.order-timeout", "100000", "--limits.max-faults", "none"]
QUANTITIES = (0.1, 1.0, 3.0, 10.0)


def of_bars(folder: Path) -> list[dict[str, Any]]:
    """The two-layer network, as `qdesk train` makes it, over the BTC sample it was partly trained on."""
    qdesk = str(Path(sys.executable).with_name("qdesk"))
    train = [qdesk, "train", "--preset", "two_layer", "--mlruns", str(folder)]
    subprocess.run(train, check=True, stdout=subprocess.DEVNULL)
    found = []
    for number, (way, arguments) in enumerate(WAYS.items()):
        model = ["qdesk-two-layer@candidate", "--bars", "btcusd_30m", "--mlruns", str(folder)]
        desk = ["--desk", str(folder / f"desk{number}")]
        settings = load(BacktestSettings, "backtest", [*model, *arguments, *desk, *FREE])
        told = backtest(settings, print)
        fills = [each for each in records(told.journal) if each["type"] == "fill"]
        first = next(each["close"] for each in records(told.journal) if each["type"] == "bar")
        found.append(
            {
                "way": way,
                "net": (told.desk.account.equity - 1e6) / first,
                "fills": len(fills),
                "paid": sum(each["cost"] for each in fills) / first,
                "state": told.desk.account.state,
            }
        )
    return found


def of_depth(folder: Path) -> list[dict[str, Any]]:
    """Orders of more and more units against three-level books: what a unit costs beyond the mid price."""
    log = folder / "log.jsonl"
    write_event_log(log, EVENTS, seed=1, instrument="MADE", mean_pause=0.05)
    rows = list(logged(log, "2s", None, Rejections(print)))
    bars = _bars(rows)
    made = folder / "bundle"
    made.mkdir()
    untrained(bars, (0.05, 0.3)).save_into(made)
    found = []
    for quantity in QUANTITIES:
        market = [str(made), "--events", str(log), "--every", "2s", "--engine", "nautilus"]
        size = ["--trade.quantity", str(quantity), "--desk", str(folder / f"depth{quantity}")]
        caps = ["--limits.max-position", "100", "--limits.max-order-quantity", "100"]
        rate = ["--limits.max-orders-per-minute", "none"]
        settings = load(
            BacktestSettings, "backtest", [*market, *size, *caps, *rate, *FREE, "--latency", "50ms"]
        )
        told = backtest(settings, print)
        spent = units = orders = parts = unfilled = 0.0
        price = 0.0
        for each in records(told.journal):
            if each["type"] == "bar":
                price = each["close"]
            elif each["type"] == "fill":
                side = 1 if each["side"] == "buy" else -1
                spent += side * (each["price"] - price) * each["size"]
                units += each["size"]
                parts += 1
            elif each["type"] == "order":
                orders += each["status"] == "sent"
                unfilled += each["status"] in ("canceled", "expired", "rejected")
        found.append(
            {
                "quantity": quantity,
                "orders": orders,
                "parts": parts / max(orders, 1),
                "unfilled": unfilled / max(orders, 1),
                "slippage": spent / max(units, 1e-9),
            }
        )
    return found


def _bars(rows: list[dict[str, Any]]) -> Any:
    import polars as pl

    from market.bars import Bars

    names = ("open", "high", "low", "close", "volume")
    table_ = pl.DataFrame([{name: row[name] for name in ("time", *names)} for row in rows])
    time = (pl.col("time") // 1000).cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
    return Bars.of("made", table_.with_columns(time))


def table(result: dict[str, Any]) -> str:
    """The figures in Markdown."""
    lines = [
        "| way | net, share of the first price | fills | fees paid, likewise |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {each['way']} | {each['net']:+.4f} | {each['fills']:,} | {each['paid']:.4f} |"
        for each in result["bars"]
    ]
    lines += [
        "",
        "| units an order | orders | fills an order | not whole | paid past the last close, a unit |",
        "|---|---|---|---|---|",
    ]
    for each in result["depth"]:
        lines.append(
            f"| {each['quantity']:g} | {each['orders']:,.0f} | {each['parts']:.2f} | "
            f"{each['unfilled']:.1%} | {each['slippage']:.4f} |"
        )
    lines.append(f"\n{result['cpu']}, {result['time'][:10]}.")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Compares the contract's fills with NautilusTrader's."
    )
    parser.add_argument("--save", action="store_true", help="write the JSON and the tables")
    options = parser.parse_args()
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        result = {
            **record.machine(load_before),
            "bars": of_bars(Path(folder) / "mlruns"),
            "depth": of_depth(Path(folder)),
        }
    print(table(result))
    if options.save:
        record.save("simulation", result, table(result), record.SIMULATION)


if __name__ == "__main__":
    main()
