"""The learner: online and target network, optimizer, and the custom train step."""

from typing import NamedTuple

import keras
import tensorflow as tf

from market.simulator import Transition
from models.networks import copy_of
from models.targets import double_q_learning_target, q_learning_target
from training.settings import LearnerSettings


class StepMetrics(NamedTuple):
    """What one train step reports: float32 scalars, in learning units."""

    loss: tf.Tensor
    td_error: tf.Tensor  # mean absolute
    q_mean: tf.Tensor  # mean Q-value of the actions taken
    gradient_norm: tf.Tensor  # global, before clipping


class Learner:
    """Deep Q-learning (Mnih et al. 2015) on batches of transitions.

    Args:
        online: the network that learns. The target starts as a copy of it.
        settings: loss, optimizer, target schedule.

    Attributes:
        variables: the whole state of learning, by name.
    """

    def __init__(self, online: keras.Model, settings: LearnerSettings) -> None:
        self.settings = settings
        self.online, self.target = online, copy_of(online)
        optimizers = {"adam": keras.optimizers.Adam, "sgd": keras.optimizers.SGD}
        # A fixed name: Keras would count optimizers up, and `variables` must be called alike every time.
        self.optimizer = optimizers[settings.optimizer](
            settings.learning_rate, name=settings.optimizer
        )
        self.optimizer.build(online.trainable_variables)
        self.variables = {
            f"{part}/{variable.path}": variable.value
            for part, owner in (
                ("online", online),
                ("target", self.target),
                ("optimizer", self.optimizer),
            )
            for variable in owner.variables
        }

    def train_step(self, batch: Transition) -> StepMetrics:
        """One gradient step on the mean loss of a batch. Runs inside or outside a `tf.function`."""
        goal = self._target_of(batch)
        with tf.GradientTape() as tape:
            taken = tf.one_hot(batch.action, self.online.output_shape[-1])
            chosen = tf.reduce_sum(self.online(batch.state) * taken, axis=-1)
            td_error = goal - chosen
            loss = tf.reduce_mean(self._loss_of(td_error))
        variables = self.online.trainable_variables
        gradients = tape.gradient(loss, variables)
        norm = _global_norm(gradients)
        if self.settings.clip_norm is not None:
            shrink = tf.minimum(1.0, self.settings.clip_norm / (norm + 1e-12))
            gradients = [gradient * shrink for gradient in gradients]
        self.optimizer.apply(gradients, variables)
        if self.settings.tau is not None:
            self._move_target(self.settings.tau)
        return StepMetrics(loss, tf.reduce_mean(abs(td_error)), tf.reduce_mean(chosen), norm)

    def copy_target(self, due: tf.Tensor | bool = True) -> None:
        """Sets the target network to the online network, where a copy is due."""
        for source, sink in zip(self.online.variables, self.target.variables, strict=True):
            sink.assign(tf.where(due, source.value, sink.value))

    def _move_target(self, tau: float) -> None:
        """Target += tau * (online - target): Lillicrap et al. (2016), algorithm 1."""
        for source, sink in zip(self.online.variables, self.target.variables, strict=True):
            sink.assign_add(tau * (source.value - sink.value))

    def _target_of(self, batch: Transition) -> tf.Tensor:
        next_q = self.target(batch.next_state)
        if not self.settings.double:
            return q_learning_target(batch.reward, batch.discount, next_q)
        next_q_online = self.online(batch.next_state)
        return double_q_learning_target(batch.reward, batch.discount, next_q, next_q_online)

    def _loss_of(self, td_error: tf.Tensor) -> tf.Tensor:
        if self.settings.loss == "mse":
            return tf.square(td_error)
        size, delta = abs(td_error), self.settings.huber_delta
        return tf.where(size <= delta, 0.5 * tf.square(td_error), delta * (size - 0.5 * delta))


def _global_norm(gradients: list[tf.Tensor]) -> tf.Tensor:
    """Euclidean norm of all gradients together.

    What `tf.linalg.global_norm` computes, but the rows of a matrix are added up by a matrix product:
    on a CPU XLA sums scalar by scalar, each waiting for the one before.
    """
    total = tf.constant(0.0)
    for gradient in gradients:
        squares = tf.square(gradient)
        if squares.shape.rank == 2:
            squares = tf.matmul(tf.ones((1, squares.shape[0])), squares)
        total += tf.reduce_sum(squares)
    return tf.sqrt(total)
