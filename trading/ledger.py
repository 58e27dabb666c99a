"""Journal and book as one: a record is told to both, so that neither knows what the other does not."""

from typing import Any

from trading.book import Book
from trading.journal import Journal


class Ledger:
    """Where a desk writes what happens."""

    def __init__(self, journal: Journal, book: Book, instrument: str) -> None:
        self.journal, self.book, self.instrument = journal, book, instrument

    def record(self, kind: str, time: int, **fields: Any) -> None:
        """Tells journal and book; times (ns) never go back, whatever a clock does."""
        book = self.book
        time = max(time, book.time)
        record = {"time": time, "type": kind, "instrument": self.instrument, **fields}
        self.journal.append(record)
        book.apply(record)

    def flush(self) -> None:
        """Has the journal written; raises `JournalLost`."""
        self.journal.flush()
