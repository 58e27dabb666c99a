"""How soon a desk stops: kill switch and SIGTERM, to the record, on quiet and busy feeds.

`python -m benchmarks.stopping` (`make bench-stopping`) feeds a desk live with trades at a rate, throws
the switch or sends the signal, and reads the journal until it says so.
"""

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from benchmarks import record
from market.synthetic import RandomWalk
from tests.support.desks import bundle_for
from trading.latch import Latch

RATES = (0, 20, 100_000)  # events a second
PIECE = 0.01  # s between two writes into the pipe
SETTLED = 3.0  # s of events before the desk is stopped
LONGEST = 30.0  # s that a record is waited for
LINE = b'{"time":%d,"type":"trade","instrument":"A","price":100.%02d,"size":1.0}\n'


class Feed:
    """Trades at a rate into a pipe, each at the time when it is written."""

    def __init__(self, file: int, rate: int) -> None:
        self._file = file
        self._rate = rate
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._write, daemon=True)
        self._thread.start()

    def _write(self) -> None:
        began = time.monotonic()
        sent = 0
        while not self._ended.wait(PIECE):
            due = int((time.monotonic() - began) * self._rate) - sent
            now = time.time_ns()
            data = b"".join(LINE % (now - (due - n) * 1000, (sent + n) % 100) for n in range(due))
            sent += due
            try:
                while data:
                    data = data[os.write(self._file, data) :]
            except BrokenPipeError:
                return

    def end(self) -> None:
        """Stops."""
        self._ended.set()
        self._thread.join(1.0)


def stopped_after(how: str, rate: int, folder: Path) -> float:
    """Seconds from the kill switch, or SIGTERM, to the record of it in the journal."""
    bundle = folder / "bundle"
    bundle.mkdir(parents=True)
    bundle_for(RandomWalk(sigma=0.01).bars(500, seed=5), seed=8).save_into(bundle)
    desk = folder / "desk"
    command = [
        sys.executable,
        "-m",
        "qdesk",
        "paper",
        str(bundle),
        "--events",
        "-",
        "--every",
        "1h",
    ]
    process = subprocess.Popen(
        [*command, "--desk", str(desk), "--accept-other-market"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdin is not None
    feed = Feed(process.stdin.fileno(), rate)
    journal = desk / "journal.jsonl"
    try:
        _wait_for(journal, b'"type":"session"')
        time.sleep(SETTLED)
        began = time.monotonic()
        if how == "kill":
            Latch(desk).kill("measured")
        else:
            process.send_signal(signal.SIGTERM)
        _wait_for(journal, b'"type":"risk"' if how == "kill" else b'"type":"stop"')
        return time.monotonic() - began
    finally:
        process.kill()
        feed.end()
        process.communicate()


def _wait_for(path: Path, sign: bytes) -> None:
    deadline = time.monotonic() + LONGEST
    while not (path.exists() and sign in path.read_bytes()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{path}: no {sign.decode()} within {LONGEST:g} s")
        time.sleep(0.002)


def table(result: dict[str, Any]) -> str:
    """The committed figures in Markdown."""
    lines = ["| events a second | kill switch, ms | SIGTERM, ms |", "|---|---|---|"]
    for rate, found in result["milliseconds"].items():
        cells = [
            f"{statistics.median(each):.0f} (at most {max(each):.0f})" for each in found.values()
        ]
        lines.append(f"| {int(rate):,} | {' | '.join(cells)} |")
    rounds = result["rounds"]
    return "\n".join([*lines, "", f"{rounds} rounds; {result['cpu']}, {result['time'][:10]}."])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--save", action="store_true", help="commit the figures to the documents")
    options = parser.parse_args()
    before = os.getloadavg()[0]
    found: dict[str, dict[str, list[float]]] = {
        str(rate): {"kill": [], "stop": []} for rate in RATES
    }
    for number in range(options.rounds):
        for rate in RATES:
            for how, each in found[str(rate)].items():
                with tempfile.TemporaryDirectory() as folder:
                    seconds = stopped_after(how, rate, Path(folder))
                each.append(round(1000 * seconds, 1))
                print(
                    f"round {number + 1}, {rate:,} events a second, {how}: {1000 * seconds:.0f} ms"
                )
    result = {**record.machine(before), "rounds": options.rounds, "milliseconds": found}
    print(table(result))
    if options.save:
        record.save("stopping", result, table(result), record.TRADING)


if __name__ == "__main__":
    main()
