"""`qdesk completion`: what a shell completes, made of the registry and of every command's parser."""

import argparse
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec

from rich.console import Console

import qdesk

SHELLS = ("bash", "zsh", "fish")
BASH = """_qdesk() {
    local current="${COMP_WORDS[COMP_CWORD]}" options=""
    case "${COMP_WORDS[*]:1:2}" in
%s
    esac
    if [[ $COMP_CWORD -eq 1 ]]; then
        options="%s"
    fi
    COMPREPLY=($(compgen -W "$options" -- "$current"))
}
complete -o default -F _qdesk qdesk"""
ZSH = "autoload -U +X bashcompinit && bashcompinit\n"


def run(arguments: list[str], console: Console) -> int:
    """Runs `qdesk completion SHELL`: prints a script for the shell to read."""
    shell = parser().parse_args(arguments).shell
    lines = {"bash": _bash, "zsh": lambda: ZSH + _bash(), "fish": _fish}[shell]()
    console.file.write(lines + "\n")
    return 0


def parser() -> argparse.ArgumentParser:
    """The arguments of `qdesk completion`."""
    made = argparse.ArgumentParser(
        prog="qdesk completion",
        description="Print a script that completes commands and options: "
        "`source <(qdesk completion bash)`, `qdesk completion fish | source`.",
    )
    made.add_argument("shell", choices=SHELLS)
    return made


def _parsers() -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Each command with its parser; of one with commands of its own, those behind it."""
    for name, command in qdesk.COMMANDS.items():
        if any(find_spec(package) is None for package in command.needs):
            continue
        make = getattr(import_module(command.module), command.parser, argparse.ArgumentParser)
        made: argparse.ArgumentParser = make()
        yield name, made
        for action in made._actions:  # argparse shows them nowhere else
            if isinstance(action, argparse._SubParsersAction):
                yield from ((f"{name} {sub}", each) for sub, each in action.choices.items())


def _words(parser: argparse.ArgumentParser) -> Iterator[tuple[str, str]]:
    """Options, and commands of a command's own, with what they mean."""
    for action in parser._actions:
        if action.help == argparse.SUPPRESS:
            continue
        if isinstance(action, argparse._SubParsersAction):
            yield from ((sub, "") for sub in action.choices)
        for flag in action.option_strings:
            if flag.startswith("--"):
                yield flag, (action.help or "").partition(";")[0].partition(" (")[0]


def _bash() -> str:
    cases = []
    for name, made in sorted(_parsers(), key=lambda each: -each[0].count(" ")):
        words = " ".join(word for word, _ in _words(made))
        cases.append(f'    "{name}"|"{name} "*) options="{words}" ;;')
    return BASH % ("\n".join(cases), " ".join(qdesk.COMMANDS))


def _fish() -> str:
    lines = [
        f"complete -c qdesk -n __fish_use_subcommand -a {name} -d {_quoted(command.about)}"
        for name, command in qdesk.COMMANDS.items()
    ]
    for name, made in _parsers():
        seen = "; and ".join(f"__fish_seen_subcommand_from {part}" for part in name.split())
        for word, about in _words(made):
            kind = f"-l {word[2:]}" if word.startswith("--") else f"-a {word}"
            lines.append(f"complete -c qdesk -n '{seen}' {kind} -d {_quoted(about)}")
    return "\n".join(lines)


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'").replace("%%", "%") + "'"
