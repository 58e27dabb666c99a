"""Journals of runs."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from training.tracking.entries import Entry, Points, entry_of
from training.tracking.journal import RunJournal

HEAD = {"name": "run", "params": {"steps": "1"}, "server": None, "adopts": False}


def entry(kind: str, content: Mapping[str, Any], time: int = 0) -> Entry:
    """An entry, as a line would say it."""
    return entry_of({"kind": kind, "time": time, **content})


def begun(folder: Path) -> RunJournal:
    journal = RunJournal(folder / "journals" / "r1")
    journal.append(entry("run", HEAD))
    return journal


def point(journal: RunJournal, step: int) -> None:
    journal.append(entry("points", {"step": step, "metrics": {"train/loss": step / 3}}))


def kinds(entries: Iterable[Entry]) -> list[str]:
    """As their lines say them."""
    return [str(each.__struct_config__.tag) for each in entries]


def steps(entries: Iterable[Entry]) -> list[int]:
    """Of those that are points."""
    return [each.step for each in entries if isinstance(each, Points)]
