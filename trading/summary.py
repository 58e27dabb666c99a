"""What a session came to, and the desk's whole life: what a status line and the end of a run show."""

from collections import Counter

from market.findings import amount
from trading.bar_checks import utc
from trading.book import Book


class Summary:
    """Counts and extremes of a session; `take` it the book after every bar."""

    def __init__(self, book: Book, resume: str | None = None) -> None:
        """Begins where a book stands.

        Args:
            book: of the desk.
            resume: the command that sets it free; None of a backtest, which nothing goes on from.
        """
        self.book = book
        self.resume = resume
        self.continued = book.cash is not None
        self.began = book.equity if self.continued else None
        self.drawdown = 0.0
        self._peak = book.equity if self.continued else 0.0
        self._counts = _counts(book)

    def take(self, book: Book) -> None:
        """Looks at the account."""
        equity = book.equity
        if book.cash is None:
            return
        if self.began is None:
            self.began = self._peak = book.funded or equity
        if equity > self._peak:
            self._peak = equity
        elif self._peak > 0:
            self.drawdown = max(self.drawdown, 1 - equity / self._peak)

    @property
    def net_return(self) -> float | None:
        """Of the session, net of costs, as a share of the equity with which it began."""
        if not self.began:
            return None
        return self.book.equity / self.began - 1

    def line(self, book: Book) -> str:
        """Where things are, in one line."""
        if self.began is None:
            return f"{book.bars:,} bars, waiting for a past"
        return (
            f"{book.bars:,} bars · price {amount(book.last_price)} · position {book.position:+g} · "
            f"equity {amount(book.equity)} ({self.net_return or 0:+.2%}) · {book.orders} orders · "
            f"{self.state(book)}"
        )

    def state(self, book: Book) -> str:
        """The state, why, since when, what it leaves open, and the command to go on with."""
        if book.state == "ACTIVE":
            return book.state
        text = f"{book.state}: {book.reason}"
        if book.changed and utc(book.changed)[:16] not in book.reason:
            text += f" (since {utc(book.changed)})"
        if book.position:
            text += f"; a position of {book.position:+g} is open"
        if self.resume is None or book.liquidated:
            return text
        return f"{text}; go on with: {self.resume} --reason WHY"

    def rows(self) -> list[tuple[str, str, str]]:
        """What is shown at the end: a name, the session's figure, and the whole life's."""
        book = self.book
        life = _counts(book)
        session = life.copy()
        session.subtract(self._counts)
        always = ("bars", "decisions", "orders", "filled")
        rows = [
            (name, f"{session[name]:,}", f"{count:,}")
            for name, count in life.items()
            if count or name in always
        ]
        if self.net_return is not None and book.funded:
            whole = book.equity / book.funded - 1
            rows.append(("net return", f"{self.net_return:+.2%}", f"{whole:+.2%}"))
            rows.append(("largest drawdown", f"{self.drawdown:.2%}", f"{book.drawdown:.2%}"))
        return rows

    def reasons(self) -> list[tuple[str, str]]:
        """Of the whole life: orders that were refused, by limit, and features outside their range."""
        found = []
        if self.book.refusals:
            found.append(("refused by", _by_name(self.book.refusals)))
        if self.book.outside:
            what = f"{_by_name(self.book.outside)} decisions"
            found.append(("features outside their range in training", what))
        return found


def _counts(book: Book) -> "Counter[str]":
    return Counter(
        {
            "bars": book.bars,
            "decisions": book.decisions,
            "orders": book.orders,
            "filled": list(book.ended.values()).count("filled"),
            "refused orders": book.refusals.total(),
            "bars not believed": book.unbelieved,
            "silences of the market": book.gaps,
        }
    )


def _by_name(counts: "Counter[str]") -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.most_common())
