"""Lived transitions: what desks did and what came of it, out of their journals, for a training."""

from pathlib import Path

import numpy as np
import polars as pl

from durable.settings import BadSettings
from market.bars import NUMBERS, QUOTES, Bars
from market.events.journal import transitions_of
from training.data import TrainingData
from training.learning.replay import ReplayBuffer
from training.settings import TrainSettings


def lived_transitions(settings: TrainSettings, data: TrainingData) -> ReplayBuffer | None:
    """The transitions that `replay.prefill` names, as the agents of a training would have made them.

    States are made anew of the journals' bars with the features of this training, since another fit
    scales them otherwise; positions, actions and rewards are those that were lived. Risk penalties, which
    no account pays, are not in them.

    Args:
        settings: of the training.
        data: that they name.

    Returns:
        A buffer in learning units, each journal in the order of time; None where none is named.

    Raises:
        BadSettings: a journal is of another sizing or scheme, tells of bars that versions are judged on,
            or holds no transition.
        EventsError, BarsError: it cannot be read, or lacks what the features need.
    """
    paths = settings.agent.replay.prefill
    if not paths:
        return None
    found = [_transitions(path, settings, data) for path in paths]
    table = pl.concat(found)
    buffer = ReplayBuffer(
        len(table), data.train.state_size, settings.seed, n_step=settings.agent.n_step
    )
    gamma = settings.agent.learner.gamma
    for state, action, reward, following, continues, truncated in table.iter_rows():
        discount = gamma if continues else 0.0
        buffer.push(state, action, reward, following, discount, truncated)
    return buffer


def _transitions(path: Path, settings: TrainSettings, data: TrainingData) -> pl.DataFrame:
    """State, action index, reward in learning units, next state, whether it goes on, is truncated."""
    what = f"replay.prefill {path}"
    try:
        table, kinds = transitions_of(path)
    except OSError as error:
        raise BadSettings(f"{what}: cannot be read ({error.strerror})") from error
    wanted = (settings.market.scheme, settings.market.sizing)
    if kinds != {wanted}:
        said = " and ".join(f"scheme {scheme}, sizing {sizing}" for scheme, sizing in sorted(kinds))
        raise BadSettings(
            f"{what}: its desk traded under {said}; this training is of scheme {wanted[0]}, sizing "
            f"{wanted[1]}"
        )
    columns = [name for name in ("time", *NUMBERS, *QUOTES) if name in table.columns]
    features = data.features.transform(Bars.of(path.name, table.select(columns)))
    rows = table.with_row_index("row").with_columns(pl.col("time").shift(-1).alias("until"))
    lived = rows.filter(
        (pl.col("row") >= features.skipped)
        & pl.col("action").is_not_null()
        & pl.col("reward").is_not_null()
        & pl.col("discount").is_not_null()
    )
    if lived.is_empty():
        raise BadSettings(f"{what}: it holds no whole transition")
    judged = data.split.validation.table["time"][0]
    last = data.bars.table["time"][-1]
    seen = lived.filter((pl.col("until") >= judged) & (pl.col("time") <= last))
    if len(seen):
        raise BadSettings(
            f"{what}: {len(seen):,} of its {len(lived):,} transitions, the first of "
            f"{seen['time'][0]:%Y-%m-%d %H:%M}, lie among the bars of {data.bars.name} that versions are "
            f"judged on, from {judged:%Y-%m-%d %H:%M} on; leave it out, or take bars that end before it"
        )
    at = lived["row"].to_numpy() - features.skipped
    before = lived["state"].list.get(-2).to_numpy()
    after = lived["next_state"].list.get(-2, null_on_oob=True).fill_null(0.0).to_numpy()
    ones = np.ones_like(before)
    state = np.column_stack([features.values[at], before, ones])
    following = np.column_stack([features.values[at + 1], after, ones])
    rows_lived = lived["row"].to_numpy()
    return pl.DataFrame(
        {
            "state": state.astype(np.float32),
            "action": lived["action"].to_numpy() + 1,
            "reward": lived["reward"].to_numpy() * data.reward_scale,
            "next_state": following.astype(np.float32),
            "continues": lived["discount"].to_numpy() > 0,
            "truncated": np.append(np.diff(rows_lived) != 1, True),
        }
    )
