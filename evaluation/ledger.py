"""Who looked at bars that training and choosing had not touched: a record that nothing undoes.

An opening is a tag of the MLflow run that opened, set before anybody looks; deleted runs count. It is
asked for first, by another tag, so that of two processes that ask at once one gives way. Bars are known
again by their closes, not by a hash: one bar more, other splits or rounded prices do not make them
unseen.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from time import time as now
from typing import NamedTuple
from zlib import crc32

import numpy as np
from mlflow import MlflowClient
from mlflow.entities import Run

from evaluation.errors import BadEvaluation
from evaluation.trials import runs_of
from market.bars import Bars

OPENED = "opened"
PRINT = "opened_closes"  # tags: the opening, and a sample of the bars' closes
ASKED = "opening"  # tag: an opening that is asked for, before it is one
CHECKSUM = "opened_crc"  # tag: of both together; versions before wrote none
POINTS = 200  # of the sample
NEAR = 0.001  # of a close, within which it is the same one

Closes = Sequence[tuple[float, float]]  # seconds since 1970, price


class HoldoutAccess(NamedTuple):
    """One look at held-back bars."""

    when: str
    who: str
    version: str
    why: str
    first: str  # time of the bars
    last: str


def openings(client: MlflowClient, bars: Bars) -> list[HoldoutAccess]:
    """All openings of bars that these have a stretch in common with, oldest first.

    Raises:
        BadEvaluation: an entry is not what was written, so that it is unknown what was opened.
    """
    found = []
    for run in runs_of(client, f"tags.{OPENED} != ''"):
        opening, closes = _entry(run, OPENED)
        if holds(bars, closes):
            found.append(opening)
    return found


def requests(client: MlflowClient, bars: Bars, broken_off: float) -> dict[str, HoldoutAccess]:
    """Openings asked for now of bars in common with these, by keys that sort as they were asked.

    A process that asked is taken to be gone after `broken_off` seconds.
    """
    found = {}
    for run in runs_of(client, f"tags.{ASKED} != ''"):
        asked = ASKED in run.data.tags  # it may have been granted since it was found
        if asked and now() - run.info.start_time / 1000 < broken_off:
            opening, closes = _entry(run, ASKED)
            if holds(bars, closes):
                found[request_key(run)] = opening
    return found


def request_key(run: Run) -> str:
    """The key of what a run asks for."""
    return f"{run.info.start_time:020d}/{run.info.run_id}"


def asking_tags(bars: Bars, who: str, version: str, why: str) -> dict[str, str]:
    """Tags of a run that asks to open bars."""
    first, last = (f"{bars.table['time'][row]:%Y-%m-%d %H:%M}" for row in (0, -1))
    made = HoldoutAccess(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}", who, version, why, first, last)
    opening = json.dumps(made._asdict())
    closes = json.dumps(closes_of(bars))
    return {ASKED: opening, PRINT: closes, CHECKSUM: checksum_of(opening, closes)}


def grant(client: MlflowClient, run: Run) -> None:
    """Makes an opening of what a run asked for."""
    client.set_tag(run.info.run_id, OPENED, run.data.tags[ASKED])
    client.delete_tag(run.info.run_id, ASKED)


def withdraw(client: MlflowClient, run: Run) -> None:
    """Takes back what a run asked for: no one has looked."""
    client.delete_tag(run.info.run_id, ASKED)


def _entry(run: Run, kind: str) -> tuple[HoldoutAccess, Closes]:
    """The opening that a run's tags tell, and the sample of closes.

    Raises `BadEvaluation` where they are not what was written.
    """
    tags: Mapping[str, str] = run.data.tags
    try:
        stated = tags.get(CHECKSUM)
        if stated is not None and stated != checksum_of(tags[kind], tags[PRINT]):
            raise ValueError("its checksum does not fit")  # noqa: TRY301
        closes = [(float(when), float(close)) for when, close in json.loads(tags[PRINT])]
        return HoldoutAccess(**json.loads(tags[kind])), closes
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BadEvaluation(
            f"run {run.info.run_id}: its entry in the ledger of held-back bars was changed after it was "
            f"written ({error}), so that it is unknown what was opened; restore the store from a backup"
        ) from error


def checksum_of(opening: str, closes: str) -> str:
    """Of an entry: of what its two tags say."""
    return f"{crc32(f'{opening}{closes}'.encode()):08x}"


def closes_of(bars: Bars) -> Closes:
    """Times and closes that bars are known again by."""
    rows = np.unique(np.linspace(0, len(bars) - 1, POINTS).astype(int))
    times = _seconds(bars)[rows]
    closes = bars.column("close")[rows]
    return [
        (round(time, 3), float(f"{close:.7g}")) for time, close in zip(times, closes, strict=True)
    ]


def holds(bars: Bars, closes: Closes) -> bool:
    """Whether bars hold a stretch of those that the closes were taken from, if not to the last digit."""
    times = _seconds(bars)
    prices = bars.column("close")
    slack = float(np.median(np.diff(times))) if len(times) > 1 else 0.0
    same = []
    for time, close in closes:
        place = int(np.searchsorted(times, time))
        near = [row for row in (place - 1, place) if 0 <= row < len(times)]
        near = [row for row in near if abs(times[row] - time) < slack]
        if near:
            same.append(any(abs(prices[row] / close - 1) <= NEAR for row in near))
    return 2 * sum(same) > len(same)


def _seconds(bars: Bars) -> np.ndarray:
    return bars.table["time"].dt.epoch("us").to_numpy() / 1e6
