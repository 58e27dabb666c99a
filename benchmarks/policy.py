"""How long until the greedy policy is good: 95% of what dynamic programming says is best.

    make bench-policy      or, with what to vary:  make bench-policy ARGS="--seeds 3 --save"

On the mean-reverting market qdesk and Stable-Baselines3 train at equal settings, and the latter once
more at its own defaults, seed by seed in turns on one core. Every so many iterations the clock stops and
the greedy policy is judged, by the same code for all, on a path that it was not trained on; it holds
95% at the first of two judgements in a row that find it. Imports and compilation are apart. Prints a
table; with `--save` writes
`benchmarks/results/policy.json` and the table in docs/performance.md.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.known_markets import ENOUGH, FEE_RATE, GAMMA, MARKET, tables
from benchmarks.peer import Peer
from benchmarks.record import PERFORMANCE, machine, save
from benchmarks.throughput import spread
from benchmarks.work import ON_KNOWN, WORK, build
from evaluation.backtest import backtest, follow
from training.learn import validate
from training.learning.agent import Policy

EQUAL = {**WORK, **ON_KNOWN, "gamma": GAMMA, "fee_rate": FEE_RATE}
QDESK = "qdesk"
SB3 = "Stable-Baselines3, equal settings"
OWN = "Stable-Baselines3, its own settings"
# Iterations between two judgements, and at most; at its own settings it has one stream, not four.
EVERY = {QDESK: 500, SB3: 500, OWN: 2500}
MOST = {QDESK: 60_000, SB3: 60_000, OWN: 150_000}
QValues = Callable[[NDArray[np.float32]], NDArray[Any]]


class Found(NamedTuple):
    """One training."""

    seconds: float | None  # until the policy holds; None: it did not
    iterations: int  # until then, or in all
    trained_seconds: float  # in all
    compile_seconds: float
    shares: list[float]  # of the best, judgement by judgement


def main() -> None:
    parser = argparse.ArgumentParser(description="wall time until a good policy, on one core")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--core", type=int, default=0, help="the core that all are pinned to")
    parser.add_argument("--save", action="store_true", help="write the JSON and the table")
    options = parser.parse_args()
    os.sched_setaffinity(0, {options.core})  # before TensorFlow counts the cores; peers inherit it
    load_before = os.getloadavg()[0]
    _, judged, _ = tables()
    best = backtest(judged, follow(MARKET.best_choice(judged.terms.price, FEE_RATE, gamma=GAMMA)))
    ceiling = float(best.net.sum())
    found: dict[str, list[Any]] = {QDESK: [], SB3: [], OWN: []}
    versions = {"tensorflow": version("tensorflow")}
    for seed in range(1, options.seeds + 1):
        for who, trainings in found.items():
            compiled, reports = REPORTS[who]({**EQUAL, "seed": seed}, versions)
            shares: list[float] = []
            seconds = 0.0
            before = 0.0
            held = None
            for seconds, q_values in reports:
                shares.append(
                    float(validate(Policy.greedy(q_values), judged).result.net.sum()) / ceiling
                )
                if len(shares) > 1 and min(shares[-2:]) >= ENOUGH:
                    held = before
                    break
                before = seconds
            count = (len(shares) - (held is not None)) * EVERY[who]
            trainings.append(Found(held, count, seconds, compiled, shares)._asdict())
            shown = "not" if held is None else f"{held:.2f} s,"
            print(f"seed {seed}, {who}: {shown} {count:,} iterations", flush=True)
    result = {**machine(load_before), "versions": versions, "work": EQUAL, "found": found}
    print(table(result))
    if options.save:
        save("policy", result, table(result), PERFORMANCE)


Reports = tuple[float, Iterator[tuple[float, QValues]]]


def of_qdesk(work: dict[str, Any], _: dict[str, str]) -> Reports:
    """Seconds to compile, then seconds of training so far and the Q-function, again and again."""
    loop = build(work)
    began = time.perf_counter()
    loop.compile()
    compiled = time.perf_counter() - began

    def reports() -> Iterator[tuple[float, QValues]]:
        seconds = 0.0
        for _ in range(MOST[QDESK] // EVERY[QDESK]):
            began = time.perf_counter()
            loop.run(EVERY[QDESK])
            seconds += time.perf_counter() - began
            q_values = loop.policy(0).q_values
            assert q_values is not None
            yield seconds, q_values

    return compiled, reports()


def of_peer(who: str, change: dict[str, Any]) -> Callable[..., Reports]:
    """The same of Stable-Baselines3, which compiles nothing."""

    def start(work: dict[str, Any], versions: dict[str, str]) -> Reports:
        every = EVERY[who]
        most = MOST[who]

        def reports() -> Iterator[tuple[float, QValues]]:
            with Peer("peer_sb3.py", {**work, **change, "report": every, "most": most}) as peer:
                versions.update(peer.versions)
                for _ in range(most // every):
                    answer = peer.ask("go on")
                    yield answer["seconds"], two_layers(answer["layers"])

        return 0.0, reports()

    return start


REPORTS: dict[str, Callable[..., Reports]] = {
    QDESK: of_qdesk,
    SB3: of_peer(SB3, {}),
    OWN: of_peer(OWN, {"own_settings": True, "streams": 1}),
}


def two_layers(layers: list[Any]) -> QValues:
    """The network of some kernels and biases."""
    arrays = [[np.array(each, np.float32) for each in layer] for layer in layers]

    def q_values(states: NDArray[np.float32]) -> NDArray[Any]:
        outputs = states
        for kernel, bias in arrays[:-1]:
            outputs = np.maximum(outputs @ kernel + bias, 0)
        kernel, bias = arrays[-1]
        return np.asarray(outputs @ kernel + bias)

    return q_values


def table(result: dict[str, Any]) -> str:
    """The result in Markdown: medians and ranges over seeds; who never got there counts as longest."""
    rows = [
        "| who | seeds that got there | seconds of training (range) | iterations (range) "
        "| times qdesk's |",
        "|---|---|---|---|---|",
    ]
    middles = {}
    for who, trainings in result["found"].items():
        held = [each for each in trainings if each["seconds"] is not None]
        seconds = [each["seconds"] or each["trained_seconds"] for each in trainings]
        counts = [each["iterations"] for each in trainings]
        middles[who] = statistics.median(seconds)
        more = "" if 2 * len(held) > len(trainings) else "more than "
        ratio = "" if who == QDESK else f"{more}{middles[who] / middles[QDESK]:,.0f}"
        rows.append(
            f"| {who} | {len(held)} of {len(trainings)} | {more}{spread(seconds, ',.2f')} "
            f"| {more}{spread(counts, ',.0f')} | {ratio} |"
        )
    compiled = statistics.median(each["compile_seconds"] for each in result["found"][QDESK])
    slower = middles[SB3] / (middles[QDESK] + compiled)
    return "\n".join(
        [
            *rows,
            "",
            f"Equal settings: {result['work']['streams']} streams, batch {result['work']['batch']}, one "
            f"update an iteration, Adam at {result['work']['learning_rate']:g}, target copied every "
            f"{result['work']['target_every']} updates, epsilon {result['work']['epsilon']:g}. Compiling "
            f"takes qdesk {compiled:.1f} s before; with it the ratio at equal settings is {slower:.1f}. "
            f"{result['cpu']}, one core, {result['time'][:10]}.",
        ]
    )


if __name__ == "__main__":
    main()
