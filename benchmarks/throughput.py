"""Training throughput of qdesk and of Stable-Baselines3 at the same settings, on one core.

    make bench          or, with what to vary:  make bench ARGS="--rounds 9 --save"

Both train a two-layer network on the same bars, costs, batch, streams, update ratio, optimizer, ring
and target schedule. Rounds alternate A B A B ..., so that a machine whose speed drifts slows both.
Start-up and compilation are outside the timing and are reported apart. Prints a table; with `--save`
writes `benchmarks/results/throughput.json`, hardware included, and the table in README.md.
"""

import argparse
import json
import os
import statistics
import subprocess
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.record import machine, save

HERE = Path(__file__).parent
PEER_PYTHON = HERE.parent / ".venv-peers/bin/python"
WORK: dict[str, Any] = {
    "bars": "btcusd_30m",
    "fee_rate": 0.001,
    "streams": 4,
    "batch": 32,
    "hidden": [64, 64],
    "learning_rate": 1e-3,
    "gamma": 0.99,
    "capacity": 100_000,
    "learning_starts": 1000,
    "target_every": 500,
    "epsilon": 0.1,
    "seed": 1,
}


class Peer:
    """Stable-Baselines3 in a process and an environment of its own, told over a pipe what to run."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [PEER_PYTHON, HERE / "peer_sb3.py", json.dumps(WORK)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(HERE.parent)},
        )
        self.versions = self._read()

    def run(self, iterations: int) -> float:
        """Seconds for some iterations."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{iterations}\n")
        self.process.stdin.flush()
        return float(self._read()["seconds"])

    def close(self) -> None:
        """Ends the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("the peer's process ended; see its error above")
        answer: dict[str, Any] = json.loads(line)
        return answer


def build(parts: dict[str, Any]) -> Any:
    """The loop of qdesk at the settings of `WORK`, but for the parts of it that are named.

    Loss and clipping are as Stable-Baselines3's DQN has them.
    """
    from market.accounting import MarketSettings
    from market.bars import load_bars
    from market.features import FeaturePipeline, FeatureSettings
    from market.table import MarketTable
    from models.exploration import EpsilonSettings
    from models.networks import linear_q_network, two_layer_q_network
    from training.loop import TrainingLoop
    from training.replay_settings import ReplaySettings
    from training.settings import LearnerSettings

    train = load_bars(WORK["bars"]).split().train
    features = FeaturePipeline.fit(train, FeatureSettings())
    table = MarketTable.of(train, features, MarketSettings(fee_rate=WORK["fee_rate"]))
    seeds = range(1, parts.get("seeds", 1) + 1)
    if "linear" in parts:
        networks = [linear_q_network(table.state_size, seed) for seed in seeds]
    else:
        changes = parts.get("network", {})
        networks = [
            two_layer_q_network(table.state_size, WORK["hidden"], seed, **changes) for seed in seeds
        ]
    learner, replay = (
        {**{name: WORK[name] for name in names}, **parts.get(room, {})}
        for room, names in (
            ("learner", ("gamma", "batch", "learning_rate", "target_every")),
            ("replay", ("streams", "capacity", "learning_starts")),
        )
    )
    return TrainingLoop(
        table,
        networks,
        LearnerSettings(loss="huber", clip_norm=10.0, **learner),
        ReplaySettings(**replay),
        EpsilonSettings(start=WORK["epsilon"], min=WORK["epsilon"]),
        seeds,
        reward_scale=1 / float(table.terms.gain.std()),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="qdesk against Stable-Baselines3, on one core")
    parser.add_argument("--rounds", type=int, default=7, help="rounds of each, alternating")
    parser.add_argument("--iterations", type=int, default=20_000, help="a round of qdesk")
    parser.add_argument("--peer-iterations", type=int, default=1_000, help="a round of the peer")
    parser.add_argument("--core", type=int, default=0, help="the core that both are pinned to")
    parser.add_argument("--save", action="store_true", help="write the JSON and README's table")
    options = parser.parse_args()
    os.sched_setaffinity(0, {options.core})  # before TensorFlow counts the cores; peers inherit it
    load_before = os.getloadavg()[0]

    peer = Peer()
    began = time.perf_counter()
    loop = build({})
    loop.run(WORK["learning_starts"] // WORK["streams"] + 1)
    compile_seconds = time.perf_counter() - began
    peer.run(WORK["learning_starts"] // WORK["streams"] + 100)

    ours, theirs = [], []
    for _ in range(options.rounds):
        began = time.perf_counter()
        loop.run(options.iterations)
        ours.append((time.perf_counter() - began) / options.iterations)
        theirs.append(peer.run(options.peer_iterations) / options.peer_iterations)
    peer.close()

    ratios = [peer_time / own for own, peer_time in zip(ours, theirs, strict=True)]
    result = {
        "work": WORK,
        **machine(load_before),
        "versions": {name: version(name) for name in ("tensorflow", "keras")} | peer.versions,
        "compile_seconds": compile_seconds,
        "microseconds_an_iteration": {
            "qdesk": [seconds * 1e6 for seconds in ours],
            "stable-baselines3": [seconds * 1e6 for seconds in theirs],
        },
        "ratio_by_round": ratios,
    }
    print(table(result))
    if options.save:
        save("throughput", result, table(result))


def table(result: dict[str, Any]) -> str:
    """The result in Markdown: medians, spreads, and the ratio round by round."""
    rows = [
        "| | µs an iteration (range) | env steps/s | updates/s |",
        "|---|---|---|---|",
    ]
    for name, times in result["microseconds_an_iteration"].items():
        middle = statistics.median(times)
        rows.append(
            f"| {name} | {middle:,.1f} ({min(times):,.1f} to {max(times):,.1f}) "
            f"| {result['work']['streams'] * 1e6 / middle:,.0f} | {1e6 / middle:,.0f} |"
        )
    ratios = result["ratio_by_round"]
    return "\n".join(
        [
            *rows,
            "",
            f"Ratio, round by round: median {statistics.median(ratios):.1f} "
            f"({min(ratios):.1f} to {max(ratios):.1f}). {result['cpu']}, one core, "
            f"{len(ratios)} rounds, {result['time'][:10]}; importing and compiling took "
            f"{result['compile_seconds']:.0f} s before.",
        ]
    )


if __name__ == "__main__":
    main()
