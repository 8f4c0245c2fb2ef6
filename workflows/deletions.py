"""One batch of deletions: a request file in; a new model version, a new snapshot and a record of each request out.

The order of what is written, and why:

1. The plan, the request by rows and the new snapshot's files, under keys that carry the batch's id. None of it is
   in effect: a failure up to and in the training leaves the old version serving on the old snapshot.
2. The model version. This is the moment at which the batch takes effect. It comes before the snapshot because it
   alone can be refused for good: another version may have been published during the training, and a model cannot be
   carried over to another parent without training again. Taking rows away from a snapshot can always be done again,
   to whichever snapshot is current. A batch that names nothing the model was trained on (held-out interactions only)
   needs no new version: it takes effect with its snapshot.
3. The data set's snapshot. A crash before it leaves a model that has forgotten and a data set that has not.
4. A record of each request, then the mark that the batch is done.

Every run first looks whether the newest version or the current snapshot was made by a batch that has no such mark,
and finishes that batch from its plan. So the same command again, or any other batch, completes 3 and 4, and the same
command then finds its requests recorded. A run that failed before step 2 is repeated by the same command under the
same batch id and finds the plan, the files, the checkpoints and the results that are there.

A ledger with states, holds, tombstones and receipts has its place around :func:`run_batch`; it is not here yet.
"""

import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from tru_core.errors import ConflictError, IntegrityError
from workflows import runs
from workflows.config import JobConfig
from workflows.deletion_plan import BatchPlan, PlannedRequest, plan_batch
from workflows.deletion_records import DeletionRecord, check_bodies, read_record, write_record
from workflows.outcomes import recorded
from workflows.publish import Version, current_version, publish_version, read_versions
from workflows.requests import DeletionRequest, body_digest, parse_requests, read_request_file, slow_digest
from workflows.snapshot import SnapshotManifest, current_snapshot_entry, publish_snapshot
from workflows.snapshot_deletion import write_snapshot_without
from workflows.storage import (
    FileEntry,
    ObjectStore,
    canonical_json,
    dataset_log,
    deletion_prefix,
    open_store,
    read_json,
    read_log,
    stage_result_key,
    write_json,
)
from workflows.tasks import Stage, WorkerTask

Figures = dict[str, Any]
Value = TypeVar("Value")
Result = TypeVar("Result")

_BATCH_SNAPSHOT = re.compile(r"delete-([0-9a-f]{32})(?:-[0-9a-f]{16})?")
_STAGE = "tru"


@dataclass(frozen=True)
class DoneBatch:
    """A batch that is carried out: the version and the snapshot that hold its result."""

    plan: BatchPlan
    version: Version
    snapshot_id: str


def run_batch(job: JobConfig, requests: Path, *, show_progress: bool = True) -> Figures:
    """Forget what a request file asks for and publish the result. Needs a connection to Ray where there is training.

    The same file again changes nothing. How the run ended is kept under ``runs/<run_id>``, whichever way it ended.

    Returns:
        ``num_requests`` by outcome (``already_done`` were recorded by an earlier run) and, where a batch was made or
        finished, its version, snapshot, interactions forgotten, recalls and seconds.

    Raises:
        ConfigError: The file cannot be read or a field is malformed.
        DataError: A column is missing or unknown.
        ConflictError: A request id stands for different things, or somebody else published meanwhile.
        PolicyError: The batch names too much of the training data.
        AuditError: The workers found another number of interactions than the planner.
    """
    store, body = open_store(job.storage), read_request_file(requests)
    settings = job.model_dump(mode="json", exclude={"storage", "scaling", "sweep", "forget", "keys"})
    run_id = runs.run_name("delete", settings, slow_digest(body, salt=job.model.encode()))
    return recorded(store, run_id, "delete run", lambda: _run(store, job, requests.name, body, show_progress))


def _run(store: ObjectStore, job: JobConfig, source: str, body: bytes, show_progress: bool) -> Figures:
    requests = parse_requests(body, name=source)
    if not requests:
        return {"num_requests": {}, "num_interactions": 0}
    done = finish_interrupted(store, job.model, job.dataset)
    digests = _in_threads(body_digest, requests)
    records = _in_threads(lambda request: read_record(store, job.model, request.request_id), requests)
    check_bodies(requests, digests, records, source)
    fresh = [place for place, record in enumerate(records) if record is None]
    if fresh:
        plan = _plan(store, job, [requests[p] for p in fresh], [digests[p] for p in fresh], source)
        done = _carry_out(store, job, plan, show_progress)
    outcomes = {request.request_id: request.outcome for request in done.plan.requests} if done else {}
    counts = Counter(outcomes.get(request.request_id, "already_done") for request in requests)
    figures: Figures = {"num_requests": dict(sorted(counts.items())), "num_interactions": 0}
    return figures | (_batch_figures(store, done) if done else {})


def _in_threads(function: Callable[[Value], Result], values: Sequence[Value]) -> list[Result]:
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        return list(pool.map(function, values))


# --- one batch ----------------------------------------------------------------------------------


def _key(model: str, batch_id: str, name: str) -> str:
    return f"{deletion_prefix(model, batch_id)}/{name}.json"


def _plan(
    store: ObjectStore, job: JobConfig, requests: list[DeletionRequest], digests: list[str], source: str
) -> BatchPlan:
    """Plan a batch of new requests and keep the plan, or take the equal one that an interrupted run kept."""
    start = current_version(store, job.model)
    snapshot, entry = current_snapshot_entry(store, job.dataset)
    _check_model_knows(store, job, start, snapshot)
    plan = plan_batch(store, job, requests, digests, start=start, snapshot=snapshot, entry=entry, source=source)
    key = _key(job.model, plan.batch_id, "plan")
    store.put_if_absent(key, canonical_json(plan.model_dump(mode="json"), where=key))
    kept = read_plan(store, job.model, plan.batch_id)
    if kept.model_copy(update={"created_at": plan.created_at}) != plan:
        raise ConflictError(
            f"{key}: an interrupted run planned other requests under the same ids. Nothing was changed. Give the "
            f"requests new ids."
        )
    return kept


def read_plan(store: ObjectStore, model: str, batch_id: str) -> BatchPlan:
    """Read the plan of a batch.

    Raises:
        IntegrityError: If it is damaged.
    """
    key = _key(model, batch_id, "plan")
    try:
        return BatchPlan.model_validate(read_json(store, key))
    except ValidationError as error:
        raise IntegrityError(f"{key} is no plan of a deletion batch. Restore it from a backup.") from error


def _check_model_knows(store: ObjectStore, job: JobConfig, start: Version, snapshot: SnapshotManifest) -> None:
    """Refuse where somebody else changed the data since the model: who is gone there may still be in the model.

    A request that the data set does not know would then be answered "not found", and that would be wrong.
    """
    ids = _snapshot_ids(store, job.dataset)
    is_same = start.dataset == job.dataset and start.snapshot_id in ids
    later = ids[ids.index(start.snapshot_id) + 1 :] if is_same else [snapshot.snapshot_id]
    if not all(_is_own(store, job.model, snapshot_id) for snapshot_id in later):
        raise ConflictError(
            f"model {job.model} version {start.version} stands for snapshot {start.snapshot_id} of data set "
            f"{start.dataset}, the current one of {job.dataset} is {snapshot.snapshot_id}, which another model's "
            f"deletions made: the model may know what the data set no longer holds. Nothing was changed. Train it on "
            f"the current snapshot with `tru train`, then run the same command again."
        )


def _snapshot_ids(store: ObjectStore, dataset: str) -> list[str]:
    return [str(line.entry.get("snapshot_id")) for line in read_log(store, dataset_log(dataset))]


def _batch_of(snapshot_id: str) -> str | None:
    match = _BATCH_SNAPSHOT.fullmatch(snapshot_id)
    return match[1] if match else None


def _is_own(store: ObjectStore, model: str, snapshot_id: str) -> bool:
    batch_id = _batch_of(snapshot_id)
    return batch_id is not None and store.exists(_key(model, batch_id, "plan"))


def _carry_out(store: ObjectStore, job: JobConfig, plan: BatchPlan, show_progress: bool) -> DoneBatch:
    if plan.changes_model:
        snapshot, _ = _write_snapshot(store, plan)
        _publish_model(store, job, plan, snapshot.snapshot_id, show_progress)
    return _finish(store, plan)


def _write_snapshot(store: ObjectStore, plan: BatchPlan) -> tuple[SnapshotManifest, FileEntry]:
    """Write the current snapshot without the batch's rows. It is not current yet."""
    parent, entry = current_snapshot_entry(store, plan.dataset)
    snapshot_id = f"delete-{plan.batch_id}"
    if entry != plan.snapshot:  # another model's batch was published since this one was planned
        snapshot_id += f"-{entry.sha256[:16]}"
    return write_snapshot_without(store, parent, plan.rows, snapshot_id=snapshot_id, created_at=plan.created_at)


def _publish_model(
    store: ObjectStore, job: JobConfig, plan: BatchPlan, snapshot_id: str, show_progress: bool
) -> Version:
    """Unlearn on the snapshot that still holds the deleted edges, and make the result the version that serves."""
    request = write_json(store, _key(plan.model, plan.batch_id, "request"), plan.rows.model_dump(mode="json"))
    task = WorkerTask(
        job=job,
        run_id=f"deletion-{plan.batch_id}",
        snapshot=plan.snapshot,
        stages=[Stage(name=_STAGE, kind="unlearn")],
        request=request,
        original=plan.original,
    )
    results = runs.results_of(store, task, show_progress=show_progress)
    return publish_version(
        store,
        plan.model,
        manifest=FileEntry.model_validate(results[_STAGE]["model"]),
        parent_version=plan.version,
        method="tru",
        dataset=plan.dataset,
        snapshot_id=snapshot_id,
        run_id=task.run_id,
        job_digest=plan.batch_id,
    )


# --- after a batch took effect ------------------------------------------------------------------


def finish_interrupted(store: ObjectStore, model: str, dataset: str) -> DoneBatch | None:
    """Finish the batch that took effect and was interrupted before its end, if there is one."""
    versions, snapshots = read_versions(store, model), _snapshot_ids(store, dataset)
    newest = [f"delete-{versions[-1].job_digest}"] if versions else []
    for batch_id in map(_batch_of, newest + snapshots[-1:]):
        if batch_id is None or not store.exists(_key(model, batch_id, "plan")):
            continue  # made by training, by import, or by another model's batch
        if not store.exists(_key(model, batch_id, "done")):
            return _finish(store, read_plan(store, model, batch_id))
    return None


def _finish(store: ObjectStore, plan: BatchPlan) -> DoneBatch:
    """Do what is left when a batch has taken effect: its snapshot, its records, the mark that it is done.

    Raises:
        ConflictError: If a request id was recorded for something else meanwhile. Everything is done all the same.
    """
    snapshot_id = _publish_snapshot(store, plan) if plan.changes_data else plan.snapshot_id
    versions = read_versions(store, plan.model)
    version = next((v for v in versions if v.job_digest == plan.batch_id), versions[plan.version - 1])
    done = DoneBatch(plan, version, snapshot_id)
    written = _in_threads(lambda request: write_record(store, _record_of(request, done)), plan.requests)
    mark = {"version": version.version, "snapshot_id": snapshot_id, "num_requests": len(plan.requests)}
    write_json(store, _key(plan.model, plan.batch_id, "done"), mark)
    if not all(written):
        raise ConflictError(
            f"batch {plan.batch_id}: {written.count(False)} of its request ids were recorded for something else while "
            f"it ran. Those records were left as they are; what the batch asked for was done all the same. Give these "
            f"requests ids of their own."
        )
    return done


def _publish_snapshot(store: ObjectStore, plan: BatchPlan) -> str:
    """Make a snapshot without the batch's rows the current one, unless that is done. Returns its id."""
    for snapshot_id in _snapshot_ids(store, plan.dataset):
        if _batch_of(snapshot_id) == plan.batch_id:
            return snapshot_id
    manifest, entry = _write_snapshot(store, plan)
    publish_snapshot(store, manifest, entry)
    return manifest.snapshot_id


def _record_of(request: PlannedRequest, done: DoneBatch) -> DeletionRecord:
    plan, version = done.plan, done.version
    return DeletionRecord(
        request_id=request.request_id,
        kind=request.kind,
        outcome=request.outcome,
        body_digest=request.body_digest,
        batch_id=plan.batch_id,
        model=plan.model,
        dataset=plan.dataset,
        version_before=plan.version,
        version_after=version.version,
        snapshot_before=plan.snapshot_id,
        snapshot_after=done.snapshot_id,
        num_interactions=request.num_interactions,
        received_time=request.received_time,
        regulation=request.regulation,
        planned_at=plan.created_at,
        published_at=version.created_at if version.version != plan.version else None,
        recorded_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _batch_figures(store: ObjectStore, done: DoneBatch) -> Figures:
    figures: Figures = {
        "batch_id": done.plan.batch_id,
        "version": done.version.version,
        "parent_version": done.plan.version,
        "snapshot_id": done.snapshot_id,
        "num_interactions": done.plan.num_interactions,
    }
    if done.plan.changes_model:
        key = stage_result_key(done.version.run_id, _STAGE)
        figures |= runs.plain_figures(read_json(store, key))
    return figures
