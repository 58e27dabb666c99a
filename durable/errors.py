"""Errors that more than one room raises. Each class of ours that a user can meet has an exit code."""

from collections.abc import Iterable
from importlib.util import find_spec


class MissingExtra(ImportError):
    """A package that is needed is not installed. The message names it."""

    exit_code = 3


def require_packages(what: str, packages: Iterable[str]) -> None:
    """Raises `MissingExtra` where one of the packages that something needs is not installed."""
    missing = " ".join(package for package in packages if find_spec(package) is None)
    if missing:
        raise MissingExtra(f"{what} needs {missing}, not installed here: pip install {missing}")


class InUse(OSError):
    """Another process trains this run. The message names it."""

    exit_code = 2
