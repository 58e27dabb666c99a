"""A store with three registered versions, and ways to spoil them."""

from pathlib import Path

import mlflow
from mlflow import MlflowClient

from models.promotion import Condition, Judgement
from models.promotion import promote as promote_judged
from models.promotion_records import Promotion, resolve
from models.registry import model_id_of, register
from tests.support.bundles import bundle_of
from tests.support.networks import linear_q_network
from tests.support.stores import fresh
from training.tracking.store import Store

NAME = "qdesk-linear"


def register_three(mlruns: Path, versions: int = 3) -> None:
    """A store with three versions, or more; MLflow's own setting of where it is stays as it was."""
    before = mlflow.get_tracking_uri()
    client = Store(fresh(mlruns)).client
    experiment = client.create_experiment("tested", artifact_location=f"{mlruns}/artifacts")
    register_some(client, experiment, versions)
    mlflow.set_tracking_uri(before)


def register_some(client: MlflowClient, experiment: str, versions: int) -> None:
    """So many versions, of networks that differ by their seed."""
    run_id = client.create_run(experiment, run_name="run").info.run_id
    for seed in range(1, versions + 1):
        model = linear_q_network(3, seed)
        tags = {"bars": "made", "net_return": str(seed / 10), "algorithm": "dqn", "seed": "1"}
        register(client, bundle_of(model), run_id, tags, f"number {seed}")
    client.set_terminated(run_id)


def uri_of(mlruns: Path) -> str:
    return f"sqlite:///{mlruns}/mlflow.db"


def bundle_folder(client: MlflowClient, which: str) -> Path:
    logged = client.get_logged_model(model_id_of(resolve(client, NAME, which)))
    return Path(str(logged.artifact_location)) / "bundle"


def spoil(client: MlflowClient, which: str) -> None:
    path = bundle_folder(client, which) / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")


def promote(
    client: MlflowClient, name: str, which: str, why: str, who: str | None = None
) -> Promotion:
    """As if the gate had said yes: these versions were never evaluated."""
    good = [Condition("good", passed=True, found="so it is", required="to be good")]
    return promote_judged(client, name, which, why, who, judge=lambda *_: Judgement(good))
