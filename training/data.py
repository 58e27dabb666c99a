"""The bars of a run: loaded, split, fitted and tabulated. Refuses bad bars before anything starts."""

from dataclasses import dataclass

from market.bars import Bars, Split, load_bars
from market.features import Features
from market.table import MarketTable
from training.settings import TrainSettings


@dataclass(frozen=True)
class TrainingData:
    """What training and validation walk along. The test split is kept apart, untabulated."""

    bars: Bars
    split: Split
    features: Features
    train: MarketTable
    validation: MarketTable  # filled as the settings say; chooses the checkpoint
    validation_next_open: MarketTable  # the same bars, filled at the next open

    @classmethod
    def of(cls, settings: TrainSettings) -> "TrainingData":
        """Loads what the settings name.

        Raises:
            BarsError: the bars are bad, or too few.
        """
        bars = load_bars(settings.bars)
        split = bars.split(**settings.split.model_dump())
        features = Features.fit(split.train, settings.features)
        market = settings.market
        train = MarketTable.of(split.train, features, market)
        train.require_episode()
        next_open = market.model_copy(update={"fill": "next_open"})
        return cls(
            bars,
            split,
            features,
            train,
            validation=MarketTable.of(split.validation, features, market),
            validation_next_open=MarketTable.of(split.validation, features, next_open),
        )
