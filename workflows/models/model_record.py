"""What a receipt says about a model version, a snapshot and the program, taken from where it lies."""

import functools
import hashlib
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

from tru_core.canonical import canonical_json
from tru_core.errors import IntegrityError
from tru_core.receipts.model_digest import model_digest
from tru_core.receipts.statement import CodeState, DataState, FileDigest, ModelState
from workflows.data.manifest import SnapshotManifest
from workflows.models.publish import Version
from workflows.storage import FileEntry, ObjectStore, read_verified
from workflows.storage.state_files import StateManifest, parse_state_manifest

IMAGE_VARIABLE = "TRU_IMAGE_DIGEST"  # set where the program runs from a container image
_ROOT = Path(__file__).resolve().parents[2]
_PACKAGES = ("tru-unlearning", "torch", "ray", "numpy", "pyarrow", "safetensors", "cryptography")


def file_digest(entry: FileEntry) -> FileDigest:
    """A manifest's entry as a receipt keeps it."""
    return FileDigest(key=entry.key, version_id=None, size_bytes=entry.size_bytes, sha256=entry.sha256)


def file_entry(digest: FileDigest) -> FileEntry:
    """The other way. Raises IntegrityError if the key leads out of the store."""
    return FileEntry(key=digest.key, size_bytes=digest.size_bytes, sha256=digest.sha256)


def data_state(entry: FileEntry, manifest: SnapshotManifest) -> DataState:
    """A snapshot, by the entry of its manifest."""
    counts = manifest.counts
    return DataState(
        snapshot_id=manifest.snapshot_id,
        manifest=file_digest(entry),
        num_interactions=counts.train + counts.valid + counts.test,
    )


def model_state(store: ObjectStore, version: Version) -> ModelState:
    """A model version, with the digest of its tensors. Reads every file of it.

    Raises:
        IntegrityError: If a file differs from its digest.
    """
    manifest = parse_state_manifest(read_verified(store, version.manifest), version.manifest.key)
    backbone = manifest.meta.get("backbone")
    if not isinstance(backbone, dict) or not isinstance(backbone.get("name"), str):
        raise IntegrityError(f"{version.manifest.key} does not say which backbone it is. It was not used.")
    return ModelState(
        version=version.version,
        manifest=file_digest(version.manifest),
        files=[file_digest(entry) for entry in state_entries(manifest)],
        tensor_digest=tensor_digest(store, manifest),
        backbone=backbone["name"],
        config_digest=hashlib.sha256(canonical_json(backbone, where=version.manifest.key)).hexdigest(),
    )


def state_entries(manifest: StateManifest) -> list[FileEntry]:
    """Every file of a model state but its manifest."""
    return [manifest.shared, *manifest.rows]


def tensor_digest(store: ObjectStore, manifest: StateManifest) -> str:
    """The digest of a model state's tensors. IntegrityError if a file differs from its digest."""
    return model_digest([(entry.key, read_verified(store, entry)) for entry in state_entries(manifest)])


@functools.cache
def code_state() -> CodeState:
    """Which program runs here, and on what. None is what cannot be found out, such as a commit without a repository."""
    changes = _git("status", "--porcelain", "--untracked-files=no")
    lock = _ROOT / "constraints.txt"
    found = {name: _version(name) for name in _PACKAGES} | {"python": platform.python_version()}
    return CodeState(
        git_sha=_git("rev-parse", "HEAD"),
        is_dirty=None if changes is None else bool(changes),
        lock_digest=hashlib.sha256(lock.read_bytes()).hexdigest() if lock.is_file() else None,
        image_digest=os.environ.get(IMAGE_VARIABLE),
        versions={name: version for name, version in found.items() if version is not None},
        hardware=f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors",
    )


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    """What git says about the program's own repository; None if it lies in none."""
    if not (_ROOT / ".git").exists():
        return None
    try:
        answer = subprocess.run(
            ["git", "-C", str(_ROOT), *arguments], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()
