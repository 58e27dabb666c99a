"""Trainings killed with SIGKILL at random moments and resumed, against one that was left alone.

`python -m benchmarks.kills` (`make study-kills`) kills each variant 50 times, wherever it is then:
compiling, training, registering, writing a checkpoint. A training that comes to its end in between is
compared and the next one begun. The last is left to end.
"""

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import record
from tests.support.kills import SHORT, study


def table(result: dict[str, Any]) -> str:
    """The committed figures in Markdown."""
    lines = [
        "| preset | kills | of these while a checkpoint was written | trainings | that differ |",
        "|---|---|---|---|---|",
    ]
    for name, row in result["variants"].items():
        differ = ", ".join(f"{part} {count}" for part, count in row["differ"].items()) or "none"
        lines.append(
            f"| `{name}` | {row['kills']} | {row['while_writing']} | {row['trainings']} | {differ} |"
        )
    return "\n".join(lines) + f"\n\n{result['cpu']}, {result['time'][:10]}."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50, help="of each preset")
    parser.add_argument("--only", choices=SHORT, help="one preset; with --save beside the others")
    parser.add_argument("--seed", type=int, default=1, help="of the moments")
    parser.add_argument("--save", action="store_true", help="commit the figures to the documents")
    options = parser.parse_args()
    result = {**record.machine(os.getloadavg()[0]), "seed": options.seed, "variants": {}}
    if options.only:
        result["variants"] = json.loads((record.RESULTS / "kills.json").read_text())["variants"]
    for name in [options.only] if options.only else SHORT:
        with tempfile.TemporaryDirectory() as folder:
            row = study(name, SHORT[name], options.kills, Path(folder), options.seed)
        result["variants"][name] = row
        print(name, row, flush=True)
    if options.save:
        record.save("kills", result, table(result), record.CHECKPOINTS)


if __name__ == "__main__":
    main()
