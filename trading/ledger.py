"""Journal and account as one: a record is told to both, so that neither knows what the other does not."""

from typing import Any

from trading.account import Account
from trading.journal import Journal


class Ledger:
    """Where a desk writes what happens."""

    def __init__(self, journal: Journal, account: Account, instrument: str) -> None:
        self.journal = journal
        self.account = account
        self.instrument = instrument
        self._append = journal.append
        self._apply = account.apply

    def record(self, kind: str, time: int, **fields: Any) -> None:
        """Tells journal and account; times (ns) never go back, whatever a clock does."""
        fields["time"] = time
        fields["type"] = kind
        fields["instrument"] = self.instrument
        if time < self.account.time:
            fields["time"] = self.account.time
        self._append(fields)
        self._apply(fields)

    def flush(self, awaited: bool = True) -> None:
        """Has the journal written; raises `JournalLost`."""
        self.journal.flush(awaited)
