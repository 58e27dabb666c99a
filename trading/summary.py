"""What a session came to, and the desk's whole life: what a status line and the end of a run show."""

from collections import Counter

from market.findings import amount
from trading.account import Account
from trading.bar_checks import utc


class Summary:
    """Counts and extremes of a session; `take` it the account after every bar."""

    def __init__(self, account: Account, resume: str | None = None) -> None:
        """Begins where an account stands."""
        self.account = account
        self.resume = resume  # the command for it; None of a backtest, which nothing goes on from
        self.continued = account.cash is not None
        self.began = account.equity if self.continued else None
        self.drawdown = 0.0
        self._peak = account.equity if self.continued else 0.0
        self._counts = _counts(account)

    def take(self, account: Account) -> None:
        """Looks at the account."""
        equity = account.equity
        if account.cash is None:
            return
        if self.began is None:
            self.began = self._peak = account.funded or equity
        if equity > self._peak:
            self._peak = equity
        elif self._peak > 0:
            self.drawdown = max(self.drawdown, 1 - equity / self._peak)

    @property
    def net_return(self) -> float | None:
        """Of the session, net of costs, as a share of the equity with which it began."""
        if not self.began:
            return None
        return self.account.equity / self.began - 1

    def line(self, account: Account) -> str:
        """Where things are, in one line."""
        if self.began is None:
            return f"{account.bars:,} bars, waiting for a past"
        return (
            f"{account.bars:,} bars · price {amount(account.last_price)} · "
            f"position {account.position:+g} · equity {amount(account.equity)} "
            f"({self.net_return or 0:+.2%}) · {account.orders} orders · {self.state(account)}"
        )

    def state(self, account: Account) -> str:
        """The state, why, since when, what it leaves open, and the command to go on with."""
        if account.state == "ACTIVE":
            return account.state
        text = f"{account.state}: {account.reason}"
        if account.changed and utc(account.changed)[:16] not in account.reason:
            text += f" (since {utc(account.changed)})"
        if account.position:
            text += f"; a position of {account.position:+g} is open"
        if self.resume is None or account.liquidated:
            return text
        return f"{text}; go on with: {self.resume} --reason WHY"

    def rows(self) -> list[tuple[str, str, str]]:
        """What is shown at the end: a name, the session's figure, and the whole life's."""
        account = self.account
        life = _counts(account)
        session = life.copy()
        session.subtract(self._counts)
        always = ("bars", "decisions", "orders", "filled")
        rows = [
            (name, f"{session[name]:,}", f"{count:,}")
            for name, count in life.items()
            if count or name in always
        ]
        if self.net_return is not None and account.funded:
            whole = account.equity / account.funded - 1
            rows.append(("net return", f"{self.net_return:+.2%}", f"{whole:+.2%}"))
            rows.append(("largest drawdown", f"{self.drawdown:.2%}", f"{account.drawdown:.2%}"))
        return rows

    def reasons(self) -> list[tuple[str, str]]:
        """Of the whole life: orders that were refused, by limit, and features outside their range."""
        found = []
        if self.account.refusals:
            found.append(("refused by", _by_name(self.account.refusals)))
        if self.account.outside:
            what = f"{_by_name(self.account.outside)} decisions"
            found.append(("features outside their range in training", what))
        return found


def _counts(account: Account) -> "Counter[str]":
    return Counter(
        {
            "bars": account.bars,
            "decisions": account.decisions,
            "orders": account.orders,
            "filled": list(account.ended.values()).count("filled"),
            "refused orders": account.refusals.total(),
            "bars not believed": account.unbelieved,
            "silences of the market": account.gaps,
        }
    )


def _by_name(counts: "Counter[str]") -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.most_common())
