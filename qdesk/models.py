"""`qdesk models`: what it does and says in the terminal."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion, RegisteredModel
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from durable.terminal import say
from evaluation.judging import gate
from models.bundle import Bundle
from models.configuration import flatten
from models.promotion import Condition, Judgement, load_bundle, promote, rollback
from models.promotion_records import ALIASES, Promotion, history, recorded, resolve
from models.registry import model_id_of, net_return_of
from models.store import opened, store_arguments

Subcommand = Callable[[MlflowClient, argparse.Namespace, Console], None]
_UNFINISHED = {
    False: " (under way or broken off; if so, the next promotion or rollback completes or undoes it)",
    True: " (broken off and undone: it counts for nothing)",
}


def run(arguments: list[str], console: Console) -> int:
    """Runs `qdesk models ...` and returns its exit code."""
    options = parser().parse_args(arguments)
    if options.command == "promote":
        options.judge = gate(options.policy)
    with opened(options) as client:
        options.run(client, options, console)
    return 0


def parser() -> argparse.ArgumentParser:
    """The arguments of `qdesk models`."""
    whole = argparse.ArgumentParser(
        prog="qdesk models", description="Registered models: what there is, and which may trade."
    )
    commands = whole.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def add(name: str, run: Subcommand, about: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=about, description=about, parents=[store_arguments()])
        made.set_defaults(run=run)
        return made

    add("list", _list, "all models, with their versions' aliases")
    show = add("show", _show, "a model's versions and who moved its champion, or one version")
    compare = add(
        "compare", _compare, "versions side by side: what they did, and settings that differ"
    )
    promoted = add("promote", _promote, "make a version the champion, the model that may trade")
    rolled_back = add("rollback", _rollback, "make the previous champion the champion again")
    verify = add("verify", _verify, "check a version's bundle: hashes, shapes, golden Q-values")
    for each in (show, compare, promoted, rolled_back, verify):
        each.add_argument("name", help="of the registered model, see `list`")
    show.add_argument("version", nargs="?", help="a number or an alias")
    for each in (compare, promoted, verify):
        each.add_argument("version", help="a number or an alias")
    compare.add_argument("others", nargs="+", metavar="version", help="to compare it with")
    promoted.add_argument("--policy", type=Path, help="TOML file of conditions (default: all)")
    promoted.add_argument("--override", metavar="REASON", help="promote what the gate refuses")
    for each in (promoted, rolled_back):
        each.add_argument("--reason", required=True, help="why; it stands in the record")
        each.add_argument("--by", help="who, for the record (default: user@host)")
    return whole


def _list(client: MlflowClient, _: argparse.Namespace, console: Console) -> None:
    table = _table("model", "versions", "champion", "previous", "candidate", "newest on")
    for model in client.search_registered_models():
        aliases: Mapping[str, Any] = model.aliases
        named = [f"v{aliases[alias]}" if alias in aliases else "-" for alias in ALIASES]
        if recorded(client, model.name).elsewhere is not None:
            named[0] += " (set elsewhere)"
        versions = _versions(client, model.name)
        newest = versions[0].tags.get("bars", "-") if versions else "-"
        table.add_row(model.name, str(len(versions)), *named, newest)
    console.print(table)


def _show(client: MlflowClient, options: argparse.Namespace, console: Console) -> None:
    moves = history(client, options.name)
    if options.version is not None:
        version = resolve(client, options.name, options.version)
        _show_version(version, load_bundle(client, version), console)
        return
    model = client.get_registered_model(options.name)
    table = _table("version", "alias", "net return", "bars", "algorithm", "step", "seed", "run")
    for version in _versions(client, options.name):
        tags = version.tags
        known = [tags.get(name, "-") for name in ("bars", "algorithm", "step", "seed")]
        aliases = "\n".join(_aliases_of(model, version))
        known = [_net_return(version), *known, str(version.run_id)[:8]]
        table.add_row(f"v{version.version}", aliases, *known)
    console.print(table)
    console.print("net return: on the validation bars that each version was chosen on\n")
    elsewhere = recorded(client, options.name).elsewhere
    if elsewhere is not None:
        say(console, f"{elsewhere}; a desk trades what the records say")
    if not moves:
        console.print("no champion yet: `qdesk models promote` makes one")
    for move in moves:
        before = f" in place of v{move.before}" if move.before else ""
        judged = f" (gate {move.gate})" if move.gate else ""
        unfinished = "" if move.completed else _UNFINISHED[move.undone]
        moved = f"{move.kind} v{move.version}{before} by {move.who}: {move.why}{judged}{unfinished}"
        say(console, f"{move.when[:19]} {moved}")


def _show_version(version: ModelVersion, bundle: Bundle, console: Console) -> None:
    origin = bundle.manifest.origin
    network = bundle.manifest.network
    features = [feature["name"] for feature in origin.features["features"]]
    size = sum(array.size for array in bundle.weights.values())
    rows = {
        "version": f"{version.name} v{version.version}",
        "said of it": version.description or "",
        "trained": f"{origin.step:,} iterations, seed {origin.seed}, run {origin.run_id}",
        "network": f"{network.kind}, {size:,} weights",
        "features": ", ".join(features),
        "actions": f"scheme {origin.scheme}",
        "data": origin.data_hash,
        "code": origin.code_version,
        "bundle": bundle.sha256,
        "verified": f"hashes, shapes, {len(bundle.manifest.golden.states)} golden states",
    }
    grid = Table.grid(padding=(0, 2))
    for row in rows.items():
        grid.add_row(*row)
    console.print(grid)


def _compare(client: MlflowClient, options: argparse.Namespace, console: Console) -> None:
    versions = [
        resolve(client, options.name, which) for which in (options.version, *options.others)
    ]
    table = _table("", *(f"v{version.version}" for version in versions))
    columns = [_known(client, version) for version in versions]
    for name in dict.fromkeys(name for column in columns for name in column):
        cells = [column.get(name, "-") for column in columns]
        if len(set(cells)) > 1 or name.startswith("eval/") or name in ("iterations", "net return"):
            table.add_row(name, *cells)
    console.print(table)
    console.print("settings that all share are left out")


def _known(client: MlflowClient, version: ModelVersion) -> dict[str, str]:
    """What a version was trained with and did, by name."""
    bundle = load_bundle(client, version)
    logged = client.get_logged_model(model_id_of(version))
    figures = {metric.key: f"{metric.value:+.4g}" for metric in logged.metrics or []}
    origin = bundle.manifest.origin
    known = {
        "iterations": f"{origin.step:,}",
        "seed": str(origin.seed),
        "data": origin.data_hash[:12],
        "net return": _net_return(version),
        "code": origin.code_version[:12],
        "run": origin.run_id[:8],
    }
    return known | dict(sorted(figures.items())) | flatten(origin.settings)


def _promote(client: MlflowClient, options: argparse.Namespace, console: Console) -> None:
    def judge(*version: Any) -> Judgement:
        judgement: Judgement = options.judge(*version)
        console.print(conditions_table(judgement.conditions))
        if any(each.found == "not evaluated" for each in judgement.conditions):
            command = f"qdesk evaluate {options.name} {options.version} --walk-forward"
            say(console, f"judge it first: {command}")
        return judgement

    made = promote(
        client,
        options.name,
        options.version,
        options.reason,
        options.by,
        judge=judge,
        override=options.override,
    )
    say(console, _moved(client, options.name, made, ""))


def conditions_table(conditions: Sequence[Condition]) -> Table:
    """What a version was held to, and what was found."""
    table = _table("", "condition", "found", "required")
    for each in conditions:
        mark = Text("pass", "green") if each.passed else Text("FAIL", "bold red")
        table.add_row(mark, each.name, each.found, each.required)
    return table


def _rollback(client: MlflowClient, options: argparse.Namespace, console: Console) -> None:
    made = rollback(client, options.name, options.reason, options.by)
    say(console, _moved(client, options.name, made, " again"))


def _moved(client: MlflowClient, name: str, made: Promotion, again: str) -> str:
    """What the champion is now, with what both did on validation."""
    numbers = [number for number in (made.version, made.before) if number is not None]
    now, *before = (
        f"v{number} ({_net_return(resolve(client, name, number))} on validation)"
        for number in numbers
    )
    return f"{name}@champion is {now}{again}" + "".join(f", in place of {each}" for each in before)


def _verify(client: MlflowClient, options: argparse.Namespace, console: Console) -> None:
    version = resolve(client, options.name, options.version)
    bundle = load_bundle(client, version)
    say(
        console,
        f"{version.name} v{version.version} is good: hashes, schema, shapes, finite weights, "
        f"{len(bundle.manifest.golden.states)} golden states",
    )


def _net_return(version: ModelVersion) -> str:
    net_return = net_return_of(version)
    return "-" if net_return is None else f"{net_return:+.1%}"


def _versions(client: MlflowClient, name: str) -> list[ModelVersion]:
    """Newest first."""
    found = client.search_model_versions(f"name = '{name}'")
    return sorted(found, key=lambda version: -int(version.version))


def _aliases_of(model: RegisteredModel, version: ModelVersion) -> list[str]:
    aliases: Mapping[str, Any] = model.aliases
    return [alias for alias, number in aliases.items() if str(number) == str(version.version)]


def _table(*columns: str) -> Table:
    table = Table(box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column in {"alias", "step", "net return"})
    return table
