"""What every benchmark writes down: the machine, a JSON file, and its table in a document."""

import json
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS = HERE / "results"
README = HERE.parent / "README.md"
EVENT_LOG = HERE.parent / "docs/event-log.md"
GYMNASIUM = HERE.parent / "docs/gymnasium.md"
ALGORITHMS = HERE.parent / "docs/algorithms.md"
EVALUATION = HERE.parent / "docs/evaluation.md"
TRADING = HERE.parent / "docs/trading.md"
SIMULATION = HERE.parent / "docs/simulation.md"
CHECKPOINTS = HERE.parent / "docs/checkpoints.md"
PERFORMANCE = HERE.parent / "docs/performance.md"
SIZING = HERE.parent / "docs/sizing.md"
TRACKING = HERE.parent / "docs/tracking.md"
TESTS = HERE.parent / "docs/tests.md"


def machine(load_before: float) -> dict[str, Any]:
    """When and on what a benchmark ran; `load_before` is the load average before it."""
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": _cpu(),
        "platform": platform.platform(),
        "load_before": load_before,
    }


def mark(name: str) -> str:
    """What stands before and after a benchmark's table in a document."""
    return f"<!-- {name} -->"


def save(name: str, result: dict[str, Any], table: str, document: Path) -> None:
    """Writes `results/<name>.json`, and the table between its marks in a document."""
    path = RESULTS / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n")
    before, start, rest = document.read_text().partition(mark(name))
    _, end, after = rest.partition(mark(name))
    shown = document.relative_to(HERE.parent)
    if not end:
        raise SystemExit(f"{shown} has no two marks {mark(name)} for the table to stand between")
    document.write_text(f"{before}{start}\n{table}\n{end}{after}")
    print(f"written to {path.relative_to(HERE.parent)} and {shown}")


def load(name: str) -> dict[str, Any]:
    """What `save` wrote."""
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return found


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()
