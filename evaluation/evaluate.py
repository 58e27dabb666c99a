"""The evaluation of a registered version: what it was trained on, what it may see, what came out.

Every evaluation is a run of the MLflow experiment `qdesk-evaluations` with its numbers as
`evaluation.json`, returns and report beside them.
"""

import platform
import tempfile
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from pydantic import Field, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from durable.settings import Settings
from evaluation.assessment import Assessment, Findings, assess
from evaluation.errors import BadEvaluation
from evaluation.ledger import HoldoutAccess, openings
from evaluation.material import (
    EvaluationInputs,
    Request,
    chosen_bars,
    known_bars,
    material_of,
    notes_of,
    own_track,
    require_unseen,
    walked_track,
)
from evaluation.opening import open_bars
from evaluation.statistics import backtest_overfitting, superior_ability
from evaluation.trials import SHARPE_A_BAR, Trials, runs_of, trials_on
from evaluation.unended import end_the_dead, running
from evaluation.walk_forward import Job, Outcome, Train, Window, run_jobs, windows
from models.bundle import Bundle
from models.configuration import configuration_hash, flatten
from models.registry import user

EXPERIMENT = "qdesk-evaluations"
FILE = "evaluation.json"
RETURNS = "returns.safetensors"
WALKED = "evaluation/walk-forward"  # tag of a version: the run of its newest walk-forward


class SnoopingTest(Settings):
    """All configurations that walked the same bars together; their typical seeds."""

    trials: int
    skipped: int  # whose returns could not be read
    spa_flat: float  # p-value: none is better than holding nothing
    spa_hold: float  # p-value: none is better than buy and hold
    overfitting: float | None  # probability; None of a single trial


class Evaluation(Settings):
    """`evaluation.json`: everything that was found, and of what."""

    format: Literal["qdesk-evaluation/1"] = "qdesk-evaluation/1"
    model: str
    version: str
    bundle_sha256: str
    data_hash: str  # of all the bars that the version was trained on a part of
    made: str
    by: str
    code: str
    command: str
    own: Findings
    walk_forward: Findings | None
    snooping: SnoopingTest | None
    trials: Trials
    openings: list[HoldoutAccess]
    notes: list[str] = Field(default_factory=list)  # on what is wanting in the data


class Evaluated(NamedTuple):
    """An evaluation with what its report is drawn from."""

    evaluation: Evaluation
    own: Assessment
    walk_forward: Assessment | None
    bundle: Bundle
    run_id: str
    trained_by: str  # the run that the version is of


def evaluate(
    client: MlflowClient,
    request: Request,
    train: Train,
    code: str,
    folder: Path,
    show: Callable[[int, int], None] = lambda *_: None,
    draws: int = 2000,
) -> Evaluated:
    """Evaluates a version and records it.

    `train` trains one agent in one window, with the code of version `code`; the outcomes of such jobs are
    kept in the folder, and `show` takes how many are done, of how many. `draws` are the bootstrap's.

    Raises:
        NoVersion, CorruptError: there is no such version, or its bundle cannot be trusted.
        BarsError: bars are missing, bad or too few.
        BadEvaluation: the bars are not for this version, or were seen already.
    """
    end_the_dead(folder, client)
    material = material_of(client, request)
    kind, bars = chosen_bars(request, material)
    in_sample = require_unseen(request, material, kind, bars)
    divided = None
    if request.walk_forward is not None:
        divided = windows(
            len(known_bars(material)), material.settings["split"]["gap"], request.walk_forward
        )
    track = own_track(material, bars, kind, in_sample)  # what cannot be judged is not opened
    with running(folder, client) as alive:
        if kind in ("test", "bars") and not in_sample:
            which = f"{request.name} v{material.version.version}"
            begin = partial(_begin, client, material, request, alive)
            run = open_bars(client, bars, which, request.again, begin)
        else:
            run = _begin(client, material, request, alive, {})
        try:
            own = assess(track, draws)
            walked = snooping = None
            if divided is not None and request.walk_forward is not None:
                jobs = _jobs(material, divided, request.walk_forward.seeds, code)
                outcomes: dict[str, Outcome] = {}
                show(0, len(jobs))
                for job, outcome in run_jobs(jobs, train, folder, request.workers):
                    outcomes[job.key] = outcome
                    show(len(outcomes), len(jobs))
                walked = assess(walked_track(material, divided, jobs, outcomes), draws)
                snooping = _keep_series(client, run, material, walked)
            evaluation = Evaluation(
                model=request.name,
                version=str(material.version.version),
                bundle_sha256=str(material.bundle.sha256),
                data_hash=material.bars.content_hash,
                made=f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
                by=f"{user()}@{platform.node()}",
                code=code,
                command=request.command,
                own=own.findings,
                walk_forward=walked and walked.findings,
                snooping=snooping,
                trials=trials_on(client, material.bars.content_hash, own.findings.bars_a_year),
                openings=openings(client, bars if kind == "bars" else material.bars),
                notes=notes_of(material, bars),
            )
            _record(client, run, evaluation)
        except BaseException as error:
            stopped = not isinstance(error, Exception)
            client.set_terminated(run.info.run_id, "KILLED" if stopped else "FAILED")
            raise
    trained_by = str(material.version.run_id)
    return Evaluated(evaluation, own, walked, material.bundle, run.info.run_id, trained_by)


def newest(client: MlflowClient, version: ModelVersion) -> Evaluation | None:
    """The newest evaluation of a version that holds a walk-forward, if there is one."""
    run_id = version.tags.get(WALKED)
    if run_id is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        try:
            path = Path(client.download_artifacts(run_id, FILE, folder))
            return Evaluation.model_validate_json(path.read_text())
        except (MlflowException, OSError, UnicodeDecodeError, ValidationError) as error:
            reason = str(error).splitlines()[0]
            raise BadEvaluation(
                f"{version.name} v{version.version}: its evaluation, run {run_id}, cannot be read "
                f"({reason}); evaluate it again"
            ) from error


def _begin(
    client: MlflowClient,
    material: EvaluationInputs,
    request: Request,
    alive: dict[str, str],
    opened: dict[str, str],
) -> Run:
    """The run of an evaluation; an opening stands there before anybody has looked."""
    what = f"{request.name} v{material.version.version}"
    try:
        trained = client.get_run(str(material.version.run_id))
    except MlflowException as error:
        raise BadEvaluation(
            f"{what}: the run that trained it, {material.version.run_id}, is not in this store"
        ) from error
    found = client.get_experiment_by_name(EXPERIMENT)
    if found is None:
        beside = client.get_experiment(trained.info.experiment_id).artifact_location
        experiment = client.create_experiment(EXPERIMENT, artifact_location=str(beside))
    else:
        experiment = found.experiment_id
        if found.lifecycle_stage != "active":  # what was opened stays opened
            client.restore_experiment(experiment)
    walks = request.walk_forward is not None
    tags = {
        "model": request.name,
        "version": str(material.version.version),
        "data_hash": material.bars.content_hash,
        "configuration": configuration_hash(flatten(material.settings)),
        "algorithm": trained.data.tags.get("algorithm", "?"),
        "network": trained.data.tags.get("network", "?"),
        "walk_forward": "yes" if walks else "no",
        **alive,
        **opened,
    }
    what = ", walk-forward" if walks else f", {request.bars or request.split}"
    run = client.create_run(
        experiment, tags=tags, run_name=f"{request.name} v{material.version.version}{what}"
    )
    for key, value in (request.walk_forward.model_dump() if request.walk_forward else {}).items():
        client.log_param(run.info.run_id, f"walk_forward.{key}", value)
    return run


def _jobs(
    material: EvaluationInputs, divided: Sequence[Window], seeds: int, code: str
) -> list[Job]:
    settings = {**material.settings, "seed": 0, "seeds": 1}  # a job has its own
    if code.endswith("-dirty"):
        code += uuid.uuid4().hex  # who knows what it was: such jobs are not gone on with
    data_hash = material.bars.content_hash
    return [
        Job(settings, seed, window, data_hash, code)
        for window in divided
        for seed in range(1, seeds + 1)
    ]


def _keep_series(
    client: MlflowClient, run: Run, material: EvaluationInputs, walked: Assessment
) -> SnoopingTest:
    """Stores the typical seed's returns, and tests them with all others that walked the same bars."""
    table = walked.track.table
    judged = f"{material.bars.content_hash[:16]}/{len(table)}/{material.market.fingerprint()}"
    mine = walked.typical.returns
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / RETURNS
        save_file({"typical": mine}, path)
        client.log_artifact(run.info.run_id, str(path))
        client.set_tag(run.info.run_id, "judged", judged)
        client.log_metric(run.info.run_id, SHARPE_A_BAR, walked.findings.sharpe_a_bar or 0.0)
        series = {run.data.tags["configuration"]: mine}
        skipped = 0
        query = f"tags.walk_forward = 'yes' and tags.data_hash = '{material.bars.content_hash}'"
        for other in reversed(runs_of(client, query)):  # the newest of each configuration
            key = other.data.tags["configuration"]
            if other.data.tags.get("judged") != judged or key in series:
                continue
            try:
                found = client.download_artifacts(other.info.run_id, RETURNS, folder)
                theirs = load_file(found)["typical"]
            except (MlflowException, OSError, SafetensorError, KeyError):
                skipped += 1
                continue
            if len(theirs) == len(mine):
                series[key] = theirs
    returns = np.stack(list(series.values()), axis=1)
    overfitting = backtest_overfitting(returns)
    return SnoopingTest(
        trials=len(series),
        skipped=skipped,
        spa_flat=superior_ability(returns, np.zeros(len(mine))),
        spa_hold=superior_ability(returns, walked.hold.returns),
        overfitting=overfitting if np.isfinite(overfitting) else None,
    )


def _record(client: MlflowClient, run: Run, evaluation: Evaluation) -> None:
    """Writes numbers as metrics and as a file, and the version's tag, and ends the run."""
    run_id = run.info.run_id
    client.log_text(run_id, evaluation.model_dump_json(indent=1), FILE)
    for part, found in (("own", evaluation.own), ("walk_forward", evaluation.walk_forward)):
        if found is None:
            continue
        for name, value in found.measures[found.typical].items():
            if value is not None:
                client.log_metric(run_id, f"{part}/{name}", value)
        bound = found.difference_bounds["0.95"]
        if bound is not None:
            client.log_metric(run_id, f"{part}/sharpe_difference_bound", bound)
    if evaluation.walk_forward is not None:
        client.set_model_version_tag(evaluation.model, evaluation.version, WALKED, run_id)
    client.set_terminated(run_id, "FINISHED")
