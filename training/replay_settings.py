"""Settings of collection and replay, a part of the tree in `settings.py`."""

from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

FROZEN = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class PrioritySettings(BaseModel):
    """Prioritised replay: Schaul et al. (2016). Both exponents move linearly over `steps`."""

    model_config = FROZEN

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


class ReplaySettings(BaseModel):
    """Collection of transitions and the ring that holds them."""

    model_config = FROZEN

    streams: int = Field(4, ge=1, le=2**16, description="markets simulated side by side")
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
