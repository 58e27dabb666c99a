"""A trading journal as a data set: the bars that a desk saw, and beside each the transition from it.

A row is a bar. Where the desk decided at it, the row also has the transition (state, action, reward,
discount, next state): the reward is what equity really changed by until the next decision, costs and late
fills included, and the action is the one that was executed; what the policy wanted stands beside it. They
differ where a limit, a risk state or a venue had its say. `Bars` reads the file like any other, so that
trading feeds training.
"""

import json
from collections.abc import Iterator
from math import log
from pathlib import Path
from typing import Any

import orjson
import polars as pl

from durable.files import whole_file
from durable.lines import Lines, sealed
from market.bars import NUMBERS, QUOTES
from market.events.schema import EventsError
from market.times import TIME

FORMATS = ("qdesk-journal/1", "qdesk-journal/2")
NEAR = 1e-6  # units of a position, within which one is held
TRANSITION = {
    "position": pl.Float64(),  # held coming in, units of a position
    "action": pl.Int8(),  # executed; null where what came to be held follows from none
    "wanted": pl.Int8(),  # by the policy
    "reward": pl.Float64(),  # price units of one position, shares of its notional, or log growth
    "discount": pl.Float64(),
    "explored": pl.Boolean(),
    "state": pl.List(pl.Float32()),
    "next_state": pl.List(pl.Float32()),
}


def is_journal(path: Path) -> bool:
    """Whether a file begins as a journal does. A pipe is none: what is read of it is gone."""
    if not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            first = file.readline(1 << 20)
        found = orjson.loads(first)
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and (found.get("format") in FORMATS or sealed(first) is not None)


def convert_journal(path: Path, out: Path) -> pl.DataFrame:
    """Writes the bars and transitions of a journal, and returns them.

    `out` is a .parquet or .csv file; in the latter states are lists in JSON. Raises `EventsError`
    where a line is no record, no bar was seen, or `out` cannot be written. A file that stood there
    is then as it was.
    """
    if out.suffix not in {".parquet", ".csv"}:
        raise EventsError(f"--out is {out}; the name must end in .parquet or .csv")
    table, _ = transitions_of(path)
    try:
        if out.exists() and out.samefile(path):
            raise EventsError(f"--out: {out} would overwrite the journal")
        with whole_file(out) as temporary:
            if out.suffix == ".parquet":
                table.write_parquet(temporary)
            else:
                lists = [
                    pl.col(name).map_elements(_as_json, return_dtype=pl.String)
                    for name in ("state", "next_state")
                ]
                table.with_columns(lists).write_csv(temporary)
    except OSError as error:
        raise EventsError(f"--out is {out}: cannot be written ({error.strerror})") from error
    return table


def transitions_of(path: Path) -> tuple[pl.DataFrame, set[tuple[str, str]]]:  # noqa: PLR0915  # one fold
    """The bars and transitions of a journal, and the action schemes and sizings of its sessions.

    Raises `EventsError` where a line is no record, or no bar was seen.
    """
    kinds: set[tuple[str, str]] = set()
    rows: list[dict[str, Any]] = []
    open_row: dict[str, Any] | None = None  # decided at, its next decision not yet seen
    gamma = None
    quantity = 1.0
    scheme = "target"
    sizing = "unit"
    full: float | None = None  # notional of a position of 1
    filled = 0.0  # by orders since the last decision, units, below zero where sold
    ended = False  # by the venue, which closed the account
    bars = 0  # since the last decision
    latest = 0
    for record in _records(path):
        kind = record["type"]
        if kind == "session":
            gamma = record.get("gamma")
            quantity = record["quantity"]
            scheme = record.get("scheme", "target")
            sizing = record.get("costs", {}).get("sizing", "unit")
            full = record.get("notional") or full
            kinds.add((scheme, sizing))
            open_row = None  # what lies between two sessions belongs to neither
        elif kind == "bar" and "refused" not in record and record["closed"] > latest:
            latest = record["closed"]
            bars += 1
            names = ("closed", *NUMBERS, *QUOTES)
            rows.append({name: record[name] for name in names if name in record})
        elif kind == "funding" and full is None:
            full = record["cash"]
        elif kind == "fill" and record.get("order") is None:
            ended = True
        elif kind == "fill":
            filled += record["size"] if record["side"] == "buy" else -record["size"]
        elif kind == "decision":
            if open_row is not None and bars == 1:  # a step is from one bar to the next
                per = full or quantity if sizing == "notional" else quantity
                open_row["reward"] = _reward(open_row["equity"], record["equity"], sizing, per)
                open_row["discount"] = 0.0 if ended else gamma
                open_row["next_state"] = None if ended else record["state"]
                before = open_row["position"]
                held = record.get("exposure", before + filled / quantity)
                open_row["action"] = _executed(open_row["wanted"], before, held, scheme)
            open_row = None
            ended = False
            filled = 0.0
            bars = 0
            if record["state"] is not None and rows and "wanted" not in rows[-1]:
                open_row = rows[-1]
                open_row["wanted"] = record["action"]
                open_row["state"] = record["state"]
                open_row["equity"] = record["equity"]
                open_row["position"] = record.get("exposure", record["position"] / quantity)
                open_row["explored"] = record.get("explored", False)
    if not rows:
        raise EventsError(f"{path}: a journal in which no good bar was seen")
    return _frame(rows), kinds


def _frame(rows: list[dict[str, Any]]) -> pl.DataFrame:
    for row in rows:
        row.pop("equity", None)
    seen = {name for row in rows for name in row}
    schema: dict[str, pl.DataType] = {"closed": pl.Int64()}
    schema |= {name: pl.Float64() for name in (*NUMBERS, *QUOTES) if name in seen}
    table = pl.DataFrame(rows, schema=schema | TRANSITION)
    time = (pl.col("closed") // 1000).cast(pl.Datetime("us")).dt.replace_time_zone("UTC").cast(TIME)
    return table.select(time.alias("time"), pl.exclude("closed"))


def _reward(before: float, after: float, sizing: str, per: float) -> float | None:
    """What equity changed by, in the unit that the sizing counts rewards in; None of a ruined account."""
    if sizing != "equity":
        return (after - before) / per
    return log(after / before) if after > 0 and before > 0 else None


def _executed(wanted: int, before: float, held: float, scheme: str) -> int | None:
    """The action that leads from one position to another; None where no action does.

    It is the one that the policy wanted, where that leads there.
    """
    target = float(wanted) if scheme == "target" else min(max(before + wanted, -1.0), 1.0)
    if abs(target - held) < NEAR:
        return wanted
    action = held if scheme == "target" else held - before
    nearest = round(action)
    near = abs(action - nearest) < NEAR and abs(nearest) <= 1
    return nearest if near else None


def _records(path: Path) -> Iterator[dict[str, Any]]:
    """Records up to a torn last line, which the desk will cut off when it starts again."""
    for line in Lines(path):
        if line.fault is not None:
            raise EventsError(f"{path} line {line.number}: {line.fault}")
        yield line.record


def _as_json(values: pl.Series | None) -> str | None:
    return None if values is None else json.dumps(list(values))
