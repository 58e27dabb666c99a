"""Does it learn? Markets whose best policy is known, through the whole compiled loop."""

import numpy as np
import pytest

from evaluation.backtest import Backtest, backtest, follow
from market.accounting import MarketSettings
from market.bars import Bars
from market.features import Features, FeatureSettings
from market.synthetic import MeanReverting, random_walk
from market.table import MarketTable
from training.settings import TrainSettings, load_settings
from training.train import better, build_loop, learn, validate

UPDATES = 20_000


def tables(parts: list[Bars], features: FeatureSettings, fee_rate: float) -> list[MarketTable]:
    fitted = Features.fit(parts[0], features)
    return [MarketTable.of(part, fitted, MarketSettings(fee_rate=fee_rate)) for part in parts]


def chosen_on_validation(
    settings: TrainSettings, train: MarketTable, validation: MarketTable, fresh: MarketTable
) -> Backtest:
    """What the checkpoint chosen on validation does on a fresh path."""
    loop = build_loop(settings, train)
    best, weights = None, None
    for point in learn(loop, validation, settings):
        if point.validation is not None and better(point.validation, best):
            best, weights = point.validation, loop.learner.online.get_weights()
    loop.learner.online.set_weights(weights)
    return validate(loop.learner.online, fresh)


def settings_of(seed: int) -> TrainSettings:
    """The committed two-layer preset, at 20,000 updates."""
    warm_up = 1000 // 4
    arguments = ["--preset", "two_layer", "--steps", str(UPDATES + warm_up), "--seed", str(seed)]
    (settings,) = load_settings(arguments)
    return settings


def test_mean_reverting_market_is_traded_as_dynamic_programming_would() -> None:
    """At least 95% of the best on a fresh path, in at least 4 of 5 seeds."""
    market, fee_rate = MeanReverting(), 0.01
    parts = [market.bars(20_000, 100), market.bars(50_000, 101), market.bars(50_000, 102)]
    train, validation, fresh = tables(parts, FeatureSettings(names=("log_price",)), fee_rate)
    best = market.best_choice(fresh.terms.price, fee_rate, gamma=0.99)
    ceiling = backtest(fresh, follow(best)).net.sum()
    shares = [
        chosen_on_validation(settings_of(seed), train, validation, fresh).net.sum() / ceiling
        for seed in range(1, 6)
    ]
    print("share of the dynamic-programming best:", np.round(shares, 3))
    assert sum(share >= 0.95 for share in shares) >= 4, shares


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_random_walk_with_a_cost_is_left_alone(seed: int) -> None:
    """A cost of half a bar's standard deviation: a change of position on less than 2% of the bars."""
    noise = 0.01
    parts = [random_walk(20_000, 100), random_walk(50_000, 101), random_walk(50_000, 102)]
    train, validation, fresh = tables(parts, FeatureSettings(), fee_rate=noise / 2)
    result = chosen_on_validation(settings_of(seed), train, validation, fresh)
    assert result.measures["position_changes"] < 0.02
