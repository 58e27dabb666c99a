"""What the Gymnasium environments take for an action, and what they say of anything else."""

from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from market.accounting import Scheme

MEANING: dict[Scheme, str] = {
    "target": "0 (be short), 1 (be flat) or 2 (be long)",
    "order": "0 (sell one), 1 (do nothing) or 2 (buy one)",
}


class BadAction(gymnasium.error.InvalidAction, ValueError):
    """An action outside the space. The message says what the numbers mean."""


class EpisodeOver(gymnasium.error.ResetNeeded, RuntimeError):
    """A step where no episode is under way."""


def action_index(action: Any, scheme: Scheme) -> int:
    """An action as an index in {0, 1, 2}.

    Raises `BadAction` where it is no integer, or none of these.
    """
    kind = type(action)
    if (kind is int or kind is np.int64) and 0 <= action <= 2:
        return int(action)
    found = np.asarray(action)
    if found.shape != () or found.dtype.kind not in "iu" or not 0 <= found <= 2:
        raise BadAction(f"the action is {action!r}; it must be the integer {MEANING[scheme]}")
    return int(found)


def action_indices(actions: Any, count: int, scheme: Scheme) -> NDArray[np.int64]:
    """Actions of several streams as indices in {0, 1, 2}, shape (count,).

    Raises `BadAction` where their shape or type is another, or one is none of these.
    """
    found = np.asarray(actions)
    if found.shape != (count,) or found.dtype.kind not in "iu":
        raise BadAction(
            f"actions are of shape {found.shape} and type {found.dtype}; they must be {count} integers, "
            f"each {MEANING[scheme]}"
        )
    bad = (found < 0) | (found > 2)
    if bad.any():
        place = int(bad.argmax())
        raise BadAction(
            f"the action of stream {place} is {found[place]}; it must be the integer {MEANING[scheme]}"
        )
    return found.astype(np.int64)
