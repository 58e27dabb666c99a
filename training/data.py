"""The data of a run: bars, split, fitted and tabulated; and transitions that desks lived.

Bad data are refused before anything starts.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl

from durable.settings import BadSettings
from evaluation.choosing import FEWEST, bars_to_choose_on, too_few_note
from market.accounting import FILLS, Fill
from market.bars import NUMBERS, QUOTES, Bars, BarsError, Split, SplitSettings, carried_note
from market.events.journal import transitions_of
from market.features import FeaturePipeline
from market.source import bars_from
from market.table import MarketTable
from training.learning.replay import ReplayBuffer
from training.settings import TrainSettings


@dataclass(frozen=True)
class TrainingData:
    """What training and validation walk along. The test split is kept apart, untabulated.

    The reward scale is 1 / standard deviation of what holding the full size earns in a bar of training,
    in the unit of the sizing: of price changes where one unit is traded, else of relative ones. So
    rewards and TD errors are of order one whatever the price level.
    """

    bars: Bars
    split: Split
    features: FeaturePipeline  # fitted on the training part
    train: MarketTable
    validation: dict[Fill, MarketTable]
    reward_scale: float
    lived: ReplayBuffer | None = None  # transitions from elsewhere that training begins with
    left_out: int = 0  # how many more there were, among the bars that versions are judged on

    @property
    def chooses(self) -> bool:
        """Whether the validation bars are enough to choose a checkpoint on."""
        return self._choosing >= FEWEST

    @property
    def _choosing(self) -> int:
        tables = self.validation.values()
        return min(bars_to_choose_on(self.split.validation, table) for table in tables)

    @property
    def notes(self) -> list[str]:
        """Sentences on what is wanting in these data."""
        few = "" if self.chooses else too_few_note(self.split.validation.name, self._choosing)
        carried = carried_note(self.bars.name, self.bars.carried)
        lived = ""
        if self.lived is not None:
            lived = f"begins with {len(self.lived):,} transitions that desks lived"
        if self.left_out:
            lived += f"; {self.left_out:,} lie among the bars that versions are judged on: left out"
        return [note for note in (few, carried, lived) if note]

    @classmethod
    def of(cls, settings: TrainSettings) -> "TrainingData":
        """Loads what the settings name.

        Raises:
            BarsError: the bars are bad, or too few, or their price never changes.
            TooManyCells: a table's bins and features are too many.
        """
        return cls.on(bars_from(settings.bars), settings, settings.split)

    @classmethod
    def on(cls, bars: Bars, settings: TrainSettings, shares: SplitSettings) -> "TrainingData":
        """The same of other bars, divided otherwise; raises what `of` does."""
        split = bars.split(**shares.model_dump())
        features = FeaturePipeline.fit(split.train, settings.features)
        train = MarketTable.of(split.train, features, settings.market)
        train.require_episode()
        settings.agent.require_table(train, settings.seeds)
        deviation = float((train.terms.carry + train.terms.gain).std())
        if deviation == 0:
            raise BarsError(f"{train.name}: the price never changes, so there is nothing to learn")
        validation = {
            fill: MarketTable.of(
                split.validation, features, settings.market.model_copy(update={"fill": fill})
            )
            for fill in FILLS
        }
        return cls(bars, split, features, train, validation, 1 / deviation)


def with_lived(settings: TrainSettings, data: TrainingData) -> TrainingData:
    """The data with the transitions that `replay.prefill` names, as its agents would have made them.

    States are made anew of the journals' bars with the features of this training, since another fit
    scales them otherwise; positions, actions and rewards are those that were lived. Risk penalties, which
    no account pays, are not in them. What was lived among bars that versions are judged on is left out.

    Raises:
        BadSettings: a journal is of another sizing or scheme, or holds no transition to begin with.
        EventsError, BarsError: it cannot be read, or lacks what the features need.
    """
    paths = settings.agent.replay.prefill
    if not paths:
        return data
    found = [_transitions(path, settings, data) for path in paths]
    table = pl.concat([each for each, _ in found])
    buffer = ReplayBuffer(
        len(table), data.train.state_size, settings.seed, n_step=settings.agent.n_step
    )
    gamma = settings.agent.learner.gamma
    for state, action, reward, following, continues, truncated in table.iter_rows():
        discount = gamma if continues else 0.0
        buffer.push(state, action, reward, following, discount, truncated)
    return replace(data, lived=buffer, left_out=sum(count for _, count in found))


def _transitions(
    path: Path, settings: TrainSettings, data: TrainingData
) -> tuple[pl.DataFrame, int]:
    """State, action index, reward in learning units, next state, whether it goes on, is truncated.

    And how many were left out.
    """
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
    )
    judged = data.split.validation.table["time"][0]
    last = data.bars.table["time"][-1]
    whole = len(lived)
    lived = lived.filter((pl.col("until") < judged) | (pl.col("time") > last))
    if lived.is_empty():
        among = f", but {whole:,} among the bars that versions are judged on" if whole else ""
        raise BadSettings(f"{what}: it holds no transition to begin with{among}")
    at = lived["row"].to_numpy() - features.skipped
    before = lived["state"].list.get(-2).to_numpy()
    after = lived["next_state"].list.get(-2, null_on_oob=True).fill_null(0.0).to_numpy()
    ones = np.ones_like(before)
    state = np.column_stack([features.values[at], before, ones])
    following = np.column_stack([features.values[at + 1], after, ones])
    found = pl.DataFrame(
        {
            "state": state.astype(np.float32),
            "action": lived["action"].to_numpy() + 1,
            "reward": lived["reward"].to_numpy() * data.reward_scale,
            "next_state": following.astype(np.float32),
            "continues": lived["next_state"].is_not_null(),
            "truncated": np.append(np.diff(at) != 1, True),
        }
    )
    return found, whole - len(lived)
