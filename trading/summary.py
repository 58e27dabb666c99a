"""What a session came to, as it goes: the few numbers that a status line and the end of a run show."""

from dataclasses import dataclass, field

from trading.book import Book


@dataclass
class Summary:
    """Counts and extremes over a session; `take` it a book after every bar."""

    book: Book
    began: float | None = None
    drawdown: float = 0.0
    _peak: float = field(default=0.0, repr=False)

    def take(self, book: Book) -> None:
        """Looks at the account."""
        equity = book.equity
        if book.cash is None:
            return
        if self.began is None:
            self.began = self._peak = equity
        if equity > self._peak:
            self._peak = equity
        elif self._peak > 0:
            self.drawdown = max(self.drawdown, 1 - equity / self._peak)

    @property
    def net_return(self) -> float | None:
        """Of the session, net of costs, as a share of the equity with which it began."""
        if self.began is None:
            return None
        return self.book.equity / self.began - 1

    def line(self, book: Book) -> str:
        """Where things are, in one line."""
        if self.began is None:
            return f"{book.bars:,} bars, waiting for a past"
        state = book.state if book.state == "ACTIVE" else f"{book.state} ({book.reason})"
        return (
            f"{book.bars:,} bars · price {book.price:g} · position {book.position:+g} · equity "
            f"{book.equity:,.2f} ({self.net_return or 0:+.2%}) · {book.orders} orders · {state}"
        )
