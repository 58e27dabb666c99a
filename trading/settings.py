"""Settings of `qdesk paper` and `qdesk backtest`: defaults < `--config` (TOML) < command line.

Everything has its default in the module that uses it. Of the environment only the three variables
`DQN_EPSILON_START`, `DQN_EPSILON_MIN` and `DQN_EPSILON_DECAY` are read, and they count where
`--policy.explore` is set: limits of a desk must not depend on a shell.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator

from durable.addresses import taken
from durable.command_line import (
    Given,
    explained,
    fields,
    from_command_line,
    from_environment,
    from_file,
    parser_of,
    tree_of,
)
from durable.settings import BadSettings, Fault, Settings
from market.accounting import Fill, MarketSettings
from models.exploration import EPSILON_VARIABLES, EpsilonSettings
from models.places import default_mlruns
from trading.execution import ExecutionSettings
from trading.policy import PolicySettings
from trading.risk import Limits
from trading.sizing import DeskSettings
from trading.venues import ENGINES, require_engine, require_taken


def _with_unit(units: Mapping[str, float]) -> BeforeValidator:
    """Lets a number be written with a unit; the first of them that it ends in counts."""

    def number(value: object) -> object:
        if isinstance(value, str):
            for unit, factor in units.items():
                if value.endswith(unit):
                    return float(value.removesuffix(unit)) * factor
        return value

    return BeforeValidator(number)


Rate = Annotated[float, _with_unit({"bps": 1e-4, "bp": 1e-4, "%": 1e-2})]
Seconds = Annotated[float, _with_unit({"ms": 1e-3, "us": 1e-6, "s": 1.0})]


class Costs(Settings):
    """Fills and costs of the simulated market; what is left out is as in training."""

    fill: Fill | None = Field(None, description="price at which orders fill")
    fee_rate: Rate | None = Field(None, ge=0, lt=1, description="0.0005, 5bp or 0.05%")
    half_spread: float | None = Field(None, ge=0, description="price units")
    slippage: float | None = Field(None, ge=0, description="price units")
    borrow_rate: Rate | None = Field(None, ge=0, lt=1, description="a bar, of the price")

    def over(self, trained: MarketSettings) -> MarketSettings:
        """The settings of a training with these in their place."""
        return trained.model_copy(update=self.model_dump(exclude_none=True))


class TradingSettings(Settings):
    """What every way of trading a model has."""

    model: str = Field(
        description="NAME (its champion, or the last good one), NAME@ALIAS, NAME/VERSION, or a bundle's "
        "folder"
    )
    bars: str | None = Field(
        None, description="recorded: a sample, a .parquet or .csv file, or synthetic"
    )
    events: str | None = Field(
        None, description="an event log, of which bars are made; - is standard input"
    )
    every: str = Field("1m", description="when a bar of events ends: 1s, 30m, '500 trades' ...")
    instrument: str | None = Field(
        None, description="the only one of an event log; else how it is called"
    )
    accept_other_market: bool = Field(
        False,
        description="trade a market that differs from the one of training: instrument, length of bars, "
        "calendar or scale of prices",
    )
    desk: Path | None = Field(None, description="folder of journal, latch and kill switch")
    mlruns: Path = Field(
        default_factory=default_mlruns,
        description="folder of the tracking data; by default QDESK_MLRUNS, else mlruns",
    )
    tracking_uri: Annotated[str | None, BeforeValidator(taken)] = Field(
        None, description="of an MLflow server in place of mlruns"
    )
    config: Path | None = Field(None, description="TOML file of settings as these")
    trade: DeskSettings = DeskSettings()
    costs: Costs = Costs()
    limits: Limits = Limits()
    policy: PolicySettings = PolicySettings()
    epsilon: EpsilonSettings = EpsilonSettings()
    execution: ExecutionSettings = ExecutionSettings()

    @model_validator(mode="after")
    def _one_market(self) -> Self:
        if (self.bars is None) == (self.events is None):
            raise ValueError("give either --bars or --events")
        return self


class PaperSettings(TradingSettings):
    """Trade a model version on paper: recorded bars, an event log, or standard input."""

    pace: str | None = Field(
        None,
        pattern=r"^(max|live|\d+(\.\d+)?x)$",
        description="of a recorded market: max (the default), live, or a multiple such as 60x; standard "
        "input is live unless this is max",
    )
    on_stop: Literal["flatten", "hold"] = Field(
        "flatten", description="what becomes of the position at the end and at SIGTERM"
    )


class BacktestSettings(TradingSettings):
    """Trade a model version over a recorded market, with a fresh account."""

    engine: Annotated[str, AfterValidator(require_engine)] = Field(
        "simulated",
        description=f"{' or '.join(ENGINES)}: the timing contract's own fills, or those of a library "
        "(NautilusTrader, extra nautilus)",
    )
    latency: Seconds = Field(0.0, ge=0, description="of an order, 250ms; nautilus alone")
    leverage: float = Field(10.0, ge=1, description="of the margin account; nautilus alone")
    margin: float = Field(
        0.0, ge=0, lt=1, description="share of a notional that must be free; nautilus alone"
    )
    fees: Rate | None = Field(None, ge=0, lt=1, description="5bp; short for --costs.fee-rate")

    @model_validator(mode="after")
    def _engine_has_what_is_set(self) -> Self:
        if self.events == "-":
            raise ValueError(
                "a backtest reads a file; `qdesk paper --events -` reads standard input"
            )
        known = type(self).model_fields
        changed = {name for name, field in known.items() if getattr(self, name) != field.default}
        changed |= {f"costs.{name}" for name, value in self.costs if value is not None}
        require_taken(self.engine, changed)
        return self


def parser_for(kind: type[TradingSettings], command: str) -> argparse.ArgumentParser:
    """The arguments of a command that takes such settings."""
    return parser_of(fields(kind), command, kind.__doc__, positional="model")


def load[Kind: TradingSettings](kind: type[Kind], command: str, arguments: list[str]) -> Kind:
    """Settings of a command.

    Raises:
        BadSettings: a key is unknown or a value out of range.
        SystemExit: `--help` was asked for.
    """
    known = fields(kind)
    try:
        on_command_line = from_command_line(parser_for(kind, command), arguments)
        given = from_environment(known, EPSILON_VARIABLES)
        config = on_command_line.get("config", Given(None, "settings")).value
        if config is not None:
            given |= _file(Path(config))
        given |= on_command_line
        return kind.model_validate(tree_of(given, known, command))
    except ValidationError as error:
        raise BadSettings(f"qdesk {command}: {explained(Fault.of(error), given)}") from error


def _file(path: Path) -> dict[str, Given]:
    try:
        return from_file(path, f"--config {path}")
    except FileNotFoundError:
        raise BadSettings(f"--config {path}: no such file") from None
