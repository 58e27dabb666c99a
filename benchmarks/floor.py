"""The floor: nothing but the matrix products of an iteration, chained in one compiled loop.

An iteration cannot be faster than its products. They come in two forms: *as written*, in the form in
which `tf.matmul` and its gradients have them, and *fastest*, in the fastest that we know, where the
head's kernel lies in rows (see `models.stacked.HeadDense`).
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np


def floor(work: dict[str, Any], state_size: int, fastest: bool) -> Callable[[int], None]:
    """A program that repeats an iteration's products: of acting, target, online network, gradients.

    Every input depends on the result before, so that no product can be left out or moved.

    Args:
        work: as `benchmarks.work.WORK`.
        state_size: length of a state.
        fastest: which form.

    Returns:
        What runs it for a number of iterations.
    """
    import tensorflow as tf

    rng = np.random.default_rng(0)
    sizes = [state_size, *work["hidden"], 3]
    kernels = [
        tf.Variable(rng.normal(scale=0.1, size=shape).astype(np.float32))
        for shape in pairwise(sizes)
    ]

    def rows_of_head(kernel: Any) -> Any:
        return tf.stack(tf.unstack(kernel, axis=1))

    def forward(layer: Any) -> list[Any]:
        layers = [layer]
        for kernel in kernels:
            if fastest and kernel is kernels[-1]:
                layers.append(tf.matmul(layers[-1], rows_of_head(kernel), transpose_b=True))
            else:
                layers.append(tf.matmul(layers[-1], kernel))
        return layers

    def products(acting: Any, states: Any, next_states: Any) -> tuple[Any, tuple[Any, ...]]:
        chosen = forward(acting)[-1]
        goal = forward(next_states)[-1]
        layers = forward(states)
        flowing = layers[-1]
        gradients = []
        for kernel, layer in reversed(list(zip(kernels, layers[:-1], strict=True))):
            head = fastest and kernel is kernels[-1]
            if head:
                of_rows = tf.matmul(flowing, layer, transpose_a=True)
                gradients.append(tf.stack(tf.unstack(of_rows), axis=1))
            else:
                gradients.append(tf.matmul(layer, flowing, transpose_a=True))
            if kernel is not kernels[0]:
                if head:
                    flowing = tf.matmul(flowing, rows_of_head(kernel))
                else:
                    flowing = tf.matmul(flowing, kernel, transpose_b=True)
        return chosen[0, 0] + goal[0, 0], tuple(gradients)

    counts = (work["streams"], work["batch"], work["batch"])
    inputs = [rng.normal(size=(count, state_size)).astype(np.float32) for count in counts]

    def repeated(iterations: Any) -> Any:
        def body(iteration: Any, last: Any, _: Any) -> Any:
            return iteration + 1, *products(*(array + last * 1e-30 for array in inputs))

        begin = (tf.constant(0), tf.constant(0.0), tuple(tf.zeros_like(k) for k in kernels[::-1]))
        return tf.while_loop(lambda iteration, *_: iteration < iterations, body, begin)[1:]

    program = tf.function(repeated, jit_compile=True, autograph=False)

    def run(iterations: int) -> None:
        program(tf.constant(iterations))[0].numpy()

    run(1)
    return run


def bytes_touched(work: dict[str, Any], state_size: int) -> int:
    """Bytes of state that an iteration must read or write at least, each counted once.

    The online weights and (with Adam) both moments are read and written, the target is read; a sampled
    transition takes its code and the table's rows of its bar and of the next.
    """
    weights = 0
    for inputs, units in pairwise([state_size, *work["hidden"], 3]):
        weights += inputs * units + (units if work["hidden"] else 0)
    arrays = 2 * 3 + 1 if work["optimizer"] == "adam" else 2 + 1
    row = state_size - 2 + 6  # features and terms
    per_transition = 1 + 2 * row
    per_stream = 1 + row + 2 * 4
    batch = int(work["batch"])
    streams = int(work["streams"])
    return 4 * (arrays * weights + batch * per_transition + streams * per_stream)
