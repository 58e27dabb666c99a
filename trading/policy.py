"""From a bundle to an action, with a safety switch: whatever fails, the action is 0, and it is said why.

Action 0 is flat in the scheme `target` and no order in the scheme `order`. How many failures may come
before the desk stops trusting its policy is for the risk engine to say (`Limits.max_faults`).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from durable.settings import Settings
from market.features import FeaturePipeline
from models.bundle import Bundle
from models.exploration import EpsilonSettings, epsilon
from models.single import one_state

BEYOND = 3.0  # deviations past its range in training at which a feature counts as outside it
PER_GOLDEN = 100.0  # times the largest golden Q-value, the widest that a Q-value may be by default


class PolicySettings(Settings):
    """What a policy may see and say."""

    max_feature: float = Field(
        50.0,
        gt=0,
        description="largest absolute feature, in the deviations that features are scaled by",
    )
    max_q_value: float | None = Field(
        None,
        gt=0,
        description="largest absolute Q-value, price units; none: 100 times the largest golden one",
    )
    explore: bool = Field(
        False,
        description="take random actions too, as often as epsilon says: off in trading unless set",
    )
    seed: int = Field(0, ge=0, description="of the random actions")


class Decision(NamedTuple):
    """What a policy wants."""

    action: int  # -1, 0 or 1
    state: list[float] | None  # `[features..., position, 1.0]`; none where none could be made
    q_values: list[float] | None  # of the three actions; none where there are none to trust
    fault: str | None = None  # why the action is 0 without being wanted; none where nothing failed
    explored: bool = False  # whether it was drawn at random
    outside: Sequence[str] = ()  # features that are far outside their range in training


class SafePolicy:
    """The greedy policy of a bundle, checked at every step.

    Example:
        policy = SafePolicy(Bundle.load(folder))
        decision = policy.decide(features, position=0.0)
    """

    def __init__(
        self,
        bundle: Bundle,
        settings: PolicySettings | None = None,
        exploration: EpsilonSettings | None = None,
        decisions: int = 0,
        q_values: Callable[[NDArray[np.float32]], NDArray[np.float32]] | None = None,
        pipeline: FeaturePipeline | None = None,
    ) -> None:
        """Prepares a verified bundle.

        Args:
            bundle: what decides.
            settings: what it may see and say.
            exploration: how often it acts at random where `settings.explore` is set.
            decisions: taken before, in an earlier process: exploration goes on from there.
            q_values: in place of the bundle's own, from a state to three values.
            pipeline: of the bundle's features, where it was made before.

        Raises:
            ValueError: the bundle's features are not those that it was made for.
        """
        settings = settings or PolicySettings()
        origin = bundle.manifest.origin
        self.pipeline = pipeline or FeaturePipeline.from_schema(origin.features)
        self.decisions = decisions
        self._exploration = exploration if settings.explore else None
        self._random = np.random.default_rng((settings.seed, decisions))
        self._q_values = q_values or one_state(bundle)
        self._state = np.ones(bundle.manifest.network.state_size, np.float32)
        largest = float(np.abs(np.array(bundle.manifest.golden.q_values)).max())
        self._max_q = settings.max_q_value or PER_GOLDEN * max(largest, 1.0)
        self._max_feature = settings.max_feature
        known = origin.market.ranges if origin.market else {}
        self._ranges = [
            (place, name, known[name][0] - BEYOND, known[name][1] + BEYOND)
            for place, name in enumerate(self.pipeline.names)
            if name in known
        ]

    def decide(  # noqa: PLR0911  # a check a line
        self, features: NDArray[np.float32], position: float
    ) -> Decision:
        """The action at one bar; never an exception.

        Args:
            features: of shape (features,), as the bundle's own pipeline makes them.
            position: held now, in units of a position, from -1 to 1.
        """
        state: list[float] | None = None
        self.decisions += 1
        try:
            array = self._state
            array[:-2] = features
            array[-2] = position
            state = array.tolist()
            if (fault := self._fault_of_state(state)) is not None:
                return Decision(0, state, None, fault)
            values = self._q_values(array)
            if values.shape != (3,):
                return Decision(0, state, None, f"Q-values have the shape {values.shape}, not (3,)")
            q_values: list[float] = values.tolist()
            low = min(q_values)
            high = max(q_values)
            total = q_values[0] + q_values[1] + q_values[2]
            if total - total != 0:  # only numbers that are finite have a finite sum
                return Decision(0, state, None, f"Q-values are {q_values}")
            if not -self._max_q <= low <= high <= self._max_q:
                return Decision(
                    0, state, q_values, f"a Q-value is past {self._max_q:g}: {q_values}"
                )
            outside = self._outside(state) if self._ranges else ()
            if self._exploration is not None and self._random.random() < self._rate():
                action = int(self._random.integers(-1, 2))
                return Decision(action, state, q_values, None, True, outside)
            return Decision(q_values.index(high) - 1, state, q_values, None, False, outside)
        except Exception as error:
            return Decision(0, state, None, f"{type(error).__name__}: {error}")

    def _outside(self, state: list[float]) -> list[str]:
        return [name for place, name, low, high in self._ranges if not low <= state[place] <= high]

    def _rate(self) -> float:
        assert self._exploration is not None
        return float(epsilon(self.decisions - 1, self._exploration))

    def _fault_of_state(self, state: list[float]) -> str | None:
        total = sum(state)
        if total - total != 0:
            return f"the state is {state}"
        if not -1 <= state[-2] <= 1:
            return f"a position of {state[-2]:g} was never trained on; it must be from -1 to 1"
        most = self._max_feature
        for feature in state[:-2]:
            if not -most <= feature <= most:
                return f"a feature is {feature:.3g} deviations wide; {most:g} may be"
        return None
