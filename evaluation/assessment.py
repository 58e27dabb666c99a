"""Everything that is found about positions on bars: one track in, figures out.

A track is what agents of the same settings, one a seed, held over the same bars. What is said of "the
typical seed" is said of the one with the middle Sharpe ratio; nothing is said of the best.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from durable.settings import Settings
from evaluation import baselines
from evaluation.backtest import backtest, delayed
from evaluation.measures import Backtest
from evaluation.resizing import equity_sized, price_range, unit_misleads
from evaluation.statistics import (
    Estimate,
    Moments,
    Resampled,
    interquartile_mean,
    interquartile_mean_interval,
    minimum_track_record,
    probabilistic_sharpe,
    resample,
    sharpe_difference,
    sharpe_estimate,
)
from market.accounting import Fill
from market.table import MarketTable
from market.terms import Sizing

Kind = Literal["walk-forward", "validation", "test", "train", "bars"]
MULTIPLES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0)  # of the costs
LEVELS = (0.8, 0.9, 0.95, 0.975, 0.99)  # of confidence, one-sided
PARTICIPATION = 0.01  # share of a bar's volume that is taken to move no price

Figures = dict[str, float | None]  # None: undefined


@dataclass(frozen=True)
class PositionTrack:
    """Positions over bars."""

    kind: Kind  # what bars they are
    tables: dict[Fill, MarketTable]  # the same bars under either fill, at the costs of the settings
    fill: Fill  # of the settings
    positions: NDArray[np.int8]  # shape (seeds, bars - 1)
    seeds: Sequence[int]  # of the agents
    edges: Sequence[int]  # first step of each window, and the number of steps
    volume: NDArray[np.float64]  # of each bar, shape (bars,)
    in_sample: bool = False  # whether agents were trained on bars of it

    @property
    def table(self) -> MarketTable:
        """The bars under the settings' fill."""
        return self.tables[self.fill]


class Stress(Settings):
    """The same positions under other costs and later fills."""

    multiple: float  # of the costs
    late: int  # bars
    net_returns: list[float]  # of each seed
    sharpes: list[float | None]


class Findings(Settings):
    """Numbers of a track. Sharpe ratios are annualised where not said otherwise."""

    kind: Kind
    in_sample: bool
    bars: str
    first: str
    last: str
    count: int  # steps
    calendar: str
    bars_a_year: float
    fill: Fill
    costs: str
    seeds: list[int]
    typical: int  # index of the seed with the middle Sharpe ratio
    measures: list[Figures]  # of each seed
    baselines: dict[str, Figures]
    better: Literal["flat", "buy and hold"]  # of the two, by Sharpe ratio
    variations: dict[str, Figures]  # both fills, in time and one bar late; the typical seed
    stress: list[Stress]
    # Net return of each seed (row) in each window, shares of its first price, of N, or of the account.
    windows: list[list[float]]
    # 90%; of the typical seed, but differences of Sharpe ratios over all seeds. Of what was stored with
    # no `dependence`, the difference to hold is the typical seed's, and all are a bootstrap's.
    intervals: dict[str, tuple[float, float] | None]
    # level -> lower bound of the Sharpe difference to `better`, over all seeds
    difference_bounds: dict[str, float | None]
    block: int  # mean length of the bootstrap's blocks, bars
    sharpe_a_bar: float | None
    skew: float | None
    kurtosis: float | None
    dependence: float | None = 1.0  # see `Moments`; of what was stored without it 1
    probabilistic_sharpe: float | None
    minimum_track_record: float | None  # bars
    random_percentile: float | None  # share of random policies at equal turnover that did worse
    random_middle: float | None  # their median net return
    # Trading costs of a unit, as a share of the first price, or of the money traded; typical seed.
    charged: float | None
    quoted: float = 0.0  # share of the bars whose costs include a spread of their own, as quoted
    capacity: float | None  # units; None where bars have no volume or nothing is traded
    seed_mean: float  # interquartile mean of net returns over seeds
    seed_interval: tuple[float, float]  # 95%, stratified by window
    sizing: Sizing = "unit"
    price_range: float = 1.0  # highest close over the lowest
    # Where one unit misleads: the same positions as shares of an account; "agent" is the typical seed.
    equity_sized: dict[str, Figures] | None = None

    def stressed(self, multiple: float, late: int) -> Stress:
        """One of the stresses that were computed. Raises `ValueError` where it was not."""
        for stress in self.stress:
            if (stress.multiple, stress.late) == (multiple, late):
                return stress
        raise ValueError(f"costs times {multiple:g}, {late} bars late, were not computed")


@dataclass(frozen=True)
class Assessment:
    """Findings, and what their figures are drawn from."""

    track: PositionTrack
    findings: Findings
    runs: list[Backtest]  # of each seed
    hold: Backtest
    resampled: Resampled

    @property
    def typical(self) -> Backtest:
        """The seed with the middle Sharpe ratio."""
        return self.runs[self.findings.typical]


def assess(
    track: PositionTrack, draws: int = 2000, random_draws: int = 1000, seed: int = 0
) -> Assessment:
    """Finds out all about a track; the seed is that of the bootstrap's and the random policies' draws."""
    table = track.table
    runs = [backtest(table, positions) for positions in track.positions]
    calendar = table.calendar
    year = calendar.bars_per_year**0.5
    typical = _middle([run.measures["sharpe"] for run in runs])
    compared = baselines.all_of(table)
    hold = compared["buy and hold"]
    better: Literal["flat", "buy and hold"] = (
        "buy and hold" if hold.measures["sharpe"] > 0 else "flat"
    )
    resampled = resample(runs[typical].returns, draws, seed)
    moments = Moments.of(runs[typical].returns)
    returns = np.stack([run.returns for run in runs], axis=1)
    to_hold = sharpe_difference(returns, hold.returns)
    to_flat = sharpe_difference(returns, np.zeros(len(returns)))
    difference = to_hold if better == "buy and hold" else to_flat
    trades = runs[typical].measures["trades"] > 0
    random = (
        baselines.random_returns(table, track.positions[typical], random_draws, seed)
        if trades
        else np.array([])
    )
    net = runs[typical].measures["net_return"]
    windows = [run.returns_from(track.edges[:-1]).tolist() for run in runs]
    findings = Findings(
        kind=track.kind,
        in_sample=track.in_sample,
        bars=table.name,
        first=str(table.time[0])[:16],
        last=str(table.time[-1])[:16],
        count=len(table) - 1,
        calendar=str(calendar),
        bars_a_year=calendar.bars_per_year,
        fill=track.fill,
        costs=_costs(table),
        seeds=list(track.seeds),
        typical=typical,
        measures=[defined(run.measures) for run in runs],
        baselines={name: defined(run.measures) for name, run in compared.items()},
        better=better,
        variations=_variations(track, typical),
        stress=_stress(track),
        windows=windows,
        intervals={
            "sharpe": _annual_interval(sharpe_estimate(moments), year),
            "net_return": _interval(resampled.final),
            "max_drawdown": _interval(resampled.drawdown),
            "sharpe_difference": _annual_interval(difference, year),
            "sharpe_difference_to_hold": _annual_interval(to_hold, year),
        },
        difference_bounds={
            f"{level:g}": _number(difference.lower_bound(level) * year) for level in LEVELS
        },
        block=resampled.block,
        sharpe_a_bar=_number(moments.sharpe),
        skew=_number(moments.skew),
        kurtosis=_number(moments.kurtosis),
        dependence=_number(moments.dependence),
        probabilistic_sharpe=_number(probabilistic_sharpe(moments)),
        minimum_track_record=_number(minimum_track_record(moments)),
        random_percentile=float((random < net).mean()) if trades else None,
        random_middle=float(np.median(random)) if trades else None,
        charged=_charged(runs[typical]),
        quoted=float(table.quoted.mean()),
        capacity=_capacity(runs[typical], track.volume),
        seed_mean=interquartile_mean([run.measures["net_return"] for run in runs]),
        seed_interval=interquartile_mean_interval(np.array(windows)),
        sizing=table.settings.sizing,
        price_range=price_range(table),
        equity_sized=_equity_sized(table, track.positions[typical]),
    )
    return Assessment(track, findings, runs, hold, resampled)


def defined(measures: dict[str, float]) -> Figures:
    """Measures with None for what is undefined."""
    return {name: _number(value) for name, value in measures.items()}


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _middle(values: Sequence[float]) -> int:
    """Index of the median, the lower one of two; what is undefined counts as lowest."""
    order = np.argsort(np.nan_to_num(np.array(values), nan=-np.inf), kind="stable")
    return int(order[(len(order) - 1) // 2])


def _variations(track: PositionTrack, typical: int) -> dict[str, Figures]:
    found = {}
    for fill, table in track.tables.items():
        for late in (0, 1):
            run = backtest(table, delayed(track.positions[typical], late))
            at = {"close": "at the close", "next_open": "at the next open"}[fill]
            name = f"{at}{', one bar late' if late else ''}"
            found[name] = defined(run.measures)
    return found


def _stress(track: PositionTrack) -> list[Stress]:
    found = []
    for late in (0, 1):
        for multiple in MULTIPLES:
            table = track.table.at_costs(multiple)
            runs = [backtest(table, delayed(positions, late)) for positions in track.positions]
            measures = [run.measures for run in runs]
            found.append(
                Stress(
                    multiple=multiple,
                    late=late,
                    net_returns=[each["net_return"] for each in measures],
                    sharpes=[_number(each["sharpe"]) for each in measures],
                )
            )
    return found


def _equity_sized(table: MarketTable, positions: NDArray[np.int8]) -> dict[str, Figures] | None:
    if not unit_misleads(table):
        return None
    return {name: defined(run.measures) for name, run in equity_sized(table, positions).items()}


def _annual_interval(estimate: Estimate, year: float) -> tuple[float, float] | None:
    low, high = estimate.interval()
    return (low * year, high * year) if np.isfinite(high - low) else None


def _interval(draws: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.quantile(draws, [0.05, 0.95])
    return float(low), float(high)


def _charged(run: Backtest) -> float | None:
    if not run.traded.any():
        return None
    paid = float((run.table.terms.entry_cost * run.traded).sum())
    return paid / float(run.traded.sum()) / float(run.equity[0])


def _capacity(run: Backtest, volume: NDArray[np.float64]) -> float | None:
    traded = np.diff(run.positions.astype(int), prepend=0) != 0
    seen = volume[:-1][traded]
    if not len(seen) or not seen.max() > 0:
        return None
    return float(PARTICIPATION * np.median(seen))


def _costs(table: MarketTable) -> str:
    market = table.settings
    terms = table.terms
    half = f"{market.half_spread or 0:g}"
    paid = terms.entry_cost if market.sizing == "unit" else terms.entry_cost * table.fill_price
    paid = paid - market.slippage - market.fee_rate * table.fill_price
    if market.half_spread is None and paid.max() > 1e-9 * table.fill_price.max():
        half = "as quoted"
    borrow = f", borrowing {market.borrow_rate:g} a bar" if market.borrow_rate else ""
    trading = f"fee {market.fee_rate:g} of notional, half spread {half}"
    return f"{trading}, slippage {market.slippage:g}{borrow}"
