"""Stable-Baselines3's side of the benchmarks; runs in `.venv-peers`, where TensorFlow is not.

Answers every number of iterations on stdin with the seconds that they took. Where the work says
`"report": n`, it trains once, and every n iterations stops its clock and reports its weights.
"""

import json
import sys
import time
from importlib.metadata import version
from typing import Any

import torch
from stable_baselines3 import DQN
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv

from benchmarks.work import reward_scale_of, table_of
from market.gym import MarketEnv


def main() -> None:
    work = json.loads(sys.argv[1])
    torch.set_num_threads(1)
    table = table_of(work)
    scale = reward_scale_of(table)
    streams = work["streams"]
    markets = DummyVecEnv([lambda: MarketEnv(table, scale)] * streams)
    if work.get("own_settings"):
        agent = DQN("MlpPolicy", markets, gamma=work["gamma"], seed=work["seed"], device="cpu")
    else:
        policy: dict[str, Any] = {"net_arch": work["hidden"]}
        if work["optimizer"] == "sgd":
            policy["optimizer_class"] = torch.optim.SGD
        agent = DQN(
            "MlpPolicy",
            markets,
            learning_rate=work["learning_rate"],
            buffer_size=work["capacity"],
            learning_starts=work["learning_starts"],
            batch_size=work["batch"],
            gamma=work["gamma"],
            train_freq=1,
            gradient_steps=1,
            target_update_interval=work["target_every"] * streams,  # it counts env steps
            exploration_initial_eps=work["epsilon"],
            exploration_final_eps=work["epsilon"],
            policy_kwargs=policy,
            seed=work["seed"],
            device="cpu",
        )
    packages = ("stable-baselines3", "torch", "numpy", "gymnasium")
    print(json.dumps({f"peer {name}": version(name) for name in packages}), flush=True)
    if "report" in work:
        agent.learn(work["most"] * streams, callback=Reports(work["report"]))
        return
    for line in sys.stdin:
        iterations = int(line)
        began = time.perf_counter()
        agent.learn(iterations * streams, reset_num_timesteps=False)
        print(json.dumps({"seconds": time.perf_counter() - began}), flush=True)


class Reports(BaseCallback):  # type: ignore[misc]
    """Every so many iterations: waits to be asked, and tells the seconds of training and the weights."""

    def __init__(self, every: int) -> None:
        super().__init__()
        self._every = every
        self._seconds = 0.0

    def _on_training_start(self) -> None:
        sys.stdin.readline()
        self._began = time.perf_counter()

    def _on_step(self) -> bool:
        if self.n_calls % self._every:
            return True
        self._seconds += time.perf_counter() - self._began
        layers = [
            [layer.weight.detach().numpy().T.tolist(), layer.bias.detach().numpy().tolist()]
            for layer in self.model.q_net.q_net
            if isinstance(layer, torch.nn.Linear)
        ]
        print(json.dumps({"seconds": self._seconds, "layers": layers}), flush=True)
        asked = sys.stdin.readline()
        self._began = time.perf_counter()
        return bool(asked)


if __name__ == "__main__":
    main()
