"""Lines of a desk's journal, of which a test says only what it is about."""

from collections.abc import Iterable, Mapping
from typing import Any

from trading.account import Account
from trading.records import record_of

WHOLE: dict[str, dict[str, Any]] = {
    "bar": {"closed": 0, "close": None},
    "decision": {
        "action": 0,
        "target": 0.0,
        "position": 0.0,
        "equity": 0.0,
        "state": None,
        "q_values": None,
    },
    "order": {"id": "o"},
}


def take(account: Account, line: Mapping[str, Any]) -> None:
    """Has an account take a line in."""
    record_of({**WHOLE.get(line["type"], {}), **line}).apply(account)


def replay(account: Account, lines: Iterable[Mapping[str, Any]]) -> None:
    """Has an account take a whole journal in."""
    for line in lines:
        record_of(line).apply(account)
