"""What an evaluation works on: a version, the bars that it may be judged on, and tracks over them."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from numpy.typing import NDArray

from evaluation.assessment import Kind, PositionTrack
from evaluation.backtest import follow, greedy_choice
from evaluation.choosing import unchosen_note
from evaluation.errors import BadEvaluation
from evaluation.ledger import closes_of, holds
from evaluation.walk_forward import Job, Outcome, WalkForwardSettings, Window, joined
from market.accounting import FILLS, Fill, MarketSettings
from market.bars import Bars, SplitSettings, carried_note
from market.features import FeaturePipeline
from market.source import bars_from
from market.table import MarketTable
from models.bundle import Bundle
from models.promotion import load_bundle
from models.promotion_records import resolve


class Request(NamedTuple):
    """What is to be evaluated."""

    name: str
    version: str  # number or alias
    split: Literal["train", "validation", "test"] = "validation"
    bars: str | None = None  # others than those that it was trained on
    walk_forward: WalkForwardSettings | None = None
    in_sample: bool = False  # bars that it was trained on are wanted
    again: str | None = None  # why held-back bars are opened once more
    workers: int = 2
    command: str = ""


class EvaluationInputs(NamedTuple):
    """A version and the bars that it knows."""

    version: ModelVersion
    bundle: Bundle
    settings: Mapping[str, Any]
    market: MarketSettings
    features: FeaturePipeline
    bars: Bars  # that it was trained on, all splits


def material_of(client: MlflowClient, request: Request) -> EvaluationInputs:
    """The version that is asked for, verified, with the bars that it knows.

    Raises:
        NoVersion, CorruptError: there is no such version, or its bundle cannot be trusted.
        BarsError: its bars are gone or bad.
        BadEvaluation: its bars have changed, or its features are not those of its settings.
    """
    version = resolve(client, request.name, request.version)
    bundle = load_bundle(client, version)
    origin = bundle.manifest.origin
    what = f"{request.name} v{version.version}"
    try:
        features = FeaturePipeline.from_schema(origin.features)
        market = MarketSettings.model_validate(origin.settings["market"])
        SplitSettings.model_validate(origin.settings["split"])
        wanted = tuple(map(str, origin.settings["features"]["names"]))
        source = str(origin.settings["bars"])
    except (ValueError, KeyError, TypeError) as error:
        raise BadEvaluation(
            f"{what}: was trained on features or a market that this code does not know ({error})"
        ) from error
    if features.names != wanted:
        raise BadEvaluation(
            f"{what}: its states hold {', '.join(features.names)}, but its settings name "
            f"{', '.join(wanted)}; it cannot be judged by training those anew"
        )
    bars = bars_from(source)
    if bars.content_hash != origin.data_hash:
        raise BadEvaluation(
            f"{what}: bars {source} are not those that it was trained on: their hash is "
            f"{bars.content_hash[:12]}, not {origin.data_hash[:12]}; bring those back"
        )
    return EvaluationInputs(version, bundle, origin.settings, market, features, bars)


def notes_of(material: EvaluationInputs, bars: Bars) -> list[str]:
    """Sentences on what is wanting in a version's data and in the bars that it is judged on."""
    what = f"{material.version.name} v{material.version.version}"
    validation = material.bars.split(**material.settings["split"]).validation
    notes = [
        unchosen_note(what, validation, material.features, material.market),
        carried_note(bars.name, bars.carried)
        or carried_note(material.bars.name, material.bars.carried),
    ]
    return [note for note in notes if note]


def known_bars(material: EvaluationInputs) -> Bars:
    """All bars before the test split, which a walk-forward divides."""
    shares = SplitSettings.model_validate(material.settings["split"])
    count = round(len(material.bars) * (shares.train + shares.validation))
    return material.bars.between(0, count, "walk-forward")


def chosen_bars(request: Request, material: EvaluationInputs) -> tuple[Kind, Bars]:
    """The bars that are asked for, and what kind they are."""
    if request.bars is not None:
        return "bars", bars_from(request.bars)
    part: Bars = getattr(material.bars.split(**material.settings["split"]), request.split)
    if len(part) < 2:
        raise BadEvaluation(f"{part.name}: there are no such bars; split.{request.split} is 0")
    return request.split, part


def require_unseen(request: Request, material: EvaluationInputs, kind: Kind, bars: Bars) -> bool:
    """Whether a version was trained in the time of these bars; refuses that unless it is asked for."""
    split = material.bars.split(**material.settings["split"])
    what = f"{request.name} v{material.version.version}"
    if kind == "bars":
        for part in ("test", "validation"):
            if len(known := getattr(split, part)) and holds(bars, closes_of(known)):
                raise BadEvaluation(
                    f"{bars.name}: holds bars of the {part} split of {what}; those are judged by --split "
                    f"{part}"
                )
    if kind in ("validation", "test") or not _overlap(bars, split.train):
        return False
    if not request.in_sample:
        start, end = (split.train.table["time"][row] for row in (0, -1))
        raise BadEvaluation(
            f"{bars.name}: {what} was trained on bars from {start:%Y-%m-%d %H:%M} to "
            f"{end:%Y-%m-%d %H:%M}, which overlap these; with --in-sample they are judged, and marked so"
        )
    return True


def _overlap(one: Bars, other: Bars) -> bool:
    """Whether two stretches of time have a moment in common."""
    mine, others = (each.table["time"].to_physical().to_numpy() for each in (one, other))
    return bool(mine[0] <= others[-1] and others[0] <= mine[-1])


def own_track(material: EvaluationInputs, bars: Bars, kind: Kind, in_sample: bool) -> PositionTrack:
    """What the version itself holds over bars."""
    tables = _tables(bars, material, len(MarketTable.of(bars, material.features, material.market)))
    table = tables[material.market.fill]
    choice = greedy_choice(material.bundle.q_values, table)
    volume = bars.column("volume")[-len(table) :]
    seed = material.bundle.manifest.origin.seed
    steps = len(table) - 1
    return PositionTrack(
        kind,
        tables,
        material.market.fill,
        follow(choice)[None],
        [seed],
        [0, steps],
        volume,
        in_sample,
    )


def walked_track(
    material: EvaluationInputs,
    divided: Sequence[Window],
    jobs: Sequence[Job],
    outcomes: Mapping[str, Outcome],
) -> PositionTrack:
    """What agents of its settings, trained anew in each window, held over the judged stretches."""
    known = known_bars(material)
    start = divided[0].judged[0]
    tables = _tables(known, material, len(known) - start)
    seeds = sorted({job.seed for job in jobs})
    positions: list[NDArray[np.int8]] = []
    for seed in seeds:
        mine = sorted((job for job in jobs if job.seed == seed), key=lambda job: job.window.number)
        positions.append(follow(joined([outcomes[job.key] for job in mine])))
    edges = [window.judged[0] - start for window in divided] + [len(known) - start - 1]
    volume = known.column("volume")[start:]
    fill = material.market.fill
    return PositionTrack("walk-forward", tables, fill, np.stack(positions), seeds, edges, volume)


def _tables(bars: Bars, material: EvaluationInputs, count: int) -> dict[Fill, MarketTable]:
    """The last bars under either fill."""
    return {
        fill: MarketTable.of(
            bars, material.features, material.market.model_copy(update={"fill": fill})
        ).last(count)
        for fill in FILLS
    }
