"""How long an evaluation takes: one backtest of the BTC sample, and whole reports of both networks."""

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
from evaluation.backtest import backtest, follow, greedy_choice
from market.accounting import MarketSettings
from market.features import FeaturePipeline
from market.source import bars_from
from market.table import MarketTable
from models.bundle import Bundle
from models.manifest import Origin
from models.networks import copy_of
from tests.support.networks import linear_q_network, two_layer_q_network

ROUNDS = 21
NETWORKS = ("linear", "two_layer")


def backtests() -> tuple[int, dict[str, list[float]]]:
    """Bars, and seconds from Q-values to equity and its measures, for each network, in turns."""
    bars = bars_from("btcusd_30m")
    features = FeaturePipeline.fit(bars)
    table_ = MarketTable.of(bars, features, MarketSettings(fee_rate=0.001))
    made = {"linear": linear_q_network(3, 1), "two_layer": two_layer_q_network(3, (64, 64), 1)}
    seconds: dict[str, list[float]] = {name: [] for name in made}
    bundles = {}
    for name, model in made.items():
        origin = Origin(
            name=name,
            run_id="",
            step=0,
            seed=1,
            scheme="target",
            features=features.schema,
            settings={},
            data_hash=bars.content_hash,
            code_version="",
        )
        states = table_.states(np.arange(8), np.zeros(8, int))
        bundles[name] = Bundle.of(copy_of(model), origin, states)
    for _ in range(ROUNDS):
        for name, bundle in bundles.items():
            began = time.perf_counter()
            run = backtest(table_, follow(greedy_choice(bundle.q_values, table_)))
            assert run.measures["net_return"] > -10
            seconds[name].append(time.perf_counter() - began)
    return len(table_), seconds


def reports(kept: Path | None) -> dict[str, Any]:
    """Seconds of `qdesk evaluate --walk-forward` of what `qdesk train` registers, and the verdicts."""
    qdesk = str(Path(sys.executable).with_name("qdesk"))
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        train = [qdesk, "train", "--preset", ",".join(NETWORKS), "--mlruns", folder]
        subprocess.run(train, check=True, stdout=subprocess.DEVNULL)
        for name in NETWORKS:
            began = time.perf_counter()
            model = f"qdesk-{name.replace('_', '-')}"
            judge = [qdesk, "evaluate", model, "--walk-forward", "--mlruns", folder]
            if kept is not None:
                judge += ["--report", str(kept / f"{name}.html")]
            said = subprocess.run(judge, check=True, capture_output=True, text=True).stdout
            words = " ".join(said.split())
            verdict = words[words.rindex(" It f") :].partition(" report: ")[0].strip()
            yes = "Yes." if " Yes. It f" in words else "No."
            found[name] = {"seconds": time.perf_counter() - began, "verdict": f"{yes} {verdict}"}
    return found


def table(result: dict[str, Any]) -> str:
    """The figures in Markdown."""
    lines = [
        f"| network | backtest of {result['bars']:,} bars, ms (range) | whole report, s | verdict |",
        "|---|---|---|---|",
    ]
    for name in NETWORKS:
        times = [1000 * each for each in result["backtests"][name]]
        report = result["reports"][name]
        lines.append(
            f"| {name} | {statistics.median(times):.0f} ({min(times):.0f} to {max(times):.0f}) | "
            f"{report['seconds']:.0f} | {report['verdict']} |"
        )
    lines.append(
        f"\n5 seeds, 4 windows, {result['cpu']}, {os.cpu_count()} threads, {ROUNDS} rounds, "
        f"{result['time'][:10]}."
    )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures how long evaluations take.")
    parser.add_argument("--save", action="store_true", help="write the JSON and the table")
    parser.add_argument("--reports", type=Path, help="folder to leave the reports in")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    bars, seconds = backtests()
    result = {
        **record.machine(load),
        "bars": bars,
        "backtests": seconds,
        "reports": reports(options.reports),
    }
    print(table(result))
    if options.save:
        record.save("evaluation", result, table(result), record.EVALUATION)


if __name__ == "__main__":
    main()
