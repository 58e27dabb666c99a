"""What the presets earn on real bars, net of costs, as it turns out.

    make study-real        or, with what to vary:  make study-real ARGS="--seeds 3 --steps 20000"

Trains every preset on the training split of btcusd_30m with five seeds and judges the *last* network
and the one that validation chose on the validation split; the test split stays closed. Prints a table;
with `--save` writes `benchmarks/results/real_bars.json` and the table in docs/algorithms.md.
"""

import argparse
import os
import time
from typing import Any

import numpy as np

from benchmarks.record import ALGORITHMS, machine, save
from evaluation.baselines import buy_and_hold
from evaluation.statistics import interquartile_mean, interquartile_mean_interval
from tests.support.agents import agents_of
from training.data import TrainingData
from training.learn import better, learn
from training.sources import load_settings, preset_names

BARS = "btcusd_30m"


def study(preset: str, seeds: int, steps: int) -> dict[str, Any]:
    """Net returns on validation of a preset's seeds, checkpoint by checkpoint."""
    arguments = ["--preset", preset, "--bars", BARS, "--seeds", str(seeds), "--steps", str(steps)]
    (settings,) = load_settings(arguments)
    data = TrainingData.of(settings)
    market = data.validation[settings.market.fill]
    agents = agents_of(settings, data.train, data.reward_scale)
    began = time.perf_counter()
    best: list[Any] = [None] * seeds
    last: list[Any] = [None] * seeds
    curves: list[list[float]] = [[] for _ in range(seeds)]
    points: list[int] = []
    for point in learn(agents, market, settings):
        if point.validations is None:
            continue
        points.append(point.step)
        for index, (result, _) in enumerate(point.validations):
            curves[index].append(result.measures["net_return"])
            last[index] = result
            if better(result, best[index]):
                best[index] = result
    return {
        "steps": points,
        "net_return": curves,
        "last": [result.measures for result in last],
        "best": [result.measures for result in best],
        "seconds": time.perf_counter() - began,
        "buy_and_hold": buy_and_hold(market).measures["net_return"],
        "span": [str(market.time[0])[:10], str(market.time[-1])[:10]],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="the presets on real bars")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--save", action="store_true", help="write the JSON and the table")
    options = parser.parse_args()
    if options.seeds < 2:
        parser.error("--seeds must be at least 2: an interval over seeds is shown")
    load_before = os.getloadavg()[0]
    studies = {}
    for preset in preset_names():
        studies[preset] = study(preset, options.seeds, options.steps)
        print(preset, f"{studies[preset]['seconds']:.0f} s", flush=True)
    result = {"steps": options.steps, **machine(load_before), "studies": studies}
    print(table(result))
    if options.save:
        save("real_bars", result, table(result), ALGORITHMS)


def table(result: dict[str, Any]) -> str:
    """The result in Markdown."""
    rows = [
        "| preset | last: IQM (95% interval) | its seeds | spread over checkpoints | "
        "chosen on these bars: IQM | trades |",
        "|---|---|---|---|---|---|",
    ]
    for preset, found in result["studies"].items():
        last = [measures["net_return"] for measures in found["last"]]
        best = [measures["net_return"] for measures in found["best"]]
        low, high = interquartile_mean_interval(last)
        trades = interquartile_mean([measures["position_changes"] for measures in found["last"]])
        seeds = ", ".join(f"{value:+.0%}" for value in sorted(last))
        spread = float(np.std(found["net_return"], axis=1).mean())
        rows.append(
            f"| {preset} | {interquartile_mean(last):+.0%} ({low:+.0%} to {high:+.0%}) | {seeds} "
            f"| {spread:.0%} | {interquartile_mean(best):+.0%} | {trades:.1%} |"
        )
    one = next(iter(result["studies"].values()))
    return "\n".join(
        [
            *rows,
            "",
            f"Net return on {BARS}, validation split ({one['span'][0]} to {one['span'][1]}), fills at "
            f"the close, fee 0.1%; buy and hold {one['buy_and_hold']:+.0%}, flat 0%. "
            f"{result['steps']:,} iterations, {len(one['last'])} seeds, {result['time'][:10]}. IQM: mean "
            "of the middle half of the seeds, with a percentile bootstrap over seeds; spread: standard "
            "deviation of a seed's net return over its 20 checkpoints; trades: share of bars with "
            "one, of the last.",
        ]
    )


if __name__ == "__main__":
    main()
