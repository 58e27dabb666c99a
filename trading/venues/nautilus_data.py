"""Instrument, quotes and books in NautilusTrader's own classes."""

from decimal import Decimal

from nautilus_trader.model import (
    BookOrder,
    Currency,
    CurrencyPair,
    CurrencyType,
    InstrumentId,
    OrderBookDepth,
    OrderSide,
    Price,
    Quantity,
    QuoteTick,
    Symbol,
)
from nautilus_trader.model import Venue as VenueName

from trading.venues.quotes import Quote

SIZE_DIGITS = 6  # of a quantity


def instrument_of(digits: int, initial_margin: float) -> tuple[CurrencyPair, Currency]:
    """One instrument in a currency of many decimals, so that fees are not rounded away.

    `initial_margin` is the share of a notional that must be free, before leverage.
    """
    unit, quote = (Currency(code, 8, 0, code, CurrencyType.CRYPTO) for code in ("UNIT", "QUOTE"))
    Currency.register(unit, overwrite=True)
    Currency.register(quote, overwrite=True)
    name = InstrumentId(Symbol("TRADED"), VenueName("NAUTILUS"))
    margin = Decimal(str(initial_margin))
    pair = CurrencyPair(
        name,
        Symbol("TRADED"),
        unit,
        quote,
        digits,
        SIZE_DIGITS,
        Price(10**-digits, digits),
        Quantity(10**-SIZE_DIGITS, SIZE_DIGITS),
        0,
        0,
        margin_init=margin,
        margin_maint=margin,
    )
    return pair, quote


def tick_of(name: InstrumentId, quote: Quote, digits: int) -> QuoteTick:
    """A quote as the engine has it."""
    (bid, bid_size) = quote.bids[0]
    (ask, ask_size) = quote.asks[0]
    return QuoteTick(
        name,
        Price(bid, digits),
        Price(ask, digits),
        Quantity(bid_size, SIZE_DIGITS),
        Quantity(ask_size, SIZE_DIGITS),
        quote.time,
        quote.time,
    )


def depth_of(name: InstrumentId, quote: Quote, digits: int) -> OrderBookDepth:
    """A book as the engine has it."""
    bids, asks = (
        [
            BookOrder(side, Price(price, digits), Quantity(size, SIZE_DIGITS), 0)
            for price, size in levels
        ]
        for side, levels in ((OrderSide.BUY, quote.bids), (OrderSide.SELL, quote.asks))
    )
    bid_counts, ask_counts = ([1] * len(levels) for levels in (bids, asks))
    return OrderBookDepth(name, bids, asks, bid_counts, ask_counts, 0, 0, quote.time, quote.time)
