"""The steps of one batch of deletions, each harmless when it is done again.

The order of what is written, and why:

1. The batch's record and plan, then the state ``processing`` of its requests. A crash between leaves a plan that
   nobody follows.
2. The new snapshot's files, the attempts at a model, the audit. None of it is in effect.
3. Holds are read again, the lease is checked, the model's files are read back and compared with their digests, and the
   model version is published. This is the moment at which the batch takes effect. It comes before the snapshot because
   it alone can be refused for good: another version may have been published during the training, and a model cannot be
   carried over to another parent without training again. Taking rows away from a snapshot can always be done again, to
   whichever snapshot is current. A batch that names nothing the model was trained on needs no new version: it takes
   effect with its snapshot, and one that names nothing at all with its state in the ledger.
4. Tombstones, so that no import brings the data back; the data set's snapshot; the state ``published``.
5. The purge of what still holds the rows, and the state ``purged``; the receipts, and ``receipted``. Last, the plan
   goes: it holds rows.
"""

import hashlib

from pydantic import ValidationError

from tru_core.errors import ConflictError, IntegrityError, MissingObjectError
from workflows.config.job import JobConfig
from workflows.data.deletion import write_snapshot_without
from workflows.data.snapshot import SnapshotManifest, current_snapshot_entry, publish_snapshot, read_manifest
from workflows.data.tombstones import Tombstone, add_tombstones
from workflows.deletions.batches.attempts import Attempt, forget_attempt, make_candidate
from workflows.deletions.batches.plan import BatchPlan, Planning, plan_batch
from workflows.deletions.batches.work import ORDER, Work
from workflows.deletions.ledger import State
from workflows.models.batches import (
    BatchRecord,
    batch_key,
    batch_of,
    place_of,
    read_batch_record,
    snapshot_id_of,
    snapshot_ids,
    snapshots_since,
    write_batch_record,
)
from workflows.models.publish import Version, current_version, publish_version, read_versions
from workflows.models.versions import check_model_files
from workflows.storage import (
    FileEntry,
    ObjectStore,
    canonical_json,
    manifest_key,
    read_json,
    read_verified,
    snapshot_prefix,
)
from workflows.storage.commands import doctor_command
from workflows.storage.disk_space import require_space
from workflows.storage.state_files import parse_state_manifest

# --- planning -----------------------------------------------------------------------------------


def plan_requests(work: Work, request_ids: list[str], *, minimum_waived: str) -> Planning:
    """Plan a batch of requests and keep the plan, or take the equal one that an interrupted run kept.

    Raises:
        PolicyError: If policy allows no such batch.
        ConflictError: If the model may know what the data set no longer holds.
    """
    store, job = work.store, work.job
    start = current_version(store, job.model)
    snapshot, entry = current_snapshot_entry(store, job.dataset)
    _check_model_knows(store, job, start, snapshot)
    requests = work.ledger.payloads(request_ids)
    planning = plan_batch(
        store, job, requests, start=start, snapshot=snapshot, entry=entry, minimum_waived=minimum_waived
    )
    if planning.plan is None:
        return planning
    return Planning(_keep_plan(store, planning.plan), planning.too_large)


def _keep_plan(store: ObjectStore, plan: BatchPlan) -> BatchPlan:
    record = BatchRecord(
        num_requests=len(plan.requests),
        changes_model=plan.changes_model,
        changes_data=plan.changes_data,
        **plan.model_dump(
            include={"batch_id", "model", "dataset", "created_at", "version", "snapshot_id", "minimum_waived"}
        ),
    )
    write_batch_record(store, record)
    key = batch_key(plan.model, plan.batch_id, "plan")
    store.put_if_absent(key, canonical_json(plan.model_dump(mode="json"), where=key))
    kept = read_plan(store, plan.model, plan.batch_id)
    if kept.model_copy(update={"created_at": plan.created_at, "minimum_waived": plan.minimum_waived}) != plan:
        raise IntegrityError(f"{key} is another plan than its name says. Nothing was changed. Find out who wrote it.")
    return kept


def read_plan(store: ObjectStore, model: str, batch_id: str) -> BatchPlan:
    """Read the plan of a batch.

    Raises:
        MissingObjectError: If there is none.
        IntegrityError: If it is damaged.
    """
    key = batch_key(model, batch_id, "plan")
    try:
        return BatchPlan.model_validate(read_json(store, key))
    except ValidationError as error:
        raise IntegrityError(f"{key} is no plan of a deletion batch. Restore it from a backup.") from error


def _check_model_knows(store: ObjectStore, job: JobConfig, start: Version, snapshot: SnapshotManifest) -> None:
    """Refuse where the data set lost something that the model may still know: a request for it would find nothing.

    A request that the data set does not know would then be answered "not found", and that would be wrong.
    """
    ids = snapshot_ids(store, job.dataset)
    place = place_of(start.snapshot_id, ids) if start.dataset == job.dataset else None
    later = ids[place + 1 :] if place is not None else [snapshot.snapshot_id]
    foreign = [name for name in later if not _is_own(store, job.model, name)]
    if place is None or foreign or snapshots_since(store, job.model, start):
        raise ConflictError(
            f"model {job.model} version {start.version} stands for snapshot {start.snapshot_id} of data set "
            f"{start.dataset}, the current one of {job.dataset} is {snapshot.snapshot_id}, which another model's "
            f"deletions, an import or a rollback put there: the model may know what the data set no longer holds. "
            f"Nothing was changed. Train it on the current snapshot with `tru train`, then run the same command again."
        )


def _is_own(store: ObjectStore, model: str, snapshot_id: str) -> bool:
    batch_id = batch_of(snapshot_id)
    return batch_id is not None and read_batch_record(store, model, batch_id) is not None


# --- making and publishing ----------------------------------------------------------------------


def prepare(work: Work, plan: BatchPlan) -> Attempt | None:
    """Write the new snapshot's files and make a model that has forgotten; None where no model is needed.

    Raises:
        AuditError: If no model passed.
    """
    if not plan.changes_model:
        return None
    require_space(work.store, _size_bytes(work.store, plan), what=f"batch {plan.batch_id}")
    _, entry = _write_snapshot(work.store, plan)
    with work.connect():
        return make_candidate(
            work.store, work.job, plan, snapshot=entry, audit=work.audit, show_progress=work.show_progress
        )


def _size_bytes(store: ObjectStore, plan: BatchPlan) -> int:
    """What a batch writes at most: buckets anew, two checkpoints (values, best values, two moments) and the model."""
    manifest = read_manifest(store, plan.snapshot)
    buckets = sum(entry.file.size_bytes for entry in manifest.interactions)
    state = parse_state_manifest(read_verified(store, plan.original), plan.original.key)
    return buckets + (2 * 4 + 1) * sum(file.size_bytes for file in (state.shared, *state.rows))


def publish_model(work: Work, plan: BatchPlan, attempt: Attempt) -> Version:
    """Make the batch's model the version that serves, once.

    Raises:
        ConflictError: If the lease is lost, or another version was published meanwhile.
        IntegrityError: If the model's files are not what was written. The next run makes them anew.
    """
    try:
        check_model_files(work.store, attempt.manifest)
    except (IntegrityError, MissingObjectError):
        forget_attempt(work.store, plan, attempt)
        raise
    work.lease.check()
    published = publish_version(
        work.store,
        plan.model,
        manifest=attempt.manifest,
        parent_version=plan.version,
        method=attempt.method,
        dataset=plan.dataset,
        snapshot_id=snapshot_id_of(plan.batch_id),
        run_id=attempt.run_id,
        job_digest=plan.batch_id,
    )
    found = version_of(work.store, plan)
    if found != published:
        raise IntegrityError(
            f"model {plan.model}: version {published.version} was published and reads back otherwise. Run "
            f"`{doctor_command(work.store)}` before anything else."
        )
    return published


def version_of(store: ObjectStore, plan: BatchPlan) -> Version | None:
    """The version that a batch published; None if it has not."""
    return next((v for v in read_versions(store, plan.model) if v.job_digest == plan.batch_id), None)


def is_in_effect(work: Work, plan: BatchPlan, states: set[State]) -> bool:
    """Whether a batch has taken effect and can only be finished.

    Args:
        states: Of its requests.
    """
    if states & set(ORDER[2:]):
        return True
    if plan.changes_model:
        return version_of(work.store, plan) is not None
    return plan.changes_data and any(batch_of(name) == plan.batch_id for name in snapshot_ids(work.store, plan.dataset))


def _write_snapshot(store: ObjectStore, plan: BatchPlan) -> tuple[SnapshotManifest, FileEntry]:
    """Write the current snapshot without the batch's rows. It is not current yet."""
    parent, entry = current_snapshot_entry(store, plan.dataset)
    snapshot_id = snapshot_id_of(plan.batch_id)
    if entry != plan.snapshot:  # another model's batch was published since this one was planned
        snapshot_id += f"-{entry.sha256[:16]}"
    return write_snapshot_without(store, parent, plan.rows, snapshot_id=snapshot_id, created_at=plan.created_at)


def publish_data(work: Work, plan: BatchPlan) -> str:
    """Write the batch's tombstones and make a snapshot without its rows the current one. Returns that snapshot's id."""
    store = work.store
    subjects = work.ledger.find_many(plan.request_ids)
    tombstones = [
        Tombstone(
            kind=request.kind,
            digest=request.subject_digest,
            at=request.received_time,
            user_digest=request.user_digest if request.kind == "interaction" else "",
            item_digest=request.item_digest if request.kind == "interaction" else "",
            key_id=work.identity.key_id,
        )
        for _, request in sorted(subjects.items())
    ]
    work.lease.check()
    add_tombstones(store, plan.dataset, tombstones, batch_id=plan.batch_id)
    if not plan.changes_data:
        return plan.snapshot_id
    for snapshot_id in snapshot_ids(store, plan.dataset):
        if batch_of(snapshot_id) == plan.batch_id:
            return snapshot_id
    manifest, entry = _write_snapshot(store, plan)
    work.lease.check()
    publish_snapshot(store, manifest, entry)
    return manifest.snapshot_id


def snapshot_entry(store: ObjectStore, dataset: str, snapshot_id: str) -> FileEntry:
    """The manifest of a snapshot, with its digest.

    Raises:
        MissingObjectError: If there is none.
    """
    key = manifest_key(snapshot_prefix(dataset, snapshot_id))
    body = store.read(key)
    return FileEntry(key=key, size_bytes=len(body), sha256=hashlib.sha256(body).hexdigest())


def drop_plan(store: ObjectStore, plan: BatchPlan) -> None:
    """Delete what a finished batch says of rows."""
    for name in ("request", "plan"):
        store.delete(batch_key(plan.model, plan.batch_id, name))


def find_plan(store: ObjectStore, model: str, batch_id: str) -> BatchPlan | None:
    """Read the plan of a batch; None if there is none."""
    try:
        return read_plan(store, model, batch_id)
    except MissingObjectError:
        return None
