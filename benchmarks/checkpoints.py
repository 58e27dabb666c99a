"""What a checkpoint costs: the time that training waits, the memory, the share of training time.

`python -m benchmarks.checkpoints` (`make bench-checkpoints`) fills a replay of a million transitions,
then trains 250,000 environment steps before a checkpoint and as many after it, in turns. A checkpoint is
all of it: metrics flushed to MLflow, state, fsync, rename, the oldest taken away.
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

import numpy as np

from benchmarks import record

STORED = 1_000_000
STEPS = 250_000  # of the environment, between two checkpoints
NAMES = {
    "two_layer": "two-layer, uniform replay",
    "rainbow": "rainbow preset, prioritised replay",
}


def measured(preset: str, rounds: int) -> dict[str, Any]:
    """Runs in a process of its own, whose memory is nobody else's."""
    from rich.console import Console

    from training.data import TrainingData
    from training.seed_run import Invocation
    from training.session import open_session
    from training.sources import load_settings
    from training.tracking.store import Store
    from training.tracking.uploader import Uploader

    with tempfile.TemporaryDirectory() as folder:
        arguments = ["--preset", preset, "--replay.capacity", str(STORED), "--steps", str(10**8)]
        (settings,) = load_settings([*arguments, "--mlruns", folder])
        data = TrainingData.of(settings)
        store = Store(settings.mlruns)
        streams = settings.agent.replay.streams
        console = Console(quiet=True)
        with (
            Uploader() as uploader,
            open_session(
                settings, data, store, uploader, Invocation("", "bench", console)
            ) as session,
        ):
            agents = session.agents
            agents.run(STORED // streams + 1)
            plain = []
            after_save = []
            saves = []
            extra = []
            for _ in range(rounds):
                plain.append(timed(lambda: agents.run(STEPS // streams)))
                reset_peak()
                before = resident("VmRSS")
                saves.append(timed(session.checkpointing.save))
                extra.append(resident("VmHWM") - before)
                after_save.append(timed(lambda: agents.run(STEPS // streams)))
            state = sum(array.nbytes for array in agents.state().values())
    return {
        "state_bytes": state,
        "save_seconds": saves,
        "extra_bytes": extra,
        "steps_seconds": plain,
        "steps_after_save_seconds": after_save,
    }


def timed(work: Any) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def reset_peak() -> None:
    """Has VmHWM begin anew from what is resident now."""
    Path("/proc/self/clear_refs").write_text("5")


def resident(which: str) -> int:
    """VmRSS, what is resident, or VmHWM, the most that ever was; bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(which):
            return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def table(result: dict[str, Any]) -> str:
    """The committed figures in Markdown."""
    lines = [
        "| what | state | training waits (range) | extra memory, state = 1 | of 250,000 steps' time |",
        "|---|---|---|---|---|",
    ]
    for name, row in result["presets"].items():
        saves = np.array(row["save_seconds"])
        steps = np.array(row["steps_seconds"])
        after = np.array(row["steps_after_save_seconds"])
        share = (saves + after) / steps - 1
        lines.append(
            f"| {NAMES[name]} | {row['state_bytes'] / 1e6:.1f} MB | {np.median(saves) * 1e3:.0f} ms "
            f"({saves.min() * 1e3:.0f} to {saves.max() * 1e3:.0f}) | "
            f"{max(row['extra_bytes']) / row['state_bytes']:.2f} | "
            f"{np.median(saves / steps):.1%}; with what it does to the steps after it "
            f"{np.median(share):+.1%} ({share.min():+.1%} to {share.max():+.1%}) |"
        )
    return (
        "\n".join(lines)
        + f"\n\n1,000,000 transitions stored; {result['cpu']}, one core, {result['rounds']} rounds, "
        f"{result['time'][:10]}."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--core", type=int, default=0)
    parser.add_argument("--save", action="store_true", help="commit the figures to the documents")
    parser.add_argument("--one", choices=NAMES, help="measure this one here, and print JSON")
    options = parser.parse_args()
    if options.one:
        os.sched_setaffinity(0, {options.core})
        print(json.dumps(measured(options.one, options.rounds)))
        return
    result = {**record.machine(os.getloadavg()[0]), "rounds": options.rounds, "presets": {}}
    for name in NAMES:
        command = [sys.executable, "-m", "benchmarks.checkpoints", "--one", name]
        command += ["--rounds", str(options.rounds), "--core", str(options.core)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        result["presets"][name] = json.loads(done.stdout.splitlines()[-1])
    print(table(result))
    if options.save:
        record.save("checkpoints", result, table(result), record.CHECKPOINTS)


if __name__ == "__main__":
    main()
