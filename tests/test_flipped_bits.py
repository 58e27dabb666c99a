"""A thousand flipped bits, each alone: in both kinds of journal, in a checkpoint and a bundle."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from durable.verified import CorruptError, write_verified
from market.events.journal import convert_journal
from market.events.schema import EventsError
from market.synthetic import RandomWalk
from models.bundle import Bundle
from tests.support.bundles import bundle_of
from tests.support.desks import bundle_for, desk_at, rows_of, run
from tests.support.networks import linear_q_network
from tests.support.run_journals import begun, entry, point
from trading.journal import Journal, JournalError, last_position, records
from trading.latch import Latch
from training.checkpoints.checkpoint import STATE, Checkpoint
from training.tracking.entries import Points
from training.tracking.journal import DELIVERED, JOURNAL, RunJournal
from training.tracking.journals import head_of, undelivered

FLIPS = 1000


def flipped(path: Path, seed: int) -> Iterator[int]:
    """Flips one bit after another of a file, and back again; gives the byte."""
    whole = path.read_bytes()
    rng = np.random.default_rng(seed)
    for _ in range(FLIPS):
        bit = int(rng.integers(8 * len(whole)))
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        yield bit // 8
    path.write_bytes(whole)


def test_in_a_desks_journal_each_is_refused_by_a_sentence(tmp_path: Path) -> None:
    bars = RandomWalk(sigma=0.01).bars(80, seed=1)
    desk = desk_at(tmp_path, bundle_for(bars))
    run(desk, rows_of(bars))
    desk.stop("the market ended", flatten=False)
    desk.ledger.journal.close()
    path = tmp_path / JOURNAL
    known, held = list(records(path)), last_position(path)
    for _ in flipped(path, seed=1):
        with pytest.raises((JournalError, EventsError), match=r"journal.jsonl( line \d+)?: "):
            reopen(path)
        with pytest.raises(EventsError, match=r"journal.jsonl line \d+: "):
            convert_journal(path, tmp_path / "bars.csv")
        assert last_position(path) in (held, None)
    assert list(records(path)) == known


def reopen(path: Path) -> None:
    """As a desk does at its start; what would be cut off is put back."""
    content = path.read_bytes()
    journal = Journal(path)
    try:
        list(records(path))
        if journal.torn is not None:
            raise JournalError(f"{path}: its last line was torn, and is cut off")
    finally:
        journal.close()
        path.write_bytes(content)


def test_in_a_runs_journal_each_is_told_and_no_number_changes(tmp_path: Path) -> None:
    box = begun(tmp_path)
    for step in range(100):
        point(box, step)
    box.acknowledge(box.pending(40)[-1], run_id="m1")
    box.append(entry("end", {"status": "FINISHED"}))
    box.close()
    path = box.folder / JOURNAL
    expected = {("train/loss", step): step / 3 for step in range(100)}
    for place in flipped(path, seed=2):
        assert head_of(box.folder) is not None or place < path.read_bytes().index(b"\n") + 1
        again = RunJournal(box.folder, make=False)
        try:
            assert again.damage or path.stat().st_size < place + 1
            for sentence in again.damage:
                assert sentence.startswith(f"{path} line ")
            found = {key: value for key, (_, value) in again.points.items()}
            assert found.items() <= expected.items()
            waiting = [each for each in again.pending(999) if isinstance(each, Points)]
            assert all(each.metrics["train/loss"] == each.step / 3 for each in waiting)
        finally:
            again.close()


def test_how_far_a_journal_was_sent_is_not_believed_once_changed(tmp_path: Path) -> None:
    """Everything is sent again then, which changes nothing."""
    box = begun(tmp_path)
    for step in range(9):
        point(box, step)
    box.append(entry("end", {"status": "FINISHED"}))
    box.acknowledge(box.pending(99)[-1], run_id="m1")
    box.close()
    assert not undelivered(box.folder)
    for _ in flipped(box.folder / DELIVERED, seed=3):
        assert undelivered(box.folder)
    assert not undelivered(box.folder)


def test_in_a_checkpoint_each_is_refused_or_changes_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "step-000000000001"
    rng = np.random.default_rng(5)
    arrays = {"weights": rng.normal(size=(30, 5)), "ring": rng.integers(0, 99, 200)}
    known = {"format": "qdesk-checkpoint/1", "step": 1, "score": 0.5, "run_ids": ["r1"]}
    write_verified(folder, STATE, arrays, known)
    require_refused(folder, lambda: as_text(Checkpoint.load(folder)))


def as_text(checkpoint: Checkpoint) -> str:
    arrays = {name: array.tolist() for name, array in sorted(checkpoint.arrays.items())}
    return f"{checkpoint.manifest} {arrays}"


def test_in_a_bundle_each_is_refused_or_changes_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    folder.mkdir()
    bundle_of(linear_q_network(3, 1)).save_into(folder)
    require_refused(folder, lambda: str(Bundle.load(folder).sha256))


def require_refused(folder: Path, load: Callable[[], str]) -> None:
    """By a sentence that names the file; only the space between two words may be another."""
    expected = load()
    for path in sorted(folder.iterdir()):
        for seed, _ in enumerate(flipped(path, seed=6)):
            try:
                assert load() == expected, seed
                assert path.suffix == ".json"
            except CorruptError as error:
                assert str(folder) in str(error)


def test_a_latch_that_was_changed_halts_or_says_what_it_said(tmp_path: Path) -> None:
    latch = Latch(tmp_path)
    latch.hold("HALTED", "loss of a day", by_hand=False)
    for _ in flipped(tmp_path / "risk.json", seed=7):
        found = latch.read()
        assert found is not None
        assert found.state == "HALTED"
        assert not found.by_hand
