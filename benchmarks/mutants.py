"""Mutants of a file: small faults in its code, of which a fair share is drawn.

The faults are those of Cosmic Ray (`cosmic_ray.operators`): another operator or comparison, a number one
off, a condition negated, a loop that never runs, a decorator or an exception's type gone. Left out is
what says nothing of tests: annotations, what no interpreter takes, and identity in place of equality,
which is the same for small numbers and interned strings.
"""

import ast
import difflib
import random
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

Place = tuple[tuple[int, int], tuple[int, int]]  # from and to: line from 1, column from 0


class Mutant(NamedTuple):
    """One fault in one file."""

    file: str
    scope: str  # class and function that it is in, or nothing
    line: int
    operator: str
    before: str  # the lines that differ, without their indent
    after: str
    code: str  # the whole file

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What it is known by, wherever its line has moved to."""
        return self.file, self.scope, self.before, self.after


def drawn(root: Path, file: str, count: int, seed: int) -> list[Mutant]:
    """Mutants of a file, at as many different places of it as there are.

    Places are drawn first, each with one of its faults; further faults of the same places follow where
    places are fewer than `count`.
    """
    source = (root / file).read_text()
    draw = random.Random(f"{seed} {file}")  # noqa: S311 - a draw, no secret
    of_place = faults(source)
    places = sorted(of_place)
    draw.shuffle(places)
    for place in places:
        draw.shuffle(of_place[place])
    scopes = list(_scopes(ast.parse(source)))
    found: dict[str, Mutant] = {}
    for turn in range(max(map(len, of_place.values()))):
        for place in places:
            if len(found) == count:
                return list(found.values())
            if turn < len(of_place[place]):
                operator, occurrence = of_place[place][turn]
                code = _mutated(source, operator, occurrence)
                if code is not None and code not in found and _compiles(code):
                    line = place[0][0]
                    scope = max((s for s in scopes if s[0] <= line <= s[1]), default=(0, 0, ""))[2]
                    name = operator.removeprefix("core/")
                    found[code] = Mutant(file, scope, line, name, *_change(source, code), code)
    return list(found.values())


def faults(source: str) -> dict[Place, list[tuple[str, int]]]:
    """Operators and their occurrences, by the place that they change."""
    nodes = list(ast_nodes(get_ast(source)))
    annotated = list(_annotations(ast.parse(source)))
    found: dict[Place, list[tuple[str, int]]] = {}
    for name in operator_names():
        kind = get_operator(name)
        if kind.arguments() or _of_identity(name):
            continue
        places = [place for node in nodes for place in kind().mutation_positions(node)]
        for occurrence, place in enumerate(places):
            if not any(start <= place[0] and place[1] <= end for start, end in annotated):
                found.setdefault(place, []).append((name, occurrence))
    return found


def _of_identity(operator: str) -> bool:
    _, _, changes = operator.partition("ReplaceComparisonOperator_")
    return ("Is" in changes) and changes not in ("Is_IsNot", "IsNot_Is")


def _annotations(tree: ast.Module) -> Iterator[Place]:
    for node in ast.walk(tree):
        for name in ("annotation", "returns"):
            part = getattr(node, name, None)
            if isinstance(part, ast.expr):
                assert part.end_lineno is not None
                assert part.end_col_offset is not None
                yield (part.lineno, part.col_offset), (part.end_lineno, part.end_col_offset)


def _scopes(tree: ast.AST, within: str = "") -> Iterator[tuple[int, int, str]]:
    """First line, last line and name of each class and function."""
    for node in ast.iter_child_nodes(tree):
        name = within
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            name = f"{within}.{node.name}" if within else node.name
            first = min([node.lineno, *(each.lineno for each in node.decorator_list)])
            assert node.end_lineno is not None
            yield first, node.end_lineno, name
        yield from _scopes(node, name)


def _mutated(source: str, operator: str, occurrence: int) -> str | None:
    """The code with a fault; None where Cosmic Ray cannot make it after all."""
    try:
        made: str | None = mutate_code(source, get_operator(operator)(), occurrence)
    except AttributeError:  # of an exception that is named by its module, say
        return None
    return made


def _compiles(code: str) -> bool:
    try:
        compile(code, "mutant", "exec")
    except SyntaxError:
        return False
    return True


def _change(source: str, code: str) -> tuple[str, str]:
    lines = list(difflib.ndiff(source.splitlines(), code.splitlines()))
    sides = ([line[2:].strip() for line in lines if line.startswith(sign)] for sign in "-+")
    before, after = ("\n".join(side).strip() for side in sides)
    return before, after
