"""What could be traded at by an event log: its order books where it has them, else its quotes."""

from pathlib import Path
from typing import Any

import orjson

from market.event_files import event_blocks
from market.events import EventsError
from trading.nautilus import ENDLESS, Quote


def quotes_of_log(path: Path, instrument: str | None) -> list[Quote]:
    """Quotes in order of time. Lines that `qdesk data convert` would refuse are left out.

    Args:
        path: JSON Lines, plain; books have their levels nowhere else.
        instrument: the only one; none where the log is of one.

    Raises:
        EventsError: the log is of another form, or quotes nothing.
    """
    if path.suffix not in {".jsonl", ".ndjson"}:
        raise EventsError(f"{path}: NautilusTrader is fed from plain .jsonl here")
    good: dict[int, int] = {}
    for block in event_blocks([path]):
        good.update(zip(block.events["line"], block.events["ns"], strict=True))
    quotes: list[Quote] = []
    books: list[Quote] = []
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if number not in good or (b'"quote"' not in line and b'"book"' not in line):
                continue
            event: dict[str, Any] = orjson.loads(line)
            if instrument is not None and event["instrument"] != instrument:
                continue
            time = good[number]
            if event["type"] == "book":
                levels = event["levels"]
                bids = [
                    (level[0], level[1]) for level in levels if level[0] is not None and level[1]
                ]
                asks = [
                    (level[2], level[3]) for level in levels if level[2] is not None and level[3]
                ]
                if bids and asks:
                    books.append(Quote(time, bids, asks))
            elif event["type"] == "quote":
                bid_size, ask_size = event.get("bid_size"), event.get("ask_size")
                sizes = (bid_size or ENDLESS, ask_size or ENDLESS)
                quotes.append(Quote(time, [(event["bid"], sizes[0])], [(event["ask"], sizes[1])]))
    found = books or quotes
    if not found:
        raise EventsError(f"{path}: neither books nor quotes; an order would meet nobody")
    latest, ordered = 0, []
    for each in found:
        if each.time >= latest:
            ordered.append(each)
            latest = each.time
    return ordered
