"""Do the tests notice? Mutants of the code that money hangs on, each under the tests that concern it.

`python -m benchmarks.mutations` (`make study-mutations`) draws mutants of every file in `TESTS` and runs
its tests on each. A mutant that no test fails on has survived: either a test is missing, or the mutant
computes the same. Those that compute the same stand in `equivalent_mutants.toml` with the reason; any
other survivor ends the study with exit code 1.

Each worker has a copy of the repository and has imported what takes long and starts no threads; for every
mutant it forks, so that a test file that needs TensorFlow costs no import of it.
"""

import argparse
import importlib
import multiprocessing
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
import traceback
import warnings
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple

from benchmarks import record
from benchmarks.mutants import Mutant, drawn

ROOT = Path(__file__).parents[1]
EQUIVALENT = Path(__file__).with_name("equivalent_mutants.toml")
UPLOADED = (
    "they_arrive_are_kept_few_and_are_found_from_another_machine",
    "what_another_machine_uploaded_is_judged_by_the_same_rule",
    "a_bucket_that_lost_a_file_gives_the_one_before",
    "a_damaged_one_in_the_bucket_is_named_and_the_one_before_taken",
    "what_never_arrived_is_uploaded_by_the_next",
)
TESTS: dict[str, tuple[str, ...]] = {
    "durable/lines.py": ("lines", "journal"),
    "market/accounting.py": ("bounds", "accounting", "sizing", "backtest", "measures"),
    "market/features.py": ("features", "feature_bars"),
    "models/n_step.py": ("targets", "replay"),
    "durable/verified.py": ("verified", "checkpoint"),
    "models/targets.py": ("targets", "learner"),
    "training/checkpoints/checkpoint.py": (
        "checkpoint",
        *(f"object_store::test_{name}" for name in UPLOADED),
    ),
    "training/learning/ring.py": ("ring", "batches"),
    "evaluation/gate.py": ("bounds", "gate", "gate_bounds"),
    "evaluation/ledger.py": ("ledger", "openings"),
    "evaluation/statistics.py": ("statistics", "dependence"),
    "trading/records.py": ("account", "order_limits", "limits", "drills", "trading_properties"),
    "trading/execution.py": (
        *("bounds", "execution", "odd_bundles", "limits", "drills", "trading_properties"),
    ),
    "trading/journal.py": ("journal", "desk_account", "drills"),
    "trading/latch.py": ("latch", "drills"),
    "trading/risk.py": ("bounds", "order_limits", "limits", "drills", "trading_properties"),
}
HOUSE = {path.stem for path in ROOT.glob("*.py")} | {
    path.parent.name for path in ROOT.glob("*/*.py")
}
# What takes long to import and starts no threads: those do not live on in a fork.
WARM = ("numpy", "scipy.stats", "tensorflow", "keras", "pydantic", "pytest", "fsspec")
TIMES = 4
MORE = 20.0  # seconds that a mutant may take: so many times the tests' own, and more
NO_FAILURE, FAILURES, INTERRUPTED = 0, 1, 2  # pytest's exit codes; the last: not even collected

Outcome = Literal["caught", "timeout", "survived"]


class Tree:
    """A copy of the repository, in which one process runs tests."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "tree"
        self.temporary = folder / "temporary"
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for name in filter(None, listed.split("\0")):
            if (ROOT / name).is_file():
                (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, self.folder / name)
        # Whether a compiled file is that of its source is seen by its content: two mutants of one length
        # in one second would have the same date and size.
        compiled = ["compileall", "-q", "--invalidation-mode", "checked-hash", "."]
        subprocess.run([sys.executable, "-m", *compiled], cwd=self.folder, check=True)

    def run(self, tests: tuple[str, ...], seconds: float) -> int | None:
        """Runs tests in a process of their own: pytest's exit code, or None where it took too long."""
        self.temporary.mkdir()
        child = os.fork()
        if child == 0:
            self._test(tests)
        handle = os.pidfd_open(child)
        try:
            done, _, _ = select.select([handle], [], [], seconds)
            with suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)  # and what it has started
            _, status = os.waitpid(child, 0)
        finally:
            os.close(handle)
            _removed(self.temporary)
        return os.waitstatus_to_exitcode(status) if done else None

    def _test(self, tests: tuple[str, ...]) -> None:
        """In the child: imports the house anew, from the copy."""
        code = INTERRUPTED
        try:
            os.setsid()
            os.chdir(self.folder)
            sys.path.insert(0, str(self.folder))
            os.environ |= {"PYTHONPATH": str(self.folder), "TMPDIR": str(self.temporary)}
            tempfile.tempdir = None
            for name in [name for name in sys.modules if name.split(".")[0] in HOUSE]:
                del sys.modules[name]
            with (self.folder.parent / "output").open("w") as output:
                for descriptor in (1, 2):
                    os.dup2(output.fileno(), descriptor)
            import pytest

            named = (name.partition("::") for name in tests)
            paths = [f"{found(file)}{mark}{test}" for file, mark, test in named]
            code = int(pytest.main(["-x", "-q", "-m", "not slow", *paths]))
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)


def found(name: str, root: Path = Path()) -> Path:
    """The file of tests of that name."""
    (path,) = (root / "tests").rglob(f"test_{name}.py")
    return path


class Verdict(NamedTuple):
    """What became of a mutant."""

    mutant: Mutant
    outcome: Outcome
    seconds: float


tree: Tree  # of a worker


def begin(folder: str) -> None:
    """Gets a worker ready."""
    global tree  # noqa: PLW0603 - one of each process
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    warnings.simplefilter("ignore")  # of threads: the one that there is waits for nothing
    os.environ |= {"OPENBLAS_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    for name in WARM:
        importlib.import_module(name)
    tree = Tree(Path(tempfile.mkdtemp(dir=folder)))


def unharmed(file: str) -> tuple[str, float]:
    """A file and the seconds that its tests take, which must pass."""
    began = time.monotonic()
    code = tree.run(TESTS[file], 600.0)
    if code != NO_FAILURE:
        said = (tree.folder.parent / "output").read_text()[-3000:]
        raise RuntimeError(f"the tests of {file} fail as it is (pytest said {code}):\n{said}")
    return file, time.monotonic() - began


def judged(mutant: Mutant, seconds: float) -> Verdict:
    """Runs a mutant's tests."""
    path = tree.folder / mutant.file
    whole = path.read_text()
    began = time.monotonic()
    path.write_text(mutant.code)
    try:
        code = tree.run(TESTS[mutant.file], TIMES * seconds + MORE)
    finally:
        path.write_text(whole)
    outcome: Outcome = "survived" if code == NO_FAILURE else "timeout" if code is None else "caught"
    return Verdict(mutant, outcome, time.monotonic() - began)


def _removed(folder: Path) -> None:
    """Takes a folder away, what a test has locked included."""
    for path in (folder, *folder.rglob("*")):
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o700)
    shutil.rmtree(folder)


def reasons() -> dict[tuple[str, str, str, str], str]:
    """Why mutants compute the same, by their keys."""
    listed = tomllib.loads(EQUIVALENT.read_text())["mutant"]
    return {
        (each["file"], each["scope"], each["before"], each["after"]): each["reason"]
        for each in listed
    }


def begun(mutants: dict[str, list[Mutant]]) -> dict[str, Any]:
    """Rows of a study, by file, before any mutant was run."""
    row = {"caught": 0, "timeout": 0, "equivalent": 0, "seconds": 0.0}
    return {file: {"drawn": len(each), **row, "survived": []} for file, each in mutants.items()}


def left_over(rows: dict[str, Any], seed: int) -> dict[str, list[Mutant]]:
    """The mutants that an earlier study lists as survivors, taken out of its rows.

    Raises:
        SystemExit: a file is no longer what it was, so that its mutants cannot be found.
    """
    found = {}
    for file, row in rows.items():
        wanted = [(each["scope"], each["before"], each["after"]) for each in row["survived"]]
        again = [each for each in drawn(ROOT, file, row["drawn"], seed) if each.key[1:] in wanted]
        if len(again) != len(wanted):
            raise SystemExit(f"{file} has changed since the study: run it in full")
        row["survived"] = []
        if again:
            found[file] = again
    return found


def study(mutants: dict[str, list[Mutant]], rows: dict[str, Any], workers: int) -> dict[str, Any]:
    """Runs mutants and counts, by file; survivors without a reason are printed as they are found."""
    known = reasons()
    context = multiprocessing.get_context("spawn")
    with (
        tempfile.TemporaryDirectory(prefix="mutations-") as folder,
        ProcessPoolExecutor(workers, context, begin, (folder,)) as pool,
    ):
        Path(folder).chmod(0o755)
        seconds = dict(pool.map(unharmed, mutants))
        jobs = []
        for file, each in mutants.items():
            rows[file]["tests_seconds"] = round(seconds[file], 1)
            jobs += [pool.submit(judged, mutant, seconds[file]) for mutant in each]
        left = {file: len(each) for file, each in mutants.items()}
        try:
            for done in as_completed(jobs):
                mutant, outcome, took = done.result()
                row = rows[mutant.file]
                row["seconds"] = round(row["seconds"] + took, 1)
                left[mutant.file] -= 1
                if outcome == "survived" and mutant.key in known:
                    row["equivalent"] += 1
                elif outcome == "survived":
                    parts = mutant._asdict().items()
                    told = {name: each for name, each in parts if name not in ("file", "code")}
                    row["survived"].append(told)
                    where = f"{mutant.file}:{mutant.line} in {mutant.scope or 'the module'}"
                    print(f"survived: {where}\n  - {mutant.before}\n  + {mutant.after}", flush=True)
                else:
                    row[outcome] += 1
                if not left[mutant.file]:
                    noticed = row["caught"] + row["timeout"]
                    print(f"{mutant.file}: {noticed} of {row['drawn']} noticed", flush=True)
        finally:  # of a study that is broken off, what has not begun
            pool.shutdown(wait=False, cancel_futures=True)
    for row in rows.values():
        row["survived"].sort(key=lambda each: (each["line"], each["after"]))
    return rows


def table(result: dict[str, Any]) -> str:
    """The committed figures in Markdown."""
    lines = [
        "| file | tests | mutants drawn | noticed | equivalent | not noticed |",
        "|---|---|---|---|---|---|",
    ]
    total = [0, 0, 0, 0]
    for file, row in result["files"].items():
        names = dict.fromkeys(name.partition("::")[0] for name in row["tests"])
        tests = ", ".join(f"`{name}`" for name in names)
        noticed = row["caught"] + row["timeout"]
        counts = [row["drawn"], noticed, row["equivalent"], len(row["survived"])]
        total = [a + b for a, b in zip(total, counts, strict=True)]
        lines.append(f"| `{file}` | {tests} | {' | '.join(map(str, counts))} |")
    lines.append(f"| all | | {' | '.join(map(str, total))} |")
    share = total[1] / total[0]
    took = f"{result['minutes']:.0f} minutes with {result['workers']} workers"
    said = f"{share:.1%} of the mutants drawn were noticed; seed {result['seed']}, {took}"
    return "\n".join([*lines, "", f"{said}; {result['cpu']}, {result['time'][:10]}."])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mutants", type=int, default=60, help="drawn of each file")
    parser.add_argument("--seed", type=int, default=1, help="of the draw")
    parser.add_argument("--workers", type=int, default=2, help="processes, one a core")
    parser.add_argument("--only", choices=TESTS, action="append", help="a file, and no other")
    parser.add_argument("--save", action="store_true", help="commit the figures to the documents")
    parser.add_argument(
        "--again", action="store_true", help="run survivors of the saved study alone"
    )
    options = parser.parse_args()
    before = os.getloadavg()[0]
    began = time.monotonic()
    minutes = 0.0
    rows: dict[str, Any] = {}
    if options.again or (options.only and options.save):  # the rest stays as it is
        saved = record.load("mutations")
        rows = saved["files"]
        options.seed = saved["seed"]
        minutes = saved["minutes"]
    if options.again:
        mutants = left_over(rows, options.seed)
        print(f"the {sum(map(len, mutants.values()))} survivors of the saved study", flush=True)
    else:
        files = options.only or list(TESTS)
        mutants = {file: drawn(ROOT, file, options.mutants, options.seed) for file in files}
        rows |= begun(mutants)
        print(f"{options.mutants} mutants of each file, seed {options.seed}", flush=True)
    rows = study(mutants, rows, options.workers)
    minutes += (time.monotonic() - began) / 60
    result = {
        **record.machine(before),
        "seed": options.seed,
        "workers": options.workers,
        "minutes": round(minutes, 1),
        "files": {file: {**row, "tests": TESTS[file]} for file, row in rows.items()},
    }
    print(table(result))
    if options.save:
        record.save("mutations", result, table(result), record.TESTS)
    if any(row["survived"] for row in rows.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
