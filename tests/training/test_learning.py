"""Does it learn? Markets whose best policy is known, through the whole compiled loop."""

import shlex

import keras
import numpy as np
import pytest

from benchmarks.known_markets import ENOUGH, UPDATES, VARIANTS, study
from evaluation.backtest import follow, greedy_choice
from market.accounting import MarketSettings
from market.features import FeaturePipeline, FeatureSettings
from market.synthetic import RandomWalk
from market.table import MarketTable
from models.networks import q_values_of
from tests.support.agents import agents_of
from training.learning.learner import Learner
from training.learning.loop import TrainingLoop
from training.sources import load_settings


@pytest.mark.parametrize(
    "variant, seeds", [pytest.param("two_layer", 5, marks=pytest.mark.slow), ("tabular", 5)]
)
def test_mean_reverting_market_is_traded_as_dynamic_programming_would(
    variant: str, seeds: int
) -> None:
    """At least 95% of the best on a fresh path, in at least 4 of 5 seeds."""
    shares = study(shlex.split(VARIANTS[variant]), seeds).shares
    assert sum(share >= ENOUGH for share in shares) >= 4, shares


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_and_so_it_is_for_every_variant_and_ten_more_seeds(variant: str) -> None:
    shares = study(shlex.split(VARIANTS[variant]), 10, first=11).shares
    assert sum(share >= ENOUGH for share in shares) >= 8, shares


def test_random_walk_with_a_cost_is_left_alone() -> None:
    """From networks that follow every change of price, to ones that trade on less than 2% of bars.

    The cost is half a bar's standard deviation. The last networks are judged, not chosen ones.
    """
    noise, seeds = 0.01, 3
    paths = [RandomWalk().bars(20_000, 100), RandomWalk().bars(50_000, 102)]
    features = FeaturePipeline.fit(paths[0], FeatureSettings())
    costs = MarketSettings(fee_rate=noise / 2)
    train, fresh = (MarketTable.of(path, features, costs) for path in paths)
    arguments = ["--preset", "two_layer", "--steps", str(UPDATES + 250), "--seeds", str(seeds)]
    (settings,) = load_settings(arguments)
    loop = agents_of(settings, train, 1 / float(train.terms.gain.std()))
    assert isinstance(loop, TrainingLoop)
    follow_the_last_change(loop.learner)
    assert all(position_changes(loop.model(i), fresh) > 0.4 for i in range(seeds))
    loop.run(settings.steps)
    changes = [position_changes(loop.model(i), fresh) for i in range(seeds)]
    assert max(changes) < 0.02, changes


def position_changes(online: keras.Model, table: MarketTable) -> float:
    """Share of bars at which the policy changes position; a backtest would end with its ruin."""
    positions = follow(greedy_choice(lambda states: q_values_of(online, states, 1.0), table))
    return float(np.mean(np.diff(positions) != 0))


def follow_the_last_change(learner: Learner) -> None:
    """Makes all networks long after a rise and short after a fall, wherever they were."""
    for network in (learner.online, learner.target):
        kernels = list(network.variables.values())[::2]
        first, second, third = (kernel.numpy() for kernel in kernels)  # with an axis of seeds
        first[:, 0, :2], first[:, 1:, :2] = (1, -1), 0  # two units see the change, up and down
        second[:, :, :2], second[:, :2, :2] = 0, np.eye(2)
        third[:, :2] = [[-5, 0, 5], [5, 0, -5]]
        for kernel, value in zip(kernels, (first, second, third), strict=True):
            kernel.assign(value)


def test_no_policy_is_made_of_values_that_are_not_finite() -> None:
    """Neither judged on validation nor on the bars of a walk-forward."""
    from evaluation.errors import NotFinite
    from training.learn import choice
    from training.learning.agent import Policy

    bars = RandomWalk(sigma=0.01).bars(300, seed=1)
    features = FeaturePipeline.fit(bars, FeatureSettings())
    table = MarketTable.of(bars, features, MarketSettings(episode_bars=50))
    with pytest.raises(NotFinite, match="a Q-value is not finite"):
        choice(Policy.greedy(lambda states: np.full((len(states), 3), np.nan, np.float32)), table)
    assert (choice(Policy(lambda states: np.full(len(states), 2)), table) == 1).all()
