"""One at a time in a store, which may be a folder with a lock or a server without one.

Whoever wants to do what only one may do writes a request into the store, and then reads all requests. Who
reads only its own goes ahead. Of several, the one whose key sorts first waits until the others are gone,
and the others withdraw. So no two go ahead at once: of two requests, the later one was written before its
owner read, and saw the other. A request that has been served must show by what was done before it goes.
"""

import hashlib
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import quote

from mlflow import MlflowClient
from sqlalchemy.engine import make_url

from durable.locks import Busy, locked

PATIENCE = 20.0  # s that another is waited for
LOOK_EVERY = 0.25  # s between two looks at a store
LONGEST = 150  # characters of the name of a lock
BROKEN_OFF = (
    600.0  # s after which a request is one of a process that is gone, where no lock can tell
)


@contextmanager
def alone(client: MlflowClient, what: str) -> Iterator[bool]:
    """Keeps other processes of this machine out of a SQLite store; says whether that could be done.

    `what` they are kept from is a word for the lock's file. Raises `Busy` where another process is at it,
    and has been for a while; or where there can be no lock.
    """
    folder = _folder(client)
    if folder is None:
        yield False
        return
    name = quote(what, safe="")
    name = name if len(name) <= LONGEST else hashlib.sha256(name.encode()).hexdigest()
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(folder / f".{name}.lock", PATIENCE))
        except Busy:
            raise
        except OSError as error:
            raise Busy(f"{folder / name}: cannot be locked ({error.strerror})") from error
        yield True


def first(mine: str, requests: Callable[[], Collection[str]], patience: float = PATIENCE) -> bool:
    """Whether the owner of a request, in the store already, may go ahead; if not, it has to withdraw it.

    `requests` reads the keys of all that are neither served nor withdrawn; those before are waited for
    `patience` seconds. What was done by others meanwhile is to be looked at once more by who may.
    """
    deadline = time.monotonic() + patience
    while True:
        others = {each for each in requests() if each != mine}
        if not others:
            return True
        if min(others) < mine or time.monotonic() >= deadline:
            return False
        time.sleep(LOOK_EVERY)


def _folder(client: MlflowClient) -> Path | None:
    """The folder of a SQLite store; None of a server, or of a database that one answers for."""
    uri = client.tracking_uri
    if not uri.startswith("sqlite:"):
        return None
    database = make_url(uri).database
    return Path(database).parent if database and Path(database).parent.is_dir() else None
