"""Event logs by hand and at random, for the tests of what reads them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
from hypothesis import strategies as st

from market.events.convert import convert
from tests.support.synthetic_events import START_NS

Event = dict[str, Any]
SECOND = 10**9  # in nanoseconds
WHOLE = 32 * 2**20  # bytes of a block that holds any log of these tests


def written(path: Path, events: Sequence[Event]) -> Path:
    path.write_text("".join(json.dumps(event) + "\n" for event in events))
    return path


def trade(ns: int, price: float = 100.0, size: float = 1.0, **more: object) -> Event:
    return {
        "time": START_NS + ns,
        "type": "trade",
        "instrument": "X",
        "price": price,
        "size": size,
    } | more


def quote(ns: int, bid: float, ask: float, **more: object) -> Event:
    return {
        "time": START_NS + ns,
        "type": "quote",
        "instrument": "X",
        "bid": bid,
        "ask": ask,
    } | more


def rejected(path: Path) -> list[tuple[int, str]]:
    lines = map(json.loads, path.read_text().strip("\n").split("\n"))
    return [(line["line"], line["fault"]) for line in lines]


def run(tmp_path: Path, events: Sequence[Event], every: str = "1s", **more: Any) -> pl.DataFrame:
    out = tmp_path / "out.parquet"
    convert([written(tmp_path / "log.jsonl", events)], every, out, **{"max_rejected": 1, **more})
    return pl.read_parquet(out)


PRICES = st.integers(90, 110).map(lambda n: n / 10)
SIZES = st.integers(1, 40).map(lambda n: n / 7)


@st.composite
def logs(draw: st.DrawFn) -> list[Event]:
    """Events in order, some at the same time; ids keep them apart."""
    ns, events = 0, []
    for place in range(draw(st.integers(1, 40))):
        ns += draw(st.sampled_from([0, 0, 1, 999, 10**6, SECOND // 3, SECOND, 7 * SECOND]))
        kind = draw(st.sampled_from(["trade", "trade", "trade", "quote", "book", "order"]))
        event: Event = {"time": START_NS + ns, "type": kind, "instrument": "X", "id": str(place)}
        if kind == "trade":
            event |= {"price": draw(PRICES), "size": draw(SIZES)}
        elif kind == "quote":
            event |= {"bid": draw(PRICES), "ask": 12.0}
            if draw(st.booleans()):
                event |= {"bid_size": draw(SIZES), "ask_size": draw(SIZES)}
        elif kind == "book":
            bid = draw(PRICES)
            event["levels"] = [
                [bid, draw(SIZES), 12.5, draw(SIZES)],
                [bid - 1, draw(SIZES), None, None],
            ]
        events.append(event)
    return events
