"""What a desk says of its account: the day's loss, sessions and the whole life, costs, transitions."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from market.events.journal import convert_journal, transitions_of
from market.synthetic import RandomWalk
from tests.support.commands import LOOSE, said
from tests.support.desks import bundle_for
from tests.support.wishes import DAY, QUIET, SECOND, Wish, bars, desk_of, feed
from trading.journal import last_position, records
from trading.latch import KILL, Latch
from trading.records import Session

WALK = "synthetic:walk?sigma=0.01&seed=5&bars={}"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    made = bundle_for(RandomWalk(sigma=0.01).bars(500, seed=5), seed=8)
    folder = tmp_path / "bundle"
    folder.mkdir()
    made.save_into(folder)
    return folder


def test_the_days_loss_counts_from_midnight_not_from_the_bar_before(tmp_path: Path) -> None:
    """9% lost in the last half hour of a day and 2% in the first of the next are no 11% of a day."""
    limits = QUIET.model_copy(update={"max_daily_loss": 0.1})
    desk = desk_of(tmp_path, limits, Wish(1))
    half = 1800.0
    before = bars([100.0] * 4, half)
    midnight = (before[-1]["time"] // DAY + 1) * DAY
    times = [midnight - half * SECOND, midnight, midnight + half * SECOND]
    last = [row | {"time": int(t)} for row, t in zip(bars([100.0, 91.0, 89.0]), times, strict=True)]
    feed(desk, before + last)
    assert not desk.account.reason
    later = bars([81.0])[0] | {"time": int(midnight + 2 * half * SECOND)}
    feed(desk, [later])
    assert desk.account.state == "REDUCING"
    assert "equity lost 11.0% since the day began" in desk.account.reason


def test_a_risk_message_has_its_date_and_the_command_to_go_on_with(
    tmp_path: Path, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, _ = said(
        capsys, "paper", bundle, "--bars", WALK.format(500), "--desk", tmp_path / "d", code=1
    )
    command = f"qdesk resume --desk {tmp_path / 'd'} --reason WHY"
    lines = [line for line in out.splitlines() if "REDUCING: equity lost" in line]
    assert len(lines) == 2  # when it happened, and at the end
    for line in lines:
        assert "2020-01-01 00:53 UTC" in line
        assert command in line


def test_after_a_resume_the_session_and_the_whole_life_are_both_shown(
    tmp_path: Path, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    desk = tmp_path / "desk"
    said(capsys, "paper", bundle, "--bars", WALK.format(500), "--desk", desk, code=1)
    said(capsys, "kill", "--desk", desk)
    said(capsys, "resume", "--desk", desk, "--reason", "mended")
    out, _ = said(capsys, "paper", bundle, "--bars", WALK.format(600), "--desk", desk, *LOOSE)
    rows = {line.split("  ")[0].strip(): line.split()[-2:] for line in out.splitlines() if line}
    assert "this session" in out
    assert "whole life" in out
    assert rows["bars"] == ["100", "600"]
    session, life = (float(each.rstrip("%")) for each in rows["net return"])
    found = list(records(desk / "journal.jsonl"))
    equity = float(out.split("equity")[1].split()[0])
    funded = next(each["cash"] for each in found if each["type"] == "funding")
    assert life == pytest.approx(100 * (equity / funded - 1), abs=0.01)
    assert session != life
    drawdowns = [float(each.rstrip("%")) for each in rows["largest drawdown"]]
    assert drawdowns[1] >= 10.8


def test_a_halted_desk_says_that_a_position_is_open(
    tmp_path: Path, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    desk = tmp_path / "desk"
    given = [
        "paper",
        bundle,
        "--bars",
        WALK.format(60),
        "--desk",
        desk,
        "--on-stop",
        "hold",
        *LOOSE,
    ]
    said(capsys, *given)
    held = last_position(desk / "journal.jsonl")
    assert held in (-1.0, 1.0)
    sent = count_of(desk, "sent")
    out, _ = said(capsys, "kill", "--desk", desk)
    assert f"A position of {held:+g} is open." in out
    out, _ = said(capsys, *given, code=1)
    assert "HALTED: kill switch: by hand" in out
    assert f"a position of {held:+g} is open" in out
    assert count_of(desk, "sent") == sent


def count_of(desk: Path, status: str) -> int:
    return [each.get("status") for each in records(desk / "journal.jsonl")].count(status)


def test_fees_can_be_recomputed_from_the_journal_alone(
    tmp_path: Path, bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said(
        capsys, "backtest", bundle, "--bars", WALK.format(300), "--desk", tmp_path / "d", "--fees",
        "7bp", "--costs.half-spread", "0.02", "--costs.slippage", "0.01", *LOOSE,
    )  # fmt: skip
    found = list(records(tmp_path / "d" / "journal.jsonl"))
    costs = next(each["costs"] for each in found if each["type"] == "session")
    fills = [each for each in found if each["type"] == "fill"]
    assert len(fills) > 20
    for fill in fills:
        unit = costs["fee_rate"] * fill["price"] + costs["half_spread"] + costs["slippage"]
        assert fill["cost"] == pytest.approx(unit * fill["size"], rel=1e-12)


@pytest.mark.parametrize("scheme", ["target", "order"])
def test_a_transition_has_the_action_that_was_executed_and_the_wish_beside_it(
    tmp_path: Path, scheme: str
) -> None:
    """A desk in REDUCING wants to be long and is flat: the reward belongs to being flat."""
    limits = QUIET.model_copy(update={"max_drawdown": 0.05})
    desk = desk_of(tmp_path, limits, Wish(1), scheme)
    desk.ledger.record(Session(time=0, quantity=1.0, gamma=0.9, scheme=scheme))
    feed(desk, bars([100.0, 101.0, 102.0, 90.0, 91.0, 92.0, 93.0, 94.0]))
    desk.ledger.journal.close()
    assert desk.account.state == "REDUCING"
    table = convert_journal(tmp_path / "journal.jsonl", tmp_path / "seen.parquet")
    whole = table.filter(pl.col("reward").is_not_null())
    assert whole["wanted"].to_list() == [1] * len(whole)
    executed = {"target": [1, 1, 0, 0, 0, 0], "order": [1, 1, -1, 0, 0, 0]}[scheme]
    assert whole["action"].to_list() == executed
    closes = table["close"].to_numpy()
    position = 0.0
    for row, action in enumerate(executed, start=1):
        wish = float(action) if scheme == "target" else position + action
        position = min(wish, 1.0)
        change = closes[row + 1] - closes[row]
        assert whole["reward"][row - 1] == pytest.approx(position * change)


def test_a_transition_over_a_silence_is_none(tmp_path: Path) -> None:
    """A step is from one bar to the next: where bars were passed over, no reward is claimed."""
    desk = desk_of(tmp_path, QUIET, Wish(1))
    rows = bars([100.0, 101.0, 102.0, 103.0, 104.0, 105.0])
    rows[3]["superseded"] = True
    feed(desk, rows)
    desk.ledger.journal.close()
    table = convert_journal(tmp_path / "journal.jsonl", tmp_path / "seen.parquet")
    assert table["reward"].is_not_null().to_list() == [False, True, False, False, True, False]


# --- emergencies -----------------------------------------------------------------------------


@pytest.fixture
def desks(tmp_path: Path) -> Path:
    for name in ("qdesk-two-layer-candidate", "qdesk-two-layer-3", "qdesk-linear"):
        (tmp_path / "mlruns" / "desks" / name).mkdir(parents=True)
    return tmp_path / "mlruns"


def killed(mlruns: Path) -> set[str]:
    return {each.parent.name for each in mlruns.glob(f"desks/*/{KILL}")}


@pytest.mark.parametrize(
    "given, expected",
    [
        (["qdesk-two-layer@candidate"], {"qdesk-two-layer-candidate"}),
        (["qdesk-two-layer/3"], {"qdesk-two-layer-3"}),
        (["candidate"], {"qdesk-two-layer-candidate"}),
        (["LINEAR"], {"qdesk-linear"}),
        (["qdesk-linear"], {"qdesk-linear"}),
        (["--all"], {"qdesk-two-layer-candidate", "qdesk-two-layer-3", "qdesk-linear"}),
    ],
)
def test_any_part_of_a_name_that_is_of_one_desk_kills_it(
    desks: Path, capsys: pytest.CaptureFixture[str], given: list[str], expected: set[str]
) -> None:
    said(capsys, "kill", *given, "--mlruns", desks)
    assert killed(desks) == expected


@pytest.mark.parametrize("command", ["kill", "resume"])
@pytest.mark.parametrize(
    "given, sentence",
    [
        (["qdesk-two-layer"], "2 desks have that in their name"),
        (["qdesk-rainbow"], "no desk is called so"),
        (["--desk", "nowhere"], "nowhere: no desk is here"),
    ],
)
def test_otherwise_the_desks_that_exist_are_listed(
    desks: Path, capsys: pytest.CaptureFixture[str], command: str, given: list[str], sentence: str
) -> None:
    reason = ["--reason", "why"]
    _, err = said(capsys, command, *given, "--mlruns", desks, *reason, code=2)
    assert sentence in err
    assert err.count("\n") == 1
    for name in ("qdesk-two-layer-candidate", "qdesk-two-layer-3", "qdesk-linear"):
        assert name in err
    assert killed(desks) == set()


def test_all_desks_are_set_free_at_once(desks: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said(capsys, "kill", "--all", "--mlruns", desks)
    said(capsys, "resume", "--all", "--mlruns", desks, "--reason", "a drill")
    assert killed(desks) == set()
    latched = Latch(desks / "desks" / "qdesk-linear").read()
    assert latched is not None
    assert latched.state == "ACTIVE"


def test_a_desk_that_cannot_be_stopped_does_not_keep_the_others_from_it(
    desks: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (desks / "desks" / "qdesk-linear" / KILL).mkdir()
    out, err = said(capsys, "kill", "--all", "--mlruns", desks, code=1)
    assert "qdesk-linear: NOT stopped" in out
    assert err == ""
    assert killed(desks) == {"qdesk-two-layer-candidate", "qdesk-two-layer-3", "qdesk-linear"}
    assert (desks / "desks" / "qdesk-two-layer-3" / KILL).is_file()


def test_without_any_desk_it_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, err = said(capsys, "kill", "--all", "--mlruns", tmp_path, code=2)
    assert "there are no desks in" in err


def test_the_end_of_a_journal_tells_the_position(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    lines: list[dict[str, Any]] = [
        {"time": 1, "type": "decision", "position": 1.0},
        {"time": 1, "type": "fill", "side": "sell", "size": 1.5},
        {"time": 2, "type": "bar"},
    ]
    path.write_text("".join(json.dumps(each) + "\n" for each in lines) + '{"torn')
    assert last_position(path) == -0.5
    path.write_text("")
    assert last_position(path) is None
    assert last_position(tmp_path / "none") is None


@pytest.mark.parametrize("behind, known", [(60_000, True), (70_000, False)])
def test_a_position_is_looked_for_in_the_last_64_kib(
    tmp_path: Path, behind: int, known: bool
) -> None:
    """Who stops a desk does not wait for a year of records."""
    path = tmp_path / "journal.jsonl"
    bar = '{"time": 2, "type": "bar"}\n'
    path.write_text('{"time": 1, "type": "decision", "position": 3}\n' + bar * (behind // len(bar)))
    assert last_position(path) == (3.0 if known else None)


def test_each_session_is_of_its_own_scheme(tmp_path: Path) -> None:
    """A model of targets takes over from one of orders: a word that is not written is its default."""
    for number, scheme in enumerate(("order", "target")):
        desk = desk_of(tmp_path, QUIET, Wish(1), scheme)
        desk.ledger.record(Session(time=0, quantity=1.0, gamma=0.9, scheme=scheme))
        rows = bars([100.0 + number, 101.0, 102.0, 103.0])
        for row in rows:
            row["time"] += number * DAY
        feed(desk, rows)
        desk.ledger.journal.close()
    _, kinds = transitions_of(tmp_path / "journal.jsonl")
    assert kinds == {("order", "unit"), ("target", "unit")}
