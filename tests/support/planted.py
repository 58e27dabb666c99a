"""A store with credentials planted in it."""

from pathlib import Path

USER, KEY = "planted-user", "planted/key+1"


def planted(folder: Path) -> list[str]:
    """Files that hold what was planted, in whatever form."""
    signs = [USER.encode(), KEY.encode(), b"planted%2Fkey", b"planted"]
    return [
        str(path)
        for path in folder.rglob("*")
        if path.is_file() and any(sign in path.read_bytes() for sign in signs)
    ]
