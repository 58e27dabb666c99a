"""Every step of what is written fails once, and the process is killed at every step once."""

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from durable.files import tidy
from durable.replacing import PREFIX, Renaming, mend, rename_all, require_whole, workplace
from durable.verified import read_verified, write_verified
from market.events.convert import convert
from market.events.schema import EventsError
from tests.support.faults import CALLS, MOST, failing, files_of, kill, killed
from tests.support.run_journals import entry
from tests.support.stores import fresh
from trading.journal import Journal, JournalError, JournalLost, records
from trading.latch import Latch
from training.tracking.entries import Artifact
from training.tracking.errors import StoreMoved
from training.tracking.journal import RunJournal
from training.tracking.relocation import move

Step = Callable[[Path], None]


class Case(NamedTuple):
    """Something that must be done wholly or not at all, whatever happens to it."""

    prepare: Step
    act: Step
    check: Step  # that it is whole: as before or as after, and that the next start goes on
    raises: tuple[type[Exception], ...]  # where something fails


def _sealed(number: int) -> Step:
    return lambda folder: write_verified(
        folder / "s", "a.safetensors", {"a": np.full(9, number)}, {"n": number}
    )


def _check_sealed(folder: Path) -> None:
    tidy(folder)
    manifest, arrays = read_verified(folder / "s", "a.safetensors")
    assert (arrays["a"] == manifest["n"]).all()
    _sealed(3)(folder)
    assert read_verified(folder / "s", "a.safetensors").manifest["n"] == 3


def _latched(folder: Path) -> None:
    latch = Latch(folder)
    latch.reserve("ACTIVE", "")
    latch.hold("REDUCING", "a loss")


def _halted(folder: Path) -> None:
    Latch(folder).hold("HALTED", "a fault")


def _check_latch(folder: Path) -> None:
    found = Latch(folder).read()
    assert found is not None
    assert found.state in ("REDUCING", "HALTED")
    Latch(folder).resume("checked")
    again = Latch(folder).read()
    assert again is not None
    assert again.state == "ACTIVE"


def _journal(first: int, last: int) -> Step:
    def write(folder: Path) -> None:
        journal = Journal(folder / "journal.jsonl", durable=True)
        try:
            for number in range(first, last):
                journal.append({"time": number, "type": "bar", "close": number / 7})
                journal.flush()
        finally:
            journal.close()

    return write


def _check_journal(folder: Path) -> None:
    Journal(folder / "journal.jsonl").close()
    times = [each["time"] for each in records(folder / "journal.jsonl")]
    assert times == list(range(len(times)))
    assert len(times) >= 3
    _journal(len(times), len(times) + 2)(folder)
    assert len(list(records(folder / "journal.jsonl"))) == len(times) + 2


def _outbox(folder: Path) -> None:
    journal = RunJournal(folder / "r1")
    journal.append(entry("run", {"name": "r", "params": {}}))
    journal.close()


def _put(folder: Path) -> None:
    journal = RunJournal(folder / "r1")
    for step in range(3):
        journal.append(entry("points", {"step": step, "metrics": {"loss": step / 3}}))
        journal.append(
            entry("artifact", {"folder": ""}), lambda into: (into / "a.txt").write_text("a")
        )
    journal.acknowledge(journal.pending(2)[-1], run_id="m1")
    journal.close()


def _check_outbox(folder: Path) -> None:
    journal = RunJournal(folder / "r1")
    assert journal.damage == []
    assert journal.head is not None
    assert all(value == step / 3 for (_, step), (_, value) in journal.points.items())
    for each in journal.pending(99):
        if isinstance(each, Artifact):
            assert (journal.files_of(each) / "a.txt").read_text() == "a"
    journal.append(entry("points", {"step": 9, "metrics": {"loss": 3.0}}))
    journal.close()
    again = RunJournal(folder / "r1")
    assert again.points["loss", 9][1] == 3.0
    assert again.damage == []
    again.close()


def _named(number: int) -> Step:
    def write(folder: Path) -> None:
        with workplace(folder) as work:
            renamings = []
            for name in ("a", "b", "c"):
                if name == "c" and number == 1:
                    continue  # one that is new the second time
                (work / name).write_text(f"{name}{number}")
                renamings.append(Renaming(work / name, folder / f"{name}.csv"))
            rename_all(work, renamings)

    return write


def _check_named(folder: Path) -> None:
    mend(folder)
    found = {path.name: path.read_text() for path in folder.glob("*.csv")}
    assert found in ({"a.csv": "a1", "b.csv": "b1"}, {f"{n}.csv": f"{n}2" for n in "abc"})
    for path in folder.glob("*.csv"):
        require_whole(path)
    _named(2)(folder)
    assert [path.name for path in sorted(folder.iterdir()) if not path.name.startswith(".b")] == [
        *("a.csv", "b.csv", "c.csv")
    ]


def _log(scale: float) -> Step:
    def write(folder: Path) -> None:
        lines = [
            {"time": 1_600_000_000_000 + 1000 * n, "type": "trade", "instrument": name,
             "price": scale * (1 + n % 7), "size": 1}
            for n in range(200) for name in ("A", "B", "C")
        ]  # fmt: skip
        (folder / "log.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines))

    return write


def _convert(folder: Path) -> None:
    convert([folder / "log.jsonl"], "1m", folder / "{instrument}.csv")


def _converted(folder: Path) -> None:
    _log(1.0)(folder)
    _convert(folder)
    _log(1000.0)(folder)


def _check_converted(folder: Path) -> None:
    mend(folder)
    found = {path.name: path.read_text() for path in folder.glob("?.csv")}
    assert len(found) == 3
    assert len({"000.0," in text for text in found.values()}) == 1  # all of one conversion
    _convert(folder)
    hidden = [path.name for path in folder.iterdir() if path.name.startswith(PREFIX)]
    assert hidden == []


def _stored(folder: Path) -> None:
    fresh(folder / "new")
    with sqlite3.connect(folder / "new" / "mlflow.db") as store:
        store.execute("UPDATE experiments SET artifact_location = '/old/artifacts'")
    store.close()


def _moved(folder: Path) -> None:
    move(Path("/old"), folder / "new")


def _place(folder: Path) -> str:
    store = sqlite3.connect(folder / "new" / "mlflow.db")
    ((place,),) = set(store.execute("SELECT artifact_location FROM experiments"))
    store.close()
    return str(place)


CASES = {
    "seal": Case(_sealed(1), _sealed(2), _check_sealed, (OSError,)),
    "latch": Case(_latched, _halted, _check_latch, (OSError,)),
    "desk journal": Case(_journal(0, 3), _journal(3, 6), _check_journal, (JournalLost, OSError)),
    "run journal": Case(_outbox, _put, _check_outbox, (OSError,)),
    "renaming": Case(_named(1), _named(2), _check_named, (OSError,)),
    "convert": Case(_converted, _convert, _check_converted, (EventsError, OSError)),
}


def each_step(tmp_path: Path, case: Case, meets: Callable[[str, int, Path], bool]) -> int:
    """Has something met at every call of every kind, as long as there is one; how many there were.

    Args:
        tmp_path: a folder of its own is made in for each.
        case: prepared before, and checked after.
        meets: acts with the fault at a call of a kind, and says whether that came to be.
    """
    tried = 0
    for call in CALLS:
        for number in range(1, MOST + 1):
            folder = tmp_path / f"{call}-{number}"
            folder.mkdir()
            case.prepare(folder)
            if not meets(call, number, folder):
                break
            tried += 1
            case.check(folder)
    return tried


@pytest.mark.parametrize("name", CASES)
def test_a_call_that_fails_leaves_what_was_or_what_is_to_be(tmp_path: Path, name: str) -> None:
    case = CASES[name]

    def fails(call: str, number: int, folder: Path) -> bool:
        before = files_of(folder)
        came, error = failing(call, number, lambda: case.act(folder))
        if error is not None:
            assert came
            assert isinstance(error, case.raises), repr(error)
        elif came and name != "run journal":  # whose writer is never stopped
            assert files_of(folder) != before, "it failed in silence"
        return came

    assert each_step(tmp_path, case, fails) > 2


@pytest.mark.parametrize("name", [name for name in CASES if name != "convert"])
def test_a_process_that_is_killed_leaves_what_was_or_what_is_to_be(
    tmp_path: Path, name: str
) -> None:
    case = CASES[name]

    def dies(call: str, number: int, folder: Path) -> bool:
        return killed(call, number, lambda: case.act(folder))

    assert each_step(tmp_path, case, dies) > 2


def steps_of(number: int, fault: Callable[[], Any]) -> type[sqlite3.Connection]:
    """Connections whose so-manieth statement is the last."""

    class Counting(sqlite3.Connection):
        count = 0

        def execute(self, *arguments: Any) -> Any:
            Counting.count += 1
            if Counting.count == number:
                fault()
            return super().execute(*arguments)

    return Counting


def refuse() -> None:
    raise sqlite3.OperationalError("database or disk is full")


@pytest.mark.parametrize("fatal", [False, True])
def test_a_store_is_moved_wholly_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fatal: bool
) -> None:
    """At every statement: the file is SQLite's, which Python's calls do not write."""
    connect, tried = sqlite3.connect, 0
    for number in range(1, 1000, 9):
        folder = tmp_path / str(number)
        folder.mkdir()
        _stored(folder)
        counting = steps_of(number, kill if fatal else refuse)
        with monkeypatch.context() as patch:
            patch.setattr(
                "training.tracking.relocation.sqlite3.connect",
                lambda *a, **m: connect(*a, **m, factory=counting),  # noqa: B023
            )
            if fatal:
                came = killed("open", 10**9, lambda: _moved(folder))  # noqa: B023
            else:
                _, error = failing("open", 10**9, lambda: _moved(folder))  # noqa: B023
                came = error is not None
                assert error is None or isinstance(error, StoreMoved)
        assert _place(folder) in ("/old/artifacts", f"{folder / 'new'}/artifacts")
        if not came:
            break
        tried += 1
    assert tried > 5
    assert _place(folder) == f"{folder / 'new'}/artifacts"


def test_what_was_broken_off_is_refused_by_name_until_it_is_completed(tmp_path: Path) -> None:
    _named(1)(tmp_path)
    assert killed("replace", 2, lambda: _named(2)(tmp_path))
    with pytest.raises(OSError, match="its conversion is under way or was broken off") as refused:
        require_whole(tmp_path / "b.csv")
    assert refused.value.filename == str(tmp_path / "b.csv")
    require_whole(tmp_path / "log.jsonl")
    mend(tmp_path)
    require_whole(tmp_path / "b.csv")
    assert (tmp_path / "b.csv").read_text() == "b2"


def test_two_that_write_a_journal_at_once_are_told(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    with pytest.raises(JournalError, match="another process trades on this journal"):
        Journal(tmp_path / "journal.jsonl")
    journal.close()
