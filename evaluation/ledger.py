"""Who looked at bars that training and choosing had not touched: a record that nothing undoes.

An opening is a tag of the MLflow run that opened, set before anybody looks; deleted runs count. Bars are
known again by their closes, not by a hash: one bar more, other splits or rounded prices do not make them
unseen.
"""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

import numpy as np
from mlflow import MlflowClient

from evaluation.trials import runs_of
from market.bars import Bars

OPENED, PRINT = "opened", "opened_closes"  # tags: the opening, and a sample of the bars' closes
POINTS = 200  # of the sample
NEAR = 0.001  # of a close, within which it is the same one

Closes = Sequence[tuple[float, float]]  # seconds since 1970, price


class Opening(NamedTuple):
    """One look at held-back bars."""

    when: str
    who: str
    version: str
    why: str
    first: str  # time of the bars
    last: str


def openings(client: MlflowClient, bars: Bars) -> list[Opening]:
    """All openings of bars that these have a stretch in common with, oldest first."""
    return [
        Opening(**json.loads(run.data.tags[OPENED]))
        for run in runs_of(client, f"tags.{OPENED} != ''")
        if holds(bars, json.loads(run.data.tags[PRINT]))
    ]


def opening_tags(bars: Bars, who: str, version: str, why: str) -> dict[str, str]:
    """Tags of the run that opens bars."""
    first, last = (f"{bars.table['time'][row]:%Y-%m-%d %H:%M}" for row in (0, -1))
    made = Opening(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}", who, version, why, first, last)
    return {OPENED: json.dumps(made._asdict()), PRINT: json.dumps(closes_of(bars))}


def closes_of(bars: Bars) -> Closes:
    """Times and closes that bars are known again by."""
    rows = np.unique(np.linspace(0, len(bars) - 1, POINTS).astype(int))
    times, closes = _seconds(bars)[rows], bars.column("close")[rows]
    return [
        (round(time, 3), float(f"{close:.7g}")) for time, close in zip(times, closes, strict=True)
    ]


def holds(bars: Bars, closes: Closes) -> bool:
    """Whether bars hold a stretch of those that the closes were taken from, if not to the last digit."""
    times, prices = _seconds(bars), bars.column("close")
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
