"""Stable-Baselines3's side of `throughput.py`; runs in `.venv-peers`, where TensorFlow is not."""

import json
import sys
import time
from importlib.metadata import version

import torch
from stable_baselines3 import DQN
from stable_baselines3.common.vec_env import DummyVecEnv

from market.accounting import MarketSettings
from market.bars import load_bars
from market.features import FeaturePipeline, FeatureSettings
from market.gym import MarketEnv
from market.table import MarketTable


def main() -> None:
    """Answers every number of iterations on stdin with the seconds that they took."""
    work = json.loads(sys.argv[1])
    torch.set_num_threads(1)
    train = load_bars(work["bars"]).split().train
    features = FeaturePipeline.fit(train, FeatureSettings())
    table = MarketTable.of(train, features, MarketSettings(fee_rate=work["fee_rate"]))
    scale = 1.0 / float(table.terms.gain.std())
    agent = DQN(
        "MlpPolicy",
        DummyVecEnv([lambda: MarketEnv(table, scale)] * work["streams"]),
        learning_rate=work["learning_rate"],
        buffer_size=work["capacity"],
        learning_starts=work["learning_starts"],
        batch_size=work["batch"],
        gamma=work["gamma"],
        train_freq=1,
        gradient_steps=1,
        target_update_interval=work["target_every"] * work["streams"],  # it counts env steps
        exploration_initial_eps=work["epsilon"],
        exploration_final_eps=work["epsilon"],
        policy_kwargs={"net_arch": work["hidden"]},
        seed=work["seed"],
        device="cpu",
    )
    packages = ("stable-baselines3", "torch", "numpy", "gymnasium")
    print(json.dumps({f"peer {name}": version(name) for name in packages}), flush=True)
    for line in sys.stdin:
        iterations = int(line)
        began = time.perf_counter()
        agent.learn(iterations * work["streams"], reset_num_timesteps=False)
        print(json.dumps({"seconds": time.perf_counter() - began}), flush=True)


if __name__ == "__main__":
    main()
