"""Journal and book as one: a record is told to both, so that neither knows what the other does not."""

from typing import Any

from trading.book import Book
from trading.journal import Journal


class Ledger:
    """Where a desk writes what happens."""

    def __init__(self, journal: Journal, book: Book, instrument: str) -> None:
        self.journal = journal
        self.book = book
        self.instrument = instrument
        self._append = journal.append
        self._apply = book.apply

    def record(self, kind: str, time: int, **fields: Any) -> None:
        """Tells journal and book; times (ns) never go back, whatever a clock does."""
        fields["time"] = time
        fields["type"] = kind
        fields["instrument"] = self.instrument
        if time < self.book.time:
            fields["time"] = self.book.time
        self._append(fields)
        self._apply(fields)

    def flush(self, awaited: bool = True) -> None:
        """Has the journal written; raises `JournalLost`."""
        self.journal.flush(awaited)
