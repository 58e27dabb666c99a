"""Text from outside is text: in the terminal, in CSV files, in errors, and however long it is."""

import csv
import json
import os
import sys
import threading
from contextlib import suppress
from io import StringIO
from pathlib import Path

import pytest
from mlflow import MlflowClient
from rich.table import Table

import qdesk
from durable.terminal import Terminal, plain
from market.events.convert import convert
from market.events.schema import LONGEST_NAME, EventsError
from qdesk.runs import guarded
from tests.support.commands import said
from tests.support.registered import NAME
from trading.feed import Rejections, arriving

HOSTILE = "\x1b]0;title\x07\x1b[2Jred\x9b31m[bold]x[/bold][/red]\u202egnp.exe"
SHOWN = "\\x1b]0;title\\x07\\x1b[2Jred\\x9b31m[bold]x[/bold][/red]\\u202egnp.exe"


def test_what_a_terminal_would_obey_is_shown() -> None:
    assert plain("a\tb\r\x00\nüñ — 中文 ε") == "a\\tb\\r\\x00\nüñ — 中文 ε"
    assert plain(HOSTILE) == SHOWN


def test_a_terminal_takes_no_markup_and_no_escapes_from_data() -> None:
    file = StringIO()
    terminal = Terminal(file=file, width=400, force_terminal=True, color_system="truecolor")
    table = Table(HOSTILE, title=HOSTILE, caption=HOSTILE)
    table.add_row(HOSTILE)
    terminal.print(table)
    terminal.print(HOSTILE, f"{HOSTILE}\n", style="bold")
    with terminal.status(HOSTILE):
        pass
    written = file.getvalue()
    for obeyed in ("\x07", "\x9b", "\u202e", "\x1b]", "\x1b[2J"):
        assert obeyed not in written
    assert written.count("[bold]x[/bold][/red]") >= 3


@pytest.mark.parametrize(
    "cell", ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "+1.2[", "-a", "--"]
)
def test_a_cell_of_text_is_no_formula(cell: str) -> None:
    assert guarded(cell) == f"'{cell}"


@pytest.mark.parametrize(
    "cell",
    ["-", "+12.3%", "-0.4", "-1,234", "+1.2e+05", "-1.5% [-3.0% to +0.1%]", "name", "a=b", ""],
)
def test_a_figure_stays_a_figure(cell: str) -> None:
    assert guarded(cell) == cell


def test_names_and_tags_of_a_store_are_shown_as_they_are(
    client: MlflowClient, mlruns: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment = client.create_experiment("qdesk")
    for name in (f"=1+1{HOSTILE}", "second"):
        tags = {"group": HOSTILE, "seed": "[/red]", "bars": "[/bars]", "qdesk_run": "r" * 32}
        run = client.create_run(experiment, run_name=name, tags=tags)
        client.set_terminated(run.info.run_id)
    client.set_model_version_tag(NAME, "2", "net_return", "x")
    client.set_model_version_tag(NAME, "3", "net_return", "[/red]")
    client.set_model_version_tag(NAME, "3", "bars", HOSTILE)
    path = tmp_path / "runs.csv"
    listed = [
        said(capsys, "runs", "list", "--mlruns", mlruns, "--csv", path)[0],
        said(capsys, "runs", "compare", "--mlruns", mlruns)[0],
        said(capsys, "models", "list", "--mlruns", mlruns)[0],
        said(capsys, "models", "show", NAME, "--mlruns", mlruns)[0],
        said(capsys, "models", "compare", NAME, "1", "3", "--mlruns", mlruns)[0],
    ]
    assert "title" in listed[0]
    assert all(each.replace("\n", "").isprintable() for each in listed)
    with path.open(newline="") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert f"'=1+1{SHOWN}" in cells
    assert not [cell for cell in cells if cell.startswith("=")]
    _, err = said(capsys, "models", "show", HOSTILE, "--mlruns", mlruns, code=2)
    assert "\x1b" not in err
    assert "\\x1b" in err


def trade(**more: object) -> bytes:
    known = {"time": 1_600_000_000_000, "type": "trade", "instrument": "A", "price": 1, "size": 1}
    return json.dumps(known | more).encode() + b"\n"


@pytest.mark.parametrize("name", ["instrument", "id"])
def test_a_name_has_an_end(tmp_path: Path, name: str) -> None:
    path, out = tmp_path / "log.jsonl", tmp_path / "bars.csv"
    for length, good in ((LONGEST_NAME, True), (LONGEST_NAME + 1, False)):
        path.write_bytes(trade(**{name: "ü" * length}) + trade(time=1_600_000_100_000))
        result = convert([path], "1m", tmp_path / "{instrument}.csv", max_rejected=1.0)
        assert result.rejected.total() == (0 if good else 1)
    rejected = json.loads((tmp_path / "all.csv.rejected.jsonl").read_text().splitlines()[0])
    assert (rejected["line"], rejected["fault"]) == (1, "bad value")
    assert rejected["reason"] == f"{name} has 201 characters; it may have 200"
    assert not out.exists()


@pytest.mark.parametrize("field", ["time", "type", "side", "price", "instrument", "id"])
def test_what_is_said_of_a_long_value_is_short(tmp_path: Path, field: str) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(trade(**{field: "x" * 1_000_000}) + trade())
    convert([path], "1m", tmp_path / "bars.csv", max_rejected=1.0)
    text = (tmp_path / "bars.csv.rejected.jsonl").read_text()
    assert len(text) < 11_000
    assert len(json.loads(text)["reason"]) < 200


def written(file: int, content: bytes) -> None:
    with suppress(BrokenPipeError), os.fdopen(file, "wb") as pipe:
        pipe.write(content)


def test_a_stream_has_the_limits_of_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trading.feed.LONGEST_LINE", 100_000)
    heard: list[str] = []
    for content, fault in (
        (trade() + trade(instrument="x" * 90_000), "passed over: line 2: instrument has"),
        (trade() + b"a" * 200_000, "standard input line 2: longer than"),
    ):
        read, write = os.pipe()
        writer = threading.Thread(target=written, args=(write, content))
        writer.start()  # a pipe takes no more than 64 KiB at a time
        try:
            list(arriving(read, "1m", None, Rejections(heard.append), lambda: 2**62))
        except EventsError as error:
            heard.append(str(error))
        finally:
            os.close(read)
            writer.join()
        assert fault in heard[-1]
        assert len(heard[-1]) < 200


def test_an_argument_that_would_be_obeyed_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["qdesk", "\x1b[2Jtrain"])
        assert qdesk.main() == 2
    assert (
        capsys.readouterr().err == "\\x1b[2Jtrain is not a command of qdesk; see `qdesk --help`\n"
    )
