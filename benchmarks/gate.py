"""How often the gate says yes: on noise, on the best of 50 tries on noise, and on a real edge.

Every agent of the study is a walk-forward of 5 seeds and 4 windows on a market of its own, judged by the
default policy. What an evaluation does through MLflow is left out: versions' own weights and trials are
handed over, the trials being those that the study itself has made.

    python -m benchmarks.gate --keep FOLDER          # everything; goes on where it was stopped
    python -m benchmarks.gate --keep FOLDER --save   # and writes docs/evaluation.md
"""

import argparse
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import batched, product
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydantic import BaseModel
from scipy import stats

from benchmarks import record
from evaluation.assessment import Findings, PositionTrack, assess
from evaluation.backtest import backtest, follow
from evaluation.gate import Provenance, judge, passed
from evaluation.trials import Trials
from evaluation.walk_forward import (
    Job,
    WalkForwardSettings,
    Window,
    in_worker,
    joined,
    run_jobs,
    windows,
)
from market.accounting import Fill
from market.bars import Bars
from market.features import FeaturePipeline
from market.source import bars_from
from market.table import MarketTable
from training.settings import TrainSettings
from training.sources import load_settings
from training.walk_forward import train_window

BARS = 6000
DIVIDED = WalkForwardSettings()
DRAWS = 1000  # of the bootstrap, half of what an evaluation does
FACTS = Provenance("known", "known", "known", "known", 0.0, same_bundle=True)
WALK = "synthetic:walk?sigma=0.01"
REVERTING = "synthetic:ou?theta=0.05&sigma=0.01"
Family = dict[str, tuple[str, ...]]
COMMON = ("--market.episode-bars", "500")
AGENTS: Family = {
    "tabular": ("--preset", "tabular", "--steps", "4000", "--evaluate-every", "500"),
    "linear": ("--preset", "linear", "--steps", "5000", "--evaluate-every", "500"),
    "two_layer": ("--preset", "two_layer", "--steps", "5000", "--evaluate-every", "500"),
}
FEE = ("--market.fee-rate", "0.003")  # three tenths of the standard deviation of a bar
SEARCHED: Family = {
    "tabular": ("--preset", "tabular", "--steps", "2000", "--evaluate-every", "250")
}
LEVEL = ("--features", "log_price")  # what the mean-reverting market's state is
LEARNING: Family = {
    "tabular": (
        "--preset",
        "tabular",
        "--steps",
        "10000",
        "--evaluate-every",
        "1000",
        *LEVEL,
        *FEE,
    ),
    "two_layer": (
        "--preset",
        "two_layer",
        "--steps",
        "10000",
        "--evaluate-every",
        "1000",
        *LEVEL,
        *FEE,
    ),
}
FEATURES = (
    "price_change",
    "momentum_5",
    "momentum_20",
    "momentum_60",
    "zscore_10",
    "zscore_20",
    "zscore_60",
    "rsi_14",
    "log_return_5",
    "log_return_20",
)
DISCOUNTS = ("0.9", "0.95", "0.98", "0.99", "0.995")

# Every compiled program keeps pieces of memory, of which a process may have 65,530.
TRIALS_A_PROCESS = 10


class Trial(NamedTuple):
    """One gate's decision to come: settings on a market, alone or the best of several."""

    study: str
    family: str
    seed: int  # of the market


class Found(BaseModel):
    """What the gate decides by."""

    walked: Findings
    own: Findings
    trials: Trials


class Decision(NamedTuple):
    """What the gate said."""

    passed: bool
    failed: list[str]  # conditions
    net_return: float  # typical seed, out of sample
    sharpe: float | None


def studies(sizes: dict[str, int]) -> list[Trial]:
    """All decisions of the study, in rounds, so that a part of it is a study too."""
    made = [
        Trial(study, family, seed)
        for (study, family), count in zip(
            (
                ("noise", "tabular"),
                ("noise", "linear"),
                ("noise", "two_layer"),
                ("best of 50", "tabular"),
                ("edge", "tabular"),
                ("edge", "two_layer"),
            ),
            sizes.values(),
            strict=True,
        )
        for seed in range(1, count + 1)
    ]
    return sorted(made, key=lambda trial: trial.seed)


def find(trial: Trial, folder: Path) -> Found:
    """Trains all seeds in all windows."""
    market = WALK if trial.study != "edge" else REVERTING
    bars = f"{market}&seed={trial.seed}&bars={BARS}"
    families = {"noise": AGENTS, "best of 50": SEARCHED, "edge": LEARNING}[trial.study]
    arguments = families[trial.family]
    if trial.study != "best of 50":
        settings = _settings(bars, *arguments)
        return _found(settings, Trials.of({"1": [0.0]}, {"1": ""}), folder)
    sharpes: dict[str, list[float]] = {}
    best: tuple[float, TrainSettings] | None = None
    for feature, gamma in product(FEATURES, DISCOUNTS):
        settings = _settings(bars, *arguments, "--features", feature, "--learner.gamma", gamma)
        found = _walked(settings, [1], folder)  # one seed: what a search would spend
        returns = backtest(found.table, found.positions[0]).returns
        sharpe = float(returns.mean() / returns.std()) if returns.std() > 0 else 0.0
        sharpes[f"{feature} {gamma}"] = [sharpe]
        if best is None or sharpe > best[0]:
            best = sharpe, settings
    assert best is not None
    trials = Trials.of(sharpes, dict.fromkeys(sharpes, "tabular"))
    return _found(best[1], trials, folder)


def _settings(bars: str, *arguments: str) -> TrainSettings:
    (settings,) = load_settings(["--bars", bars, *COMMON, *arguments])
    return settings


def _walked(settings: TrainSettings, seeds: Any, folder: Path) -> PositionTrack:
    bars = bars_from(settings.bars)
    known = bars.between(0, round(len(bars) * 0.8), "walk-forward")
    divided = windows(len(known), settings.split.gap, DIVIDED)
    tree = {**settings.tree(), "seed": 0}
    jobs = [Job(tree, s, w, bars.content_hash, "study") for s in seeds for w in divided]
    outcomes = {job.key: outcome for job, outcome in run_jobs(jobs, train_window, folder, 1)}
    positions = [
        follow(joined([outcomes[job.key] for job in jobs if job.seed == seed])) for seed in seeds
    ]
    start = divided[0].judged[0]
    tables = _tables(known, settings, len(known) - start)
    edges = [window.judged[0] - start for window in divided] + [len(known) - start - 1]
    volume = np.zeros(len(known) - start)
    return PositionTrack(
        "walk-forward",
        tables,
        settings.market.fill,
        np.stack(positions),
        list(seeds),
        edges,
        volume,
    )


def _tables(bars: Bars, settings: TrainSettings, count: int) -> dict[Fill, MarketTable]:
    features = FeaturePipeline.fit(bars)
    fills: tuple[Fill, ...] = ("close", "next_open")
    return {
        fill: MarketTable.of(
            bars, features, settings.market.model_copy(update={"fill": fill})
        ).last(count)
        for fill in fills
    }


def _own(settings: TrainSettings, folder: Path) -> PositionTrack:
    """The version that `qdesk train` would register, on the validation bars that it was chosen on."""
    bars = bars_from(settings.bars)
    known = bars.between(0, round(len(bars) * 0.8), "validation")
    first = round(len(known) * 0.75) + settings.split.gap
    window = Window(0, (0, len(known)), (first, len(known) - 1))
    job = Job({**settings.tree(), "seed": 0}, 1, window, bars.content_hash, "study")
    ((_, outcome),) = run_jobs([job], train_window, folder, 1)
    tables = _tables(known, settings, len(known) - first)
    edges = [0, len(known) - first - 1]
    volume = np.zeros(len(known) - first)
    return PositionTrack(
        "validation", tables, settings.market.fill, follow(outcome.choice)[None], [1], edges, volume
    )


def _found(settings: TrainSettings, trials: Trials, folder: Path) -> Found:
    walked = assess(_walked(settings, range(1, 6), folder), DRAWS, random_draws=1).findings
    own = assess(_own(settings, folder), 2, random_draws=1).findings
    return Found(walked=walked, own=own, trials=trials)


def decided(found: Found) -> Decision:
    """Asks the gate."""
    conditions = judge(found.walked, found.own, found.trials, FACTS)
    measures = found.walked.measures[found.walked.typical]
    failed = [each.name.split(",")[0].split(" of ")[0] for each in conditions if not each.passed]
    return Decision(passed(conditions), failed, measures["net_return"] or 0.0, measures["sharpe"])


def run(sizes: dict[str, int], folder: Path, workers: int) -> Iterator[tuple[Trial, Decision]]:
    """Decides all trials, side by side; what a stopped study has decided is not decided again."""
    for name in [name for name in os.environ if name.startswith(("QDESK_", "DQN_"))]:
        del os.environ[name]
    folder.mkdir(parents=True, exist_ok=True)
    undone = []
    for trial in studies(sizes):
        known = _file(trial, folder)
        if known.exists():
            yield trial, decided(Found.model_validate_json(known.read_text()))
        else:
            undone.append(trial)
    for part in batched(undone, workers * TRIALS_A_PROCESS):
        with ProcessPoolExecutor(workers, get_context("spawn"), initializer=in_worker) as pool:
            futures = [(trial, pool.submit(_keep, trial, folder)) for trial in part]
            for trial, future in futures:
                yield trial, decided(future.result())


def _file(trial: Trial, folder: Path) -> Path:
    return folder / f"{trial.study}-{trial.family}-{trial.seed}.json".replace(" ", "_")


def _keep(trial: Trial, folder: Path) -> Found:
    jobs = folder / f"jobs-{os.getpid()}"
    found = find(trial, jobs)
    shutil.rmtree(jobs, ignore_errors=True)
    _file(trial, folder).write_text(found.model_dump_json())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures how often the gate says yes.")
    parser.add_argument("--keep", type=Path, help="folder of what is decided, to go on from")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--save", action="store_true", help="write docs/evaluation.md")
    counts = {
        "noise-tabular": 177,
        "noise-linear": 15,
        "noise-two-layer": 8,
        "best-of-50": 60,
        "edge-tabular": 36,
        "edge-two-layer": 14,
    }
    for name, count in counts.items():
        parser.add_argument(f"--{name}", type=int, default=count)
    options = parser.parse_args()
    sizes = {name: getattr(options, name.replace("-", "_")) for name in counts}
    load = os.getloadavg()[0]
    found: dict[tuple[str, str], list[Decision]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        for trial, decision in run(sizes, options.keep or Path(temporary), options.workers):
            found.setdefault((trial.study, trial.family), []).append(decision)
            said = "yes" if decision.passed else f"no ({'; '.join(decision.failed)})"
            print(
                f"{trial.study}, {trial.family}, market {trial.seed}: {said}; {decision.net_return:+.1%}",
                flush=True,
            )
    rows = {f"{study}, {family}": _row(each) for (study, family), each in sorted(found.items())}
    together = [each for (study, _), group in found.items() for each in group if study == "noise"]
    rows["noise, all"] = _row(together)
    edge = [each for (study, _), group in found.items() for each in group if study == "edge"]
    rows["edge, all"] = _row(edge)
    result = {**record.machine(load), "bars": BARS, **DIVIDED.model_dump(), "rows": rows}
    print(table(result))
    if options.save:
        record.save("gate", result, table(result), record.EVALUATION)


def _row(decisions: list[Decision]) -> dict[str, Any]:
    count = len(decisions)
    yes = sum(each.passed for each in decisions)
    if not count:
        return {"agents": 0}
    interval = stats.binomtest(yes, count).proportion_ci(0.95, "exact")
    failed = Counter(name for each in decisions for name in each.failed)
    return {
        "agents": count,
        "passed": yes,
        "low": float(interval.low),
        "high": float(interval.high),
        "median_net_return": float(np.median([each.net_return for each in decisions])),
        "failed": dict(failed.most_common()),
    }


def table(result: dict[str, Any]) -> str:
    lines = [
        "| agents | how many | passed | share (95% interval) | median net return out of sample |",
        "|---|---|---|---|---|",
    ]
    for name, row in result["rows"].items():
        if row["agents"]:
            share = f"{row['passed'] / row['agents']:.1%} ({row['low']:.1%} to {row['high']:.1%})"
            lines.append(
                f"| {name} | {row['agents']} | {row['passed']} | {share} | "
                f"{row['median_net_return']:+.1%} |"
            )
    lines.append(
        f"\n{result['bars']:,} bars each, {result['seeds']} seeds, {result['windows']} windows, "
        f"{result['cpu']}, {result['time'][:10]}."
    )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
