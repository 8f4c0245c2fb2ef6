"""What in a store still holds rows that were deleted from a data set: found by listing, not by memory.

A snapshot, a run or a model version holds deleted rows if it is of a snapshot before the newest deletion. Files that
the snapshots since name again, and the model that serves, are never on the list. Manifests of old snapshots and
models stay: they hold counts and digests, and receipts refer to them.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Literal

from tru_core.errors import MissingObjectError
from workflows.config.job import JobConfig
from workflows.data.snapshot import manifest_files, read_manifest
from workflows.models.batches import batch_of, place_of
from workflows.models.publish import Version, read_versions
from workflows.storage import FileEntry, ObjectInfo, ObjectStore, dataset_log, read_json, read_log, snapshots_prefix
from workflows.storage.object_keys import run_about_key

Kind = Literal["snapshot", "model_version", "other_model", "run", "batch"]

ORPHAN_HOURS = 24
_STAMP = "%Y%m%dT%H%M%SZ"  # how the id of an imported snapshot begins


@dataclass(frozen=True)
class Remnant:
    """Something that holds deleted rows.

    Attributes:
        name: A snapshot, version, run or batch by its own name.
        objects: What is to be deleted, manifests first.
        until: When it may be deleted: UTC; None is now.
        reason: Why not now, or why not at all where there are no objects.
    """

    kind: Kind
    name: str
    objects: list[ObjectInfo]
    until: datetime | None = None
    reason: str = ""


@dataclass
class _Scope:
    """What a purge of one data set is about.

    Attributes:
        ids: Published snapshots, oldest first.
        cut: Place of the newest deletion's snapshot: what is before it holds deleted rows.
        protected: Prefixes of models whose files stay for now.
        manifests: Keys of the manifests of all versions.
    """

    store: ObjectStore
    job: JobConfig
    now: datetime
    ids: list[str]
    cut: int
    protected: set[str] = field(default_factory=set)
    manifests: set[str] = field(default_factory=set)

    def is_old(self, snapshot_id: str) -> bool:
        """Whether a snapshot is from before the newest deletion; one that was never published counts as old."""
        place = place_of(snapshot_id, self.ids)
        return place is None or place < self.cut


def list_remnants(store: ObjectStore, job: JobConfig, *, open_batches: set[str], now: datetime) -> list[Remnant]:
    """List all that still holds rows deleted from the job's data set.

    Args:
        open_batches: Batches of the job's model that are not finished: their plans are needed.
        now: With a time zone.
    """
    log = read_log(store, dataset_log(job.dataset))
    ids = [str(line.entry.get("snapshot_id")) for line in log]
    cut = max((place for place, name in enumerate(ids) if batch_of(name)), default=0)
    scope = _Scope(store, job, now, ids, cut)
    kept_files = set()
    for line in log[cut:]:
        manifest = FileEntry.model_validate(line.entry["manifest"])
        kept_files |= {manifest.key} | {file.key for file in manifest_files(read_manifest(store, manifest))}
    found = [*_models(scope)]  # first: it says which models are protected
    found += _snapshots(scope, kept_files, open_batches)
    found += _runs(scope)
    found += _batches(scope, open_batches)
    return found


def _manifests_first(objects: list[ObjectInfo]) -> list[ObjectInfo]:
    return sorted(objects, key=lambda info: (not info.key.endswith("/manifest.json"), info.key))


# --- snapshots ----------------------------------------------------------------------------------


def _snapshots(scope: _Scope, kept_files: set[str], open_batches: set[str]) -> Iterator[Remnant]:
    prefix = snapshots_prefix(scope.job.dataset)
    folders: dict[str, list[ObjectInfo]] = defaultdict(list)
    for info in scope.store.list(prefix):
        folders[info.key[len(prefix) + 1 :].partition("/")[0]].append(info)
    for name, objects in sorted(folders.items()):
        objects = [info for info in objects if info.key not in kept_files]
        batch_id = batch_of(name)
        if name in scope.ids:
            objects = [info for info in objects if not info.key.endswith("/manifest.json")]
            if scope.ids.index(name) < scope.cut and objects:
                yield Remnant("snapshot", name, objects)
        elif batch_id is not None:
            if batch_id not in open_batches:
                yield Remnant("snapshot", name, _manifests_first(objects))
        elif (until := _orphan_until(name)) is None or until > scope.now:
            reason = "it was never published; an import may be writing it"
            yield Remnant("snapshot", name, objects, until=until or _after(scope.now, ORPHAN_HOURS), reason=reason)
        else:
            yield Remnant("snapshot", name, _manifests_first(objects))


def _after(time: datetime, hours: float) -> datetime:
    return time + timedelta(hours=hours)


def _orphan_until(name: str) -> datetime | None:
    """When an import that never ended is old enough to be dropped; None if its name does not tell its age."""
    try:
        return _after(datetime.strptime(name.partition("-")[0], _STAMP).replace(tzinfo=UTC), ORPHAN_HOURS)
    except ValueError:
        return None


# --- models -------------------------------------------------------------------------------------


def _models(scope: _Scope) -> Iterator[Remnant]:
    """Versions of every model of the data set. Marks those whose files stay as protected.

    Two models, or two versions, may name one and the same saved state.
    """
    names = sorted({info.key.split("/")[1] for info in scope.store.list("models")})
    logs = {name: versions for name in names if (versions := read_versions(scope.store, name))}
    for versions in logs.values():
        scope.manifests |= {version.manifest.key for version in versions}
        scope.protected.add(_model_prefix(versions[-1]))
        scope.protected |= {_model_prefix(version) for version in versions if version.dataset != scope.job.dataset}
    own = {name: versions for name, versions in logs.items() if versions[-1].dataset == scope.job.dataset}
    withdrawn = [(name, *pair) for name, versions in own.items() for pair in pairwise(versions)]
    for _, version, following in withdrawn:
        if not (scope.is_old(version.snapshot_id) and _grace_ends(scope, following) <= scope.now):
            scope.protected.add(_model_prefix(version))
    for name, versions in own.items():
        serving = versions[-1]
        if name != scope.job.model and scope.is_old(serving.snapshot_id):
            reason = f"version {serving.version} serves and is from before the deletion: train it anew or delete there"
            yield Remnant("other_model", name, [], reason=reason)
    serving_prefixes = {_model_prefix(versions[-1]) for versions in logs.values()}
    for name, version, following in withdrawn:
        if scope.is_old(version.snapshot_id) and _model_prefix(version) not in serving_prefixes:
            yield from _withdrawn(scope, name, version, until=_grace_ends(scope, following))


def _grace_ends(scope: _Scope, following: Version) -> datetime:
    """When the files of a version may go: days of grace after the next one was published."""
    return datetime.fromisoformat(following.created_at) + timedelta(days=scope.job.delete.grace_days)


def _withdrawn(scope: _Scope, model: str, version: Version, *, until: datetime) -> Iterator[Remnant]:
    prefix = _model_prefix(version)
    objects = [info for info in scope.store.list(prefix) if not info.key.endswith("/manifest.json")]
    if not objects:
        return
    name = str(version.version) if model == scope.job.model else f"{model} {version.version}"
    if prefix in scope.protected:
        until = max(until, _after(scope.now, ORPHAN_HOURS)) if until <= scope.now else until
        yield Remnant("model_version", name, objects, until=until, reason="it is withdrawn and in its days of grace")
    else:
        yield Remnant("model_version", name, objects)


def _model_prefix(version: Version) -> str:
    return version.manifest.key.rpartition("/")[0]


# --- runs and batches ---------------------------------------------------------------------------


def _runs(scope: _Scope) -> Iterator[Remnant]:
    """Checkpoints, models, lists, worker errors, Ray's and Tune's own files of runs on old snapshots."""
    folders: dict[str, list[ObjectInfo]] = defaultdict(list)
    for info in scope.store.list("runs"):
        folders[info.key.split("/")[1]].append(info)
    for run_id, objects in sorted(folders.items()):
        about = _about(scope.store, run_id)
        if about.get("dataset") != scope.job.dataset or not scope.is_old(about.get("snapshot_id", "")):
            continue
        results = {f"{prefix.rpartition('/')[0]}/result.json" for prefix in scope.protected}
        kept = scope.manifests | results | {run_about_key(run_id)}
        folders_kept = (f"runs/{run_id}/attempts/", *(f"{prefix}/" for prefix in scope.protected))
        gone = [info for info in objects if info.key not in kept and not info.key.startswith(folders_kept)]
        if gone:
            yield Remnant("run", run_id, _manifests_first(gone))


def _about(store: ObjectStore, run_id: str) -> dict[str, str]:
    try:
        return read_json(store, run_about_key(run_id))
    except MissingObjectError:
        return {}


def _batches(scope: _Scope, open_batches: set[str]) -> Iterator[Remnant]:
    """Plans and requests by row of batches that are finished, or that never began."""
    folders: dict[str, list[ObjectInfo]] = defaultdict(list)
    for info in scope.store.list(f"deletions/{scope.job.model}"):
        batch_id, _, name = info.key.removeprefix(f"deletions/{scope.job.model}/").partition("/")
        if name in ("plan.json", "request.json") and batch_id not in open_batches:
            folders[batch_id].append(info)
    for batch_id, objects in sorted(folders.items()):
        yield Remnant("batch", batch_id, objects)
