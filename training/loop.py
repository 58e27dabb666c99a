"""The compiled loop: act -> step the market -> store -> sample -> train step, as one XLA program.

The trip count is an argument, so a program is traced once. All state lives in `variables`, and
random numbers are counted by (seed, iteration), so 2 * K iterations are bit for bit K and K.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from market.simulator import Simulator
from market.table import MarketTable
from training.learner import Learner, StepMetrics
from training.schedules import epsilon
from training.settings import EpsilonSettings, LearnerSettings, ReplaySettings

CHUNK = 2000  # iterations of one call: long enough to hide its cost, short enough to be stopped


class Diverged(FloatingPointError):
    """Learning produced numbers that are not finite."""


class Window(NamedTuple):
    """Means over the iterations of one call of `TrainingLoop.run`."""

    loss: float  # learning units; NaN before the first update
    td_error: float  # mean absolute, learning units; NaN before the first update
    q_mean: float  # price units; NaN before the first update
    gradient_norm: float  # learning units; NaN before the first update
    reward: float  # net reward a bar and stream, price units
    epsilon: float  # at the last iteration


class TrainingLoop:
    """Deep Q-learning on a market table; an iteration steps every stream once and makes one update.

    Args:
        table: the market to train on.
        online: the network that learns.
        learner: settings of the train step.
        replay: settings of collection and replay.
        exploration: the epsilon schedule.
        seed: of starts, exploration and sampling.
        reward_scale: what a price unit counts in learning.

    Attributes:
        learner: holds the networks.
        variables: the whole training state by name; saving and restoring them is an exact checkpoint.
    """

    def __init__(
        self,
        table: MarketTable,
        online: keras.Model,
        learner: LearnerSettings,
        replay: ReplaySettings,
        exploration: EpsilonSettings,
        seed: int,
        reward_scale: float,
    ) -> None:
        self.reward_scale = reward_scale
        self.learner = Learner(online, learner)
        self.simulator = Simulator(table, replay.streams, seed, self.reward_scale)
        self.replay, self.exploration, self.seed = replay, exploration, seed
        rows = max(replay.capacity // replay.streams, 1)
        self._ring = tf.Variable(
            tf.zeros((rows, replay.streams), tf.int32), trainable=False, name="replay_ring"
        )
        self._iteration = tf.Variable(0, trainable=False, name="iteration")
        self._first_update = math.ceil(replay.learning_starts / replay.streams)
        self.variables: dict[str, tf.Variable] = {
            **self.learner.variables,
            **self.simulator.variables,
            "replay/ring": self._ring,
            "iteration": self._iteration,
        }
        self._program = tf.function(self._run, jit_compile=True, autograph=False)

    @property
    def iteration(self) -> int:
        """Iterations done."""
        return int(self._iteration.numpy())

    def compile(self) -> None:
        """Traces and compiles the program by running it for no iteration; `run` would do it."""
        self._program(tf.constant(self.iteration))

    def run(self, iterations: int, stopped: Callable[[], bool] = lambda: False) -> Window:
        """Runs some iterations and returns their means.

        Args:
            iterations: at least 1.
            stopped: asked between chunks of iterations; where it says so, the rest is not run.

        Raises:
            Diverged: a metric or a weight is no longer finite.
        """
        before = done = self.iteration
        end = before + iterations
        sums = np.zeros(1 + len(StepMetrics._fields))
        while done < end and not (done > before and stopped()):
            sums += self._program(tf.constant(min(done + CHUNK, end))).numpy()
            done = self.iteration
        updates = done - max(before, min(self._first_update, done))
        reward, *learning = sums
        means = [float(value) / updates if updates else math.nan for value in learning]
        self._require_finite(done, means if updates else [])
        loss, td_error, q_mean, gradient_norm = means
        return Window(
            loss,
            td_error,
            q_mean / self.reward_scale,
            gradient_norm,
            float(reward) / (done - before) / self.reward_scale,
            float(epsilon(tf.constant(done - 1), self.exploration)),
        )

    def _require_finite(self, iteration: int, means: list[float]) -> None:
        weights = (variable.numpy() for variable in self.learner.online.weights)
        if not np.isfinite(means).all() or not all(np.isfinite(w).all() for w in weights):
            raise Diverged(
                f"training diverged by iteration {iteration}: a loss or a weight is no longer finite; "
                "try a smaller learner.learning_rate, or learner.clip_norm"
            )

    def _run(self, end: tf.Tensor) -> tf.Tensor:
        """Collects until learning starts, then trains until iteration `end`.

        Training goes stretch by stretch, from one copy of the target to the next. Returns the sums of
        reward and of `StepMetrics` over all iterations.
        """
        sums = tf.zeros(1 + len(StepMetrics._fields))
        iteration = self._iteration.read_value()

        warm = tf.minimum(end, self._first_update)
        iteration, sums = self._while(iteration, warm, sums, self._collect)
        if self.learner.settings.tau is not None:
            iteration, sums = self._while(iteration, end, sums, self._collect_and_learn)
        else:
            every = self.learner.settings.target_every

            def stretch(iteration: tf.Tensor, sums: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
                updates = iteration - self._first_update
                copy_at = self._first_update + (updates // every + 1) * every
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
        reward, _ = self._act(iteration)
        return tf.stack([reward, *[0.0] * len(StepMetrics._fields)])

    def _collect_and_learn(self, iteration: tf.Tensor) -> tf.Tensor:
        reward, picks = self._act(iteration)
        rows, streams = self._ring.shape
        held = tf.minimum(iteration + 1, rows) * streams
        slots = tf.cast(picks % tf.cast(held, tf.uint32), tf.int32)
        code = tf.gather(tf.reshape(self._ring.read_value(), [-1]), slots)
        batch = self.simulator.transitions(code, self.learner.settings.gamma)
        return tf.stack([reward, *self.learner.train_step(batch)])

    def _act(self, iteration: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Steps every stream epsilon-greedily and stores what happened.

        Returns the mean reward, and random bits for sampling, uint32 of shape (batch,).
        """
        streams = self.replay.streams
        bits = tf.random.stateless_uniform(
            (3 * streams + self.learner.settings.batch,),
            seed=tf.stack([self.seed, iteration]),
            minval=None,
            maxval=None,
            dtype=tf.uint32,
            alg="philox",
        )
        explore, choice, start, picks = tf.split(bits, [streams] * 3 + [-1])
        explore = tf.bitwise.right_shift(explore, tf.constant(8, tf.uint32))
        uniform = tf.cast(explore, tf.float32) * 2.0**-24  # in [0, 1), exact in float32
        greedy = tf.argmax(self.learner.online(self.simulator.observe()), -1, tf.int32)
        action = tf.where(
            uniform < epsilon(iteration, self.exploration),
            tf.cast(choice % tf.constant(3, tf.uint32), tf.int32),
            greedy,
        )
        code, reward = self.simulator.step(action, start)
        row = iteration % self._ring.shape[0]
        self._ring.scatter_update(tf.IndexedSlices(code[None], row[None]))
        return tf.reduce_mean(reward), picks
