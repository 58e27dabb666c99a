"""Stable-Baselines3's DQN and PPO on the market, unchanged.

Run by `make peers`, in an environment of its own (`benchmarks/requirements-peers.txt`): PyTorch and
TensorFlow do not share a process. The market is a mean-reverting one, so that there is something to
learn; the agents' returns stand beside those of the best policy and of doing nothing.
"""

import argparse
import warnings
from collections.abc import Callable

import gymnasium
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.env_checker import check_env

import market.gym
from market.features import FeaturePipeline, FeatureSettings
from market.source import bars_from
from market.synthetic import OrnsteinUhlenbeck

TRAIN = "synthetic:ou?theta=0.05&sigma=0.01&seed=1&bars=20000"
FRESH = "synthetic:ou?theta=0.05&sigma=0.01&seed=2&bars=5002"
FEE_RATE = 0.002


FEATURES = FeaturePipeline.fit(
    bars_from(TRAIN), FeatureSettings(names=("log_price", "price_change"))
)


def make(bars: str, episode_bars: int) -> gymnasium.Env:
    """The market by name, as any library makes it, scaled as the training bars are."""
    settings = {"fee_rate": FEE_RATE, "episode_bars": episode_bars}
    return gymnasium.make(market.gym.ID, bars=bars, settings=settings, features=FEATURES)


def fresh_return(act: Callable[[gymnasium.Env, object], int]) -> float:
    """What acting earns over bars that training never saw, as a share of the first price."""
    env = make(FRESH, 5000)
    state, info = env.reset(seed=1, options={"bar": 0})
    first, over = info["equity"], False
    while not over:
        state, _, terminated, truncated, info = env.step(act(env, state))
        over = terminated or truncated
    return info["equity"] / first - 1


def main() -> None:
    """Checks the environment, trains both agents, prints what they earn."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=40_000, help="environment steps of each agent")
    options = parser.parse_args()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(make(TRAIN, 1000).unwrapped)
    print("check_env of Stable-Baselines3: no warning")
    table = make(FRESH, 5000).unwrapped.table
    best = OrnsteinUhlenbeck(0.05, 0.01).best_choice(table.close, FEE_RATE, gamma=0.99)

    def best_action(env: gymnasium.Env, _: object) -> int:
        return best[env.unwrapped.bar, env.unwrapped.position + 1] + 1

    print(f"best policy    {fresh_return(best_action):+8.1%}")
    print(f"doing nothing  {fresh_return(lambda *_: 1):+8.1%}")
    for algorithm in (DQN, PPO):
        model = algorithm("MlpPolicy", make(TRAIN, 1000), gamma=0.95, seed=1, device="cpu")

        def greedy(_: gymnasium.Env, state: object, model: object = model) -> int:
            return model.predict(state, deterministic=True)[0]

        before = fresh_return(greedy)
        model.learn(options.steps)
        print(
            f"{algorithm.__name__:14} {fresh_return(greedy):+8.1%}   ({before:+.1%} before training)"
        )


if __name__ == "__main__":
    main()
