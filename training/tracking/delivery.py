"""From a run's journal to MLflow. Whatever is sent twice is there once.

Nothing here keeps anything: an entry that MLflow does not take raises, stays in the journal, and is sent
again.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT, MLFLOW_LOGGED_ARTIFACTS

from durable.verified import CorruptError
from models.bundle import Bundle
from models.registry import NOT_THERE, model_id_of, propose, register
from training.tracking.entries import (
    Artifact,
    Begun,
    Data,
    End,
    Entry,
    Points,
    Proposed,
    Registered,
    Resumed,
    Tags,
)
from training.tracking.journal import RunJournal
from training.tracking.store import RUN, Store, is_transient, short

OWNER = "qdesk_journal"  # the tag that names the journal which a run was trained with last
ENDED = "ended"  # the tag of a run whose end was never recorded
BATCH = 500  # metrics that are sent at once; MLflow's client divides what is too much for a server
ENTRIES = 200  # that are looked at at once


def deliver(store: Store, journal: RunJournal, paused: Callable[[], bool] = lambda: False) -> None:
    """Sends everything of a journal that was not sent.

    Between two batches `paused` is asked; where it says so, the rest is left for another time.

    Raises:
        MlflowException, SQLAlchemyError, sqlite3.Error, OSError: it does not arrive now.
    """
    if journal.pending(1):
        _Delivery(store, journal).all(paused)


class _Delivery:
    """One attempt to send a journal."""

    def __init__(self, store: Store, journal: RunJournal) -> None:
        self.store = store
        self.journal = journal
        self.client = store.client
        self.run_id = self._run_id()

    def all(self, paused: Callable[[], bool]) -> None:
        """Sends everything that can be sent, or until a pause is wanted."""
        while (entries := self.journal.pending(ENTRIES)) and not paused():
            batch: list[Points] = []
            for entry in entries:
                if isinstance(entry, Points):
                    batch.append(entry)
                    if sum(each.count for each in batch) < BATCH:
                        continue
                self._send_points(batch)
                batch = []
                if not isinstance(entry, Points):
                    self._send(entry)
            self._send_points(batch)

    def _send_points(self, entries: Sequence[Points]) -> None:
        if not entries:
            return
        there = self._of_before()
        metrics = [
            Metric(name, value, entry.time, entry.step, **self._measured_on(entry))
            for entry in entries
            for name, value in entry.metrics.items()
            if entry.beside or (name, entry.step) not in there
        ]
        try:
            self.client.log_batch(self.run_id, metrics)
        except MlflowException as error:
            if not self._never(error):
                raise
            if len(entries) > 1:  # one of them: the others are not to be lost with it
                for entry in entries:
                    self._send_points([entry])
                return
            self._refused(entries[-1], error)
            return
        self.journal.acknowledge(entries[-1])

    def _send(self, entry: Entry) -> None:
        """Sends anything but points."""
        try:
            answers = SENDS[type(entry)](self, entry) or {}
        except (MlflowException, CorruptError) as error:
            if isinstance(error, MlflowException) and not self._never(error):
                raise
            self._refused(entry, error)
            return
        self.journal.acknowledge(entry, **answers)

    def _run_id(self) -> str:
        """MLflow's id of the journal's run, which is created where it is missing."""
        known = self.journal.answers.get("run_id")
        head = self.journal.head
        if known is not None:
            return str(known)
        if head is None:
            raise OSError(f"{self.journal.folder}: the journal does not say what run it is of")
        run = self.store.find_run(self.journal.run, head.experiment, head.adopts)
        if run is None:
            run = self.client.create_run(
                self.store.experiment(head.experiment),
                start_time=head.started,
                run_name=head.name,
                tags={**head.tags, RUN: self.journal.run, OWNER: head.owner},
            )
        run_id = str(run.info.run_id)
        if not run.data.params:  # it was made just now, or its maker died right after
            params = [Param(key, value) for key, value in head.params.items()]
            self.client.log_batch(run_id, params=params)
        self.journal.answers["run_id"] = run_id
        return run_id

    def _of_before(self) -> set[tuple[str, int]]:
        """Points that MLflow has, of a run that another process began.

        That process may have been on another machine, or a power cut may have taken from the journal what
        was sent already.
        """
        adopts = self.journal.head is not None and self.journal.head.adopts
        if not adopts and not self.journal.reopened:
            return set()
        there = self.store.there
        if self.run_id not in there:
            there[self.run_id] = {
                (point.key, point.step)
                for name in self.client.get_run(self.run_id).data.metrics
                for point in self.client.get_metric_history(self.run_id, name)
            }
        return there[self.run_id]

    def _measured_on(self, entry: Points) -> dict[str, Any]:
        """The checkpoint and the data that points belong to."""
        known: dict[str, Any] = {}
        version = self.journal.answers.get("versions", {}).get(entry.version)
        if version is not None:
            known["model_id"] = version["model_id"]
            if entry.data is not None:
                known["dataset_name"], known["dataset_digest"] = entry.data
        return known

    def _never(self, error: MlflowException) -> bool:
        """Whether MLflow will not take an entry however often it is asked."""
        if error.error_code not in (*NOT_THERE, "BAD_REQUEST") or is_transient(error):
            return False
        run = self.client.get_run(self.run_id)  # not to be had: then the entry is not at fault
        if run.info.lifecycle_stage != "active":
            raise MlflowException(
                f"run {run.info.run_name} was deleted in MLflow; restore it there, or remove "
                f"{self.journal.folder}"
            )
        return True

    def _refused(self, entry: Entry, error: Exception) -> None:
        """Goes on without an entry that MLflow will never take; the journal keeps it."""
        refused = [*self.journal.answers.get("refused", []), [entry.number, short(error)]]
        self.journal.acknowledge(entry, refused=refused)

    def _begin(self, _: Entry) -> None:
        """The run was made, and has its settings, once its id is known."""

    def _tags(self, entry: Tags) -> None:
        for key, value in entry.tags.items():
            self.client.set_tag(self.run_id, key, value)

    def _data(self, entry: Data) -> None:
        tag = InputTag(MLFLOW_DATASET_CONTEXT, entry.context)
        described = Dataset(
            entry.name, entry.digest, entry.source_type, entry.source, entry.schema, entry.profile
        )
        self.client.log_inputs(self.run_id, [DatasetInput(described, [tag])])

    def _artifact(self, entry: Artifact) -> None:
        folder = self.journal.files_of(entry)
        if not folder.exists():
            raise CorruptError(f"{folder}: is not there")
        for path in sorted(folder.iterdir()):
            self.client.log_artifact(self.run_id, str(path), entry.folder or None)
            if entry.table:
                name = "/".join(part for part in (entry.folder, path.name) if part)
                tags = self.client.get_run(self.run_id).data.tags
                known = json.loads(tags.get(MLFLOW_LOGGED_ARTIFACTS, "[]"))
                tables = [each for each in known if each["path"] != name]
                tables.append({"path": name, "type": "table"})
                self.client.set_tag(self.run_id, MLFLOW_LOGGED_ARTIFACTS, json.dumps(tables))

    def _version(self, entry: Registered) -> dict[str, Any]:
        bundle = Bundle.load(self.journal.files_of(entry))
        made = register(self.client, bundle, self.run_id, entry.tags, entry.description)
        known = {"name": made.name, "version": str(made.version), "model_id": model_id_of(made)}
        return {"versions": {**self.journal.answers.get("versions", {}), entry.key: known}}

    def _candidate(self, entry: Proposed) -> dict[str, Any]:
        known = self.journal.answers.get("versions", {}).get(entry.key)
        if known is None:
            return {}
        version = self.client.get_model_version(known["name"], known["version"])
        made = propose(self.client, version)
        number = None if made.candidate is None else str(made.candidate.version)
        known = {"version": number, "before": made.before, "reason": made.reason}
        return {"candidate": {"name": version.name, **known}}

    def _resumed(self, entry: Resumed) -> None:
        tags = self.client.get_run(self.run_id).data.tags
        if ENDED in tags:
            self.client.delete_tag(self.run_id, ENDED)
        self.client.set_tag(self.run_id, OWNER, entry.owner)
        self.client.update_run(self.run_id, status="RUNNING")

    def _end(self, entry: End) -> None:
        if entry.dead:
            run = self.client.get_run(self.run_id)
            owner = self.journal.head.owner if self.journal.head else None
            mine = run.data.tags.get(OWNER, owner) == owner
            if run.info.status != "RUNNING" or not mine:
                return  # it ended otherwise, or goes on elsewhere
            self.client.set_tag(self.run_id, ENDED, "its process was gone")
        self.client.set_terminated(self.run_id, entry.status, end_time=entry.time)


SENDS: dict[type[Entry], Callable[[_Delivery, Any], dict[str, Any] | None]] = {
    Begun: _Delivery._begin,
    Tags: _Delivery._tags,
    Data: _Delivery._data,
    Artifact: _Delivery._artifact,
    Registered: _Delivery._version,
    Proposed: _Delivery._candidate,
    Resumed: _Delivery._resumed,
    End: _Delivery._end,
}
