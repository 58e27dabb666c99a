"""Settings on a command line: one way to read them, whichever command takes them."""

import argparse
from typing import Any

from pydantic_settings import BaseSettings, CliSettingsSource


def of_command_line(
    kind: type[BaseSettings], command: str, arguments: list[str] | None
) -> CliSettingsSource[Any]:
    """The settings that a command line gives, if any; raises pydantic's `SettingsError`."""
    return CliSettingsSource(
        kind,
        cli_prog_name=f"qdesk {command}",
        cli_parse_args=arguments,
        cli_kebab_case=True,
        cli_avoid_json=True,
        cli_implicit_flags=True,
        cli_parse_none_str="none",
        cli_exit_on_error=False,
    )


def parser_of(kind: type[BaseSettings], command: str) -> argparse.ArgumentParser:
    """The parser of a command that takes these settings."""
    made: argparse.ArgumentParser = of_command_line(kind, command, None).root_parser
    return made
