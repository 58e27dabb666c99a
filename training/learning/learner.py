"""The learner: online and target networks, optimizer, and the custom train step."""

from collections.abc import Sequence
from typing import NamedTuple

import keras
import tensorflow as tf

from models.architectures import ACTIONS
from models.cvar import conditional_value_at_risk
from models.losses import huber, quantile_huber
from models.stacked import StackedNetwork
from models.targets import epsilon_greedy, expected_target, greedy, munchausen_reward, soft_policy
from training.learning.batches import Transition
from training.learning.settings import LearnerSettings


class StepMetrics(NamedTuple):
    """What one train step reports: float32 of shape (seeds,), in learning units."""

    loss: tf.Tensor
    td_error: tf.Tensor  # mean absolute
    q_mean: tf.Tensor  # mean Q-value of the actions learned from
    gradient_norm: tf.Tensor  # global, before clipping


class Noise(NamedTuple):
    """Noise of noisy networks, each of shape (seeds, noise_size); None where there is none."""

    acting: tf.Tensor | None = None
    online: tf.Tensor | None = None
    target: tf.Tensor | None = None


class Learner:
    """Deep Q-learning (Mnih et al. 2015) on batches of transitions, a batch for each network.

    Args:
        networks: those that learn, of one architecture, one for each seed. Their weights are copied,
            and each target starts as a copy of its online network.
        settings: loss, optimizer, target.
        cvar: share of worst outcomes that networks with quantiles are greedy for; 1 is the mean.

    Attributes:
        variables: the whole state of learning, by name, each with a leading axis of seeds.
    """

    def __init__(
        self, networks: Sequence[keras.Model], settings: LearnerSettings, cvar: float = 1.0
    ) -> None:
        self.settings = settings
        self.cvar = cvar
        self.seeds = len(networks)
        self.online = StackedNetwork(networks, "online")
        self.target = StackedNetwork(networks, "target")
        self.noise_size = sum(self.online.noise_sizes)
        optimizers = {"adam": keras.optimizers.Adam, "sgd": keras.optimizers.SGD}
        # A fixed name: Keras would count optimizers up, and `variables` must be called alike every time.
        self.optimizer = optimizers[settings.optimizer](
            settings.learning_rate, name=settings.optimizer
        )
        self._weights = list(self.online.variables.values())
        self.optimizer.build(self._weights)
        self.variables = {
            **{f"online/{path}": v.value for path, v in self.online.variables.items()},
            **{f"target/{path}": v.value for path, v in self.target.variables.items()},
            **{f"optimizer/{v.path}": v.value for v in self.optimizer.variables},
        }

    def greedy_action(self, states: tf.Tensor, noise: tf.Tensor | None = None) -> tf.Tensor:
        """Action indices of shape (seeds, n) for states of shape (seeds, n, state_size)."""
        return tf.argmax(self._q(self.online(states, noise)), -1, tf.int32)

    def train_step(
        self,
        batch: Transition,
        weight: tf.Tensor | None = None,
        epsilon: tf.Tensor | float = 0.0,
        noise: Noise = Noise(),  # noqa: B008 - a tuple of three None
    ) -> tuple[StepMetrics, tf.Tensor]:
        """One gradient step on the mean loss of each seed's batch. Runs in or out of a `tf.function`.

        Args:
            batch: transitions, of the actions taken or of all.
            weight: importance weights of the losses, shape (seeds, batch); by default all are 1.
            epsilon: share of random actions of the policy that `expected_sarsa` values.
            noise: for noisy networks.

        Returns:
            Metrics, and each transition's absolute TD error, shape (seeds, batch).
        """
        target = self._target_of(batch, epsilon, noise)
        with tf.GradientTape() as tape:
            q_value = self._of_actions(self.online(batch.state, noise.online), batch.action)
            losses, td_error = self._losses_of(q_value, target)
            if batch.action is None:
                losses = tf.reduce_mean(losses, -1)
                td_error = tf.reduce_mean(td_error, -1)
            if weight is not None:
                losses *= weight
            loss = tf.reduce_mean(losses, axis=1)
            total = tf.reduce_sum(loss)  # a seed's loss depends on its own weights alone
        gradients = tape.gradient(total, [weights.value for weights in self._weights])
        norm = _global_norms(gradients)
        if self.settings.clip_norm is not None:
            shrink = tf.minimum(1.0, self.settings.clip_norm / (norm + 1e-12))
            gradients = [
                gradient * tf.reshape(shrink, [-1] + [1] * (len(gradient.shape) - 1))
                for gradient in gradients
            ]
        self.optimizer.apply(gradients, self._weights)
        if self.settings.tau is not None:
            self._soft_update_target(self.settings.tau)
        q_mean = tf.reduce_mean(tf.reshape(q_value, (self.seeds, -1)), axis=1)
        return StepMetrics(loss, tf.reduce_mean(td_error, axis=1), q_mean, norm), td_error

    def copy_target(self, due: tf.Tensor | bool = True) -> None:
        """Sets the target networks to the online networks, where a copy is due."""
        for source, sink in self._pairs():
            sink.assign(tf.where(due, source, sink))

    def _soft_update_target(self, tau: float) -> None:
        """Target += tau * (online - target): Lillicrap et al. (2016), algorithm 1."""
        for source, sink in self._pairs():
            sink.assign_add(tau * (source - sink))

    def _pairs(self) -> list[tuple[tf.Variable, tf.Variable]]:
        paths = self.online.variables
        return [(paths[p].value, self.target.variables[p].value) for p in paths]

    def _target_of(self, batch: Transition, epsilon: tf.Tensor | float, noise: Noise) -> tf.Tensor:
        """Targets of shape (seeds, batch), with an axis of actions, of quantiles, or both behind."""
        settings = self.settings
        reward = batch.reward
        next_values = self._next(self.target, batch.next_state, noise.target)
        if settings.target == "munchausen":
            temperature = settings.munchausen_temperature
            here = soft_policy(self._q(self.target(batch.state, noise.target)), temperature)
            log_policy = self._of_actions(here.scaled_log, batch.action)
            lowest = settings.munchausen_lowest
            reward = munchausen_reward(reward, log_policy, settings.munchausen_alpha, lowest)
            policy, entropy = soft_policy(self._q(next_values), temperature)
            next_values -= entropy[..., None] if self.target.distributional else entropy
        elif settings.target == "double":
            policy = greedy(self._q(self._next(self.online, batch.next_state, noise.online)))
        elif settings.target == "expected_sarsa":
            policy = epsilon_greedy(self._q(next_values), epsilon)
        else:
            policy = greedy(self._q(next_values))
        return expected_target(reward, batch.discount, next_values, policy)

    def _next(
        self, network: StackedNetwork, states: tf.Tensor, noise: tf.Tensor | None
    ) -> tf.Tensor:
        """Outputs for next states, those after each of three actions at once where there are such."""
        if len(states.shape) == 3:
            return network(states, noise)
        outputs = network(tf.reshape(states, (self.seeds, -1, states.shape[-1])), noise)
        return tf.reshape(outputs, (*states.shape[:-1], *outputs.shape[2:]))

    def _q(self, outputs: tf.Tensor) -> tf.Tensor:
        """Q-values, shape (..., 3), of a network's outputs."""
        if not self.online.distributional:
            return outputs
        return conditional_value_at_risk(outputs, self.cvar)

    @staticmethod
    def _of_actions(values: tf.Tensor, action: tf.Tensor | None) -> tf.Tensor:
        """The values of the actions taken, out of (seeds, batch, 3, ...); all of them for None."""
        if action is None:
            return values
        taken = tf.one_hot(action, ACTIONS)
        if len(values.shape) == 4:
            taken = taken[..., None]
        return tf.reduce_sum(values * taken, axis=2)

    def _losses_of(self, q_value: tf.Tensor, target: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Losses and absolute TD errors; of quantiles, the TD error is that of their means."""
        if self.online.distributional:
            td_error = tf.reduce_mean(target, -1) - tf.reduce_mean(q_value, -1)
            return quantile_huber(q_value, target, self.settings.huber_delta), abs(td_error)
        td_error = target - q_value
        if self.settings.loss == "huber":
            return huber(td_error, self.settings.huber_delta), abs(td_error)
        return tf.square(td_error), abs(td_error)


def _global_norms(gradients: list[tf.Tensor]) -> tf.Tensor:
    """Euclidean norm of all of a seed's gradients together, shape (seeds,).

    What `tf.linalg.global_norm` computes, but the rows of a matrix are added up by a matrix product:
    on a CPU XLA sums scalar by scalar, each waiting for the one before.
    """
    total = tf.constant(0.0)
    for gradient in gradients:
        squares = tf.square(gradient)
        if squares.shape.rank == 3:
            squares = tf.matmul(tf.ones((squares.shape[0], 1, squares.shape[1])), squares)
        total += tf.reduce_sum(squares, axis=list(range(1, squares.shape.rank)))
    return tf.sqrt(total)
