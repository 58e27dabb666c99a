"""The door: every command of `qdesk`, what it needs, and how it ends.

Exit codes: 0 done, 1 failed, 2 bad input, 3 missing dependency, 4 the gate said no or nothing was ever
promoted, 130 and 143 stopped by a signal. Errors of ours carry theirs as `exit_code`.
"""

import os
import sys
from importlib import import_module
from importlib.metadata import version
from typing import NamedTuple


class Command(NamedTuple):
    """A row of the registry."""

    about: str
    module: str  # is loaded when the command is asked for
    needs: tuple[str, ...] = ()  # packages without which it cannot begin
    function: str = "run"  # of the module: takes arguments and a terminal, returns the exit code
    listed: bool = True  # in the usage

    @property
    def parser(self) -> str:
        """What makes the parser of its arguments, in the same module."""
        return "parser" if self.function == "run" else f"{self.function}_parser"


MLFLOW = ("mlflow",)
COMMANDS = {
    "train": Command(
        "train Q-networks or tables on bars, track them, register their checkpoints", "qdesk.train"
    ),
    "data": Command("make event logs into bars; check either", "qdesk.data"),
    "evaluate": Command(
        "judge a version: backtest, walk-forward, statistics, a report that can say no",
        "qdesk.evaluate",
        MLFLOW,
    ),
    "runs": Command("list and compare trainings, rank them by a metric", "qdesk.runs", MLFLOW),
    "models": Command(
        "list, compare, verify, promote and roll back what was trained", "qdesk.models", MLFLOW
    ),
    "tracking": Command(
        "send what a tracking server missed; mend a store that was moved", "qdesk.tracking", MLFLOW
    ),
    "paper": Command(
        "trade a model version on paper, behind safety switch and risk engine",
        "qdesk.trade",
        function="paper",
    ),
    "backtest": Command(
        "the same over recorded bars, in NautilusTrader's engine too",
        "qdesk.trade",
        function="backtest",
    ),
    "kill": Command("stop a desk's orders; resume sets it free", "qdesk.trade", function="kill"),
    "resume": Command(
        "let a desk that was stopped trade again", "qdesk.trade", function="resume", listed=False
    ),
    "completion": Command(
        "print a script for bash, zsh or fish to complete all this",
        "qdesk.completion",
        listed=False,
    ),
}
USAGE = """usage: qdesk COMMAND [OPTIONS]

commands:
%s

`qdesk COMMAND --help` lists a command's options; `qdesk --version` prints the version;
`qdesk completion SHELL` prints what bash, zsh or fish completes."""
# Nothing keeps a desk from being stopped, and no address in these is used.
STOPPING = ("kill", "resume")


def usage() -> str:
    """What `qdesk --help` prints."""
    rows = [f"  {name:<8} {each.about}" for name, each in COMMANDS.items() if each.listed]
    return USAGE % "\n".join(rows)


def main() -> int:
    """Runs a command and returns its exit code."""
    from durable.addresses import BadAddress, take_all, take_from_environment

    name, *arguments = sys.argv[1:] or ["--help"]
    try:
        if name not in STOPPING:
            name, *arguments = take_all([name, *arguments])
            take_from_environment()
    except BadAddress as error:
        return _fail(str(error), error.exit_code)
    if name in COMMANDS:
        return _run(name, arguments)
    if name in {"-h", "--help"}:
        print(usage())
        return 0
    if name == "--version":
        print(f"qdesk {version('qdesk')}")
        return 0
    return _fail(f"{name} is not a command of qdesk; see `qdesk --help`", 2)


def _run(name: str, arguments: list[str]) -> int:
    from durable.errors import require_packages
    from durable.stopping import Terminated, acknowledged
    from durable.terminal import Terminal

    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    command = COMMANDS[name]
    try:
        require_packages(f"qdesk {name}", command.needs)
        with acknowledged(name):
            run = getattr(import_module(command.module), command.function)
            code: int = run(arguments, Terminal())
            return code
    except KeyboardInterrupt:
        return _fail(f"qdesk {name}: stopped by SIGINT", 130)
    except Terminated as stop:
        return _fail(f"qdesk {name}: stopped by SIGTERM{stop}", 143)
    except Exception as error:
        ours = getattr(error, "exit_code", None)
        if ours is not None:
            return _fail(str(error), ours)
        if isinstance(error, OSError):
            return _fail(f"qdesk {name}: {error}", 1)
        raise


def _fail(sentence: str, code: int) -> int:
    from durable.addresses import hidden
    from durable.terminal import plain

    print(plain(hidden(sentence)), file=sys.stderr)
    return code
