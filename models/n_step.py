"""n-step returns in plain operators: NumPy arrays and tensors alike.

Host replay (`training/learning/replay.py`) and compiled replay (`market/simulator.py`) share this
definition.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

Array = Any


class NStep(NamedTuple):
    """A window of up to n transitions as one; each of shape (...)."""

    reward: Array  # R_1 + d_1 R_2 + d_1 d_2 R_3 + ...
    discount: Array  # d_1 d_2 ...: gamma^m where nothing terminated, for a window of m transitions
    steps: Array  # m, as a float: 1 to n


def n_step_return(
    rewards: Sequence[Array], discounts: Sequence[Array], continues: Sequence[Array]
) -> NStep:
    """The return of the first transitions of a window, as far as the episode goes.

    Sutton and Barto (2018), "Reinforcement Learning: An Introduction", equation 7.1; the target is
    reward + discount * (value of the state that the last of the `steps` transitions led to). A window
    ends early where its episode terminated (its discount is then zero) or was truncated (it is not),
    and at the newest transition: such tails are kept, as shorter returns, and never cross an episode.

    Args:
        rewards: one array of shape (...) for each of n transitions, oldest first.
        discounts: the same of gamma * (1 - terminated).
        continues: the same: 1 where the next transition is of the same episode and known, else 0. The
            last is not read.

    Returns:
        What the window adds up to.
    """
    reward = rewards[0]
    discount = discounts[0]
    steps = within = continues[0] * 0 + 1
    for k in range(1, len(rewards)):
        within = within * continues[k - 1]
        reward = reward + within * discount * rewards[k]
        discount = discount * (1 - within + within * discounts[k])
        steps = steps + within
    return NStep(reward, discount, steps)
