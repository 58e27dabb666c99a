"""What tracking costs a training, and what becomes of it when a server dies.

    make bench-tracking      or, with what to vary:  make bench-tracking ARGS="--rounds 3 --save"

Trainings of `two_layer` in turns, each in a process of its own: tracked in the folder's SQLite database,
not tracked at all, and with a server that is down; then, twice as long, with a server that lives and with
one that is killed early and started again 30 s later. The clock runs from the compiled program to the end
of the command. Beside it stands the time that the training's own thread spent in tracking: logging,
figures, handing versions over, and the wait at the end. A server runs on the last core alone, so that its
start takes nothing from the training's thread, which may use all. Prints a table; with `--save` writes
`benchmarks/results/tracking.json` and the table in docs/tracking.md.
"""

import argparse
import functools
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.record import HERE, RESULTS, TRACKING, machine, save
from benchmarks.throughput import spread

STEPS = 1_000_000
AWAY_SECONDS = 30
MODES = {
    "untracked": STEPS,
    "sqlite": STEPS,
    "down": STEPS,
    "server": 2 * STEPS,
    "killed": 2 * STEPS,
}
BOARD = ("scalars", "histogram", "image", "settings", "ended", "flush")
CALLS = (
    *("__init__", "__exit__", "log", "log_machine", "log_learned", "log_data", "log_figure"),
    *("log_table", "set_tags", "describe", "register", "propose", "flush"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description="what tracking costs")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--share", type=float, default=1.0, help="of the iterations, for a try")
    parser.add_argument("--one", choices=MODES, help="what a process of its own measures")
    parser.add_argument("--mlruns", help="of that process")
    parser.add_argument("--cores", help="of that process, with commas")
    parser.add_argument("--page", action="store_true", help="measure the page alone, and save that")
    parser.add_argument("--save", action="store_true", help="write the JSON and the table")
    options = parser.parse_args()
    if options.one:
        os.sched_setaffinity(0, {int(core) for core in options.cores.split(",")})
        print(json.dumps(training(options.one, options.mlruns, options.share)))
        return
    if options.page:
        measure_page_again()
        return
    load_before = os.getloadavg()[0]
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})  # a server's, which inherits it
    found: dict[str, list[dict[str, Any]]] = {mode: [] for mode in MODES}
    page: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(options.rounds):
            for mode, results in found.items():
                place = Path(folder) / f"{mode}-{turn}"
                place.mkdir()
                results.append(measured(mode, place, options.share, cores))
                print(mode, results[-1], flush=True)
        os.sched_setaffinity(0, cores)
        page = page_seconds(Path(folder) / "sqlite-0" / "mlruns")
    result = {**machine(load_before), "steps": STEPS, "runs": found, "page_seconds": page}
    print(table(result))
    if options.save:
        save("tracking", result, table(result), TRACKING)


def measure_page_again() -> None:
    """The page of a run's metrics alone, beside the trainings that were measured before."""
    result = json.loads((RESULTS / "tracking.json").read_text())
    with tempfile.TemporaryDirectory() as folder:
        measured("sqlite", Path(folder), 1.0, os.sched_getaffinity(0))
        result["page_seconds"] = page_seconds(Path(folder) / "mlruns")
    save("tracking", result, table(result), TRACKING)


def measured(mode: str, folder: Path, share: float, cores: set[int]) -> dict[str, Any]:
    """A training in a process of its own, and whether each of its points arrived once."""
    command = [sys.executable, "-m", "benchmarks.tracking", "--one", mode, "--share", str(share)]
    command += ["--cores", ",".join(map(str, sorted(cores)))]
    mlruns = folder / "mlruns"
    with server_of(mode, folder) as uri:
        named = {} if uri is None else {"MLFLOW_TRACKING_URI": uri.uri}
        process = subprocess.Popen(
            [*command, "--mlruns", str(mlruns)],
            stdout=subprocess.PIPE,
            cwd=HERE.parent,
            env={**os.environ, **named},
            text=True,
        )
        if mode == "killed" and uri is not None:
            wait_for_lines(mlruns, 50)
            uri.kill()
            time.sleep(AWAY_SECONDS)
            uri.start()
        out, _ = process.communicate()
        if process.returncode:
            raise SystemExit(f"{mode} ended with {process.returncode}")
        result: dict[str, Any] = json.loads(out.splitlines()[-1])
        if mode in ("server", "killed") and uri is not None:
            sync = [sys.executable, "-m", "qdesk", "tracking", "sync", "--mlruns", str(mlruns)]
            subprocess.run(sync, check=True, capture_output=True, cwd=HERE.parent)
            result["rows"], result["wrong"] = compared(mlruns, uri.database)
        elif mode == "sqlite":
            result["rows"], result["wrong"] = compared(mlruns, mlruns / "mlflow.db")
    return result


@contextmanager
def server_of(mode: str, folder: Path) -> "Iterator[Any]":
    """The server that a mode needs, started but for the one that is down."""
    from tests.support.servers import TrackingServer

    if mode in ("untracked", "sqlite"):
        yield None
        return
    server = TrackingServer(folder)
    if mode != "down":
        server.start()
    try:
        yield server
    finally:
        server.kill()


def wait_for_lines(mlruns: Path, lines: int) -> None:
    """Until a journal has so many."""
    while not any(
        path.read_bytes().count(b"\n") >= lines for path in mlruns.glob("journals/*/journal.jsonl")
    ):
        time.sleep(0.1)


def compared(mlruns: Path, database: Path) -> tuple[int, int]:
    """How many points MLflow has, and how many are not there exactly once."""
    (journal,) = mlruns.glob("journals/*/journal.jsonl")
    entries = [json.loads(line) for line in journal.read_text().splitlines()]
    put = Counter(
        (name, entry["step"], value)
        for entry in entries
        if entry["kind"] == "points"
        for name, value in entry["metrics"].items()
    )
    with sqlite3.connect(database) as connection:
        stored = Counter(connection.execute("SELECT key, step, value FROM metrics").fetchall())
    connection.close()
    return stored.total(), ((stored - put) + (put - stored)).total()


def training(mode: str, mlruns: str, share: float) -> dict[str, float]:
    """`qdesk train`, watched from inside."""
    import qdesk
    from training.learning.loop import TrainingLoop
    from training.observers.versions import VersionRecorder
    from training.tracking.tracker import Tracker
    from training.tracking.uploader import Uploader

    spent = [0.0]
    waited = [0.0]
    compiled = list[tuple[float, float]]()
    depth = [0]
    compile_program = TrainingLoop.compile

    def watched(loop: TrainingLoop) -> None:
        compile_program(loop)
        compiled.append((time.perf_counter(), time.process_time()))

    def timed(call: Any, into: list[float]) -> Any:
        @functools.wraps(call)
        def measured_call(*arguments: Any, **named: Any) -> Any:
            if threading.current_thread() is not threading.main_thread() or depth[0]:
                return call(*arguments, **named)
            depth[0] += 1
            began = time.perf_counter()
            try:
                return call(*arguments, **named)
            finally:
                depth[0] -= 1
                into[0] += time.perf_counter() - began

        return measured_call

    TrainingLoop.compile = watched  # type: ignore[assignment]
    for name in CALLS:
        setattr(Tracker, name, timed(getattr(Tracker, name), spent))
    for owner, name, into in ((VersionRecorder, "finish", spent), (Uploader, "drain", waited)):
        setattr(owner, name, timed(getattr(owner, name), into))
    if mode == "untracked":
        leave_out()
    steps = str(round(MODES[mode] * share))
    sys.argv = ["qdesk", "train", "--preset", "two_layer", "--steps", steps, "--mlruns", mlruns]
    code = qdesk.main()
    ended = time.perf_counter()
    used = time.process_time()
    if code:
        raise SystemExit(code)
    began, before = compiled[0]
    return {
        "seconds": ended - began,
        "cpu": used - before,
        "tracking": spent[0],
        "waited": waited[0],
    }


def leave_out() -> None:
    """Has nothing tracked, and figures not drawn."""
    from training.observers.versions import BestAndLast, VersionRecorder
    from training.tracking.journal import RunJournal
    from training.tracking.tensorboard import TensorBoardLog
    from training.tracking.uploader import Uploader

    def nothing(*_: Any, **__: Any) -> Any:
        return None

    def finish(self: VersionRecorder, _: str) -> BestAndLast:
        assert self.best is not None
        assert self.last is not None
        return BestAndLast(self.best, self.last, self.tracker)

    for owner, name in (
        *((TensorBoardLog, name) for name in BOARD),
        (RunJournal, "put"),
        (Uploader, "add"),
    ):
        setattr(owner, name, nothing)
    setattr(VersionRecorder, "finish", finish)  # noqa: B010 - a method is replaced


def page_seconds(mlruns: Path) -> list[float]:
    """How long a run's page takes to show its metrics, in a browser that was just started; 5 times."""
    import shutil

    from playwright.sync_api import sync_playwright

    from tests.support.browser import CHROMIUM, SWITCHES
    from tests.support.servers import free_port, wait_for

    if CHROMIUM is None or shutil.which("make") is None:
        return []
    port = free_port()
    log = mlruns.parent / "ui.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            ["make", "-C", str(HERE.parent), "ui", f"UI_PORT={port}", f"STORE={mlruns}"],
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    found = []
    try:
        wait_for(f"http://127.0.0.1:{port}/health", process, log)
        with sqlite3.connect(mlruns / "mlflow.db") as connection:
            ((run,),) = connection.execute("SELECT run_uuid FROM runs").fetchall()
        connection.close()
        with sync_playwright() as playwright:
            for _ in range(5):
                browser = playwright.chromium.launch(executable_path=CHROMIUM, args=SWITCHES)
                page = browser.new_page()
                began = time.perf_counter()
                page.goto(f"http://127.0.0.1:{port}/#/experiments/1/runs/{run}")
                page.get_by_text("train/reward", exact=True).first.wait_for()
                found.append(time.perf_counter() - began)
                browser.close()
    finally:
        os.killpg(process.pid, 15)
        process.wait()
    return found


def table(result: dict[str, Any]) -> str:
    """The result in Markdown: medians and spreads, and ratios round by round."""
    runs = result["runs"]
    named = {
        "untracked": "not tracked at all",
        "sqlite": "SQLite in `mlruns/`",
        "down": "a server that is down",
        "server": "a server",
        "killed": f"a server killed for {AWAY_SECONDS} s",
    }
    beside = {"sqlite": "untracked", "down": "untracked", "killed": "server"}
    lines = [
        "| tracked in | iterations | seconds (range) | beside | ratio, round by round | of processor "
        "time | of it in tracking | rows | not there once |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for mode, found in runs.items():
        seconds = [each["seconds"] for each in found]
        shares = [100 * (each["tracking"] + each["waited"]) / each["seconds"] for each in found]
        ratios = {"seconds": "", "cpu": ""}
        other = ""
        if mode in beside:
            other = named[beside[mode]]
            for what in ratios:
                pairs = zip(found, runs[beside[mode]], strict=True)
                ratios[what] = spread([one[what] / two[what] for one, two in pairs], ".3f")
        rows = f"{max(each['rows'] for each in found):,}" if "rows" in found[0] else ""
        wrong = f"{sum(each['wrong'] for each in found):,}" if "wrong" in found[0] else ""
        spent = "" if mode == "untracked" else f"{spread(shares, '.1f')} %"
        lines.append(
            f"| {named[mode]} | {MODES[mode]:,} | {spread(seconds, '.1f')} | {other} "
            f"| {ratios['seconds']} | {ratios['cpu']} | {spent} | {rows} | {wrong} |"
        )
    rounds = len(runs["sqlite"])
    page = result["page_seconds"]
    said = f" The page of a run of {STEPS:,} iterations shows its metrics after "
    said = f"{said}{spread(page, '.2f')} s in a fresh browser." if page else ""
    return "\n".join(
        [
            *lines,
            "",
            f"{result['cpu']}, 2 threads, {rounds} rounds in turns, {result['time'][:10]}.{said}",
        ]
    )


if __name__ == "__main__":
    main()
