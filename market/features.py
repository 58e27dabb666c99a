"""State features, fitted on the training split only.

A feature of bar t uses bars up to t and nothing later. What fitting learned (offsets and scales)
is data, part of the schema and of its hash: a model is bound to the features that it was trained on.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from market.bars import Bars, BarsError

FeatureName = Literal["price_change", "log_price"]


def split_commas(value: object) -> object:
    """Lets a list be written `a,b`, as the environment and the command line do."""
    if not isinstance(value, str):
        return value
    return (
        json.loads(value) if value.startswith("[") else [part.strip() for part in value.split(",")]
    )


class FeatureSettings(BaseModel):
    """Which features a state holds, in this order, before position and bias."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    names: Annotated[tuple[FeatureName, ...], BeforeValidator(split_commas)] = Field(
        ("price_change",),
        min_length=1,
        description="price_change: P_t / P_(t-1) - 1; log_price: log P_t",
    )
    scale: bool = Field(
        True,
        description="divide by the training split's standard deviation (log_price is centred too)",
    )


@dataclass(frozen=True)
class Features:
    """Fitted features: value = (raw - offset) / scale, one offset and scale a feature."""

    WARMUP = 1  # rows without a full past: the first bar has no change

    names: tuple[FeatureName, ...]
    offsets: tuple[float, ...]
    scales: tuple[float, ...]

    @classmethod
    def fit(cls, bars: Bars, settings: FeatureSettings) -> Self:
        """Learns offsets and scales from bars, which must be the training split.

        Raises:
            BarsError: a feature does not vary, so that there is no scale.
        """
        offsets, scales = [], []
        for name in settings.names:
            raw = _raw(name, bars)[cls.WARMUP :]
            scale = float(raw.std()) if settings.scale and len(raw) else 1.0
            if scale <= 1e-12:
                raise BarsError(
                    f"{bars.name}: {name} never varies, so nothing can be learned from it"
                )
            scales.append(scale)
            offsets.append(float(raw.mean()) if settings.scale and name == "log_price" else 0.0)
        return cls(settings.names, tuple(offsets), tuple(scales))

    def transform(self, bars: Bars) -> NDArray[np.float32]:
        """Features of every bar, shape (bars, features); the first `WARMUP` rows are not to be used."""
        raw = np.stack([_raw(name, bars) for name in self.names], axis=1)
        return ((raw - self.offsets) / self.scales).astype(np.float32)

    @property
    def schema_hash(self) -> str:
        """sha256 of names, order and fitted parameters."""
        return hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()


def _raw(name: FeatureName, bars: Bars) -> NDArray[np.float64]:
    close = bars.table["close"].to_numpy()
    if name == "log_price":
        return np.log(close)
    change = np.zeros(len(close))
    change[1:] = close[1:] / close[:-1] - 1
    return change
