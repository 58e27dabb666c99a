"""The house itself: arrows between rooms, what loads without TensorFlow, targets and documents."""

import ast
import json
import re
import shlex
import socket
import subprocess
import sys
import tomllib
import urllib.request
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

from benchmarks import (
    checkpoints,
    coverage,
    environments,
    evaluation,
    events,
    gate,
    growth,
    kills,
    known_markets,
    mutations,
    policy,
    real_bars,
    simulation,
    sizing,
    stopping,
    throughput,
    tracking,
    trading,
    variants,
    whole,
)
from benchmarks.record import (
    ALGORITHMS,
    CHECKPOINTS,
    EVALUATION,
    EVENT_LOG,
    GYMNASIUM,
    PERFORMANCE,
    SIMULATION,
    SIZING,
    TESTS,
    TRACKING,
    TRADING,
    mark,
)
from benchmarks.record import README as README_PATH
from qdesk import COMMANDS
from tests.support.house import WINGS, circle, files, graph, module_of, parallel
from trading.settings import BacktestSettings, PaperSettings, load
from training.sources import load_settings

ROOT = Path(__file__).parents[1]
ROOMS: dict[str, set[str]] = {
    "durable": set(),
    "market": {"durable"},
    "models": {"durable"},
    "evaluation": {"durable", "market", "models"},
    "training": {"durable", "market", "models", "evaluation"},
    "trading": {"durable", "market", "models"},
}
ROOMS["qdesk"] = set(ROOMS)
# All that may load TensorFlow; whatever else there is, and is added, may not.
TENSORFLOW = {
    "market.simulator",
    *(f"models.{name}" for name in ("losses", "networks", "stacked", "targets")),
    *(
        f"training.learning.{name}"
        for name in ("batches", "learner", "loop", "random_bits", "ring")
    ),
}
# Likewise MLflow or matplotlib.
STORES = {
    "market.render",
    *(
        f"models.{name}"
        for name in ("promotion", "promotion_records", "registry", "store", "turns")
    ),
    *(f"evaluation.{name}" for name in ("charts", "evaluate", "figures", "gate", "judging")),
    *(f"evaluation.{name}" for name in ("ledger", "material", "opening", "report", "trials")),
    "evaluation.unended",
    *(f"training.{name}" for name in ("seed_run", "session", "train")),
    *(f"training.observers.{name}" for name in ("checkpointing", "early_stopping", "metrics")),
    *(f"training.observers.{name}" for name in ("q_guard", "recording", "rollback", "versions")),
    *(f"training.tracking.{name}" for name in ("delivery", "runs", "scrub", "store", "tracker")),
    "training.tracking.uploader",
    *(f"qdesk.{name}" for name in ("evaluate", "models", "runs", "tracking")),
}
DOCUMENTS = [README_PATH, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def test_arrows_point_one_way() -> None:
    for name, targets in graph().items():
        room = name.partition(".")[0]
        wrong = {each for each in targets if each.partition(".")[0] not in {*ROOMS[room], room}}
        assert not wrong, f"{name} imports {wrong}"


def test_wings_of_training_do_not_know_one_another() -> None:
    for name, targets in graph().items():
        wing = ".".join(name.split(".")[:2])
        if wing in WINGS:
            wrong = {each for each in targets if each.startswith("training.")}
            wrong = {each for each in wrong if not f"{each}.".startswith(f"{wing}.")}
            assert not wrong, f"{name} imports {wrong}"


def test_tests_share_by_support_alone() -> None:
    """What several of them need stands in `tests/support` or `tests/oracles`."""
    rooms = "|".join(ROOMS)
    for path in [*(ROOT / "tests").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]:
        found = re.findall(rf"^ *from (tests\.(?:{rooms}|test_)\S*) import", path.read_text(), re.M)
        assert not found, f"{path.relative_to(ROOT)} imports {found}"


def test_no_files_import_one_another_in_a_circle() -> None:
    assert circle(graph()) == []


@pytest.mark.parametrize(
    ("heavy", "allowed"),
    [
        (("tensorflow", "keras"), TENSORFLOW),
        (("mlflow", "matplotlib"), TENSORFLOW | STORES),
    ],
)
def test_modules_load_without_what_is_heavy_but_for_a_few(
    heavy: tuple[str, ...], allowed: set[str]
) -> None:
    names = {module_of(path) for path in files()} - {"qdesk.__main__"}
    assert allowed <= names
    code = (
        f"import sys\nfor name in {sorted(names - allowed)}:\n    __import__(name)\n"
        f"    if set({heavy}) & sys.modules.keys(): print(name); break"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == ""


def test_every_module_says_what_it_is_for_and_stays_short() -> None:
    for path in files():
        text = path.read_text()
        assert ast.get_docstring(ast.parse(text)), path
        assert text.count("\n") <= 400, f"{path} is past 400 lines: split it along a seam"


def test_a_line_gives_one_name_its_value() -> None:
    """At most two parallel assignments a 1,000 lines: where values change places, they are needed."""
    lines = sum(path.read_text().count("\n") for path in files())
    packed = {str(path): parallel(path) for path in files()}
    assert sum(map(len, packed.values())) <= lines / 500, {k: v for k, v in packed.items() if v}


def commands(text: str) -> list[list[str]]:
    """What the blocks of a document would type, `qdesk` and the comment left out."""
    blocks = "\n".join(re.findall(r"```bash\n(.*?)```", text, re.DOTALL)).replace("\\\n", " ")
    lines = re.findall(
        r"^(?:[A-Z_]+=\S+ )*(?:\.venv/bin/)?qdesk (?!\.)(.*?)$", blocks, re.MULTILINE
    )
    typed = [shlex.split(line, comments=True) for line in lines]
    return [words[: words.index(">")] if ">" in words else words for words in typed]


def accepted(command: str, arguments: list[str]) -> None:
    """Parses a command's arguments as it would; raises where it would refuse them."""
    row = COMMANDS[command]
    if command == "train":  # the door's parser knows nothing of what fits together
        load_settings(arguments)
    elif command in ("paper", "backtest"):
        if "--config" not in arguments:
            load(PaperSettings if command == "paper" else BacktestSettings, command, arguments)
    else:
        getattr(import_module(row.module), row.parser)().parse_args(arguments)


def test_every_command_in_the_documents_is_one_that_qdesk_takes() -> None:
    seen: dict[str, set[str]] = {}
    for page in DOCUMENTS:
        for command, *arguments in commands(page.read_text()):
            if command.startswith("--") or "--help" in arguments:
                continue
            assert command in COMMANDS, f"{page}: {command}"
            seen.setdefault(command, set()).add(arguments[0] if arguments else "")
            accepted(command, arguments)
    assert seen.keys() == COMMANDS.keys()
    assert seen["models"] == {"list", "show", "compare", "promote", "rollback", "verify"}
    assert seen["runs"] == {"list", "compare", "best"}
    assert seen["tracking"] == {"status", "sync", "move", "scrub"}
    assert seen["data"] == {"convert", "check", "event-log-to-csv"}


def test_every_target_in_the_documents_is_one_of_the_makefile() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set()
    for page in DOCUMENTS:
        blocks = "\n".join(re.findall(r"```bash\n(.*?)```", page.read_text(), re.DOTALL))
        named |= set(re.findall(r"^make ([a-z-]+)", blocks, re.MULTILINE))
    assert named <= targets
    assert {"train", "test", "lint", "type", "bench", "ui", "tensorboard"} <= named


@pytest.mark.parametrize("page", DOCUMENTS, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for path in re.findall(r"\]\((?!http)([^)#\s]+)", page.read_text()):
        assert (page.parent / path).exists(), f"{page.name} links to {path}"
    for path in re.findall(
        r"`((?:docs|tests|benchmarks|training|models|market)/[\w/.-]+\.\w+)`", page.read_text()
    ):
        assert (ROOT / path).exists() or "results" in path, f"{page.name} names {path}"


def test_every_page_is_listed_and_the_readme_is_short() -> None:
    index = (ROOT / "docs/index.md").read_text()
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} - {"index.md"}
    assert pages <= set(re.findall(r"\]\(([a-z-]+\.md)\)", index))
    records = {path.name for path in (ROOT / "docs/decisions").glob("0*.md")}
    assert records == set(
        re.findall(r"\]\((0[\w-]+\.md)\)", (ROOT / "docs/decisions/README.md").read_text())
    )
    assert README_PATH.read_text().count("\n") <= 150


def test_version_and_lock_agree_with_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lock = (ROOT / "requirements.lock").read_text()
    assert f"## {project['version']}" in (ROOT / "CHANGELOG.md").read_text()
    assert "://" not in lock  # it serves behind any mirror
    pinned = set(re.findall(r"^([a-z0-9-]+)==", lock, re.MULTILINE))
    for requirement in project["dependencies"]:
        assert re.split(r"[>=<]", requirement)[0] in pinned
    assert lock.count("--hash=sha256:") > len(pinned)


@pytest.mark.parametrize(
    "benchmark, document",
    [
        (events, EVENT_LOG),
        (environments, GYMNASIUM),
        *((each, PERFORMANCE) for each in (throughput, growth, whole, policy)),
        *((each, ALGORITHMS) for each in (variants, known_markets, real_bars)),
        *((each, CHECKPOINTS) for each in (checkpoints, kills)),
        *((each, EVALUATION) for each in (coverage, evaluation, gate)),
        (mutations, TESTS),
        (tracking, TRACKING),
        *((each, TRADING) for each in (stopping, trading)),
        (simulation, SIMULATION),
        (sizing, SIZING),
    ],
)
def test_documents_show_the_committed_figures(benchmark: ModuleType, document: Path) -> None:
    name = benchmark.__name__.removeprefix("benchmarks.")
    result = json.loads((ROOT / f"benchmarks/results/{name}.json").read_text())
    shown = document.read_text()
    assert f"{mark(name)}\n{benchmark.table(result)}\n{mark(name)}" in shown


def test_make_alone_prints_help() -> None:
    run = subprocess.run(["make", "-C", ROOT], capture_output=True, text=True, check=True)
    for target in (
        "train",
        "test",
        "lint",
        "format",
        "type",
        "bench",
        "ui",
        "tensorboard",
        "clean",
    ):
        assert re.search(rf"^{target} ", run.stdout, re.MULTILINE)


@pytest.mark.parametrize(
    "target, variable, ready, page",
    [
        ("ui", "UI_PORT", "Uvicorn running on", "/version"),
        ("tensorboard", "TENSORBOARD_PORT", "(Press CTRL+C to quit)", "/"),
    ],
)
def test_the_servers_answer_on_loopback(
    tmp_path: Path, target: str, variable: str, ready: str, page: str
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = ["make", "-C", str(ROOT), target, f"{variable}={port}", f"STORE={tmp_path}"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert process.stdout is not None
        said = []
        for line in process.stdout:
            said.append(line)
            if ready in line:
                break
        assert ready in said[-1], said
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{page}") as answer:
            assert answer.status == 200
    finally:
        process.terminate()
        process.communicate()
