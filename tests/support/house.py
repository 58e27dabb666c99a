"""What can be counted of the house: arrows, circles, long constructors, packed lines."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROOMS = ("durable", "market", "models", "evaluation", "training", "trading", "qdesk")
WINGS = (
    "training.learning",
    "training.tracking",
    "training.checkpoints",
)  # know nobody beside them
PACKAGES = (*WINGS, "training.observers")


def files() -> list[Path]:
    """The files of the product, in order."""
    return [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]


def module_of(path: Path) -> str:
    """The dotted name by which a file is imported."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path, known: set[str]) -> set[str]:
    """Files of ours that a file imports, wherever in it, those for type checking included."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute here"
            assert node.module is not None
            named = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in known else node.module for name in named}
    return (found & known) - {module_of(path)}


def graph() -> dict[str, set[str]]:
    """Each file's imports, by dotted names."""
    paths = {module_of(path): path for path in files()}
    return {name: imports(path, set(paths)) for name, path in paths.items()}


def circle(edges: dict[str, set[str]]) -> list[str]:
    """A circle of files that import one another; empty where there is none."""
    done: set[str] = set()
    way: list[str] = []

    def visit(name: str) -> list[str]:
        if name in way:
            return way[way.index(name) :]
        if name in done:
            return []
        way.append(name)
        for each in sorted(edges.get(name, ())):
            if found := visit(each):
                return found
        way.pop()
        done.add(name)
        return []

    for name in sorted(edges):
        if found := visit(name):
            return found
    return []


def arrows_within(room: str, edges: dict[str, set[str]]) -> int:
    """How many arrows there are among the files of a room, a package of it counting as one file."""

    def place(name: str) -> str:
        return next(
            (wing for wing in PACKAGES if name == wing or name.startswith(wing + ".")), name
        )

    def inside(name: str) -> bool:
        return name.startswith(room + ".")

    found = {
        (place(source), place(target))
        for source, targets in edges.items()
        for target in targets
        if inside(source) and inside(target)
    }
    return sum(source != target for source, target in found)


def constructors() -> Iterator[tuple[int, str]]:
    """Arguments of each constructor that is written out, and where it is."""
    for path in files():
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.ClassDef):
                continue
            for each in node.body:
                if isinstance(each, ast.FunctionDef) and each.name == "__init__":
                    count = len(each.args.args) + len(each.args.kwonlyargs) - 1
                    yield count, f"{path.relative_to(ROOT)} {node.name}"


def parallel(path: Path) -> list[int]:
    """Lines in which several names are given values of their own at once."""
    return [
        node.lineno
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Tuple)
        and isinstance(node.value, ast.Tuple)
    ]
