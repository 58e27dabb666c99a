"""What can be traded at: the opens and closes of bars, or the books and quotes of an event log."""

from collections.abc import Sequence
from math import ceil, log10
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from durable.settings import BadSettings
from market.accounting import MarketSettings
from market.events.files import event_blocks
from market.events.schema import EventsError
from trading.desk import Bar

MOST_DIGITS = 9  # of a price
HIGHEST = 1e9  # the highest price that the engine takes at its precision
ENDLESS = 1e9  # units quoted where the data have no size
STARTS = 1  # ns after a close at which the next bar's open is quoted


class Quote(NamedTuple):
    """What could be traded at from a time on: levels of price and size, best first."""

    time: int  # ns since 1970
    bids: Sequence[tuple[float, float]]
    asks: Sequence[tuple[float, float]]


def scale_of(bars: Sequence[Bar], quotes: Sequence[Quote] = ()) -> float:
    """A power of ten that all prices are multiplied by, so that none is small.

    The engine keeps prices to nine decimals and money to eight: at a price of a millionth, a fee
    would be nothing. Prices of one and more stay as they are; otherwise the lowest becomes a
    thousand or more. Raises `BadSettings`: prices lie too far apart for any scale.
    """
    prices = [bar[name] for bar in bars for name in ("low", "high")]
    prices += [price for quote in quotes for price, _ in (*quote.bids, *quote.asks)]
    lowest = min(prices)
    highest = max(prices)
    if lowest >= 1:
        return 1.0
    scale = 10.0 ** ceil(3 - log10(lowest))
    if highest * scale > HIGHEST:
        raise BadSettings(
            f"prices from {lowest:g} to {highest:g} lie too far apart for NautilusTrader's nine "
            "decimals; --engine simulated has no such limit"
        )
    return scale


def scaled(quotes: Sequence[Quote], scale: float) -> Sequence[Quote]:
    """The same quotes with their prices multiplied."""
    if scale == 1:
        return quotes
    return [
        Quote(
            quote.time,
            [(price * scale, size) for price, size in quote.bids],
            [(price * scale, size) for price, size in quote.asks],
        )
        for quote in quotes
    ]


def digits_of(bars: Sequence[Bar], quotes: Sequence[Quote] = (), scale: float = 1.0) -> int:
    """Decimal places that the prices of bars need when multiplied, and those of quotes; at most nine."""
    prices = [bar[name] * scale for bar in bars for name in ("open", "close")]
    prices += [price for quote in quotes for price, _ in (*quote.bids, *quote.asks)]
    for digits in range(MOST_DIGITS):
        if all(round(price, digits) == price for price in prices):
            return digits
    return MOST_DIGITS


def quotes_of(bars: Sequence[Bar], settings: MarketSettings, latency_ns: int) -> list[Quote]:
    """The opens and closes of bars as quotes, as wide as the settings say.

    Half the spread is that of the settings, or of the bars' own bid and ask as last known, and slippage
    comes on top. The open stands until the close: bars do not tell what lies between.
    """
    quotes: list[Quote] = []
    half = settings.half_spread or 0.0
    before = None
    for bar in bars:
        if before is not None and latency_ns > 0:
            width = half + settings.slippage
            bids = [(bar["open"] - width, ENDLESS)]
            asks = [(bar["open"] + width, ENDLESS)]
            quotes.append(Quote(before + STARTS, bids, asks))
            arrival = before + latency_ns
            if before + STARTS < arrival < bar["time"]:  # the engine looks at orders after quotes
                quotes.append(Quote(arrival, bids, asks))
        if settings.half_spread is None and bar.get("ask") is not None:
            half = (bar["ask"] - bar["bid"]) / 2
        width = half + settings.slippage
        close = bar["close"]
        quotes.append(Quote(bar["time"], [(close - width, ENDLESS)], [(close + width, ENDLESS)]))
        before = bar["time"]
    return quotes


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
                bids = [(bid, size) for bid, size, _, _ in levels if bid is not None and size]
                asks = [(ask, size) for _, _, ask, size in levels if ask is not None and size]
                if bids and asks:
                    books.append(Quote(time, bids, asks))
            elif event["type"] == "quote":
                bids = [(event["bid"], event.get("bid_size") or ENDLESS)]
                asks = [(event["ask"], event.get("ask_size") or ENDLESS)]
                quotes.append(Quote(time, bids, asks))
    found = books or quotes
    if not found:
        raise EventsError(f"{path}: neither books nor quotes; an order would find no counterparty")
    latest = 0
    ordered = []
    for each in found:
        if each.time >= latest:
            ordered.append(each)
            latest = each.time
    return ordered
