"""MLflow model versions: a plain Keras model or a table, its signature, and what is known of it."""

import getpass
import tempfile
import warnings
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import version
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import mlflow.pyfunc
import numpy as np
from mlflow import MlflowClient
from mlflow.entities import LoggedModelOutput
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from mlflow.models.signature import ModelSignature
from mlflow.protos.databricks_pb2 import (
    INVALID_PARAMETER_VALUE,
    RESOURCE_ALREADY_EXISTS,
    RESOURCE_DOES_NOT_EXIST,
    ErrorCode,
)
from mlflow.types.schema import Schema, TensorSpec

from models.architectures import ACTIONS, ARCHITECTURES, TABULAR
from models.bundle import Bundle
from models.tabular import TabularQ

if TYPE_CHECKING:
    import keras

BUNDLE = "bundle"  # the folder of a version's bundle among its artifacts
CANDIDATE = "candidate"
NOT_THERE = (ErrorCode.Name(INVALID_PARAMETER_VALUE), ErrorCode.Name(RESOURCE_DOES_NOT_EXIST))
DESCRIPTION = (
    "{what} `{called}`, trained by `qdesk train` to choose positions from Q-values. Each version says "
    "what it was trained on, how it did beside buy and hold, and the command that repeats it.\n\n"
    "- `candidate`: of all versions judged on the bars, costs and fills of the last training, the "
    "one that did best there; none that was ruined\n"
    "- `champion`: the version that may trade, moved by `qdesk models promote` and `rollback` alone; "
    "each move is recorded as a tag `promotion/<time>`\n\n"
    "Look closer: `qdesk models show {name}`, `qdesk evaluate {name} --walk-forward`"
)


def register(
    client: MlflowClient, bundle: Bundle, run_id: str, tags: Mapping[str, str], description: str
) -> ModelVersion:
    """Logs a bundle, and the model it is of, as a checkpoint of the run and makes it a version.

    By way of the client, since `mlflow.keras.log_model` takes long: it infers requirements and reads
    the run's whole metric history. What is registered already is not registered again, and one that was
    broken off is gone on with.

    Args:
        client: of the store that the run is in.
        bundle: of a network of Keras's own layers, which needs Keras here, or of a table; its origin says
            what the model `qdesk-<name>` is called and for how long it was trained.
        run_id: the run that it is logged under.
        tags: of checkpoint and version, with `judged_on` and `net_return`; step and hashes are added.
        description: of the version, Markdown.

    Returns:
        The version; metrics logged with its `model_id_of` belong to this checkpoint.
    """
    known = find_version(client, run_id, bundle)
    if known is not None:
        return known
    name = registered_name(bundle.manifest.origin.name)
    step = bundle.manifest.origin.step
    tags = {**tags, "step": str(step), "weights_sha256": bundle.weights_sha256}
    run = client.get_run(run_id)
    model = bundle.model()
    broken_off = client.search_logged_models(
        [run.info.experiment_id],
        f"source_run_id = '{run_id}' AND tags.weights_sha256 = '{bundle.weights_sha256}' "
        f"AND name = '{name}-{step}'",
    )
    logged = next(iter(broken_off), None) or client.create_logged_model(
        run.info.experiment_id,
        name=f"{name}-{step}",
        source_run_id=run_id,
        tags=tags,
        model_type="tabular" if isinstance(model, TabularQ) else "dqn",
    )
    with tempfile.TemporaryDirectory() as folder:
        _save(model, Path(folder), Model(model_id=logged.model_id, run_id=run_id))
        part = Path(folder) / BUNDLE
        part.mkdir()
        tags["bundle_sha256"] = bundle.save_into(part)
        client.log_model_artifacts(logged.model_id, folder)
    outputs = [] if run.outputs is None else run.outputs.model_outputs
    if logged.model_id not in {output.model_id for output in outputs}:
        client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step)])
    client.finalize_logged_model(logged.model_id, "READY")
    _create_registered_model(client, name, bundle)
    return client.create_model_version(
        name,
        source=f"models:/{logged.model_id}",
        run_id=run_id,
        tags=tags,
        description=description,
        model_id=logged.model_id,
    )


def user() -> str:
    """Who is at work, for the record."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user may have no name
        return "unknown"


def registered_name(called: str) -> str:
    """What the registered model of a name is called."""
    return f"qdesk-{called.replace('_', '-')}"


def model_id_of(version: ModelVersion) -> str:
    """The logged model behind a version; the store leaves `version.model_id` empty."""
    return str(version.source).removeprefix("models:/")


def find_version(client: MlflowClient, run_id: str, bundle: Bundle) -> ModelVersion | None:
    """The version of a run that holds the very weights of a bundle, after as many iterations."""
    origin = bundle.manifest.origin
    found = client.search_model_versions(f"run_id = '{run_id}'")
    wanted = {"step": str(origin.step), "weights_sha256": bundle.weights_sha256}
    for each in found:
        if each.name == registered_name(origin.name) and wanted.items() <= each.tags.items():
            return each
    return None


class Proposal(NamedTuple):
    """The candidate after a version was proposed."""

    candidate: ModelVersion | None  # None where there is none
    before: str | None  # number of the candidate before
    reason: str


def propose(client: MlflowClient, version: ModelVersion) -> Proposal:
    """Makes the best version that was judged as a new one was the candidate.

    Versions are comparable where their tags `judged_on` are equal: the same validation bars, costs and
    fills. Among those the largest `net_return` decides, the older version where it is equal. A training
    under other costs in between changes nothing. A version that was ruined is never the candidate.
    """
    present = _candidate(client, version.name)
    before = None if present is None else str(present.version)
    judged_on = version.tags["judged_on"]
    comparable = [
        each
        for each in client.search_model_versions(f"name = '{version.name}'")
        if each.tags.get("judged_on") == judged_on
        and net_return_of(each) is not None
        and not was_ruined(each)
    ]
    if not comparable:
        reason = f"v{version.version} was ruined on its validation bars"
        return Proposal(present, before, reason)
    best = max(comparable, key=lambda each: (net_return_of(each) or 0.0, -int(each.version)))
    number = str(best.version)
    gained = _made(best)
    if present is not None and number == before:
        return Proposal(
            best, before, f"none did better than {gained} on these bars, costs and fills"
        )
    of = f"best of {len(comparable)}" if len(comparable) > 1 else "the only one"
    reason = f"{of} on these bars, costs and fills, {gained}"
    if present is not None and present.tags.get("judged_on") != judged_on:
        reason += f"; v{before} was judged on others"
    elif present is not None:
        was = "was ruined" if was_ruined(present) else f"made {_made(present)}"
        reason += f"; v{before} {was}"
    client.set_registered_model_alias(version.name, CANDIDATE, number)
    return Proposal(best, before, reason)


def was_ruined(version: ModelVersion) -> bool:
    """Whether an account that followed a version lost everything on its validation bars.

    Versions registered before that was a tag are known by a loss of all there was.
    """
    net_return = net_return_of(version)
    return version.tags.get("ruined") == "yes" or (net_return is not None and net_return <= -1)


def net_return_of(version: ModelVersion) -> float | None:
    """What a version made on its validation bars, share of the account; None where no number says it."""
    with suppress(KeyError, ValueError):
        net_return = float(version.tags["net_return"])
        return net_return if isfinite(net_return) else None
    return None


def _made(version: ModelVersion) -> str:
    net_return = net_return_of(version)
    return "nothing known" if net_return is None else f"{net_return:+.1%}"


def _candidate(client: MlflowClient, name: str) -> ModelVersion | None:
    try:
        return client.get_model_version_by_alias(name, CANDIDATE)
    except MlflowException as error:
        if error.error_code not in NOT_THERE:
            raise
        return None


def _create_registered_model(client: MlflowClient, name: str, bundle: Bundle) -> None:
    kind = bundle.manifest.network.kind
    what = "Q-tables" if kind == TABULAR else ARCHITECTURES[kind].about
    called = bundle.manifest.origin.name
    try:
        client.create_registered_model(
            name, description=DESCRIPTION.format(what=what, called=called, name=name)
        )
    except MlflowException as error:
        if error.error_code != ErrorCode.Name(RESOURCE_ALREADY_EXISTS):
            raise


def _save(model: "keras.Model | TabularQ", folder: Path, known: Model) -> None:
    """Writes a model the way MLflow keeps it: no pickle, no code."""
    if isinstance(model, TabularQ):
        with tempfile.TemporaryDirectory() as data, warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*input example was not provided")
            model.save(Path(data))
            mlflow.pyfunc.save_model(
                str(folder),
                loader_module="models.tabular",
                data_path=data,
                mlflow_model=known,
                signature=_signature(model.state_size, (ACTIONS,), name=None),
                pip_requirements=_pinned("numpy"),
            )
        return
    from mlflow.keras import save_model

    save_model(
        model,
        str(folder),
        mlflow_model=known,
        signature=_signature(model.input_shape[-1], model.output_shape[1:], name="state"),
        pip_requirements=_pinned("keras", "tensorflow", "numpy"),
    )


def _pinned(*packages: str) -> list[str]:
    return [f"{package}=={version(package)}" for package in packages]


def _signature(state_size: int, outputs: tuple[int, ...], name: str | None) -> ModelSignature:
    float32 = np.dtype(np.float32)
    return ModelSignature(
        inputs=Schema([TensorSpec(float32, (-1, state_size), name)]),
        outputs=Schema([TensorSpec(float32, (-1, *outputs))]),
    )
