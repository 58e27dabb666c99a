"""The compiled loop: act -> step the market -> sample -> train step -> store, as one XLA program.

The trip count is an argument, so a program is traced once. All state lives in `variables`, and
random numbers are counted by (seed, iteration), so 2 * K iterations are bit for bit K and K. Several
seeds learn side by side: every array has a leading axis of seeds, every seed random numbers of its own.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from market.simulator import Simulator
from market.table import MarketTable
from models.architectures import ACTIONS
from models.exploration import epsilon
from models.networks import q_network, q_values_of
from training.learning.agent import Diverged, LogWindow, Policy, State, require_fits
from training.learning.batches import Transition, counterfactual_batch, sampled
from training.learning.dqn import Dqn
from training.learning.learner import Learner, Noise, StepMetrics
from training.learning.random_bits import below, keys_of, random_bits, uniform
from training.learning.replay import ReplayBuffer
from training.learning.ring import Ring, Sample
from training.learning.settings import NetworkSettings

# A call should be long enough to hide its cost and short enough to be stopped: about a tenth of a second.
# It is counted in products of weights, never timed, since sums are rounded call by call.
PRODUCTS_A_CALL = 3e8
FEWEST = 20
MOST = 10_000  # iterations


def agents(
    settings: Dqn,
    table: MarketTable,
    seeds: Sequence[int],
    reward_scale: float,
    name: str,  # noqa: ARG001 - a network is named as its kind
) -> "TrainingLoop":
    """See `AgentSettings.agents`."""
    networks = [build_network(settings.network, table.state_size, seed) for seed in seeds]
    return TrainingLoop(table, networks, settings, seeds, reward_scale)


def build_network(settings: NetworkSettings, state_size: int, seed: int) -> keras.Model:
    """The Q-network that settings describe."""
    return q_network(settings, state_size, seed, noisy=settings.noisy)


class TrainingLoop:
    """Deep Q-learning on a market table; an iteration steps every stream once and then updates.

    Args:
        table: the market to train on.
        networks: those that learn, one for each seed; their weights are copied.
        settings: how they learn.
        seeds: of starts, exploration and sampling.
        reward_scale: what a price unit counts in learning, or the unit of the settings' sizing.

    Attributes:
        learner: holds the networks.
        chunk: iterations of one call; between two a run can be stopped.
        variables: what the program changes, by name; with the window that is open, the whole state.
    """

    def __init__(
        self,
        table: MarketTable,
        networks: Sequence[keras.Model],
        settings: Dqn,
        seeds: Sequence[int],
        reward_scale: float,
    ) -> None:
        learner = settings.learner
        replay = settings.replay
        self.seeds = tuple(seeds)
        self.reward_scale = reward_scale
        self.exploration = settings.epsilon
        self.learner = Learner(networks, learner, settings.cvar)
        self.simulator = Simulator(table, replay.streams, seeds, reward_scale)
        self.ring = Ring(len(seeds), replay)
        self._iteration = tf.Variable(0, trainable=False, name="iteration")
        self._first_update = replay.first_update
        self._keys = keys_of(seeds, use=0)
        self._keys_of_more = keys_of(seeds, use=1)
        # A transition is drawn; where all actions are backed up, a position beside it.
        self._bits_a_batch = learner.batch * (2 if learner.backup == "all_actions" else 1)
        self.variables: dict[str, tf.Variable] = {
            **self.learner.variables,
            **self.simulator.variables,
            **self.ring.variables,
            "iteration": self._iteration,
        }
        weights = sum(
            weight.shape.num_elements() for weight in self.learner.online.variables.values()
        )
        products = weights * learner.batch * learner.updates_per_iteration
        self._shown: keras.Model | None = None
        self.chunk = int(min(max(PRODUCTS_A_CALL / products, FEWEST), MOST))
        self._begin_window()
        self._program = tf.function(self._run, jit_compile=True, autograph=False)

    @property
    def iteration(self) -> int:
        """Iterations done."""
        return int(self._iteration.numpy())

    def compile(self) -> None:
        """Traces and compiles the program by running it for no iteration; `run` would do it."""
        self._program(tf.constant(self.iteration))

    def run(self, iterations: int, stopped: Callable[[], bool] = lambda: False) -> list[LogWindow]:
        """See `Agents.run`; it can be stopped between chunks of iterations."""
        before = done = self.iteration
        end = before + iterations
        while done < end:
            if done > before and stopped():
                return []
            sums = self._program(tf.constant(min(done + self.chunk, end))).numpy()
            done = self.iteration
            self._require_finite(done, sums)
            self._sums += sums
        began = self._began
        learned = done - max(began, min(self._first_update, done))
        rate = float(epsilon(done - 1, self.exploration))
        windows = []
        for reward, *learning in self._sums.tolist():
            means = [value / learned if learned else math.nan for value in learning]
            loss, td_error, q_mean, gradient_norm = means
            mean_reward = reward / (done - began) / self.reward_scale
            q_mean /= self.reward_scale
            windows.append(LogWindow(loss, td_error, q_mean, gradient_norm, mean_reward, rate))
        self._begin_window()
        return windows

    def learn_from(self, lived: ReplayBuffer) -> None:
        """See `Agents.learn_from`: batches are drawn uniformly, for each seed its own."""
        settings = self.learner.settings
        updates = max(len(lived) // self.ring.streams, 1) * settings.updates_per_iteration
        step = tf.function(self.learner.train_step, jit_compile=True, autograph=False)
        rate = self._epsilon(tf.constant(0))
        random = [np.random.default_rng(seed) for seed in self.seeds]
        for update in range(1, updates + 1):
            bits = [each.integers(0, 2**32, settings.batch, np.uint32) for each in random]
            drawn = [lived.at(lived.draw(each)) for each in bits]
            batch = Transition(*(np.stack(column) for column in zip(*drawn, strict=True)))
            step(batch, None, rate, self._noise(tf.constant(-update)))  # noise of no iteration's
            if settings.tau is None and update % settings.target_every == 0:
                self.learner.copy_target()
        self.learner.copy_target()
        self._require_finite(0, np.zeros_like(self._sums))

    def state(self) -> State:
        """See `Agents.state`: the variables, without a copy, and the open window."""
        views = {name: np.asarray(memoryview(v.value())) for name, v in self.variables.items()}
        return {**views, "window/began": np.array(self._began), "window/sums": self._sums}

    def restore(self, state: State) -> None:
        """See `Agents.restore`."""
        require_fits(self.state(), state)
        for name, variable in self.variables.items():
            variable.assign(state[name])
        self._began = int(state["window/began"])
        self._sums = state["window/sums"].copy()

    @property
    def learning_rate(self) -> float:
        """See `Agents.learning_rate`."""
        return float(self.learner.optimizer.learning_rate.numpy())

    def set_learning_rate(self, rate: float) -> None:
        """See `Agents.set_learning_rate`."""
        self.learner.optimizer.learning_rate.assign(rate)

    def _begin_window(self) -> None:
        self._began = self.iteration
        self._sums = np.zeros((len(self.seeds), 1 + len(StepMetrics._fields)))

    def model(self, index: int) -> keras.Model:
        """A Keras model of its own with what an agent has learned, noise left out."""
        return self.learner.online.network(self.learner.online.weights(index))

    def weights(self, index: int) -> Mapping[str, NDArray[Any]]:
        """See `Agents.weights`."""
        names = self.learner.online.variables
        state = {name: self.variables[f"online/{name}"] for name in names}
        return {name: np.asarray(memoryview(v.value()))[index] for name, v in state.items()}

    def policy(self, index: int) -> Policy:
        """See `Agents.policy`; all policies compute with one network, which is quicker than one each."""
        online = self.learner.online
        weights = online.weights(index)

        def q_values(states: NDArray[np.float32]) -> NDArray[np.float32]:
            self._shown = online.network(weights, self._shown)
            return q_values_of(self._shown, states, self.learner.cvar)

        return Policy.greedy(q_values)

    def _require_finite(self, iteration: int, sums: NDArray[np.float32]) -> None:
        weights = [v.value.numpy() for v in self.learner.online.variables.values()]
        for index, seed in enumerate(self.seeds):
            arrays = [sums[index], *(weight[index] for weight in weights)]
            if not all(np.isfinite(array).all() for array in arrays):
                others = ", and the seeds beside it stop too" if len(self.seeds) > 1 else ""
                raise Diverged(
                    f"training of seed {seed} diverged by iteration {iteration}{others}: a loss or a "
                    "weight is no longer finite; try a smaller learner.learning_rate, or "
                    "learner.clip_norm"
                )

    def _run(self, end: tf.Tensor) -> tf.Tensor:
        """Collects until learning starts, then trains until iteration `end`.

        Training goes stretch by stretch, from one copy of the target to the next. Returns the sums of
        reward and of `StepMetrics` over all iterations, shape (seeds, 5).
        """
        sums = tf.zeros((len(self.seeds), 1 + len(StepMetrics._fields)))
        iteration = self._iteration.read_value()

        warm = tf.minimum(end, self._first_update)
        iteration, sums = self._while(iteration, warm, sums, self._collect)
        if self.learner.settings.tau is not None:
            iteration, sums = self._while(iteration, end, sums, self._collect_and_learn)
        else:
            settings = self.learner.settings
            every = settings.target_every // settings.updates_per_iteration

            def stretch(iteration: tf.Tensor, sums: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
                learned = iteration - self._first_update
                copy_at = self._first_update + (learned // every + 1) * every
                stop = tf.minimum(end, copy_at)
                iteration, sums = self._while(iteration, stop, sums, self._collect_and_learn)
                # A copy is due only where the stretch reached it; assigning the old weights
                # otherwise costs nothing beside a stretch and spares a branch.
                self.learner.copy_target(due=tf.equal(iteration, copy_at))
                return iteration, sums

            iteration, sums = tf.while_loop(
                lambda iteration, _: iteration < end, stretch, (iteration, sums)
            )
        self._iteration.assign(iteration)
        return sums

    @staticmethod
    def _while(
        iteration: tf.Tensor,
        stop: tf.Tensor,
        sums: tf.Tensor,
        body: Callable[[tf.Tensor], tf.Tensor],
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Repeats a body until an iteration, adding up what it returns."""
        return tf.while_loop(  # type: ignore[no-any-return]
            lambda iteration, _: iteration < stop,
            lambda iteration, sums: (iteration + 1, sums + body(iteration)),
            (iteration, sums),
        )

    def _collect(self, iteration: tf.Tensor) -> tf.Tensor:
        code, reward, _ = self._act(iteration, self._noise(iteration))
        self.ring.store(code, iteration)
        self.ring.prioritise(iteration)
        return tf.pad(reward[:, None], [[0, 0], [0, len(StepMetrics._fields)]])

    def _collect_and_learn(self, iteration: tf.Tensor) -> tf.Tensor:
        """Acts, makes one update, stores; further updates then know what was stored."""
        updates = self.learner.settings.updates_per_iteration
        noise = self._noise(iteration * updates)
        code, reward, bits = self._act(iteration, noise)
        sample, codes, metrics, td_error = self._update(iteration, iteration, bits, noise)
        self.ring.store(code, iteration, after=codes)
        self.ring.prioritise(iteration, sample, td_error)
        if updates > 1:

            def again(number: tf.Tensor) -> tf.Tensor:
                update = iteration * updates + number
                bits = random_bits(self._keys_of_more, update, self._bits_a_batch)
                stored = iteration + 1
                noise = self._noise(update)
                sample, _, metrics, td_error = self._update(stored, iteration, bits, noise)
                self.ring.prioritise(iteration, sample, td_error, stored=False)
                return metrics

            _, metrics = self._while(tf.constant(1), tf.constant(updates), metrics, again)
        return tf.concat([reward[:, None], metrics / updates], axis=1)

    def _update(
        self, stored: tf.Tensor, iteration: tf.Tensor, bits: tf.Tensor, noise: Noise
    ) -> tuple[Sample, tf.Tensor, tf.Tensor, tf.Tensor]:
        """One update on a batch of what `stored` iterations have left in the ring.

        Returns the sample, its codes, the step's metrics of shape (seeds, 4), and its TD errors.
        """
        settings = self.learner.settings
        sample = self.ring.sample(bits[:, : settings.batch], stored)
        codes, known = self.ring.windows(sample.slot, settings.n_step, stored)
        if settings.backup == "all_actions":
            positions = bits[:, settings.batch :]
            batch = counterfactual_batch(self.simulator, codes[..., 0], positions, settings.gamma)
        else:
            batch = sampled(self.simulator, codes, known, settings.gamma)
        rate = self._epsilon(iteration)
        metrics, td_error = self.learner.train_step(batch, sample.weight, rate, noise)
        return sample, codes, tf.stack(metrics, axis=1), td_error

    def _act(self, iteration: tf.Tensor, noise: Noise) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Steps every stream epsilon-greedily.

        Returns the transitions' codes, each seed's mean reward, and random bits for the batch.
        """
        streams = self.ring.streams
        bits = random_bits(self._keys, iteration, 3 * streams + self._bits_a_batch)
        explore, choice, start, rest = tf.split(bits, [streams] * 3 + [-1], axis=1)
        action = tf.where(
            uniform(explore) < self._epsilon(iteration),
            below(choice, ACTIONS),
            self.learner.greedy_action(self.simulator.observe(), noise.acting),
        )
        code, reward = self.simulator.step(action, start)
        return code, tf.reduce_mean(reward, axis=1), rest

    def _epsilon(self, iteration: tf.Tensor) -> tf.Tensor:
        return epsilon(tf.cast(iteration, tf.float32), self.exploration, tf)

    def _noise(self, iteration: tf.Tensor) -> Noise:
        """Noise for noisy networks: f(e) = sign(e) sqrt(|e|), drawn apart for each use."""
        size = self.learner.noise_size
        if not size:
            return Noise()

        def drawn(seed: tf.Tensor) -> tf.Tensor:
            key = tf.stack([-1 - seed, iteration])  # below zero, so that it is none of `_act`
            normal = tf.random.stateless_normal((len(Noise._fields), size), key, alg="philox")
            return tf.sign(normal) * tf.sqrt(abs(normal))

        # A loop, whose results XLA keeps; else it draws a number again wherever it is used.
        each = tf.map_fn(drawn, tf.constant(self.seeds), fn_output_signature=tf.float32)
        return Noise(*tf.unstack(each, axis=1))
