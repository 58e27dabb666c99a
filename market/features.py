"""State features, fitted on the training split only.

A feature of bar t uses bars up to t and nothing later. What fitting learned (offsets and scales) is
data, part of the schema and of its hash: a model is bound to the features that it was trained on.
"""

import hashlib
import json
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from operator import itemgetter
from typing import Annotated, Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field, field_validator, model_validator

from durable.settings import Settings
from market.bars import NUMBERS, PRICES, QUOTES, Bars, BarsError
from market.feature_kinds import Column, Columns, Feature, feature_names, log_return

CLOSE = 1 + NUMBERS.index("close")  # place in a stream's rows, after the time
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def split_commas(value: object) -> object:
    """Lets a list be written `a,b`, as the environment and the command line do."""
    if not isinstance(value, str):
        return value
    return (
        json.loads(value) if value.startswith("[") else [part.strip() for part in value.split(",")]
    )


class FeatureSettings(Settings):
    """Which features a state holds, in this order, before position and bias."""

    names: Annotated[tuple[str, ...], BeforeValidator(split_commas)] = Field(
        ("price_change",),
        min_length=1,
        description=f"of {', '.join(feature_names())}; n is a number of bars",
    )
    scale: bool = Field(
        True,
        description="divide by the training split's standard deviation; levels are centred too",
    )

    @model_validator(mode="before")
    @classmethod
    def _names_alone(cls, value: object) -> object:
        """Lets a preset say `features = ["price_change", "volatility_20"]`."""
        return {"names": value} if isinstance(value, str | list | tuple) else value

    @field_validator("names")
    @classmethod
    def _known_once(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            Feature.named(name)
            if names.count(name) > 1:
                raise ValueError(f"{name} is named twice")
        return names


class Transformed(NamedTuple):
    """Features of bars: `values` of shape (bars - skipped, features), for bars from `skipped` on."""

    values: NDArray[np.float32]
    skipped: int


@dataclass(frozen=True)
class FeaturePipeline:
    """Fitted features: value = (raw - offset) / scale, one offset and scale a feature.

    Example:
        pipeline = FeaturePipeline.fit(split.train, FeatureSettings(names=("volatility_20",)))
        values, skipped = pipeline.transform(split.validation)
    """

    names: tuple[str, ...]
    offsets: tuple[float, ...]
    scales: tuple[float, ...]

    @classmethod
    def fit(cls, bars: Bars, settings: FeatureSettings | None = None) -> Self:
        """Learns offsets and scales from bars, which must be the training split.

        Raises `BarsError` where bars lack what a feature needs, are too few for it, or leave it
        without variation, so that there is no scale.
        """
        settings = settings or FeatureSettings()
        raw = _raw(settings.names, bars)
        raw = raw[_skipped(raw, settings.names, bars) :]
        offsets = []
        scales = []
        for name, values in zip(settings.names, raw.T, strict=True):
            scale = float(values.std()) if settings.scale else 1.0
            if scale <= 1e-12:
                raise BarsError(
                    f"{bars.name}: {name} never varies, so nothing can be learned from it"
                )
            centred = settings.scale and Feature.named(name).kind.centred
            scales.append(scale)
            offsets.append(float(values.mean()) if centred else 0.0)
        return cls(settings.names, tuple(offsets), tuple(scales))

    def transform(self, bars: Bars) -> Transformed:
        """Features of every bar that has them; the first bars, without a full past, are skipped.

        Raises `BarsError` where bars lack what a feature needs, or are too few for it.
        """
        raw = _raw(self.names, bars)
        skipped = _skipped(raw, self.names, bars)
        return Transformed(self.scaled(raw[skipped:]), skipped)

    def stream(self) -> "FeatureStream":
        """The same features bar by bar, for trading."""
        return FeatureStream(self)

    @property
    def schema(self) -> dict[str, Any]:
        """Names, order, numbers of bars, fitted offsets and scales, and the hash of all that."""
        features = [
            {"name": name, "bars": Feature.named(name).bars, "offset": offset, "scale": scale}
            for name, offset, scale in zip(self.names, self.offsets, self.scales, strict=True)
        ]
        digest = hashlib.sha256(json.dumps(features, sort_keys=True).encode()).hexdigest()
        return {"features": features, "hash": digest}

    @classmethod
    def from_schema(cls, schema: Mapping[str, Any]) -> Self:
        """The pipeline that a schema describes.

        Raises `ValueError` where the schema's hash is not that of its features.
        """
        features = schema["features"]
        pipeline = cls(
            tuple(feature["name"] for feature in features),
            tuple(feature["offset"] for feature in features),
            tuple(feature["scale"] for feature in features),
        )
        if pipeline.schema["hash"] != schema["hash"]:
            raise ValueError("the schema of the features does not have the hash that it states")
        return pipeline

    @property
    def schema_hash(self) -> str:
        """sha256 of names, order and fitted parameters."""
        return str(self.schema["hash"])

    def scaled(self, raw: Column) -> NDArray[np.float32]:
        """Raw features of shape (..., features) as a state holds them."""
        offsets, scales = self._fitted
        scaled: Column = (raw - offsets) / scales
        return scaled.astype(np.float32)

    @cached_property
    def _fitted(self) -> tuple[Column, Column]:
        return np.array(self.offsets), np.array(self.scales)


class FeatureStream:
    """Features bar by bar, equal to those that the pipeline gives for all bars at once."""

    def __init__(self, pipeline: FeaturePipeline) -> None:
        self.pipeline = pipeline
        self._offsets = pipeline.offsets
        self._scales = pipeline.scales
        features = [Feature.named(name) for name in pipeline.names]
        self._steps = [
            (feature, feature.kind.of(feature.bars) if feature.kind.recursive else None)
            for feature in features
        ]
        quotes = {name for feature in features for name in feature.kind.needs}
        self.columns = ("time", *NUMBERS, *(name for name in QUOTES if name in quotes))
        self._numbers_of = itemgetter(*self.columns[1:])
        self._places = {name: place for place, name in enumerate(self.columns)}
        self._rows = max(feature.rows for feature in features)
        self._history = np.full((len(self.columns), 2 * self._rows), np.nan)
        self._held = 0
        self._windowed = any(
            feature.kind.last is None and not feature.kind.recursive for feature in features
        )
        self._closes: deque[float] = deque(maxlen=self._rows)
        self._last: list[float] | None = None

    def update(self, bar: Mapping[str, Any]) -> NDArray[np.float32] | None:
        """Takes the next bar in.

        Args:
            bar: time (of its close; a datetime, or microseconds since 1970), open, high, low, close,
                volume, and of `QUOTES` what the features need.

        Returns:
            Features of shape (features,); None as long as they lack a past or a quote.

        Raises:
            BarsError: the bar is not one that follows; the stream is as it was before.
        """
        time = bar.get("time", np.nan)
        if isinstance(time, datetime):
            time = time if time.tzinfo else time.replace(tzinfo=UTC)
            time = (time - EPOCH) // timedelta(microseconds=1)
        return self.take(time, bar)

    def take(self, time: float, bar: Mapping[str, Any]) -> NDArray[np.float32] | None:
        """The same where the time is known in microseconds, whatever the bar says of it."""
        raw = self.raw(time, bar)
        if raw is None:
            return None
        scaled = [(x - o) / s for x, o, s in zip(raw, self._offsets, self._scales, strict=True)]
        return np.array(scaled, np.float32)

    def raw(self, time: float, bar: Mapping[str, Any]) -> list[float] | None:
        """The same before offset and scale."""
        row = self._checked(time, bar)
        if self._windowed:
            self._keep(row)
        self._closes.append(row[CLOSE])
        before = self._last
        self._last = row
        raw = [self._value(feature, step, before, row) for feature, step in self._steps]
        total = sum(raw)
        if total - total != 0:  # a value that is not finite leaves no finite sum
            return None
        return raw

    def _keep(self, row: list[float]) -> None:
        """Writes a row behind the others; the last ones move to the front where there is no room."""
        if self._held == self._history.shape[1]:
            self._held = self._rows - 1
            self._history[:, : self._held] = self._history[:, -self._held :] if self._held else 0
        self._history[:, self._held] = row
        self._held += 1

    def _value(
        self, feature: Feature, step: Any, before: list[float] | None, row: list[float]
    ) -> float:
        if step is not None:
            if before is None:
                return np.nan
            return float(step.step(float(np.log(row[CLOSE] / before[CLOSE]))))
        if feature.kind.last is not None:
            closes = self._closes
            bars = feature.bars or 1
            past = closes[-1 - bars] if len(closes) > bars else np.nan
            return feature.kind.last(row[CLOSE], past)
        rows = self._history[:, max(self._held - feature.rows, 0) : self._held]
        return float(feature.kind.of(_Window(rows, self._places), *feature.arguments)[-1])

    def _checked(self, time: float, bar: Mapping[str, Any]) -> list[float]:
        """The bar's columns; time in microseconds."""
        try:
            numbers = self._numbers_of(bar)
        except KeyError:
            missing = [name for name in self.columns[1:] if name not in bar]
            raise BarsError(
                f"a bar lacks {', '.join(missing)}; these features need {', '.join(self.columns)}"
            ) from None
        if None in numbers:
            numbers = [np.nan if value is None else value for value in numbers]
        row = [float("nan") if time is None else float(time), *map(float, numbers)]
        last = self._last
        if time != time:  # noqa: PLR0124  # not a number
            raise BarsError("a bar lacks time")
        _, open, high, low, close, volume, *quotes = row
        if not (0 < low <= open <= high < np.inf and low <= close <= high and 0 <= volume < np.inf):
            _refuse_bar(bar, self.columns, row)
        if quotes:
            self._check_quotes(bar, quotes)
        if last is not None and not time > last[0]:
            raise BarsError(f"bar of {bar.get('time')}: it must be later than the bar before it")
        return row

    def _check_quotes(self, bar: Mapping[str, Any], quotes: list[float]) -> None:
        names = self.columns[1 + len(NUMBERS) :]
        known = self._last[1 + len(NUMBERS) :] if self._last else [np.nan] * len(names)
        for name, value, before in zip(names, quotes, known, strict=True):
            unknown = np.isnan(value) and np.isnan(before)
            low = -1.0 if name == "depth_imbalance" else 0.0
            good = low <= value < np.inf and not (value == 0 and name in ("bid", "ask"))
            if not good and not unknown:
                raise BarsError(f"bar of {bar['time']}: {name} is {value}, which no good bar has")
        values = dict(zip(names, quotes, strict=True))
        crossed = values.get("ask", 0.0) < values.get("bid", 0.0)
        if crossed or values.get("depth_imbalance", 0.0) > 1:
            raise BarsError(
                f"bar of {bar['time']}: a bid above the ask, or a depth_imbalance above 1"
            )


class _Window(dict[str, Column]):
    """The last bars' columns by name, each cut out when it is asked for."""

    def __init__(self, rows: Column, places: Mapping[str, int]) -> None:
        self.rows = rows
        self.places = places

    def __missing__(self, name: str) -> Column:
        column: Column = self.rows[self.places[name]]
        return column


def _refuse_bar(bar: Mapping[str, Any], names: tuple[str, ...], row: list[float]) -> None:
    for name, value in zip(names[1 : 1 + len(NUMBERS)], row[1:], strict=False):
        if not 0 <= value < np.inf or (value == 0 and name in PRICES):
            raise BarsError(f"bar of {bar['time']}: {name} is {value}, which no good bar has")
    raise BarsError(f"bar of {bar['time']}: open and close must lie from low to high")


def _columns_of(bars: Bars) -> Columns:
    table = bars.table
    found = {name: bars.column(name) for name in (*NUMBERS, *QUOTES) if name in table.columns}
    return {"time": table["time"].dt.epoch("us").to_numpy().astype(np.float64), **found}


def _raw(names: tuple[str, ...], bars: Bars) -> Column:
    """Unscaled features of shape (bars, features), NaN where there is no past."""
    columns = _columns_of(bars)
    values = []
    for name in names:
        feature = Feature.named(name)
        missing = [column for column in feature.kind.needs if column not in columns]
        if missing:
            raise BarsError(
                f"{bars.name}: feature {name} needs {', '.join(missing)}, which these bars do not have; "
                "bars made of quotes or books do"
            )
        if feature.kind.recursive:
            step = feature.kind.of(feature.bars).step
            values.append([np.nan, *(step(change) for change in log_return(columns)[1:].tolist())])
        else:
            values.append(feature.kind.of(columns, *feature.arguments))
    return np.stack([np.asarray(column, np.float64) for column in values], axis=1)


def _skipped(raw: Column, names: tuple[str, ...], bars: Bars) -> int:
    """Rows before the first that is whole."""
    whole = np.isfinite(raw).all(axis=1)
    if not whole.any():
        rows = {
            name: int(np.isfinite(column).sum()) for name, column in zip(names, raw.T, strict=True)
        }
        worst = min(rows, key=lambda name: rows[name])
        raise BarsError(
            f"{bars.name}: {len(bars)} bars are too few for {worst}, or hold no quote that it can use"
        )
    return int(np.argmax(whole))
