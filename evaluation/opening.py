"""Opens bars that were held back: once, and by one process, unless somebody says why."""

import platform
from collections.abc import Callable

from mlflow import MlflowClient
from mlflow.entities import Run

from evaluation.errors import BadEvaluation
from evaluation.ledger import (
    HoldoutAccess,
    asking_tags,
    grant,
    openings,
    request_key,
    requests,
    withdraw,
)
from market.bars import Bars
from models.registry import user
from models.turns import BROKEN_OFF, alone, first


def open_bars(
    client: MlflowClient,
    bars: Bars,
    which: str,
    again: str | None,
    begin: Callable[[dict[str, str]], Run],
) -> Run:
    """The run that opens bars that were held back; it stands in the ledger before anybody has looked.

    `which` version is to be judged on them, `again` says why they are opened though they were
    opened before, and `begin` makes the run, with tags. Raises `BadEvaluation` where they were
    opened before and nobody says why again, or another process opens them at this moment.
    """
    why = (again or "").strip()
    with alone(client, "openings") as locked:
        if not why:
            _require_unopened(client, bars)
        who = f"{user()}@{platform.node()}"
        run = begin(asking_tags(bars, who, which, why or "first opening"))

        def asked() -> dict[str, HoldoutAccess]:
            return requests(client, bars, 0.0 if locked else BROKEN_OFF)

        try:
            if not why:
                _await_turn(bars, request_key(run), asked)
                _require_unopened(client, bars)
            grant(client, run)
        except BaseException:
            withdraw(client, run)
            client.set_terminated(run.info.run_id, "KILLED")
            raise
    return run


def _await_turn(bars: Bars, mine: str, asked: Callable[[], dict[str, HoldoutAccess]]) -> None:
    if first(mine, asked):
        return
    others = (each for key, each in asked().items() if key != mine)
    by = next((f" by {each.who} for {each.version}" for each in others), "")
    raise BadEvaluation(
        f"{bars.name}: is being opened{by} at this moment; look again once that is done"
    )


def _require_unopened(client: MlflowClient, bars: Bars) -> None:
    before = openings(client, bars)
    if before:
        last = before[-1]
        raise BadEvaluation(
            f"{bars.name}: was opened {len(before)} time{'s' if len(before) > 1 else ''} before, last by "
            f"{last.who} on {last.when[:10]} for {last.version}; what is looked at twice is no longer "
            "held back. Say why with --again"
        )
