"""Signals are acknowledged at once, also where the main thread does not hear them."""

import signal
import subprocess
import sys

import pytest

STUCK = """
import ctypes, signal, sys
from durable.stopping import acknowledged
signal.signal(signal.SIGINT, lambda *_: None)
signal.signal(signal.SIGTERM, lambda *_: None)
with acknowledged("train"):
    print("ready", flush=True)
    while True:
        ctypes.CDLL(None).usleep(100_000)  # what a compiled program is: many calls, no instruction
"""
QUICK = """
import os, signal
from durable.stopping import acknowledged
try:
    with acknowledged("train"):
        os.kill(os.getpid(), signal.SIGINT)
        while True:
            pass
except KeyboardInterrupt:
    print("tidied up", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stuck_command_says_so_and_ends_at_the_second_signal(number: signal.Signals) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", STUCK], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    said = process.stderr.readline()
    assert said == f"qdesk train: {number.name}: stopping; once more ends it at once\n"
    assert process.poll() is None
    process.send_signal(number)
    assert process.stderr.readline() == f"qdesk train: ended by a second {number.name}\n"
    assert process.wait(60) == 128 + number
    process.stdout.close()
    process.stderr.close()


def test_one_signal_leaves_the_command_to_tidy_up() -> None:
    run = subprocess.run([sys.executable, "-c", QUICK], capture_output=True, text=True, timeout=60)
    assert (run.returncode, run.stdout) == (0, "tidied up\n")
    assert run.stderr == "qdesk train: SIGINT: stopping; once more ends it at once\n"
