"""MLflow model versions: a plain Keras model, its signature, and what is known of it."""

import tempfile
from collections.abc import Mapping
from importlib.metadata import version

import keras
import mlflow.keras
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

from models.networks import ACTIONS, copy_of

CANDIDATE = "candidate"
NO_ALIAS = (ErrorCode.Name(INVALID_PARAMETER_VALUE), ErrorCode.Name(RESOURCE_DOES_NOT_EXIST))
DESCRIPTION = (
    "Q-networks trained by `qdesk train`. A version is a checkpoint; the alias `candidate` is the one "
    "that did best on the validation bars that were used last."
)


def model_name(network: keras.Model) -> str:
    """The registered model that a network's versions belong to: `qdesk-linear`, `qdesk-two-layer`."""
    return f"qdesk-{network.name.replace('_', '-')}"


def register(
    client: MlflowClient,
    network: keras.Model,
    run_id: str,
    step: int,
    tags: Mapping[str, str],
    description: str,
) -> ModelVersion:
    """Logs a clean copy of the network as a checkpoint of the run and makes it a model version.

    By way of the client, since `mlflow.keras.log_model` takes long: it infers requirements and reads
    the run's whole metric history.

    Args:
        client: of the store that the run is in.
        network: the online network; optimizer and target stay behind.
        run_id: the run that trained it.
        step: iterations it was trained for.
        tags: of checkpoint and version, with `judged_on` and `net_return`; the step is added.
        description: of the version, Markdown.

    Returns:
        The new version; metrics logged with its `model_id_of` belong to this checkpoint.
    """
    name = model_name(network)
    experiment_id = client.get_run(run_id).info.experiment_id
    tags = {**tags, "step": str(step)}
    logged = client.create_logged_model(
        experiment_id, name=f"{name}-{step}", source_run_id=run_id, tags=tags, model_type="dqn"
    )
    with tempfile.TemporaryDirectory() as folder:
        mlflow.keras.save_model(
            copy_of(network),
            folder,
            mlflow_model=Model(model_id=logged.model_id, run_id=run_id),
            signature=_signature(network),
            pip_requirements=[f"{p}=={version(p)}" for p in ("keras", "tensorflow", "numpy")],
        )
        client.log_model_artifacts(logged.model_id, folder)
    client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step)])
    client.finalize_logged_model(logged.model_id, "READY")
    _create_registered_model(client, name)
    return client.create_model_version(
        name,
        source=f"models:/{logged.model_id}",
        run_id=run_id,
        tags=tags,
        description=description,
        model_id=logged.model_id,
    )


def model_id_of(version: ModelVersion) -> str:
    """The logged model behind a version; the store leaves `version.model_id` empty."""
    return str(version.source).removeprefix("models:/")


def propose(client: MlflowClient, version: ModelVersion) -> ModelVersion:
    """Makes a version the candidate, unless the present one did at least as well on the same bars.

    Versions are comparable where their tags `judged_on` are equal; the tag `net_return` decides.

    Returns:
        The candidate after this.
    """
    try:
        present = client.get_model_version_by_alias(version.name, CANDIDATE)
    except MlflowException as error:
        if error.error_code not in NO_ALIAS:
            raise
    else:
        comparable = present.tags.get("judged_on") == version.tags["judged_on"]
        if comparable and float(present.tags["net_return"]) >= float(version.tags["net_return"]):
            return present
    client.set_registered_model_alias(version.name, CANDIDATE, version.version)
    return version


def _create_registered_model(client: MlflowClient, name: str) -> None:
    try:
        client.create_registered_model(name, description=DESCRIPTION)
    except MlflowException as error:
        if error.error_code != ErrorCode.Name(RESOURCE_ALREADY_EXISTS):
            raise


def _signature(network: keras.Model) -> ModelSignature:
    state_size = network.input_shape[-1]
    float32 = np.dtype(np.float32)
    return ModelSignature(
        inputs=Schema([TensorSpec(float32, (-1, state_size), "state")]),
        outputs=Schema([TensorSpec(float32, (-1, ACTIONS))]),
    )
