"""Does it learn? Markets whose best policy is known, through the whole compiled loop."""

import keras
import numpy as np
import pytest

from evaluation.backtest import Backtest, backtest, follow, greedy_choice
from market.accounting import MarketSettings
from market.bars import Bars
from market.features import FeaturePipeline, FeatureSettings
from market.synthetic import OrnsteinUhlenbeck, RandomWalk
from market.table import MarketTable
from training.learner import Learner
from training.settings import TrainSettings, load_settings
from training.train import better, build_loop, learn, validate

UPDATES = 20_000


def tables(parts: list[Bars], features: FeatureSettings, fee_rate: float) -> list[MarketTable]:
    fitted = FeaturePipeline.fit(parts[0], features)
    return [MarketTable.of(part, fitted, MarketSettings(fee_rate=fee_rate)) for part in parts]


def chosen_on_validation(
    settings: TrainSettings, train: MarketTable, validation: MarketTable, fresh: MarketTable
) -> Backtest:
    """What the checkpoint chosen on validation does on a fresh path."""
    loop = build_loop(settings, train, 1 / float(train.terms.gain.std()))
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


def shares_of_the_best(seeds: range) -> list[float]:
    """What agents earn on a fresh mean-reverting path, as shares of what dynamic programming earns."""
    market, fee_rate = OrnsteinUhlenbeck(), 0.01
    parts = [market.bars(20_000, 100), market.bars(50_000, 101), market.bars(50_000, 102)]
    train, validation, fresh = tables(parts, FeatureSettings(names=("log_price",)), fee_rate)
    best = market.best_choice(fresh.terms.price, fee_rate, gamma=0.99)
    ceiling = backtest(fresh, follow(best)).net.sum()
    shares = [
        float(chosen_on_validation(settings_of(seed), train, validation, fresh).net.sum() / ceiling)
        for seed in seeds
    ]
    print("shares of the dynamic-programming best:", np.round(shares, 3))
    return shares


def test_mean_reverting_market_is_traded_as_dynamic_programming_would() -> None:
    """At least 95% of the best on a fresh path, in at least 4 of 5 seeds."""
    shares = shares_of_the_best(range(1, 6))
    assert sum(share >= 0.95 for share in shares) >= 4, shares


@pytest.mark.slow
def test_and_so_it_is_for_twenty_more_seeds() -> None:
    shares = shares_of_the_best(range(6, 26))
    assert sum(share >= 0.95 for share in shares) >= 16, shares


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_random_walk_with_a_cost_is_left_alone(seed: int) -> None:
    """From a network that follows every change of price, to one that trades on less than 2% of bars.

    The cost is half a bar's standard deviation. The last network is judged, not a chosen one.
    """
    noise = 0.01
    parts = [RandomWalk().bars(20_000, 100), RandomWalk().bars(50_000, 102)]
    train, fresh = tables(parts, FeatureSettings(), fee_rate=noise / 2)
    settings = settings_of(seed)
    loop = build_loop(settings, train, 1 / float(train.terms.gain.std()))
    follow_the_last_change(loop.learner)
    assert position_changes(loop.learner.online, fresh) > 0.4
    loop.run(settings.steps)
    assert position_changes(loop.learner.online, fresh) < 0.02


def position_changes(online: keras.Model, table: MarketTable) -> float:
    """Share of bars at which the policy changes position; a backtest would end with its ruin."""
    positions = follow(greedy_choice(lambda states: online(states).numpy(), table))
    return float(np.mean(np.diff(positions) != 0))


def follow_the_last_change(learner: Learner) -> None:
    """Makes both networks long after a rise and short after a fall, wherever they were."""
    kernel1, bias1, kernel2, bias2, kernel3, bias3 = learner.online.get_weights()
    kernel1[0, :2], kernel1[1:, :2] = (1, -1), 0  # two units see the change, up and down
    kernel2[:, :2], kernel2[:2, :2] = 0, np.eye(2)
    kernel3[:2] = [[-5, 0, 5], [5, 0, -5]]
    weights = [kernel1, bias1, kernel2, bias2, kernel3, bias3]
    learner.online.set_weights(weights)
    learner.target.set_weights(weights)
