"""rejax's side of the benchmarks: its DQN, whole in JAX, on the same market; runs in `.venv-peers`.

Answers every number of iterations on stdin with the seconds that they took. rejax clips gradients
element by element and has the squared loss and Adam alone; all else is as the work says.
"""

import json
import os
import sys
import time
from functools import partial
from importlib.metadata import version
from typing import Any, NamedTuple

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
from gymnax.environments import spaces
from rejax import DQN

from benchmarks.work import reward_scale_of, table_of
from market.accounting import (
    cost,
    earned,
    liquidation_cost,
    next_position,
    risk_penalty,
)
from market.table import MarketTable
from market.terms import Terms


class Stream(NamedTuple):
    """An episode under way."""

    bar: jax.Array
    end: jax.Array
    position: jax.Array
    above_floor: jax.Array  # equity above the floor


class JaxMarket:
    """`market.simulator.Simulator` as rejax takes an environment: the same terms, by the same code."""

    def __init__(self, table: MarketTable, scale: float) -> None:
        self.settings = table.settings
        self.episode_bars = table.episode_bars
        self.features = jnp.asarray(table.features, jnp.float32)
        self.terms = jnp.stack([jnp.asarray(c * scale, jnp.float32) for c in table.terms], axis=1)
        self.starts = len(table) - table.episode_bars
        self.size = table.state_size
        self.default_params = None

    def reset(self, key: jax.Array, _: Any) -> tuple[jax.Array, Stream]:
        """A state and an episode, flat, from a random bar."""
        bar = jax.random.randint(key, (), 0, self.starts)
        price = Terms(*self.terms[bar]).price
        above_floor = price * (1 - self.settings.equity_floor)
        stream = Stream(bar, bar + self.episode_bars, jnp.int32(0), above_floor)
        return self._state(stream), stream

    def step(self, key: jax.Array, stream: Stream, action: jax.Array, _: Any) -> Any:
        """Next state and episode, anew where one is over; reward, whether over, nothing else."""
        terms = Terms(*self.terms[stream.bar])
        held = next_position(stream.position, action - 1, self.settings.scheme)
        net = earned(terms, stream.position, held) - cost(terms, stream.position, held)
        penalty = risk_penalty(terms, stream.position, held, self.settings)
        ruined = stream.above_floor + net <= 0
        net -= jnp.where(ruined, liquidation_cost(terms, held), 0.0)
        gone_on = Stream(stream.bar + 1, stream.end, held, stream.above_floor + net)
        done = ruined | (gone_on.bar >= stream.end)
        state, fresh = self.reset(key, None)
        following = jax.tree.map(partial(jnp.where, done), fresh, gone_on)
        return jnp.where(done, state, self._state(gone_on)), following, net - penalty, done, {}

    def _state(self, stream: Stream) -> jax.Array:
        rest = jnp.stack([stream.position.astype(jnp.float32), jnp.float32(1)])
        return jnp.concatenate([self.features[stream.bar], rest])

    def observation_space(self, _: Any) -> spaces.Box:
        """Of states."""
        return spaces.Box(-jnp.inf, jnp.inf, (self.size,), jnp.float32)

    def action_space(self, _: Any) -> spaces.Discrete:
        """Short, flat, long."""
        return spaces.Discrete(3)


def main() -> None:
    work = json.loads(sys.argv[1])
    table = table_of(work)
    algorithm = DQN.create(
        env=JaxMarket(table, reward_scale_of(table)),
        agent_kwargs={"activation": "relu"},  # two layers of 64 units, by rejax itself
        num_envs=work["streams"],
        batch_size=work["batch"],
        buffer_size=work["capacity"],
        fill_buffer=work["learning_starts"],
        learning_rate=work["learning_rate"],
        gamma=work["gamma"],
        max_grad_norm=10.0,
        ddqn=False,
        target_update_freq=work["target_every"] * work["streams"],  # it counts env steps
        polyak=0.0,
        eps_start=work["epsilon"],
        eps_end=work["epsilon"],
    )
    packages = ("rejax", "jax", "jaxlib", "flax", "optax")
    print(json.dumps({f"peer {name}": version(name) for name in packages}), flush=True)

    # The whole training state is given away, so that nothing of it is copied between calls.
    @partial(jax.jit, donate_argnums=0)
    def train(state: Any, iterations: jax.Array) -> Any:
        return jax.lax.fori_loop(0, iterations, lambda _, s: algorithm.train_iteration(s), state)

    state = jax.jit(algorithm.init_state)(jax.random.PRNGKey(work["seed"]))
    for line in sys.stdin:
        began = time.perf_counter()
        state = jax.block_until_ready(train(state, jnp.int32(int(line))))
        print(json.dumps({"seconds": time.perf_counter() - began}), flush=True)


if __name__ == "__main__":
    main()
