"""Model versions: an append-only log; the newest entry is the version that serves.

Version n is log entry n. Whoever creates entry n+1 from version n has published; everyone else
reads and decides again. Publishing the same model twice changes nothing.
"""

from datetime import UTC, datetime

from pydantic import ValidationError

from tru_core.errors import ConflictError, IntegrityError, MissingObjectError
from tru_core.settings import Settings
from workflows.storage import FileEntry, ObjectStore, append_log_entry, model_log, read_log
from workflows.storage.check import require_create_only


class Version(Settings):
    """One published model version.

    Attributes:
        version: Its number, from 1.
        manifest: The model state's manifest.
        parent_version: The version it was made from; None for one trained from scratch.
        method: ``fit`` or the unlearning method.
        dataset, snapshot_id: What it stands for: the data that it was trained on or still may know.
        run_id: The run that made it.
        job_digest: Digest of the parts of the job file that decide its content.
        created_at: UTC, ISO 8601.
        rollback_of: The earlier version whose model serves again; None for a model of its own.
        override: Why a model serves again that knows deleted subjects; None if none does.
    """

    version: int
    manifest: FileEntry
    parent_version: int | None
    method: str
    dataset: str
    snapshot_id: str
    run_id: str
    job_digest: str
    created_at: str
    rollback_of: int | None = None
    override: str | None = None


def read_versions(store: ObjectStore, model: str) -> list[Version]:
    """Read every version of a model, oldest first.

    Raises:
        IntegrityError: If the log has a gap or an entry that is no version, or another one.
    """
    versions = []
    for line in read_log(store, model_log(model)):
        try:
            version = Version.model_validate(line.entry)
        except ValidationError as error:
            raise IntegrityError(f"{model_log(model)}: entry {line.number} is no model version.") from error
        if version.version != line.number:
            raise IntegrityError(f"{model_log(model)}: entry {line.number} says that it is version {version.version}.")
        versions.append(version)
    return versions


def _find_version(versions: list[Version], manifest: FileEntry, run_id: str) -> Version | None:
    return next((version for version in versions if version.manifest == manifest and version.run_id == run_id), None)


def current_version(store: ObjectStore, model: str) -> Version:
    """Read the version that serves.

    Raises:
        MissingObjectError: If the model has none.
    """
    versions = read_versions(store, model)
    if not versions:
        raise MissingObjectError(
            f"model {model} has no version in {store.url}. Train it with `tru train`, or correct `model:` or "
            "`storage:` in the job file."
        )
    return versions[-1]


def publish_version(
    store: ObjectStore,
    model: str,
    *,
    manifest: FileEntry,
    parent_version: int | None,
    method: str,
    dataset: str,
    snapshot_id: str,
    run_id: str,
    job_digest: str,
    rollback_of: int | None = None,
    override: str | None = None,
) -> Version:
    """Make a model the one that serves, as the next version.

    Args:
        parent_version: The version it was made from, which must still serve; None replaces whichever does.

    Raises:
        ConflictError: If another version was published meanwhile.
        IntegrityError: If the storage would let two publishers win.
    """
    require_create_only(store)
    versions = read_versions(store, model)
    known = _find_version(versions, manifest, run_id)
    if known is not None:
        return known
    current = versions[-1].version if versions else None
    if parent_version is not None and current != parent_version:
        raise ConflictError(
            f"model {model}: version {current} serves, but this one was made from version {parent_version}. It was not "
            "published and nothing was lost. Run the same command again: it starts from the version that serves."
        )
    version = Version(
        version=len(versions) + 1,
        manifest=manifest,
        parent_version=parent_version,
        method=method,
        dataset=dataset,
        snapshot_id=snapshot_id,
        run_id=run_id,
        job_digest=job_digest,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        rollback_of=rollback_of,
        override=override,
    )
    entry = version.model_dump(mode="json")
    if not append_log_entry(store, model_log(model), number=version.version, entry=entry):
        known = _find_version(read_versions(store, model), manifest, run_id)
        if known is not None:
            return known
        raise ConflictError(
            f"model {model}: somebody published version {version.version} first. This one was not published and "
            "nothing was lost. Run the same command again."
        )
    return version
