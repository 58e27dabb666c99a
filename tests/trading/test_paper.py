"""`qdesk paper` as a process: killed, stopped, out of disk, with a damaged model, without MLflow."""

import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from durable.verified import MANIFEST
from tests.support.lines import replay
from tests.support.paper import WALK, bundle
from tests.support.registered import NAME, promote
from trading.account import Account
from trading.journal import Journal, records
from trading.latch import KILL

__all__ = ["bundle"]  # a fixture

LOOSE = (
    *("--limits.max-drawdown", "none", "--limits.max-daily-loss", "none"),
    *("--limits.max-orders-per-minute", "none", "--limits.max-faults", "none"),
)


def paper(bundle: Path, *arguments: str) -> list[str]:
    desk = str(bundle.parent / "desk")
    return [sys.executable, "-m", "qdesk", "paper", str(bundle), "--desk", desk, *arguments]


def finished(command: list[str], **more: Any) -> tuple[int, str, str]:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, **more)
    return done.returncode, done.stdout, done.stderr


def replayed(bundle: Path) -> Account:
    account = Account()
    replay(account, records(bundle.parent / "desk" / "journal.jsonl"))
    return account


@pytest.mark.parametrize(
    "pace, bars",
    [
        ("60000x", 4000),  # a bar a millisecond
        ("max", 20_000),  # where bars and decisions are written together
    ],
)
def test_killed_at_random_moments_it_goes_on(bundle: Path, pace: str, bars: int) -> None:
    rng = np.random.default_rng(4)
    walk = WALK.replace("4000", str(bars))
    journal = bundle.parent / "desk" / "journal.jsonl"
    command = paper(bundle, "--bars", walk, "--pace", pace, *LOOSE)
    for _ in range(4):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        before = journal.stat().st_size if journal.exists() else 0
        wanted = before + bars * int(rng.integers(1, 40))  # bytes; a bar takes some 500
        while process.poll() is None and (not journal.exists() or journal.stat().st_size < wanted):
            time.sleep(0.001)
        process.kill()
        _, said = process.communicate()
        ends_early = pace == "max"  # on a machine that is too busy to kill it in time
        assert process.returncode == -signal.SIGKILL or (ends_early and not process.returncode), (
            said
        )
        replayed(bundle)
    code, out, err = finished(paper(bundle, "--bars", walk, *LOOSE))
    assert (code, err) == (0, "")
    assert "continued from the journal" in out
    account = replayed(bundle)
    found = list(records(journal))
    closes = [each["closed"] for each in found if each["type"] == "bar"]
    assert len(closes) == len(set(closes)) == bars
    sent = [each["order"] for each in found if each.get("status") == "sent"]
    assert len(sent) > 20
    assert set(account.ended) == set(sent)
    assert account.position == 0  # flattened at the end
    paid = sum(each["cost"] for each in found if each["type"] == "fill")
    flow = sum(
        (1 if each["side"] == "buy" else -1) * each["size"] * each["price"]
        for each in found
        if each["type"] == "fill"
    )
    begun = next(each["cash"] for each in found if each["type"] == "funding")
    assert account.cash == pytest.approx(begun - flow - paid, abs=1e-6)


@pytest.mark.parametrize("on_stop, flat", [("flatten", True), ("hold", False)])
def test_sigterm_flattens_or_holds(bundle: Path, on_stop: str, flat: bool) -> None:
    command = paper(bundle, "--bars", WALK, "--pace", "6000x", "--on-stop", on_stop, *LOOSE)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    journal = bundle.parent / "desk" / "journal.jsonl"
    while not journal.exists() or replayed(bundle).position == 0:
        time.sleep(0.01)
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=30)
    acknowledged = "qdesk paper: SIGTERM: stopping; once more ends it at once\n"
    assert (process.returncode, said) == (143, acknowledged)
    last = list(records(journal))[-1]
    assert (last["type"], last["reason"]) == ("stop", "SIGTERM")
    if flat:
        assert replayed(bundle).position == 0


def test_killed_and_resumed_from_another_process(bundle: Path) -> None:
    """`qdesk kill` reaches a desk that runs, a signal does, and `qdesk resume` sets it free."""
    command = paper(bundle, "--bars", WALK, "--pace", "600x", *LOOSE)
    desk = bundle.parent / "desk"
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def until(state: str) -> None:
        while not desk.exists() or replayed(bundle).state != state:
            time.sleep(0.01)
            assert process.poll() is None

    def ask(*arguments: str) -> None:
        code, _, err = finished([sys.executable, "-m", "qdesk", *arguments, "--desk", str(desk)])
        assert (code, err) == (0, "")

    while not (desk / "journal.jsonl").exists() or replayed(bundle).bars < 3:
        time.sleep(0.01)
    ask("kill", "--reason", "a drill")
    until("HALTED")
    assert replayed(bundle).reason.startswith("kill switch: a drill (")
    ask("resume", "--reason", "the drill is over")
    until("ACTIVE")
    process.send_signal(signal.SIGUSR1)
    until("HALTED")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130
    assert (desk / KILL).exists()


def test_a_file_that_may_grow_no_further_halts_with_exit_code_1(bundle: Path) -> None:
    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    code, _, err = finished(paper(bundle, "--bars", WALK, *LOOSE), preexec_fn=limited)
    assert code == 1
    assert err.count("\n") == 1
    assert "journal.jsonl: File too large; the desk is HALTED and holds its position" in err
    before = (bundle.parent / "desk" / "journal.jsonl").read_bytes()
    for _ in range(2):  # it does not start before a person has set it free
        code, _, err = finished(paper(bundle, "--bars", WALK, *LOOSE))
        assert code == 2
        assert "the journal could not be written when this desk last ran" in err
        assert "`qdesk resume`" in err
        assert err.count("\n") == 1
    whole = before[: before.rindex(b"\n") + 1]
    assert (bundle.parent / "desk" / "journal.jsonl").read_bytes() == whole
    desk = str(bundle.parent / "desk")
    finished([sys.executable, "-m", "qdesk", "resume", "--desk", desk, "--reason", "room again"])
    code, out, _ = finished(paper(bundle, "--bars", WALK, *LOOSE))
    assert code == 0
    assert "continued from the journal" in out


def test_a_desk_on_a_full_disk_is_killed_all_the_same(bundle: Path) -> None:
    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))

    finished(paper(bundle, "--bars", WALK, *LOOSE))
    desk = str(bundle.parent / "desk")
    kill = [sys.executable, "-m", "qdesk", "kill", "--desk", desk]
    code, out, err = finished(kill, preexec_fn=limited)
    assert (code, err) == (0, "")
    assert "HALTED. Nothing is sent before `qdesk resume`" in out
    code, out, _ = finished(paper(bundle, "--bars", f"{WALK}0", *LOOSE))
    assert code == 1
    assert "HALTED: kill switch: no reason given" in out


def test_a_desk_without_room_for_its_latch_does_not_start(bundle: Path) -> None:
    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))

    code, _, err = finished(paper(bundle, "--bars", WALK, *LOOSE), preexec_fn=limited)
    assert code == 2
    assert "risk.json: no room to halt in can be reserved (File too large)" in err
    assert err.count("\n") == 1


def test_a_damaged_model_does_not_start(bundle: Path) -> None:
    weights = bundle / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x07")
    code, out, err = finished(paper(bundle, "--bars", WALK))
    assert (code, out) == (2, "")
    assert "weights.safetensors" in err
    assert err.count("\n") == 1
    (bundle / MANIFEST).unlink()
    code, _, err = finished(paper(bundle, "--bars", WALK))
    assert (code, err) == (2, f"{bundle}: a folder without a bundle; it would hold manifest.json\n")
    assert not (bundle.parent / "desk").exists()


def test_without_mlflow_the_cached_champion_trades(mlruns: Path, client: Any) -> None:
    promote(client, NAME, "2", "good")
    command = [
        sys.executable,
        "-m",
        "qdesk",
        "paper",
        NAME,
        "--bars",
        WALK,
        "--mlruns",
        str(mlruns),
    ]
    code, out, err = finished([*command, *LOOSE])
    assert (code, err) == (0, "")
    assert f"{NAME} v2 (champion) decides" in out
    (mlruns / "mlflow.db").unlink()
    code, out, err = finished([*command, *LOOSE, "--desk", str(mlruns / "other")])
    assert (code, err) == (0, "")
    assert "not good: MLflow at" in out
    assert f"{NAME} v2 (cache) decides" in out


def test_two_desks_on_one_journal_are_refused(bundle: Path) -> None:
    journal = Journal(bundle.parent / "desk" / "journal.jsonl")
    code, _, err = finished(paper(bundle, "--bars", WALK))
    journal.close()
    assert code == 2
    assert "another process trades on this journal" in err
