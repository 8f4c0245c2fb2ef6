"""What an audit is about: which data, which request, which two versions. From a job file or from what was published."""

from dataclasses import dataclass
from typing import Literal

from tru_core.artifact import sha256_hex
from tru_core.errors import ConfigError, MissingObjectError
from workflows.config.job import JobConfig
from workflows.data.snapshot import current_snapshot_entry
from workflows.models.batches import batch_key
from workflows.models.publish import Version, read_versions
from workflows.storage import FileEntry, ObjectStore, dataset_log, read_json, read_log
from workflows.tasks import RequestRows

Regime = Literal["user", "item", "interaction"]


@dataclass(frozen=True)
class AuditScope:
    """What an audit is about.

    Attributes:
        snapshot: The data with the edges that are to be forgotten.
        regime, label: What is deleted, and what tables call it.
        request: A batch's request by rows; None where the job's ``forget`` draws it.
        original, candidate: Published models, where those are examined; None: trained, and made by methods.
        title, method: What tables call a published candidate, and what made it.
    """

    snapshot: FileEntry
    regime: Regime
    label: str
    request: FileEntry | None = None
    original: FileEntry | None = None
    candidate: FileEntry | None = None
    title: str = ""
    method: str = ""


def scope_of(job: JobConfig, store: ObjectStore) -> AuditScope:
    """Find what a job's audit is about.

    Raises:
        MissingObjectError: If the data set, the version or the batch is not there.
        ConfigError: If the version was not made from another one, or the batch published none.
    """
    if job.audit.batch:
        return _batch_scope(job, store)
    if job.audit.version is not None:
        return _version_scope(job, store, job.audit.version)
    _, entry = current_snapshot_entry(store, job.dataset)
    return AuditScope(entry, job.forget.regime, job.forget.label)


def _version_scope(job: JobConfig, store: ObjectStore, number: int) -> AuditScope:
    versions = read_versions(store, job.model)
    if not number <= len(versions):
        raise MissingObjectError(
            f"audit.version: model {job.model} has {len(versions)} versions, no version {number}. Nothing was started."
        )
    version, parent = versions[number - 1], _parent(job, versions, number)
    entry = _snapshot_entry(store, parent)
    return AuditScope(
        entry,
        job.forget.regime,
        job.forget.label,
        original=parent.manifest,
        candidate=version.manifest,
        title=f"version {number} ({version.method})",
        method=version.method,
    )


def _parent(job: JobConfig, versions: list[Version], number: int) -> Version:
    parent = versions[number - 1].parent_version
    if parent is None:
        raise ConfigError(
            f"audit.version: version {number} of {job.model} was trained from scratch: there is nothing that it was to "
            "forget. Nothing was started. Name a version that `tru unlearn` or `tru delete run` made."
        )
    return versions[parent - 1]


def _snapshot_entry(store: ObjectStore, version: Version) -> FileEntry:
    """The manifest of the data that a version was trained on."""
    for line in read_log(store, dataset_log(version.dataset)):
        if line.entry.get("snapshot_id") == version.snapshot_id:
            return FileEntry.model_validate(line.entry["manifest"])
    raise MissingObjectError(
        f"data set {version.dataset} has no snapshot {version.snapshot_id} any more, which version {version.version} "
        "was trained on: it cannot be audited. Nothing was started."
    )


def _batch_scope(job: JobConfig, store: ObjectStore) -> AuditScope:
    """A batch's own plan says all: where it started, what it was asked for, what it published."""
    plan_key = batch_key(job.model, job.audit.batch, "plan")
    if not store.exists(plan_key):
        raise MissingObjectError(
            f"audit.batch: {plan_key} is not there: model {job.model} has no batch {job.audit.batch}, or what it "
            "deleted is purged already, and with it what could be asked about. Nothing was started."
        )
    plan = read_json(store, plan_key)
    version = next((v for v in read_versions(store, job.model) if v.job_digest == job.audit.batch), None)
    if version is None:
        raise ConfigError(
            f"audit.batch: batch {job.audit.batch} has published no version of {job.model}. Nothing was started. Wait "
            "until it has, or run `tru delete run` again."
        )
    rows = RequestRows.model_validate(plan["rows"])
    return AuditScope(
        FileEntry.model_validate(plan["snapshot"]),
        regime_of(rows),
        f"batch {job.audit.batch[:8]}",
        request=_entry_of(store, batch_key(job.model, job.audit.batch, "request")),
        original=FileEntry.model_validate(plan["original"]),
        candidate=version.manifest,
        title=f"version {version.version} ({version.method})",
        method=version.method,
    )


def _entry_of(store: ObjectStore, key: str) -> FileEntry:
    body = store.read(key)
    return FileEntry(key=key, size_bytes=len(body), sha256=sha256_hex(body))


def regime_of(rows: RequestRows) -> Regime:
    """What a request is of, for planting: users before interactions before items."""
    return "user" if rows.users else "interaction" if rows.pairs else "item"
