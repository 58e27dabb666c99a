"""Held-back bars are opened by one process, and what the ledger says of it is what was written."""

import itertools
import threading
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run, RunData, RunInfo, RunTag

from evaluation.errors import BadEvaluation
from evaluation.ledger import (
    ASKED,
    CHECKSUM,
    OPENED,
    PRINT,
    HoldoutAccess,
    _entry,
    asking_tags,
    grant,
    openings,
    requests,
)
from evaluation.opening import open_bars
from evaluation.unended import PROCESS, RUNNING, end_the_dead, running
from market.bars import Bars
from market.synthetic import RandomWalk
from models import turns
from tests.support.openings import beginning, store

__all__ = ["store"]  # a fixture


@pytest.fixture(scope="module")
def bars() -> Bars:
    return RandomWalk(sigma=0.05).bars(400, seed=4)


def at_once(store: MlflowClient, bars: Bars, count: int) -> list[BadEvaluation | Run]:
    """What becomes of so many openings that begin together."""
    begin, together = beginning(store), threading.Barrier(count)
    found: list[BadEvaluation | Run] = []

    def look() -> None:
        together.wait()
        try:
            client = MlflowClient(store.tracking_uri, store.tracking_uri)
            found.append(open_bars(client, bars, "m v1", None, begin))
        except BadEvaluation as error:
            found.append(error)

    threads = [threading.Thread(target=look) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


@pytest.mark.parametrize("locked", [True, False])
def test_of_three_that_open_at_once_one_looks_and_the_others_give_way(
    store: MlflowClient, bars: Bars, monkeypatch: pytest.MonkeyPatch, locked: bool
) -> None:
    monkeypatch.setattr(turns, "PATIENCE", 600.0)  # however slow the machine is
    monkeypatch.setattr("models.turns.first.__defaults__", (600.0,))
    if not locked:  # as behind a server
        monkeypatch.setattr(turns, "_folder", lambda _: None)
    found = at_once(store, bars, 3)
    (run,) = [each for each in found if isinstance(each, Run)]
    said = [str(each) for each in found if isinstance(each, BadEvaluation)]
    assert len(said) == 2
    assert all("was opened 1 time before" in each or "is being opened" in each for each in said)
    assert len(openings(store, bars)) == 1
    assert store.get_run(run.info.run_id).data.tags.keys() >= {OPENED, PRINT, CHECKSUM}
    assert requests(store, bars, 1e9) == {}
    with pytest.raises(BadEvaluation, match="was opened 1 time before"):
        open_bars(store, bars, "m v1", None, beginning(store))
    open_bars(store, bars, "m v1", "the report was lost", beginning(store))
    assert [each.why for each in openings(store, bars)] == ["first opening", "the report was lost"]


@pytest.mark.parametrize("locked", [True, False])
def test_one_that_asked_and_was_killed_has_not_looked(
    store: MlflowClient, bars: Bars, monkeypatch: pytest.MonkeyPatch, locked: bool
) -> None:
    """Where a lock says that its process is gone; on a server only once it is old."""
    monkeypatch.setattr(turns, "PATIENCE", 0.0)
    monkeypatch.setattr("models.turns.first.__defaults__", (0.0,))
    if not locked:
        monkeypatch.setattr(turns, "_folder", lambda _: None)
    beginning(store)(asking_tags(bars, "ann", "m v7", "first opening"))
    if locked:
        open_bars(store, bars, "m v1", None, beginning(store))
        assert [each.version for each in openings(store, bars)] == ["m v1"]
        return
    with pytest.raises(BadEvaluation, match="is being opened by ann for m v7 at this moment"):
        open_bars(store, bars, "m v1", None, beginning(store))
    assert openings(store, bars) == []
    monkeypatch.setattr("evaluation.opening.BROKEN_OFF", 0.0)
    open_bars(store, bars, "m v1", None, beginning(store))


def test_other_bars_may_be_opened_meanwhile(store: MlflowClient, bars: Bars) -> None:
    beginning(store)(asking_tags(bars, "ann", "m v7", "first opening"))
    others = RandomWalk(sigma=0.05).bars(400, seed=5)
    open_bars(store, others, "m v1", None, beginning(store))
    assert openings(store, bars) == []


def run_with(tags: dict[str, str]) -> Run:
    info = RunInfo("r1", "e1", "u", "RUNNING", 0, None, "active")
    return Run(info, RunData(tags=[RunTag(name, value) for name, value in tags.items()]))


def test_a_thousand_flipped_bits_in_an_entry_are_each_refused(bars: Bars) -> None:
    tags = asking_tags(bars, "ann", "m v7", "first opening")
    opening, closes = _entry(run_with(tags), ASKED)
    assert (opening.who, len(closes)) == ("ann", 200)
    rng = np.random.default_rng(1)
    for name in itertools.islice(itertools.cycle(tags), 1000):
        value = bytearray(tags[name].encode())
        value[rng.integers(len(value))] ^= 1 << int(rng.integers(8))
        changed = tags | {name: value.decode(errors="replace")}
        with pytest.raises(BadEvaluation, match="ledger of held-back bars was changed"):
            _entry(run_with(changed), ASKED)


def test_an_entry_of_before_has_no_checksum_and_counts(bars: Bars, store: MlflowClient) -> None:
    tags = asking_tags(bars, "ann", "m v7", "first opening")
    del tags[CHECKSUM]
    run = beginning(store)(tags)
    grant(store, run)
    assert [each.who for each in openings(store, bars)] == ["ann"]
    store.set_tag(run.info.run_id, PRINT, "[[1,")
    with pytest.raises(BadEvaluation, match=f"run {run.info.run_id}: its entry in the ledger"):
        openings(store, bars)


def test_what_is_asked_for_sorts_as_it_was_asked(bars: Bars, store: MlflowClient) -> None:
    begin = beginning(store)
    for who in ("ann", "bob"):
        begin(asking_tags(bars, who, "m v7", "first opening"))
    found: dict[str, HoldoutAccess] = requests(store, bars, 600.0)
    assert [found[key].who for key in sorted(found)] == ["ann", "bob"]


def test_an_evaluation_whose_process_is_gone_is_ended_by_the_next(
    store: MlflowClient, tmp_path: Path
) -> None:
    folder, begin = tmp_path / "evaluations", beginning(store)
    dead, elsewhere = begin({PROCESS: "dead"}), begin({PROCESS: "elsewhere"})
    with running(folder, store) as tags:
        alive = begin(tags)
        for name, uri in (("dead", store.tracking_uri), ("elsewhere", "http://other")):
            (folder / RUNNING / name).write_text(uri)
        end_the_dead(folder, store)
    found = {run.info.run_id: store.get_run(run.info.run_id) for run in (dead, elsewhere, alive)}
    assert [run.info.status for run in found.values()] == ["KILLED", "RUNNING", "RUNNING"]
    assert found[dead.info.run_id].data.tags["ended"] == "its process was gone"
    assert [path.name for path in (folder / RUNNING).iterdir()] == ["elsewhere"]
    end_the_dead(tmp_path / "none", store)
