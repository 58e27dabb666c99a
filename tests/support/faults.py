"""Faults at every step: a call of the system that fails, a disk that fills, a process that is killed.

for number in steps(act, "rename"):  # each time act would get one step further
    ...
"""

import builtins
import io
import os
import resource
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MOST = 40  # calls of a kind that are tried one by one
CALLS = (
    *("open", "mkdir", "write", "pwrite", "fsync", "fdatasync", "ftruncate"),
    *("rename", "replace", "link", "unlink"),
)


@contextmanager
def at_call(name: str, number: int, fault: Callable[[], Any]) -> Iterator[list[int]]:
    """Has something happen in place of the so-manieth call; gives how many calls there were.

    Args:
        name: one of `CALLS`, of `os`; `open` is Python's own as well, where it opens to write.
        number: from 1 on.
        fault: what happens: it raises, or ends the process.
    """
    count = [0]
    places: list[tuple[Any, str]] = [(os, name)]
    if name == "open":
        places += [(io, "open"), (builtins, "open")]
    before = [(place, attribute, getattr(place, attribute)) for place, attribute in places]

    def counting(call: Callable[..., Any], reads: Callable[..., bool]) -> Callable[..., Any]:
        def counted(*arguments: Any, **more: Any) -> Any:
            if reads(*arguments, **more):
                return call(*arguments, **more)
            count[0] += 1
            if count[0] == number:
                fault()
            return call(*arguments, **more)

        return counted

    for place, attribute, call in before:
        reads = _opens_to_read if attribute == "open" else _never
        setattr(place, attribute, counting(call, reads))
    try:
        yield count
    finally:
        for place, attribute, call in before:
            setattr(place, attribute, call)


def _never(*_: Any, **__: Any) -> bool:
    return False


def _opens_to_read(_: Any, how: Any = "r", *__: Any, **more: Any) -> bool:
    how = more.get("mode", more.get("flags", how))
    if isinstance(how, int):
        return not how & (os.O_WRONLY | os.O_RDWR)
    return not set(str(how)) & set("wax+")


def full() -> None:
    """No space is left."""
    raise OSError(28, "No space left on device")


def kill() -> None:
    """The process is gone, without a chance to tidy up."""
    os.kill(os.getpid(), signal.SIGKILL)


def failing(name: str, number: int, act: Callable[[], Any]) -> tuple[bool, BaseException | None]:
    """Whether the so-manieth call came to be and failed, and what was raised then."""
    with at_call(name, number, full) as count:
        try:
            act()
        except BaseException as error:
            return count[0] >= number, error
    return count[0] >= number, None


def killed(name: str, number: int, act: Callable[[], Any]) -> bool:
    """Whether a process of its own was killed in place of the so-manieth call of an action."""
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # of threads: the child has one, and uses nothing of the others
        child = os.fork()
    if child == 0:
        try:
            with at_call(name, number, kill):
                act()
        except BaseException:
            os._exit(3)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, -signal.SIGKILL), f"the action failed by itself ({code})"
    return code == -signal.SIGKILL


@contextmanager
def disk_ends_at(size: int) -> Iterator[None]:
    """No file may grow beyond a size: the part that fits is written, then there is an error."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def files_of(folder: Path) -> dict[str, bytes]:
    """What is in a folder, by relative path."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
