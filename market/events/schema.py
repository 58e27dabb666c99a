"""What an event is: one line of an event log, and the rules that a good one keeps.

`docs/event-log.md` is this page in prose. A rule is written once, as an expression over columns, so
that a million lines are checked at once and a bad one still gets a sentence of its own.
"""

import math
from datetime import UTC, datetime
from typing import NamedTuple

import numpy as np
import polars as pl

from market.times import iso_times

KINDS = (
    *("trade", "quote", "book", "order", "fill", "decision"),
    # as a trading journal has them
    *("bar", "session", "funding", "charge", "risk", "stop", "gap", "feed"),
)
TRADE, QUOTE, BOOK = range(3)  # the kinds that bars are made of
NUMBERS = ("price", "size", "bid", "ask", "bid_size", "ask_size")
PRICES = ("price", "bid", "ask")
SIDES = ("buy", "sell")
SCHEMA: dict[str, pl.DataType] = {
    "time": pl.String(),
    "type": pl.String(),
    "instrument": pl.String(),
    "id": pl.String(),
    "side": pl.String(),
    **dict.fromkeys(NUMBERS, pl.Float64()),
    "levels": pl.List(pl.List(pl.Float64())),
}
LEVEL = ("bid", "bid_size", "ask", "ask_size")  # of a book, in this order
DEPTH = {
    "depth_bid": pl.Float64(),
    "depth_ask": pl.Float64(),
    "levels_good": pl.Boolean(),
    "levels_hash": pl.UInt64(),
}
LEVELS_ARE = (
    "levels must be rows of [bid, bid_size, ask, ask_size], best first, prices finite and above zero, "
    "sizes finite and not negative; only below the first row may a side be null"
)
# From 1973 to 2262 the three units of an integer time never overlap: each has its own magnitude.
UNITS = {"ms": (10**11, 10**14, 10**6), "us": (10**14, 10**17, 10**3), "ns": (10**17, 2**63 - 1, 1)}
YEARS = (1973, 2262)
LONGEST_NAME = 200  # characters of an instrument's name and of an id
SHOWN = 60  # characters of a value in an error
UNIT_NAMES = {"ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}


class EventsError(ValueError):
    """An event log that cannot be used. The message names the file, the line and the remedy."""

    exit_code = 2


class Fault(NamedTuple):
    """A rule that a line can break."""

    name: str  # what the report counts it under
    broken: pl.Expr  # true where the rule is broken
    sentence: pl.Expr  # what was wrong and what would be right


def _shown(column: str) -> pl.Expr:
    """What stands in a column, as an error has it: the beginning of it where it is long."""
    return shortened(pl.col(column).cast(pl.String))


def shortened(text: pl.Expr) -> pl.Expr:
    """Text, or the beginning of it."""
    beginning = text.str.slice(0, SHOWN) + "…"
    return pl.when(text.str.len_chars() > SHOWN).then(beginning).otherwise(text)


def _too_long(name: str) -> Fault:
    length = pl.col(name).str.len_chars()
    return Fault(
        "bad value",
        (pl.col(name).str.len_bytes() > LONGEST_NAME) & (length > LONGEST_NAME),
        pl.format(f"{name} has {{}} characters; it may have {LONGEST_NAME}", length),
    )


def _number_rules() -> list[Fault]:
    rules = []
    for name in NUMBERS:
        number = pl.col(name)
        above_zero = not name.endswith("_size")
        wanted = "above zero" if above_zero else "zero or more"
        bad = ~number.is_between(0, math.inf, closed="none" if above_zero else "left")
        sentence = pl.format(f"{name} is {{}}; it must be a finite number {wanted}", _shown(name))
        if name in PRICES:
            rules.append(Fault("zero price", number == 0, sentence))
        rules.append(Fault("bad value", bad, sentence))
    return rules


def _missing(kind: int, name: str, column: str | None = None) -> Fault:
    return Fault(
        "missing field",
        (pl.col("kind") == kind) & pl.col(column or name).is_null(),
        pl.lit(f"a {KINDS[kind]} needs {name}, which is missing"),
    )


RULES = [
    Fault("bad value", pl.col("unread").is_not_null(), pl.col("unread")),
    Fault("missing field", pl.col("time").is_null(), pl.lit("time is missing")),
    Fault(
        "bad value",
        pl.col("ns").is_null(),
        pl.format(
            "time is {}; it must be ISO-8601 text, or integer milli-, micro- or nanoseconds since 1970, "
            "and between March 1973 and April 2262",
            _shown("time"),
        ),
    ),
    Fault("missing field", pl.col("type").is_null(), pl.lit("type is missing")),
    Fault(
        "unknown type",
        pl.col("kind").is_null(),
        pl.format(f"type is {{}}; it must be one of {', '.join(KINDS)}", _shown("type")),
    ),
    Fault(
        "missing field",
        pl.col("instrument").is_null() | (pl.col("instrument") == ""),
        pl.lit("instrument is missing"),
    ),
    *(_too_long(name) for name in ("instrument", "id")),
    _missing(TRADE, "price"),
    _missing(TRADE, "size"),
    _missing(QUOTE, "bid"),
    _missing(QUOTE, "ask"),
    _missing(BOOK, "levels", "levels_good"),
    Fault("bad value", ~pl.col("levels_good"), pl.lit(LEVELS_ARE)),
    *_number_rules(),
    Fault(
        "bad value",
        (pl.col("side") != SIDES[0]) & (pl.col("side") != SIDES[1]),
        pl.format("side is {}; it must be buy or sell", _shown("side")),
    ),
    Fault(
        "crossed quote",
        pl.col("bid") > pl.col("ask"),
        pl.format(
            "bid {} is above ask {}; a crossed quote cannot be traded at",
            _shown("bid"),
            _shown("ask"),
        ),
    ),
]


def checked(events: pl.DataFrame) -> pl.DataFrame:
    """Adds to events of `SCHEMA` what the rules speak of, and which rows break one.

    `time` may be Int64 or a timestamp too; a column `unread` may say why a row cannot be. Levels
    become their best bid and ask, and the depth of both sides.

    Returns:
        The columns of the schema less `levels`, and ns (int64, since 1970), kind (index into
        `KINDS`), depth_bid and depth_ask (sums over the levels), levels_hash, good.
    """
    kind = pl.col("type").cast(pl.Enum(KINDS), strict=False).to_physical()
    events = events.with_columns(_nanoseconds(events["time"]), kind=kind)
    if "unread" not in events.columns:
        events = events.with_columns(unread=pl.lit(None, pl.String))
    events = _with_depth(events)
    broken = pl.any_horizontal(rule.broken for rule in RULES).fill_null(value=False)
    return events.with_columns(good=~broken)


def faults(events: pl.DataFrame) -> pl.DataFrame:
    """For checked events that are not good: the first fault of each and its sentence."""
    broken = [rule.broken.fill_null(value=False) for rule in RULES]
    return events.select(
        fault=pl.coalesce(
            pl.when(is_broken).then(pl.lit(rule.name))
            for is_broken, rule in zip(broken, RULES, strict=True)
        ),
        reason=pl.coalesce(
            pl.when(is_broken).then(rule.sentence)
            for is_broken, rule in zip(broken, RULES, strict=True)
        ),
    )


def unit_of(time: pl.Series) -> set[str]:
    """The forms that good times have: ms, us, ns, or ISO-8601."""
    if time.dtype.is_temporal():
        return {"timestamp"}
    count = time if time.dtype == pl.Int64 else time.cast(pl.Int64, strict=False)
    found = {
        unit
        for unit, (low, high, _) in UNITS.items()
        if bool(((count >= low) & (count < high)).any())
    }
    return found | ({"ISO-8601"} if count.null_count() > time.null_count() else set())


def time_of(ns: int) -> str:
    """A time as errors and reports write it."""
    seconds, rest = divmod(ns, 10**9)
    text = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return text + (f".{rest:09d}".rstrip("0") if rest else "") + "Z"


def _nanoseconds(time: pl.Series) -> pl.Series:
    if time.dtype.is_temporal():
        near = time.dt.year().is_between(*YEARS)
        return _late_enough(time.set(~near, None).cast(pl.Datetime("ns")).dt.epoch("ns"))
    count = time if time.dtype == pl.Int64 else time.cast(pl.Int64, strict=False)
    low, high, _ = UNITS["ns"]
    if count.null_count() == 0 and count.is_between(low, high).all():
        return count.alias("ns")
    number = pl.col("count")
    from_count = pl.coalesce(
        pl.when(number.is_between(low, min(high, (2**63 - 1) // factor), closed="left")).then(
            number * factor
        )
        for low, high, factor in UNITS.values()
    )
    ns = pl.DataFrame({"count": count}).select(from_count).to_series()
    if time.dtype == pl.String:
        text = pl.DataFrame({"time": time.set(count.is_not_null(), None)})
        ns = ns.zip_with(ns.is_not_null(), _from_text(text["time"]))
    return ns.alias("ns")


def _from_text(text: pl.Series) -> pl.Series:
    near = text.str.strip_chars().str.slice(0, 4).cast(pl.Int32, strict=False).is_between(*YEARS)
    text = text.set(~near.fill_null(value=False), None)
    return _late_enough(iso_times(text, "ns").dt.epoch("ns"))


def _late_enough(ns: pl.Series) -> pl.Series:
    """Null before the first time that an integer can tell, and where 64 bits overflowed."""
    return ns.set(ns < UNITS["ns"][0], None).alias("ns")


def _with_depth(events: pl.DataFrame) -> pl.DataFrame:
    """Levels as best bid and ask and as depth; nulls where there are none."""
    present = events["levels"].is_not_null()
    if not present.any():
        depth = (pl.lit(None, dtype).alias(name) for name, dtype in DEPTH.items())
        return events.drop("levels").with_columns(depth)
    levels = events["levels"].filter(present)
    books = _books(levels).with_columns(levels_hash=levels.hash())
    events = events.drop("levels")
    rows = present.arg_true()
    columns = {name: pl.repeat(None, len(events), dtype=DEPTH[name], eager=True) for name in DEPTH}
    columns |= {name: events[name].clone() for name in LEVEL}
    return events.with_columns(
        columns[book.name].scatter(rows, book).alias(book.name) for book in books
    )


def _books(levels: pl.Series) -> pl.DataFrame:
    """Best prices and sizes, depth of either side, and whether the rule of levels is kept."""
    count = levels.list.len().to_numpy()
    rows = levels.filter(pl.Series(count > 0)).explode()
    book = np.repeat(np.arange(len(levels)), count)
    whole = rows.list.len().fill_null(0).to_numpy() == len(LEVEL)
    numbers = rows.filter(pl.Series(whole)).explode()
    values = numbers.to_numpy().reshape(-1, len(LEVEL))
    missing = numbers.is_null().to_numpy().reshape(-1, len(LEVEL))
    bad = (count == 0) | (np.bincount(book[~whole], minlength=len(levels)) > 0)
    book = book[whole]
    first = np.append(True, book[1:] != book[:-1])[: len(book)]
    broken = ~(missing | (np.isfinite(values) & (values >= 0))).all(axis=1)
    for price in (0, 2):  # the bid and the ask; their sizes stand beside them
        broken |= (missing[:, price] != missing[:, price + 1]) | (values[:, price] <= 0)
        broken |= first & missing[:, price]
    falls = np.diff(values[:, 0]) > 0
    rises = np.diff(values[:, 2]) < 0
    broken[1:] |= ~first[1:] & (falls | rises)
    bad |= np.bincount(book[broken], minlength=len(levels)) > 0
    best = np.full((len(levels), len(LEVEL)), np.nan)
    best[book[first]] = values[first]
    sizes = np.where(missing, 0, values)
    return pl.DataFrame(best, LEVEL, nan_to_null=True).with_columns(
        depth_bid=np.bincount(book, sizes[:, 1], len(levels)),
        depth_ask=np.bincount(book, sizes[:, 3], len(levels)),
        levels_good=~bad,
    )
