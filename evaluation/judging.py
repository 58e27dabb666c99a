"""The gate asked about a version: by its newest evaluation, and by the trials of this moment."""

from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from evaluation.evaluate import Evaluated, newest
from evaluation.gate import Policy, Provenance, judge
from evaluation.trials import Trials, trials_on
from models.bundle import Bundle
from models.promotion import Condition, Judge, Judgement


def gate(path: Path | None) -> Judge:
    """What judges a version by its newest evaluation and the trials of this moment.

    Raises `BadPolicy` where the policy file cannot be used.
    """
    policy = Policy.load(path)

    def judged(client: MlflowClient, version: ModelVersion, bundle: Bundle) -> Judgement:
        evaluation = newest(client, version)
        if evaluation is None:
            facts = _facts(bundle, "", "", "")
            conditions = judge(None, None, Trials(0, 0.0, {}), facts, policy)
            return Judgement(conditions, policy.changes)
        year = evaluation.own.bars_a_year
        trials = trials_on(client, evaluation.data_hash, year)
        facts = _facts(bundle, evaluation.data_hash, evaluation.bundle_sha256, evaluation.code)
        conditions = judge(evaluation.walk_forward, evaluation.own, trials, facts, policy)
        return Judgement(conditions, policy.changes)

    return judged


def conditions_of(evaluated: Evaluated, policy: Policy) -> list[Condition]:
    """The gate's conditions for an evaluation that was just made."""
    evaluation = evaluated.evaluation
    own = evaluation.own if evaluation.own.kind == "validation" else None
    facts = _facts(
        evaluated.bundle, evaluation.data_hash, evaluation.bundle_sha256, evaluation.code
    )
    return judge(evaluation.walk_forward, own, evaluation.trials, facts, policy)


def _facts(bundle: Bundle, data: str, evaluated_bundle: str, code: str) -> Provenance:
    origin = bundle.manifest.origin
    same = evaluated_bundle == bundle.sha256
    return Provenance(
        origin.data_hash, data, origin.code_version, code, bundle.golden_error(), same_bundle=same
    )
