"""Does every algorithm learn? A mean-reverting market whose best policy dynamic programming gives.

    make study-known        or, with what to vary:  make study-known ARGS="--only linear --seeds 4"

Each variant trains ten seeds at once; the checkpoint that validation chooses is judged on a path that
neither has seen, as a share of what the best policy earns there. Prints a table; with `--save` writes
`benchmarks/results/known_markets.json` and the table in docs/algorithms.md.
"""

import argparse
import json
import os
import shlex
import time
from typing import Any, NamedTuple

import numpy as np

from benchmarks.record import ALGORITHMS, RESULTS, machine, save
from evaluation.backtest import backtest, follow
from evaluation.measures import Backtest
from market.accounting import MarketSettings
from market.features import FeaturePipeline, FeatureSettings
from market.synthetic import OrnsteinUhlenbeck
from market.table import MarketTable
from tests.support.agents import agents_of
from training.learn import better, learn, validate
from training.sources import load_settings

MARKET = OrnsteinUhlenbeck()
FEE_RATE = 0.01
GAMMA = 0.99
UPDATES = 20_000
ENOUGH = 0.95
LITTLE = "--epsilon.decay 0.999 --epsilon.min 0.01"
VARIANTS = {
    "linear": "--preset linear",
    "two_layer": "--preset two_layer",
    "Double": "--preset two_layer --learner.target double",
    "expected SARSA": f"--preset two_layer --learner.target expected_sarsa {LITTLE}",
    "Munchausen": "--preset two_layer --learner.target munchausen",
    "3-step": f"--preset two_layer --learner.n-step 3 --replay.capacity 20000 {LITTLE}",
    "prioritised": "--preset two_layer --replay.prioritised",
    "dueling": "--preset two_layer --network.dueling",
    "32 quantiles": f"--preset two_layer --network.quantiles 32 {LITTLE}",
    "noisy": f"--preset two_layer --network.noisy {LITTLE}",
    "layer norm": "--preset two_layer --network.layer-norm",
    "all_actions": "--preset all_actions",
    "rainbow": "--preset rainbow",
    "tabular": "--preset tabular",
    "tabular, expected SARSA": "--preset tabular --tabular.algorithm expected_sarsa "
    "--tabular.learning-rate 0.02 --epsilon.start 0.1 --epsilon.decay 0.9995 --epsilon.min 0.001",
    "tabular, double": "--preset tabular --tabular.algorithm double_q_learning",
}


class Study(NamedTuple):
    """What the seeds of a variant came to."""

    shares: list[float]  # of the best, on the fresh path, of the checkpoint that validation chose
    steps: list[int]  # of the validations
    curves: list[list[float]]  # shares of the best on validation, a list for each seed
    seconds: float  # training and validation, of all seeds together


def tables() -> list[MarketTable]:
    """Training, validation and fresh paths."""
    paths = [MARKET.bars(20_000, 100), MARKET.bars(50_000, 101), MARKET.bars(50_000, 102)]
    features = FeaturePipeline.fit(paths[0], FeatureSettings(names=("log_price",)))
    return [MarketTable.of(path, features, MarketSettings(fee_rate=FEE_RATE)) for path in paths]


def study(arguments: list[str], seeds: int, first: int = 1, updates: int = UPDATES) -> Study:
    """Trains a variant.

    Args:
        arguments: as `qdesk train` takes them.
        seeds: how many.
        first: the first of them.
        updates: of each network; a table learns from as many iterations.
    """
    train, validation, fresh = tables()
    counts = ["--steps", str(updates + 250), "--seed", str(first), "--seeds", str(seeds)]
    (settings,) = load_settings([*arguments, *counts])
    began = time.perf_counter()
    agents = agents_of(settings, train, 1 / float(train.terms.gain.std()))
    best: list[Backtest | None] = [None] * seeds
    chosen: list[Any] = [None] * seeds
    steps: list[int] = []
    curves: list[list[float]] = [[] for _ in range(seeds)]
    ceiling = _best_earns(validation)
    for point in learn(agents, validation, settings):
        if point.validations is None:
            continue
        steps.append(point.step)
        for index, (result, _) in enumerate(point.validations):
            curves[index].append(float(result.net.sum() / ceiling))
            if better(result, best[index]):
                best[index] = result
                chosen[index] = agents.policy(index)
    ceiling = _best_earns(fresh)
    shares = [float(validate(each, fresh).result.net.sum() / ceiling) for each in chosen]
    return Study(shares, steps, curves, time.perf_counter() - began)


def _best_earns(table: MarketTable) -> float:
    choice = MARKET.best_choice(table.terms.price, FEE_RATE, gamma=GAMMA)
    return float(backtest(table, follow(choice)).net.sum())


def main() -> None:
    parser = argparse.ArgumentParser(description="every algorithm on a market with a known answer")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--updates", type=int, default=UPDATES)
    parser.add_argument("--only", choices=VARIANTS, help="with --save it replaces the saved one")
    parser.add_argument("--save", action="store_true", help="write the JSON and the table")
    options = parser.parse_args()
    load_before = os.getloadavg()[0]
    saved = RESULTS / "known_markets.json"
    studies = json.loads(saved.read_text())["studies"] if options.only else {}
    for name, line in VARIANTS.items():
        if options.only not in (None, name):
            continue
        studies[name] = study(shlex.split(line), options.seeds, updates=options.updates)._asdict()
        print(
            name,
            np.round(studies[name]["shares"], 3),
            f"{studies[name]['seconds']:.0f} s",
            flush=True,
        )
    result = {"updates": options.updates, **machine(load_before), "studies": studies}
    print(table(result))
    if options.save:
        save("known_markets", result, table(result), ALGORITHMS)


def table(result: dict[str, Any]) -> str:
    """The result in Markdown."""
    rows = [
        "| variant | settings | seeds at 95% | shares of the best: lowest, median, highest "
        "| validations at 95% | updates until the first |",
        "|---|---|---|---|---|---|",
    ]
    for name, found in result["studies"].items():
        shares = np.array(found["shares"])
        curves = np.array(found["curves"])
        enough = curves >= ENOUGH
        first = sorted(enough.argmax(axis=1)[enough.any(axis=1)])
        middle = len(curves) // 2
        until = f"{found['steps'][first[middle]]:,}" if len(first) > middle else "-"
        rows.append(
            f"| {name} | `{VARIANTS[name]}` | {(shares >= ENOUGH).sum()} of {len(shares)} "
            f"| {shares.min():.3f}, {np.median(shares):.3f}, {shares.max():.3f} "
            f"| {enough.mean():.0%} | {until} |"
        )
    seeds = len(next(iter(result["studies"].values()))["shares"])
    return "\n".join(
        [
            *rows,
            "",
            f"{result['updates']:,} updates, seeds 1 to {seeds}, {result['time'][:10]}. Shares are of "
            "what the best policy earns on a fresh path of 50,000 bars, by the checkpoint that "
            "validation chose out of 20; *validations at 95%*: of all seeds and checkpoints, how often "
            "the present agent had 95% of the best on the validation path; *until the first*: the "
            "median seed.",
        ]
    )


if __name__ == "__main__":
    main()
