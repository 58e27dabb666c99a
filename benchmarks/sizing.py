"""What a position that never changes trades, pays and makes under every sizing.

python -m benchmarks.sizing          # prints the tables
python -m benchmarks.sizing --save   # and writes docs/sizing.md
"""

import argparse
import os
from typing import Any

import numpy as np

from benchmarks import record
from evaluation.backtest import backtest
from evaluation.measures import Backtest
from market.source import bars_from
from market.table import MarketTable
from market.terms import Sizing
from tests.support.stocks import STOCK_DAYS, grown_stock, tabulated

SAMPLES = ("btcusd_30m", "ethusd_30m", "eurusd_1h")
SIZINGS: tuple[Sizing, ...] = ("unit", "notional", "equity")
SIDES = {"long": 1, "short": -1}
BANDS = (None, 0.01, 0.05, 0.1)


def held(table: MarketTable, side: int, band: float | None = None) -> Backtest:
    """A position that is taken at the first bar and wanted ever after."""
    return backtest(table, np.full(len(table) - 1, side, np.int8), band)


def figures(run: Backtest) -> dict[str, Any]:
    """A year's turnover and costs in full sizes, and what came of the account."""
    steps = len(run.positions) if run.ruined_at is None else run.ruined_at + 1
    years = steps / run.table.calendar.bars_per_year
    again = run.traded[1:steps]  # the purchase itself left out
    paid = run.table.terms.entry_cost[1:steps] * again / run.table.terms.price[1:steps]
    return {
        "turnover": float(again.sum()) / years,
        "cost": float(paid.sum()) / years,
        "net": run.measures["net_return"],
        "drawdown": run.measures["max_drawdown"],
        "ruined": run.ruined,
    }


def of_samples() -> list[dict[str, Any]]:
    """Every sample, side and sizing."""
    return [
        {"bars": name, "side": side, "sizing": sizing}
        | figures(held(table.sized(sizing), position))
        for name in SAMPLES
        for table in [tabulated(bars_from(name))]
        for side, position in SIDES.items()
        for sizing in SIZINGS
    ]


def of_bands() -> list[dict[str, Any]]:
    """A long position of constant notional and a short of the whole account, left alone within bands."""
    table = tabulated(bars_from(SAMPLES[0]))
    kinds: tuple[tuple[Sizing, str], ...] = (("notional", "long"), ("equity", "short"))
    return [
        {"band": band, "side": side, "sizing": sizing}
        | figures(held(table.sized(sizing), SIDES[side], band))
        for sizing, side in kinds
        for band in BANDS
    ]


def of_stock() -> list[dict[str, Any]]:
    """Long in the last tenth alone, and all the time long or short."""
    table = grown_stock()
    last = np.zeros(len(table) - 1, np.int8)
    last[STOCK_DAYS * 9 // 10 - 1 :] = 1  # the first bar is the features'
    wanted = {"long in the last tenth": last} | {
        f"{side} all the time": np.full(len(last), position, np.int8)
        for side, position in SIDES.items()
    }
    return [
        {"policy": name, "sizing": sizing} | figures(backtest(table.sized(sizing), positions))
        for name, positions in wanted.items()
        for sizing in SIZINGS
    ]


def table(result: dict[str, Any]) -> str:
    """The figures in Markdown."""
    shown = "{turnover:,.1f} | {cost:.1%} | {net:+.1%} | {drawdown:.1%}{end}"
    heads = "rebalanced a year, full sizes | costs of that a year | net return | drawdown |"
    lines = [f"| bars | held | sizing | {heads}", "|---|---|---|---|---|---|---|"]
    lines += [
        f"| {each['bars']} | {each['side']} | {each['sizing']} | {_filled(shown, each)} |"
        for each in result["samples"]
    ]
    lines += ["", f"| held | sizing | band | {heads}", "|---|---|---|---|---|---|---|"]
    lines += [
        f"| {each['side']} | {each['sizing']} | "
        f"{'none' if each['band'] is None else format(each['band'], '.0%')} | "
        f"{_filled(shown, each)} |"
        for each in result["bands"]
    ]
    lines += ["", "| policy | sizing | net return | drawdown |", "|---|---|---|---|"]
    lines += [
        f"| {each['policy']} | {each['sizing']} | "
        f"{_filled('{net:+.1%} | {drawdown:.1%}{end}', each)} |"
        for each in result["stock"]
    ]
    lines.append(f"\nFee 0.1% (the stock's 0.05%), fills at the close, {result['time'][:10]}.")
    return "\n".join(lines)


def _filled(form: str, each: dict[str, Any]) -> str:
    return form.format(**each, end=", ruined" if each["ruined"] else "")


def main() -> None:
    parser = argparse.ArgumentParser(description="Compares positions under every sizing.")
    parser.add_argument("--save", action="store_true", help="write the JSON and the tables")
    options = parser.parse_args()
    result = {
        **record.machine(os.getloadavg()[0]),
        "samples": of_samples(),
        "bands": of_bands(),
        "stock": of_stock(),
    }
    print(table(result))
    if options.save:
        record.save("sizing", result, table(result), record.SIZING)


if __name__ == "__main__":
    main()
