"""Steps a second of the Gymnasium environments.

    make bench-environments          or:  make bench-environments ARGS="--rounds 9 --save"

Random actions on real bars with a fee and one risk penalty, resets included; the scalar environment as a
library sees it after `.unwrapped`, the vector environment with 256 markets. Rounds alternate. Prints a
table; with `--save` writes `benchmarks/results/environments.json` and the table in docs/gymnasium.md.
"""

import argparse
import os
import statistics
import time
from importlib.metadata import version
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from benchmarks.record import GYMNASIUM, machine, save
from market import gym

MARKETS = 256
SETTINGS = {"fee_rate": 0.001, "episode_bars": 1000, "turnover_penalty": 0.001}


def scalar(env: Any, actions: NDArray[np.int64]) -> float:
    """Seconds for some steps of one market."""
    env.reset(seed=1)
    began = time.perf_counter()
    for action in actions:
        _, _, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            env.reset()
    return time.perf_counter() - began


def vector(envs: Any, actions: NDArray[np.int64]) -> float:
    """Seconds for some steps of many markets."""
    envs.reset(seed=1)
    began = time.perf_counter()
    for action in actions:
        envs.step(action)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description="steps a second of the Gymnasium environments")
    parser.add_argument("--rounds", type=int, default=9, help="rounds of each, alternating")
    parser.add_argument("--steps", type=int, default=100_000, help="a round of one market")
    parser.add_argument("--vector-steps", type=int, default=2000, help="a round of many markets")
    parser.add_argument("--core", type=int, default=0, help="the core that both are pinned to")
    parser.add_argument("--save", action="store_true", help="write the JSON and the table")
    options = parser.parse_args()
    os.sched_setaffinity(0, {options.core})
    load_before = os.getloadavg()[0]
    env = gymnasium.make(gym.ID, bars="btcusd_30m", settings=SETTINGS).unwrapped
    envs = gymnasium.make_vec(gym.ID, num_envs=MARKETS, bars="btcusd_30m", settings=SETTINGS)
    rng = np.random.default_rng(1)
    one = rng.integers(0, 3, options.steps)
    many = rng.integers(0, 3, (options.vector_steps, MARKETS))
    rounds = [(scalar(env, one), vector(envs.unwrapped, many)) for _ in range(options.rounds)]
    result = {
        **machine(load_before),
        "versions": {name: version(name) for name in ("gymnasium", "numpy")},
        "settings": SETTINGS,
        "steps_a_second": {
            "one market, unwrapped": [options.steps / seconds for seconds, _ in rounds],
            f"{MARKETS} markets at once": [many.size / seconds for _, seconds in rounds],
        },
    }
    print(table(result))
    if options.save:
        save("environments", result, table(result), GYMNASIUM)


def table(result: dict[str, Any]) -> str:
    """The result in Markdown: medians and ranges."""
    rows = ["| environment | steps/s (range) |", "|---|---|"]
    for name, speeds in result["steps_a_second"].items():
        middle = statistics.median(speeds)
        rows.append(f"| {name} | {middle:,.0f} ({min(speeds):,.0f} to {max(speeds):,.0f}) |")
    return "\n".join(
        [*rows, "", f"{result['cpu']}, one core, {len(speeds)} rounds, {result['time'][:10]}."]
    )


if __name__ == "__main__":
    main()
