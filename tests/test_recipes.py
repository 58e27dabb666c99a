"""The recipes of CONTRIBUTING.md work as they are written."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest

import qdesk
from market.bars import load_bars
from market.feature_kinds import KINDS, Kind
from market.features import FeaturePipeline, FeatureSettings
from qdesk import COMMANDS, Command

PAGE = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text()


def recipe(title: str) -> str:
    """The code of a section."""
    section = PAGE.partition(f"## {title}\n")[2].partition("\n## ")[0]
    found = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert found is not None
    return found[1]


def test_a_feature_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a batch, bar by bar, and by its name in a pipeline."""
    rows = dict(KINDS)
    exec(recipe("A feature"), {"KINDS": rows, "Kind": Kind})
    (name,) = rows.keys() - KINDS.keys()
    monkeypatch.setitem(KINDS, name, rows[name])
    bars = load_bars("eurusd_1h")
    pipeline = FeaturePipeline.fit(bars, FeatureSettings(names=(name,)))
    batch = pipeline.transform(bars).values
    stream = pipeline.stream()
    single = [stream.update(bar) for bar in bars.table.head(50).iter_rows(named=True)]
    made = np.stack([each for each in single if each is not None])
    np.testing.assert_array_equal(batch[: len(made)], made)
    assert batch.std() > 0


def test_a_command_is_a_module_and_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "my_module.py").write_text(
        "class Refused(ValueError):\n    exit_code = 2\n\n"
        "def run(arguments, console):\n"
        "    if arguments != ['world']:\n        raise Refused('hello whom?')\n"
        "    console.print('hello world')\n    return 0\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    rows = dict(COMMANDS)
    exec(recipe("A command"), {"COMMANDS": rows, "Command": Command})
    monkeypatch.setattr(qdesk, "COMMANDS", rows)

    def said(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["qdesk", *arguments])
        code = qdesk.main()
        out, err = capsys.readouterr()
        return code, out, err

    assert said("hello", "world") == (0, "hello world\n", "")
    assert said("hello") == (2, "", "hello whom?\n")
    assert "  hello    say hello\n" in said("--help")[1]
