"""Journals of runs."""

from pathlib import Path

from training.tracking.journal import POINTS, RunJournal

HEAD = {"name": "run", "params": {"steps": "1"}, "server": None, "adopts": False}


def begun(folder: Path) -> RunJournal:
    journal = RunJournal(folder / "journals" / "r1")
    journal.append("run", HEAD)
    return journal


def point(journal: RunJournal, step: int) -> None:
    journal.append(POINTS, {"step": step, "metrics": {"train/loss": step / 3}})
