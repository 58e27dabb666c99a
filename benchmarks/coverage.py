"""How often intervals hold the true Sharpe ratio, and how often luck looks like skill, by law of returns.

Paths of laws whose true ratio is known go through the very functions that an evaluation calls;
beside them what was said before: independent returns, and the percentiles of a stationary bootstrap.

    python -m benchmarks.coverage          # prints the tables
    python -m benchmarks.coverage --save   # and writes docs/evaluation.md
"""

import argparse
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from arch.bootstrap import StationaryBootstrap
from numpy.typing import NDArray

from benchmarks import record
from evaluation.statistics import (
    Moments,
    block_length,
    probabilistic_sharpe,
    sharpe_difference,
    sharpe_estimate,
)

PATHS = 4000
BARS = 2000
BOOTSTRAPPED = 400
DRAWS = 500
WARM_UP = 300  # bars until a law has forgotten where it began
CHUNK = 100  # paths that are made at once
TRUE = (0.0, 0.05, 0.15)  # Sharpe ratios, a bar
SEEDS = 5
SHARED = 0.7  # agents of one configuration, and the share of variance that they share
LEVEL = 0.9
ALPHA = 0.08
BETA = 0.9  # of GARCH(1, 1)

Paths = NDArray[np.float64]
Law = Callable[[np.random.Generator, int, int], Paths]


def autoregressive(coefficient: float) -> Law:
    """Normal returns that follow one another with a correlation."""

    def draw(rng: np.random.Generator, bars: int, paths: int) -> Paths:
        made = rng.standard_normal((bars + WARM_UP, paths))
        for bar in range(1, len(made)):
            made[bar] += coefficient * made[bar - 1]
        return np.asarray(made[WARM_UP:] * (1 - coefficient**2) ** 0.5)

    return draw


def independent(rng: np.random.Generator, bars: int, paths: int) -> Paths:
    return rng.standard_normal((bars, paths))


def student(rng: np.random.Generator, bars: int, paths: int) -> Paths:
    """Three degrees of freedom: kurtosis is infinite."""
    return np.asarray(rng.standard_t(3, (bars, paths)) / 3**0.5)


def garch(rng: np.random.Generator, bars: int, paths: int) -> Paths:
    """Bollerslev (1986), GARCH(1, 1): calm and wild times."""
    made = rng.standard_normal((bars + WARM_UP, paths))
    variance = np.ones(paths)
    for bar in range(len(made)):
        made[bar] *= variance**0.5
        variance = 1 - ALPHA - BETA + ALPHA * made[bar] ** 2 + BETA * variance
    return made[WARM_UP:]


def late(rng: np.random.Generator, bars: int, paths: int) -> Paths:
    """A moving average that begins at the third bar; the first autocorrelation is zero."""
    made = rng.standard_normal((bars + 3, paths))
    return np.asarray((made[3:] + 0.5 * made[:-3]) / 1.25**0.5)


LAWS: dict[str, Law] = {  # each of mean 0 and variance 1
    "independent": independent,
    "AR(0.3)": autoregressive(0.3),
    "AR(-0.3)": autoregressive(-0.3),
    "AR(0.8)": autoregressive(0.8),
    "Student's t, 3": student,
    "GARCH(1, 1)": garch,
    "MA at the third bar": late,
}


def drawn(law: Law, paths: int, bars: int, seed: int) -> Iterator[Paths]:
    """Independent paths of a law, as many at a time as `study` needs, shape (bars, SEEDS + 2)."""
    rng = np.random.default_rng(seed)
    width = SEEDS + 2
    for start in range(0, paths, CHUNK):
        count = min(CHUNK, paths - start)
        made = law(rng, bars, count * width).reshape(bars, count, width)
        for path in range(count):
            yield np.ascontiguousarray(made[:, path])


def study(law: Law, paths: int, bars: int, bootstrapped: int, seed: int = 0) -> dict[str, float]:
    """Shares of paths, by what happened on them; at a ratio of zero, of every path that is drawn."""
    happened: dict[str, list[bool]] = {}

    def count(name: str, whether: bool) -> None:
        happened.setdefault(name, []).append(whether)

    def count_covered(returns: Paths, true: float) -> None:
        moments = Moments.of(returns + true)
        for when, each in (("", moments), ("before: ", moments._replace(dependence=1.0))):
            low, high = sharpe_estimate(each).interval(LEVEL)
            count(f"{when}covered at {true:g}", low <= true <= high)
            if true == 0:
                count(f"{when}false", probabilistic_sharpe(each) > 0.95)

    for number, market in enumerate(drawn(law, paths, bars, seed)):
        for path in market.T:
            count_covered(path, 0.0)
        benchmark = market[:, -1]
        for true in TRUE[1:]:
            count_covered(benchmark, true)
        own = market[:, :SEEDS]
        shared = market[:, SEEDS : SEEDS + 1]
        agents = (1 - SHARED) ** 0.5 * own + SHARED**0.5 * shared + TRUE[1]
        difference = sharpe_difference(agents, benchmark)
        low, high = difference.interval(LEVEL)
        count("difference covered", low <= TRUE[1] <= high)
        count("difference bound above", difference.lower_bound(0.95) > TRUE[1])
        if number < bootstrapped:
            low, high = percentiles(benchmark + TRUE[1], number)
            count("before: covered by bootstrap", low <= TRUE[1] <= high)
    return {name: float(np.mean(each)) for name, each in happened.items()}


def percentiles(returns: Paths, seed: int) -> tuple[float, float]:
    """A 90% interval of the Sharpe ratio by the percentiles of a stationary bootstrap."""
    block = block_length(returns[:, None])
    bootstrap = StationaryBootstrap(block, returns, seed=np.random.default_rng(seed))
    ratios = [rows.mean() / rows.std(ddof=1) for ((rows,), _) in bootstrap.bootstrap(DRAWS)]
    low, high = np.quantile(ratios, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def table(result: dict[str, Any]) -> str:
    """The figures in Markdown."""
    columns = {
        "skill seen where there is none": ("false", "before: false"),
        "interval holds a ratio of 0": ("covered at 0", "before: covered at 0"),
        "of 0.05 a bar": ("covered at 0.05", "before: covered by bootstrap"),
        "of 0.15 a bar": ("covered at 0.15", None),
        "a difference, five seeds": ("difference covered", None),
        "the gate's bound is above it": ("difference bound above", None),
    }
    lines = [
        f"| returns | {' | '.join(columns)} |",
        "|---" * (len(columns) + 1) + "|",
        "| *should be* | *5%* | *90%* | *90%* | *90%* | *90%* | *5%* |",
    ]
    for name, shares in result["laws"].items():
        cells = [
            f"{shares[now]:.1%}" + (f" ({shares[before]:.1%})" if before else "")
            for now, before in columns.values()
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines.append(
        "\nIn parentheses what was said before: the formula for independent returns, and at 0.05 the "
        f"percentiles of a stationary bootstrap. {result['paths']:,} paths of {result['bars']:,} bars "
        f"each (with a ratio of 0: {result['paths'] * (SEEDS + 2):,}; the bootstrap: "
        f"{result['bootstrapped']:,}), {result['seconds']:,.0f} s, "
        f"{result['cpu']}, one core, {result['time'][:10]}."
    )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures false rates and coverage.")
    parser.add_argument("--paths", type=int, default=PATHS, help="of each law")
    parser.add_argument("--bars", type=int, default=BARS, help="of each path")
    parser.add_argument("--bootstrapped", type=int, default=BOOTSTRAPPED, help="paths, of before")
    parser.add_argument("--save", action="store_true", help="write the JSON and the table")
    options = parser.parse_args()
    load_before = os.getloadavg()[0]
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    began = time.perf_counter()
    laws = {}
    for name, law in LAWS.items():
        laws[name] = study(law, options.paths, options.bars, options.bootstrapped)
        print(f"{name}: {time.perf_counter() - began:.0f} s", flush=True)
    result = {
        **record.machine(load_before),
        "paths": options.paths,
        "bars": options.bars,
        "bootstrapped": options.bootstrapped,
        "seconds": time.perf_counter() - began,
        "laws": laws,
    }
    print(table(result))
    if options.save:
        record.save("coverage", result, table(result), record.EVALUATION)


if __name__ == "__main__":
    main()
