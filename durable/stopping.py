"""Signals that stop a command are acknowledged at once, whatever its main thread is busy with.

Python runs its handlers on the main thread, between two instructions: not while a compiled program runs,
nor, where a library has set its own handler in between, while that thread waits for a lock. Here a thread
listens to the file that Python tells every signal at once.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

GRACE = 0.7  # s that the main thread has to end by itself at the second signal
STOPS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def acknowledged(command: str) -> Iterator[None]:
    """Says at the first signal that the command is stopping, and ends the process at the second.

    What the signals mean is for the command's own handlers to say.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only that one may listen
        return
    read, write = os.pipe()
    os.set_blocking(write, False)
    ended = threading.Event()
    listener = threading.Thread(target=_listen, args=(read, command, ended), daemon=True)
    before = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    listener.start()
    try:
        yield
    finally:
        ended.set()
        signal.set_wakeup_fd(before)
        os.close(write)
        listener.join()
        os.close(read)


class Stopped(Exception):
    """A signal was obeyed. The message says what has become of the work."""

    def __init__(self, sentence: str, by: signal.Signals) -> None:
        super().__init__(sentence)
        self.exit_code = 128 + by


class Terminated(BaseException):
    """SIGTERM came. The message says what is to be added to that."""


@contextmanager
def terminable(said: str = "") -> Iterator[None]:
    """Makes SIGTERM an exception, so that whoever is at work can tidy up.

    What is `said` is added to the sentence that the command ends with.
    """

    def stop(*_: object) -> None:
        raise Terminated(said)

    handler = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, handler)


def _listen(file: int, command: str, ended: threading.Event) -> None:
    count = 0
    while numbers := os.read(file, 64):
        for number in numbers:
            if number not in STOPS:
                continue
            count += 1
            name = signal.Signals(number).name
            if count == 1:
                _say(f"qdesk {command}: {name}: stopping; once more ends it at once\n")
            elif not ended.wait(GRACE):
                _say(f"qdesk {command}: ended by a second {name}\n")
                for process in multiprocessing.active_children():
                    process.kill()
                os._exit(128 + number)


def _say(sentence: str) -> None:
    """Writes without waiting for whoever reads it, or does not."""

    def write() -> None:
        with suppress(OSError):
            os.write(2, sentence.encode())

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    writer.join(0.1)
