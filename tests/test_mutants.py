"""The study of mutants: what is drawn, and that those that compute the same are still of this code."""

import ast
from pathlib import Path

import pytest

from benchmarks.mutants import drawn, faults
from benchmarks.mutations import ROOT, TESTS, found, reasons

SOURCE = '''"""A file."""

from functools import cache


class Account:
    def __init__(self, held: int | None = None) -> None:
        self.held: int | None = held

    @cache
    def worth(self, price: float) -> "float | None":
        if self.held == 0 or self.lost:
            return None
        return None if price is None else self.held * price
'''


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "made.py").write_text(SOURCE)
    return tmp_path


def test_every_mutant_is_another_and_differs_in_one_place(root: Path) -> None:
    made = drawn(root, "made.py", 1000, seed=1)
    assert len({mutant.code for mutant in made}) == len(made)
    assert SOURCE not in {mutant.code for mutant in made}
    changes = {(mutant.scope, mutant.before, mutant.after) for mutant in made}
    worth = "Account.worth"
    kept, lost = "return None if price is None else self.held", "if self.held == 0 or self.lost:"
    assert (worth, f"{kept} * price", f"{kept} / price") in changes
    assert (worth, "@cache", "") in changes
    assert (worth, lost, lost.replace("if", "if not")) in changes
    assert (worth, lost, lost.replace("==", "<=")) in changes
    for mutant in made:
        assert mutant.code == SOURCE.replace(mutant.before, mutant.after, 1) or not mutant.after
        assert SOURCE.splitlines()[mutant.line - 1].strip() == mutant.before
    said = " ".join(mutant.after for mutant in made)
    assert "int &" not in said  # no annotation
    assert "held is 0" not in said  # no identity in place of equality
    assert "price is not None" in said


def test_a_fault_that_cosmic_ray_cannot_make_is_left_out(tmp_path: Path) -> None:
    source = "import json\n\ntry:\n    pass\nexcept (OSError, json.JSONDecodeError):\n    pass\n"
    (tmp_path / "made.py").write_text(source)
    made = [mutant.after for mutant in drawn(tmp_path, "made.py", 1000, seed=1)]
    assert made == ["except (CosmicRayTestingException, json.JSONDecodeError):"]


def test_places_come_before_further_faults_of_the_same_place(root: Path) -> None:
    places = len(faults(SOURCE))
    made = drawn(root, "made.py", places, seed=3)
    assert len({(mutant.line, mutant.operator.split("_")[0]) for mutant in made}) == places
    assert made == drawn(root, "made.py", places, seed=3)
    assert {mutant.code for mutant in made} != {m.code for m in drawn(root, "made.py", places, 4)}
    assert len(drawn(root, "made.py", 2, seed=3)) == 2


@pytest.mark.parametrize("file", TESTS)
def test_files_and_their_tests_are_there(file: str) -> None:
    assert (ROOT / file).is_file()
    for name in TESTS[file]:
        path, _, test = name.partition("::")
        assert f"def {test}" in found(path, ROOT).read_text(), name


def test_what_is_said_to_compute_the_same_is_of_lines_that_are_still_there_with_a_reason() -> None:
    listed = reasons()
    assert listed
    for (file, scope, before, after), reason in listed.items():
        source = (ROOT / file).read_text()
        lines = {line.strip() for line in source.splitlines()}
        assert set(before.splitlines()) <= lines, (file, before)
        names = {node.name for node in ast.walk(ast.parse(source)) if hasattr(node, "name")}
        assert set(filter(None, scope.split("."))) <= names, (file, scope)
        assert after != before
        assert len(reason) > 20
