"""A whole `qdesk train`, with tracking, evaluation and checkpoints, against the bare loop.

    make bench-whole      or, with what to vary:  make bench-whole ARGS="--rounds 5 --save"

Both make the same updates with the same settings, each in a process of its own on one core, in turns.
The clock starts when the program is compiled and stops when the command is done, so that imports,
compilation and the opening of the store are apart; they are reported below. Prints a table; with
`--save` writes `benchmarks/results/whole.json` and the table in docs/performance.md.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.record import HERE, PERFORMANCE, machine, save
from benchmarks.throughput import spread

PRESET = "two_layer"
BARS = "btcusd_30m"
QDESK = Path(sys.executable).parent / "qdesk"
CACHE = "TF_XLA_FLAGS"  # where TensorFlow takes the flags of its persistent compilation cache from


def main() -> None:
    parser = argparse.ArgumentParser(description="a whole training against the bare loop")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1_000_000, help="iterations of either")
    parser.add_argument("--core", type=int, default=0, help="the core that all are pinned to")
    parser.add_argument("--one", choices=sorted(ONE), help="what a process of its own measures")
    parser.add_argument("--save", action="store_true", help="write the JSON and the table")
    options = parser.parse_args()
    os.sched_setaffinity(0, {options.core})
    if options.one:
        print(json.dumps({**ONE[options.one](options.steps), "peak_mb": peak_mb()}))
        return
    load_before = os.getloadavg()[0]
    found: dict[str, list[dict[str, float]]] = {"loop": [], "train": []}
    for _ in range(options.rounds):
        for which, each in found.items():
            each.append(alone(which, options))
    starts: dict[str, list[float]] = {"help": [], "train --help": [], "compile": [], "cached": []}
    with tempfile.TemporaryDirectory() as folder:
        flags = f"--tf_xla_persistent_cache_directory={folder}"
        kept = {**os.environ, CACHE: f"{flags} --tf_xla_persistent_cache_device_types=CPU"}
        alone("compile", options, kept)  # fills the cache
        for _ in range(5):
            starts["help"].append(seconds_of(QDESK, "--help"))
            starts["train --help"].append(seconds_of(QDESK, "train", "--help"))
            starts["compile"].append(alone("compile", options)["compile_seconds"])
            starts["cached"].append(alone("compile", options, kept)["compile_seconds"])
    result = {**machine(load_before), "steps": options.steps, "runs": found, "starts": starts}
    print(table(result))
    if options.save:
        save("whole", result, table(result), PERFORMANCE)


def alone(
    which: str, options: argparse.Namespace, environment: dict[str, str] | None = None
) -> dict[str, float]:
    """A measurement in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.whole", "--one", which]
    command += ["--steps", str(options.steps), "--core", str(options.core)]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=HERE.parent, env=environment, check=False
    )
    if done.returncode:
        raise SystemExit(f"{which} ended with {done.returncode}:\n{done.stderr}")
    answer: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return answer


def seconds_of(*command: str | Path) -> float:
    """Wall time of a command."""
    began = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began


def _settings(steps: int, mlruns: str) -> list[str]:
    return ["--preset", PRESET, "--bars", BARS, "--steps", str(steps), "--mlruns", mlruns]


def bare_loop(steps: int) -> dict[str, float]:
    """The agents that the preset describes, run for as many iterations."""
    from training.data import TrainingData
    from training.sources import load_settings

    (settings,) = load_settings(_settings(steps, "."))
    data = TrainingData.of(settings)
    from tests.support.agents import agents_of

    agents = agents_of(settings, data.train, data.reward_scale)
    agents.compile()
    compiled = time.perf_counter()
    agents.run(steps)
    return {"seconds": time.perf_counter() - compiled}


def whole_training(steps: int) -> dict[str, float]:
    """`qdesk train` into a store of its own, from the moment the program is compiled."""
    import qdesk
    from training.learning.loop import TrainingLoop

    began = time.perf_counter()
    compiled = []
    compile_program = TrainingLoop.compile

    def watched(loop: TrainingLoop) -> None:
        compile_program(loop)
        compiled.append(time.perf_counter())

    TrainingLoop.compile = watched  # type: ignore[assignment]
    with tempfile.TemporaryDirectory() as mlruns:
        sys.argv = ["qdesk", "train", *_settings(steps, mlruns)]
        code = qdesk.main()
        ended = time.perf_counter()
    if code:
        raise SystemExit(code)
    return {"seconds": ended - compiled[0], "before_seconds": compiled[0] - began}


def compiling(_: int) -> dict[str, float]:
    """What compiling the program takes, from TensorFlow's cache where the environment names one."""
    from benchmarks.work import WORK, build

    loop = build(WORK)
    began = time.perf_counter()
    loop.compile()
    return {"compile_seconds": time.perf_counter() - began}


def peak_mb() -> float:
    """The most memory that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


ONE = {"loop": bare_loop, "train": whole_training, "compile": compiling}


def table(result: dict[str, Any]) -> str:
    """The result in Markdown: medians and spreads, and the ratio round by round."""
    runs = result["runs"]
    starts = result["starts"]
    seconds = {which: [each["seconds"] for each in found] for which, found in runs.items()}
    peaks = {which: [each["peak_mb"] for each in found] for which, found in runs.items()}
    ratios = [whole / bare for whole, bare in zip(seconds["train"], seconds["loop"], strict=True)]
    before = [each["before_seconds"] for each in runs["train"]]
    labels = {
        "help": "`qdesk --help`",
        "train --help": "`qdesk train --help`",
        "compile": "compiling the loop",
        "cached": "the same with TensorFlow's persistent cache, filled",
    }
    return "\n".join(
        [
            f"| {result['steps']:,} iterations | seconds (range) | peak memory, MB |",
            "|---|---|---|",
            f"| the bare loop | {spread(seconds['loop'], '.1f')} | {max(peaks['loop']):,.0f} |",
            f"| `qdesk train --preset {PRESET}`, all of it | {spread(seconds['train'], '.1f')} "
            f"| {max(peaks['train']):,.0f} |",
            f"| ratio, round by round | {spread(ratios, '.2f')} | |",
            "",
            "| before the first iteration | seconds (range) |",
            "|---|---|",
            f"| `qdesk train`: imports, data, store, compiling | {spread(before, '.1f')} |",
            *(f"| {labels[name]} | {spread(starts[name], '.2f')} |" for name in labels),
            "",
            f"{result['cpu']}, one core, {len(ratios)} rounds in turns, {result['time'][:10]}.",
        ]
    )


if __name__ == "__main__":
    main()
