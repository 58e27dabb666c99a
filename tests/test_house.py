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
    PERFORMANCE,
    SIMULATION,
    SIZING,
    TESTS,
    TRACKING,
    TRADING,
    mark,
)
from benchmarks.record import README as README_PATH
from qdesk.data import parser
from qdesk.evaluate import parser as evaluate_parser
from qdesk.models import parser as models_parser
from qdesk.runs import parser as runs_parser
from qdesk.tracking import parser as tracking_parser
from qdesk.trade import kill_parser, resume_parser
from tests.support.house import WINGS, circle, files, graph, module_of, parallel
from trading.settings import BacktestSettings, PaperSettings, TradingSettings, load
from training.sources import load_settings

ROOT = Path(__file__).parents[1]
TEAM_SERVER = ROOT / "docs/team-server.md"
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
    *(f"training.{name}" for name in ("session", "train", "versions")),
    *(f"training.tracking.{name}" for name in ("delivery", "runs", "scrub", "store", "tracker")),
    "training.tracking.uploader",
    *(f"qdesk.{name}" for name in ("evaluate", "models", "runs", "tracking")),
}
README = README_PATH.read_text()


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


def test_readme_commands_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    pages = (CHECKPOINTS, EVALUATION, SIZING, TRACKING, TEAM_SERVER, TRADING, SIMULATION)
    documents = README + "".join(page.read_text() for page in pages)
    blocks = "\n".join(re.findall(r"```bash\n(.*?)```", documents, re.DOTALL))
    named = set(re.findall(r"\bmake ([a-z-]+)", README))
    assert {"train", "test", "lint", "format", "type", "bench", "ui", "tensorboard"} <= named
    assert named <= targets
    commands = re.findall(
        r"^(?:[A-Z_]+=\S+ )*(?:\.venv/bin/)?qdesk train(.*?)(?:#.*)?$", blocks, re.MULTILINE
    )
    assert commands
    for arguments in commands:
        load_settings([argument for argument in arguments.split() if argument != "--help"])
    models = re.findall(r"^(?:\.venv/bin/)?qdesk models (.*?)(?:#.*)?$", blocks, re.MULTILINE)
    named = {"list", "show", "compare", "promote", "rollback", "verify"}
    assert {command.split()[0] for command in models} == named
    for command in models:
        models_parser().parse_args(shlex.split(command))
    for name, made, subcommands in (
        ("runs", runs_parser(), {"list", "compare", "best"}),
        ("tracking", tracking_parser(), {"status", "sync", "move", "scrub"}),
    ):
        found = re.findall(rf"^(?:\.venv/bin/)?qdesk {name} (.*?)(?:#.*)?$", blocks, re.MULTILINE)
        assert {command.split()[0] for command in found} == subcommands
        for command in found:
            made.parse_args(shlex.split(command))
    evaluations = re.findall(
        r"^(?:\.venv/bin/)?qdesk evaluate (.*?)(?:#.*)?$", blocks, re.MULTILINE
    )
    assert len(evaluations) > 5
    for command in evaluations:
        evaluate_parser().parse_args(shlex.split(command))
    kinds: dict[str, type[TradingSettings]] = {"paper": PaperSettings, "backtest": BacktestSettings}
    for name, kind in kinds.items():
        traded = re.findall(rf"^(?:\.venv/bin/)?qdesk {name} (.*?)(?:#.*)?$", blocks, re.MULTILINE)
        assert len(traded) > 2
        for command in traded:
            arguments = shlex.split(command)
            if "--help" not in arguments and "--config" not in arguments:
                load(kind, name, arguments)
    for name, parsed in (("kill", kill_parser()), ("resume", resume_parser())):
        (first, *_) = re.findall(
            rf"^(?:\.venv/bin/)?qdesk {name} (.*?)(?:#.*)?$", blocks, re.MULTILINE
        )
        parsed.parse_args(shlex.split(first))
    data = re.findall(r"^(?:\.venv/bin/)?qdesk data (.*?)(?:#.*)?$", blocks, re.MULTILINE)
    assert {command.split()[0] for command in data} == {"convert", "check", "event-log-to-csv"}
    for command in data:
        arguments = [argument for argument in shlex.split(command) if argument != "--help"]
        parser().parse_args(arguments if len(arguments) > 1 else [*arguments, "x", "--out", "y"])
    for path in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / path).exists(), f"README links to {path}"


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
        *((each, README_PATH) for each in (throughput, events, environments)),
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
