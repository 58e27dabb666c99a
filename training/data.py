"""The bars of a run: loaded, split, fitted and tabulated. Refuses bad bars before anything starts."""

from dataclasses import dataclass

from evaluation.choosing import FEWEST, bars_to_choose_on, too_few_note
from market.accounting import FILLS, Fill
from market.bars import Bars, BarsError, Split, SplitSettings, carried_note
from market.features import FeaturePipeline
from market.source import bars_from
from market.table import MarketTable
from training.learning.replay import ReplayBuffer
from training.settings import TrainSettings


@dataclass(frozen=True)
class TrainingData:
    """What training and validation walk along. The test split is kept apart, untabulated.

    Attributes:
        bars: all of them.
        split: their parts.
        features: fitted on the training part.
        train: the training part.
        validation: the validation part under either fill.
        reward_scale: 1 / standard deviation of what holding the full size earns in a bar of training,
            in the unit of the sizing: of price changes where one unit is traded, else of relative ones.
            So rewards and TD errors are of order one whatever the price level.
        lived: transitions from elsewhere that training begins with, if any.
    """

    bars: Bars
    split: Split
    features: FeaturePipeline
    train: MarketTable
    validation: dict[Fill, MarketTable]
    reward_scale: float
    lived: ReplayBuffer | None = None

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
        return [note for note in (few, carried) if note]

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
