"""Journal and account as one: every record goes to both, so that they never differ."""

from trading.account import Account
from trading.journal import Journal
from trading.records import Record


class Ledger:
    """Where a desk writes what happens."""

    def __init__(self, journal: Journal, account: Account, instrument: str) -> None:
        self.journal = journal
        self.account = account
        self.instrument = instrument
        self._append = journal.append

    def record(self, record: Record) -> None:
        """Tells journal and account; times (ns) never go back, whatever a clock does."""
        account = self.account
        record.instrument = self.instrument
        if record.time < account.time:  # noqa: PLR1730  # at every bar, where max() is dear
            record.time = account.time
        self._append(record, record.patient)
        record.apply(account)

    def flush(self, awaited: bool = True) -> None:
        """Has the journal written; raises `JournalLost`."""
        self.journal.flush(awaited)
