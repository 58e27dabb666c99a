"""Golden numbers by independent libraries, for tests of our own definitions.

    make golden

runs this in an environment of its own (tests/golden/requirements.txt) and writes golden.json:
rlax for targets and the quantile Huber loss, Stable-Baselines3's n-step buffer for windows, cpprb for
prioritised sampling.
"""

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gymnasium
import jax.numpy as jnp
import numpy as np
import rlax
from cpprb import PrioritizedReplayBuffer
from stable_baselines3.common.buffers import NStepReplayBuffer

HERE = Path(__file__).parent
GAMMA = 0.9
rng = np.random.default_rng(20261122)


def targets() -> dict[str, Any]:
    """One-step and Double targets: rlax returns TD errors, target - Q(s, a)."""
    size = 40
    q = rng.normal(size=(size, 3))
    next_q, next_q_online = rng.normal(size=(size, 3)) * 3, rng.normal(size=(size, 3)) * 3
    reward, action = rng.normal(size=size) * 2, rng.integers(3, size=size)
    discount = rng.choice([0.0, 0.9, 0.81], size)
    one, double = [], []
    for i in range(size):
        same = (jnp.array(q[i]), int(action[i]), reward[i], discount[i])
        one.append(rlax.q_learning(*same, jnp.array(next_q[i])) + q[i, action[i]])
        both = jnp.array(next_q[i]), jnp.array(next_q_online[i])
        double.append(rlax.double_q_learning(*same, *both) + q[i, action[i]])
    return {
        "reward": reward,
        "discount": discount,
        "next_q": next_q,
        "next_q_online": next_q_online,
        "q_learning": one,
        "double": double,
    }


def quantiles() -> dict[str, Any]:
    """The loss of quantile Q-learning, the next action chosen by the mean of another network."""
    size, count = 30, 7
    at = (np.arange(count) + 0.5) / count
    here, then, chooser = (rng.normal(size=(size, 3, count)) * 2 for _ in range(3))
    reward, action = rng.normal(size=size) * 2, rng.integers(3, size=size)
    discount, losses = rng.choice([0.0, 0.9], size), {}
    for delta in (0.5, 1.0, 2.0):
        losses[str(delta)] = [
            rlax.quantile_q_learning(
                dist_q_tm1=jnp.array(here[i].T),
                tau_q_tm1=jnp.array(at),
                a_tm1=int(action[i]),
                r_t=reward[i],
                discount_t=discount[i],
                dist_q_t_selector=jnp.array(chooser[i].T),
                dist_q_t=jnp.array(then[i].T),
                huber_param=delta,
            )
            for i in range(size)
        ]
    return {
        "quantiles": here,
        "next_quantiles": then,
        "chooser": chooser,
        "reward": reward,
        "action": action,
        "discount": discount,
        "loss": losses,
    }


def windows() -> list[dict[str, Any]]:
    """Windows of one to three steps from every slot of a ring of 7, before and after it wraps."""
    capacity, cases = 7, []
    space = gymnasium.spaces.Box(-1e9, 1e9, (1,), np.float64)
    for n_step, often in ((1, 8), (2, 20), (3, 110)):
        for pushes in (2, 9, 13, 18):
            for _ in range(often):
                buffer = NStepReplayBuffer(
                    capacity,
                    space,
                    gymnasium.spaces.Discrete(3),
                    "cpu",
                    n_steps=n_step,
                    gamma=GAMMA,
                )
                reward = rng.normal(size=pushes)
                done, truncated = rng.random((2, pushes)) < 0.5
                for i in range(pushes):
                    buffer.add(
                        np.array([[i]]),
                        np.array([[i + 0.5]]),
                        np.array([[i % 3]]),
                        reward[i : i + 1],
                        np.array([done[i] or truncated[i]]),
                        # Theirs is a truncation only where nothing terminated.
                        [{"TimeLimit.truncated": bool(truncated[i] and not done[i])}],
                    )
                slots = np.arange(min(pushes, capacity))
                found = buffer._get_samples(slots)
                cases.append(
                    {
                        "n_step": n_step,
                        "reward": reward,
                        "done": done.astype(int),
                        "truncated": truncated.astype(int),
                        "state": found.observations[:, 0].numpy(),
                        "return": found.rewards[:, 0].numpy(),
                        "next_state": found.next_observations[:, 0].numpy(),
                        "discount": (found.discounts * (1 - found.dones))[:, 0].numpy(),
                    }
                )
    return cases


def priorities() -> dict[str, Any]:
    """How often cpprb draws each slot, and its importance weights, up to their normalisation."""
    size, alpha, beta, floor, draws = 50, 0.6, 0.4, 1e-3, 400_000
    buffer = PrioritizedReplayBuffer(size, {"x": {}}, alpha=alpha, eps=floor)
    td_error = np.exp(rng.normal(size=size) * 2)
    for i in range(size):
        buffer.add(x=float(i))
    buffer.update_priorities(np.arange(size), td_error)
    counts, weights = np.zeros(size, int), np.zeros(size)
    for _ in range(draws // 1000):
        sample = buffer.sample(1000, beta=beta)
        counts += np.bincount(sample["indexes"], minlength=size)
        weights[sample["indexes"]] = sample["weights"]
    return {
        "alpha": alpha,
        "beta": beta,
        "floor": floor,
        "td_error": td_error,
        "counts": counts,
        "weights": weights,
    }


def plain(value: Any) -> Any:
    """What JSON takes, floats to seven digits."""
    if isinstance(value, dict):
        return {name: plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple | np.ndarray) or hasattr(value, "__jax_array__"):
        return [plain(each) for each in value]
    if isinstance(value, int | np.integer | str):
        return value if isinstance(value, str) else int(value)
    return float(f"{float(value):.7g}")


def main() -> None:
    """Writes golden.json."""
    packages = ("rlax", "jax", "stable-baselines3", "cpprb", "numpy")
    golden = {
        "made_by": {package: version(package) for package in packages},
        "gamma": GAMMA,
        "targets": targets(),
        "quantiles": quantiles(),
        "windows": windows(),
        "priorities": priorities(),
    }
    (HERE / "golden.json").write_text(json.dumps(plain(golden)) + "\n")


if __name__ == "__main__":
    main()
