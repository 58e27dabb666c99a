"""Errors that more than one room raises. Each class of ours that a user can meet has an exit code."""


class MissingExtra(ImportError):
    """A package that is needed is not installed. The message names it."""

    exit_code = 3


class InUse(OSError):
    """Another process trains this run. The message names it."""

    exit_code = 2
