"""Whether validation bars are enough to choose a checkpoint on."""

from market.accounting import MarketSettings
from market.bars import Bars, BarsError
from market.features import FeaturePipeline
from market.table import MarketTable

FEWEST = 30  # bars, as many as a window of a walk-forward must at least be judged on


def bars_to_choose_on(bars: Bars, table: MarketTable) -> int:
    """How many bars a choice is made on: those of a split that have a state, and one before the first.

    Features with a long past leave the first ones out of the table.
    """
    return min(len(bars), len(table) + 1)


def too_few_note(name: str, count: int) -> str:
    """What is said of validation bars that are too few."""
    return (
        f"{name}: {count} bars with a state are too few to choose on, which takes {FEWEST}: no "
        "checkpoint counts as the best and none becomes candidate, the last is registered as it is; "
        "bring more bars, a larger split.validation or a smaller split.gap"
    )


def unchosen_note(
    what: str, bars: Bars, features: FeaturePipeline, settings: MarketSettings
) -> str:
    """What is said of a version that was not chosen on its validation bars; nothing of one that was."""
    try:
        count = bars_to_choose_on(bars, MarketTable.of(bars, features, settings))
    except BarsError:
        count = 0
    if count >= FEWEST:
        return ""
    return (
        f"{what}: was not chosen among checkpoints, since its validation split has {count} bars with a "
        f"state and choosing takes {FEWEST}; it is the last of its training, and figures of so few bars "
        "say nothing"
    )
