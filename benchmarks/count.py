"""How easy the house is to live in, in numbers: `python -m benchmarks.count` (`make count`)."""

from tests.support.house import (
    ROOT,
    arrows_within,
    circle,
    constructors,
    files,
    graph,
    parallel,
)


def main() -> None:
    edges = graph()
    lines = sum(path.read_text().count("\n") for path in files())
    packed = sum(len(parallel(path)) for path in files())
    most, where = max(constructors())
    crowded = {
        str(folder.relative_to(ROOT)): len(list(folder.glob("*.py")))
        for folder in {path.parent for path in files()}
    }
    fullest = max(crowded, key=lambda name: crowded[name])
    found = circle(edges)
    rows = {
        "imports among the files of training/, a wing as one": arrows_within("training", edges),
        "circles of files": " -> ".join(found) if found else 0,
        "constructor arguments, the most": f"{most} ({where})",
        "files in one folder, the most": f"{crowded[fullest]} ({fullest})",
        "lines of Python without tests and benchmarks": f"{lines:,}",
        "parallel assignments a 1,000 lines": f"{packed / lines * 1000:.1f}",
        "lines of the README": (ROOT / "README.md").read_text().count("\n"),
    }
    width = max(map(len, rows))
    for name, value in rows.items():
        print(f"{name:<{width}}  {value}")


if __name__ == "__main__":
    main()
