"""Settings of what learns, and of its replay: parts of the tree in `training/settings.py`."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from durable.settings import Settings
from market.features import split_commas
from models.architectures import ARCHITECTURES, require_known

Units = Annotated[int, Field(ge=1, le=2**16)]


class PrioritySettings(Settings):
    """Prioritised replay: Schaul et al. (2016). Both exponents move linearly over `steps`."""

    alpha: float = Field(0.6, ge=0, le=1, description="exponent of priorities at iteration 0")
    alpha_end: float | None = Field(
        None, ge=0, le=1, description="exponent of priorities in the end; none: alpha"
    )
    beta: float = Field(0.4, ge=0, le=1, description="exponent of importance weights at first")
    beta_end: float = Field(
        1.0, ge=0, le=1, description="exponent of importance weights in the end"
    )
    steps: int = Field(100_000, ge=1, le=10**9, description="iterations that both schedules take")
    floor: float = Field(1e-3, ge=0, le=1e6, description="added to |TD error|, learning units")


class StreamSettings(Settings):
    """Collection of transitions."""

    streams: int = Field(4, ge=1, le=2**16, description="markets simulated side by side")
    prefill: Annotated[tuple[Path, ...], BeforeValidator(split_commas)] = Field(
        (), description="begin with the transitions that desks lived: their journals, a,b"
    )


class ReplaySettings(StreamSettings):
    """Collection of transitions and the ring that holds them."""

    capacity: int = Field(
        100_000,
        ge=1,
        le=10**9,
        description="transitions held, rounded down to a multiple of the streams",
    )
    learning_starts: int = Field(
        1000, ge=0, le=5 * 10**8, description="transitions collected before the first update"
    )
    prioritised: bool = Field(False, description="sample by TD error instead of uniformly")
    priority: PrioritySettings = PrioritySettings()

    @property
    def first_update(self) -> int:
        """Iterations that only collect; a batch is drawn from what was stored before, so one at least."""
        return max(-(-self.learning_starts // self.streams), 1)

    @model_validator(mode="after")
    def _ring_holds_every_stream(self) -> Self:
        if self.capacity < self.streams:
            raise ValueError(
                f"capacity is {self.capacity}; it must be at least the number of streams, {self.streams}"
            )
        return self


class NetworkSettings(Settings):
    """What stands for Q and learns."""

    kind: Annotated[str, AfterValidator(require_known)] = Field(
        "two_layer", description=f"of Q-network: {' or '.join(ARCHITECTURES)}"
    )
    hidden: Annotated[tuple[Units, Units], BeforeValidator(split_commas)] = Field(
        (64, 64), description="units of the two hidden layers"
    )
    dueling: bool = Field(False, description="heads for value and advantage")
    quantiles: int | None = Field(
        None, ge=2, le=1000, description="learn this many quantiles of each value (QR-DQN)"
    )
    cvar: float = Field(
        1.0,
        gt=0,
        le=1,
        description="choose by the mean of this share of worst outcomes; needs quantiles",
    )
    noisy: bool = Field(
        False, description="noisy layers explore; epsilon.start and epsilon.min can then be 0"
    )
    layer_norm: bool = Field(False, description="normalise each hidden layer")

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        for name in ("dueling", "quantiles", "noisy", "layer_norm"):
            if getattr(self, name) and name not in ARCHITECTURES[self.kind].takes:
                able = [kind for kind, each in ARCHITECTURES.items() if name in each.takes]
                raise ValueError(
                    f"{name} is set, but kind is {self.kind}; it needs {' or '.join(able)}"
                )
        if self.cvar < 1 and self.quantiles is None:
            raise ValueError(
                f"cvar is {self.cvar:g}, but there are no quantiles to choose by; set network.quantiles, "
                "say 32, where network.kind is two_layer"
            )
        return self


class TabularSettings(Settings):
    """A table of Q-values, and its update."""

    algorithm: Literal["q_learning", "expected_sarsa", "double_q_learning"] = Field(
        "q_learning", description="the update"
    )
    bins: int = Field(10, ge=2, le=10_000, description="quantile bins of each feature")
    learning_rate: float | None = Field(
        None, gt=0, le=1, description="constant; none: 1 / visits^omega"
    )
    omega: float = Field(
        0.8, gt=0.5, le=1, description="how fast the learning rate falls with visits"
    )


class DiscountSettings(Settings):
    """What is to be maximised."""

    gamma: float = Field(0.99, ge=0, le=1, description="discount a bar")


class LearnerSettings(DiscountSettings):
    """The train step."""

    batch: int = Field(32, ge=1, le=2**20, description="transitions an update")
    optimizer: Literal["adam", "sgd"] = Field("adam", description="Adam, or plain gradient descent")
    learning_rate: float = Field(1e-3, gt=0, description="of the optimizer")
    loss: Literal["mse", "huber"] = Field(
        "mse", description="of the TD error; with network.quantiles always the quantile Huber loss"
    )
    huber_delta: float = Field(1.0, gt=0, le=1e6, description="where the Huber losses turn linear")
    clip_norm: float | None = Field(None, gt=0, description="largest global gradient norm")
    target: Literal["q_learning", "double", "expected_sarsa", "munchausen"] = Field(
        "q_learning", description="the Bellman target"
    )
    backup: Literal["sampled", "all_actions"] = Field(
        "sampled",
        description="learn from the action taken, or at once from all three, out of any position",
    )
    n_step: int = Field(1, ge=1, le=100, description="rewards summed before the target's value")
    munchausen_alpha: float = Field(0.9, ge=0, le=1, description="share of the log-policy added")
    munchausen_temperature: float = Field(
        0.03, ge=1e-4, le=1e6, description="of the soft policy, learning units"
    )
    munchausen_lowest: float = Field(
        -1.0, le=0, description="below which the log-policy is clipped, learning units"
    )
    updates_per_iteration: int = Field(
        1, ge=1, le=1000, description="updates each time that every stream has stepped"
    )
    target_every: int = Field(
        500, ge=1, le=5 * 10**8, description="updates between two copies of the target"
    )
    tau: float | None = Field(
        None,
        gt=0,
        le=1,
        description="move the target by this share every update, instead of copies",
    )

    @model_validator(mode="after")
    def _n_step_has_the_actions_taken(self) -> Self:
        for name, value in (("backup", "all_actions"), ("target", "munchausen")):
            if self.n_step > 1 and getattr(self, name) == value:
                raise ValueError(
                    f"n_step is {self.n_step}, but {name} {value} looks one step ahead"
                )
        return self

    @model_validator(mode="after")
    def _copies_fall_between_iterations(self) -> Self:
        if self.tau is None and self.target_every % self.updates_per_iteration:
            raise ValueError(
                f"target_every is {self.target_every}; it must be a multiple of "
                f"updates_per_iteration, {self.updates_per_iteration}, or set tau"
            )
        return self
