"""The versions of a model as its operators see them, and the way back to an earlier one."""

from typing import Any

from tru_core.errors import ConfigError, IntegrityError, PolicyError
from workflows.config.job import JobConfig
from workflows.models.batches import snapshots_since
from workflows.models.publish import Version, current_version, publish_version, read_versions
from workflows.storage import FileEntry, ObjectStore, open_store, read_verified
from workflows.storage.run_lock import hold_lease
from workflows.storage.state_files import parse_state_manifest

Figures = dict[str, Any]


def check_model_files(store: ObjectStore, manifest: FileEntry) -> None:
    """Read every file of a saved model and compare it with its digest.

    Raises:
        MissingObjectError: If a file is gone.
        IntegrityError: If a file differs from its digest.
    """
    state = parse_state_manifest(read_verified(store, manifest), manifest.key)
    for file in (state.shared, *state.rows):
        read_verified(store, file)


def _has_files(store: ObjectStore, manifest: FileEntry) -> bool:
    """Whether a model's files are there. They are not read."""
    if not store.exists(manifest.key):
        return False
    state = parse_state_manifest(read_verified(store, manifest), manifest.key)
    return all(store.exists(file.key) for file in (state.shared, *state.rows))


def list_versions(job: JobConfig) -> Figures:
    """Say of every version of the job's model where it stands.

    Returns:
        ``versions``, oldest first: ``status`` is ``serving``; ``withdrawn`` for one that may know deleted subjects;
        ``superseded`` for another that does not serve. ``files`` is ``kept`` or ``purged``.
    """
    store = open_store(job.storage)
    versions = read_versions(store, job.model)
    lines = [
        {
            "version": version.version,
            "status": _status(store, job.model, version, versions[-1]),
            "files": "kept" if _has_files(store, version.manifest) else "purged",
            **version.model_dump(
                mode="json",
                include={
                    "parent_version",
                    "method",
                    "dataset",
                    "snapshot_id",
                    "created_at",
                    "rollback_of",
                    "override",
                    "run_id",
                },
            ),
        }
        for version in versions
    ]
    return {"model": job.model, "versions": lines}


def _status(store: ObjectStore, model: str, version: Version, serving: Version) -> str:
    if version == serving:
        return "serving"
    return "withdrawn" if snapshots_since(store, model, version) else "superseded"


def roll_back(job: JobConfig, number: int, *, override: str = "") -> Figures:
    """Let an earlier version's model serve again, as a new entry of the log. Doing it twice changes nothing.

    Args:
        override: Why it is to be done although that model knows deleted subjects. Kept in the log for good.

    Raises:
        ConfigError: If there is no such version.
        PolicyError: If it may know a deleted subject and no reason is given.
        ConflictError: If a batch of deletions runs, or another version was published meanwhile.
        IntegrityError: If its files were purged or are damaged.
    """
    store = open_store(job.storage)
    with hold_lease(store, job.dataset, lease_seconds=job.delete.lease_seconds) as lease:
        serving, versions = current_version(store, job.model), read_versions(store, job.model)
        if not 1 <= number <= len(versions):
            raise ConfigError(
                f"model {job.model} has versions 1 to {len(versions)}, and no version {number}. Version "
                f"{serving.version} still serves. See `tru versions`."
            )
        wanted = versions[number - 1]
        if wanted.manifest == serving.manifest:
            return _figures(job, serving)
        later = snapshots_since(store, job.model, wanted)
        if later and not override.strip():
            raise PolicyError(
                f"model {job.model}: version {number} was trained before {len(later)} deletions (the first made "
                f"snapshot {later[0]}) and may know who was deleted. Version {serving.version} still serves. Roll back "
                f"to a later version or train anew; to do it all the same, give a reason with --override, which is "
                f"recorded, and train anew as soon as possible."
            )
        if not _has_files(store, wanted.manifest):
            raise IntegrityError(
                f"model {job.model}: files of version {number} were purged or are lost. Version {serving.version} "
                f"still serves. Choose a version whose files `tru versions` shows as kept."
            )
        check_model_files(store, wanted.manifest)
        lease.check()
        version = publish_version(
            store,
            job.model,
            manifest=wanted.manifest,
            parent_version=serving.version,
            method="rollback",
            dataset=wanted.dataset,
            snapshot_id=wanted.snapshot_id,
            run_id=f"rollback-{number}-from-{serving.version}",
            job_digest=f"rollback-{number}-from-{serving.version}",
            rollback_of=number,
            override=override.strip() if later else None,
        )
        return _figures(job, version)


def _figures(job: JobConfig, version: Version) -> Figures:
    return {"model": job.model, "version": version.version} | version.model_dump(
        include={"rollback_of", "override", "snapshot_id"}
    )
