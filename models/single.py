"""Q-values of one state at a time, as fast as NumPy gives them: what trading asks for at every bar."""

from collections.abc import Callable

import numpy as np

from models import architectures
from models.architectures import TABULAR, States
from models.bundle import Bundle


def one_state(bundle: Bundle) -> Callable[[States], States]:
    """From a state of shape (state_size,) to Q-values of shape (3,), which the next call overwrites.

    Tables, and networks that have no quick way, go through `Bundle.q_values`.
    """
    network = bundle.manifest.network
    quick = None if network.kind == TABULAR else architectures.one_state(network, bundle.weights)
    return quick or (lambda state: bundle.q_values(state[np.newaxis])[0])
