"""Event logs that are made up, clean or with faults that are known: for tests and benchmarks."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import polars as pl

BLOCK = 100_000
START_NS = 1_577_836_800 * 10**9  # 2020-01-01T00:00:00Z
SHARES = {
    "trade": 0.5,
    "quote": 0.43,
    "book": 0.05,
    "order": 0.01,
    "fill": 0.005,
    "decision": 0.005,
}
TICK = 0.01


def _cut(line: str, rng: np.random.Generator) -> bytes:
    return line[: int(rng.integers(1, len(line) - 1))].encode()


def _without_a_field(line: str, rng: np.random.Generator) -> bytes:
    name = ("time", "type", "instrument")[rng.integers(3)]
    return line.replace(f'"{name}"', f'"no_{name}"').encode()


def _with_price(text: str) -> Callable[[str, np.random.Generator], bytes]:
    def changed(line: str, rng: np.random.Generator) -> bytes:
        return (
            (line[:-1] + f',"price":{text}}}')
            .replace('"price"', '"was"', line.count('"price"'))
            .encode()
        )

    return changed


def _at(line: str, ns: int) -> bytes:
    return b'{"time":%d,' % ns + line.split(",", 1)[1].encode()


def _late(line: str, rng: np.random.Generator) -> bytes:
    return _at(line, _time(line) - int(rng.integers(1, 10**9)))


def _jumped(line: str, rng: np.random.Generator) -> bytes:
    return _at(line, _time(line) + int(rng.integers(3600, 86_400)) * 10**9)


def _time(line: str) -> int:
    return int(line[len('{"time":') : line.index(",")])


# What a faulty line is made of: a good one before it, which stays.
FAULTS: dict[str, Callable[[str, np.random.Generator], bytes]] = {
    "malformed": _cut,
    "missing field": _without_a_field,
    "not a number": _with_price("NaN"),
    "negative price": _with_price("-1.5"),
    "duplicate": lambda line, rng: line.encode(),
    "out of order": _late,
    "clock jump": _jumped,
    "unknown type": lambda line, rng: line.replace('"type":"', '"type":"x').encode(),
    "wrong encoding": lambda line, rng: line[:-1].encode() + b',"note":"caf\xe9"}',
}


def write_event_log(
    path: Path,
    events: int,
    seed: int,
    *,
    instrument: str = "BTCUSD",
    mean_pause: float = 0.001,
    shares: Mapping[str, float] = SHARES,
    faults: Mapping[str, float] | None = None,
    truncated: bool = False,
) -> dict[int, str]:
    """Writes a log of trades, quotes, three-level books, orders, fills and decisions as JSON Lines.

    Args:
        path: where to.
        events: number of good lines.
        seed: of everything random.
        instrument: of every event.
        mean_pause: seconds between events.
        shares: of each kind among the events.
        faults: share of faulty lines to put in, by their names in `FAULTS`. The good lines stay.
        truncated: whether the last line, a further one, ends in its middle.

    Returns:
        The fault of each faulty line, by its number counted from 1.
    """
    rng = np.random.default_rng(seed)
    rates = dict(faults or {})
    faulty: dict[int, str] = {}
    line = 0
    price = 100.0
    time = START_NS
    with path.open("wb") as file:
        for first in range(0, events, BLOCK):
            count = min(BLOCK, events - first)
            price_path = np.round(price + TICK * np.cumsum(rng.integers(-1, 2, count)), 2)
            times = time + np.cumsum(rng.exponential(mean_pause * 1e9, count).astype(np.int64) + 1)
            lines = _lines(times, np.maximum(price_path, 1.0), instrument, shares, rng)
            price = max(float(price_path[-1]), 1.0)
            time = int(times[-1])
            if not rates and not truncated:
                file.write("\n".join(lines).encode() + b"\n")
                continue
            put_in = rng.choice(
                [*rates, ""], size=count, p=[*rates.values(), 1 - sum(rates.values())]
            )
            for place, (good, fault) in enumerate(zip(lines, put_in.tolist(), strict=True)):
                line += 1
                file.write(good.encode() + b"\n")
                tail = first + place >= events - 20  # too near the end for a jump to be known
                if fault and not (tail and fault == "clock jump"):
                    line += 1
                    file.write(FAULTS[fault](good, rng) + b"\n")
                    faulty[line] = fault
            if truncated and first + count == events:
                file.write(lines[-1][: len(lines[-1]) // 2].encode())
                faulty[line + 1] = "truncated"
    return faulty


def _lines(
    times: np.ndarray,
    price: np.ndarray,
    instrument: str,
    shares: Mapping[str, float],
    rng: np.random.Generator,
) -> list[str]:
    """Events as JSON, one string each."""
    count = len(times)
    sizes = np.round(rng.exponential(1.0, (count, 2)) + 0.001, 3)
    table = pl.DataFrame(
        {
            "time": times,
            "kind": rng.choice(list(shares), size=count, p=list(shares.values())),
            "price": price,
            "size": sizes[:, 0],
            "other_size": sizes[:, 1],
            "side": np.where(rng.random(count) < 0.5, "buy", "sell"),
            **{f"bid{n}": np.round(price - n * TICK, 2) for n in (1, 2, 3)},
            **{f"ask{n}": np.round(price + n * TICK, 2) for n in (1, 2, 3)},
        }
    )
    start = f'{{{{"time":{{}},"type":"{{}}","instrument":"{instrument}",'
    head = ("time", "kind")
    level = "[{},{},{},{}]"
    written = {
        "quote": pl.format(
            start + '"bid":{},"bid_size":{},"ask":{},"ask_size":{}}}',
            *head, "bid1", "size", "ask1", "other_size",
        ),
        "book": pl.format(
            start + f'"levels":[{level},{level},{level}]}}}}',
            *head,
            *(name for n in (1, 2, 3) for name in (f"bid{n}", "size", f"ask{n}", "other_size")),
        ),
    }  # fmt: skip
    plain = pl.format(start + '"price":{},"size":{},"side":"{}"}}', *head, "price", "size", "side")
    line = (
        pl.when(pl.col("kind") == "quote").then(written["quote"])
        .when(pl.col("kind") == "book").then(written["book"])
        .otherwise(plain)
    )  # fmt: skip
    return table.select(line).to_series().to_list()
