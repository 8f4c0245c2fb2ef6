"""A store with the tiny data set, a model of it and keys; requests to delete; and what counts when it is over.

Workers run in the calling process, without Ray.
"""

import base64
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from tests.tiny_snapshot import item_id, user_id, write_tiny_snapshot
from tru_core.artifact import sha256_hex, unpack_tensors
from tru_core.collective import LocalCollective
from tru_core.fit import FitSettings
from tru_core.unlearning.tru.settings import TRUSettings
from workflows.config.delete import DeleteConfig
from workflows.config.job import BackboneConfig, JobConfig
from workflows.config.unlearn import UnlearnConfig
from workflows.data.snapshot import InteractionTable, SnapshotManifest, current_snapshot, read_interactions
from workflows.deletions.ledger import Ledger, LedgerRequest, open_ledger
from workflows.deletions.runner import run_deletions
from workflows.key_files import KeysConfig, load_identity_key, make_keys
from workflows.models.publish import Version, current_version, read_versions
from workflows.running import runs
from workflows.running.results import Results
from workflows.running.worker import TaskRun
from workflows.storage import ObjectStore, StorageConfig, dataset_log, open_store, read_log
from workflows.storage.state_files import parse_state_manifest
from workflows.tasks import WorkerTask

HEADER = "request_id,kind,user_id,item_id\n"
NOT_THERE = "user-9999"
LINES = (f"r1,user,{user_id(3)},", f"r2,item,,{item_id(7)}", f"r3,user,{NOT_THERE},")


def make_job(folder: Path, **changes: Any) -> JobConfig:
    """A job on the store below a folder, with the keys beside it; deletions are purged without grace."""
    values: dict[str, Any] = {
        "storage": StorageConfig(url=str(folder / "store")),
        "dataset": "tiny",
        "model": "mgcn",
        "precision": "float64",
        "backbone": BackboneConfig(settings={"embedding_size": 8}),
        "fit": FitSettings(max_epochs=3, batch_size=256, learning_rate=1e-2),
        "unlearn": UnlearnConfig(settings=TRUSettings(batch_size=256)),
        "delete": policy(),
        "keys": KeysConfig(folder=str(folder / "keys")),
    }
    return JobConfig(**(values | changes))


def policy(**changes: Any) -> DeleteConfig:
    """Policy of the tests: no grace, short leases."""
    return DeleteConfig(**({"grace_days": 0, "leftover_minutes": 0.02, "lease_seconds": 0.3, "audit": "off"} | changes))


def with_policy(job: JobConfig, **changes: Any) -> JobConfig:
    return job.model_copy(update={"delete": policy(**changes)})


def run_here(task: WorkerTask, *, show_progress: bool) -> Results:
    """Run the workers' body in this process, as one worker."""
    return TaskRun(task, LocalCollective()).run()


def must_not_run(task: WorkerTask, *, show_progress: bool) -> Results:
    """Stand for the workers where nothing is to be trained."""
    raise RuntimeError("nothing is to be trained")


def make_world(folder: Path) -> JobConfig:
    """Make the store, train version 1 and make keys. ``runs.run_task`` must be one that needs no Ray."""
    job = make_job(folder)
    write_tiny_snapshot(open_store(job.storage))
    runs.train(job)
    make_keys(folder / "keys")
    return job


def copy_world(source: Path, target: Path) -> JobConfig:
    """A copy of a whole world in another folder."""
    shutil.copytree(source, target, dirs_exist_ok=True)
    return make_job(target)


def write_file(folder: Path, text: str | bytes, name: str = "requests.csv") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def delete(job: JobConfig, folder: Path, *lines: str, name: str = "requests.csv", **options: Any) -> dict[str, Any]:
    """Submit requests and carry them out."""
    path = write_file(folder, HEADER + "".join(f"{line}\n" for line in lines), name)
    return run_deletions(job, path, show_progress=False, **options)


def ledger_of(job: JobConfig) -> Ledger:
    return open_ledger(open_store(job.storage), job.model, load_identity_key(job.keys), config=job.ledger)


def request_of(job: JobConfig, request_id: str) -> LedgerRequest:
    return ledger_of(job).find(request_id)


def objects(store: ObjectStore) -> dict[str, bytes]:
    """Every object, without the outcomes of attempts, which each attempt leaves, and leases."""
    return {
        info.key: store.read(info.key)
        for info in store.list("")
        if "/attempts/" not in info.key and not info.key.startswith("locks/")
    }


def all_rows(store: ObjectStore, manifest: SnapshotManifest) -> InteractionTable:
    return read_interactions(store, manifest, range(manifest.num_user_buckets))


def pairs_of(store: ObjectStore, manifest: SnapshotManifest) -> set[tuple[int, int, int]]:
    table = all_rows(store, manifest)
    columns = (table.user_rows, table.item_rows, table.split)
    return set(zip(*(column.tolist() for column in columns), strict=True))


def model_tensors(store: ObjectStore, version: Version) -> dict[str, np.ndarray]:
    """The tensors of a version that one worker wrote."""
    manifest = parse_state_manifest(store.read(version.manifest.key), version.manifest.key)
    files = [manifest.shared, *manifest.rows]
    tensors = [unpack_tensors(store.read(file.key), key=file.key) for file in files]
    return {name: value.numpy() for part in tensors for name, value in part.items()}


def attempts_of(store: ObjectStore) -> list[str]:
    return [info.key for info in store.list("runs") if "/attempts/" in info.key and "/delete-" in info.key]


def newest_attempt(store: ObjectStore) -> dict[str, Any]:
    """The newest of one run's attempts; of several runs, it would be that of the last by name."""
    return json.loads(store.read(attempts_of(store)[-1]))


def end_state(job: JobConfig) -> dict[str, str]:
    """What counts when everything is over, without times, random prefixes and how often something was tried.

    Batches are named by their order: the id of one follows from the times of those before it.
    """
    store = open_store(job.storage)
    versions = [version.model_dump(exclude={"created_at", "manifest"}) for version in read_versions(store, job.model)]
    tensors = model_tensors(store, current_version(store, job.model))
    snapshot = current_snapshot(store, job.dataset)
    requests = {r.request_id: (r.state, r.outcome, r.batch_id) for r in ledger_of(job).requests()}
    log = read_log(store, f"purges/{job.dataset}/log")
    purges = [line.entry for line in log if line.entry["batch_id"]]  # others do what a killed run left
    state = {
        "versions": versions,
        "tensors": {name: sha256_hex(value.tobytes()) for name, value in sorted(tensors.items())},
        "snapshots": [line.entry["snapshot_id"] for line in read_log(store, dataset_log(job.dataset))],
        "snapshot": snapshot.model_dump(mode="json", exclude={"created_at"}),
        "requests": sorted(requests.items()),
        "purges": [_plain_purge(entry) for entry in purges],
    }
    texts = {name: repr(value) for name, value in state.items()}
    names = {entry["batch_id"]: f"batch-{number}" for number, entry in enumerate(purges)}
    objects = _plain_keys(store)
    for batch_id, name in names.items():
        texts = {key: text.replace(batch_id, name) for key, text in texts.items()}
        objects = [key.replace(batch_id, name) for key in objects]
    return texts | {"objects": "\n".join(sorted(objects))}


def _plain_purge(entry: dict[str, Any]) -> tuple[str, list[tuple[Any, ...]]]:
    items = [(i["kind"], i["name"], i["outcome"]) for i in entry["items"] if i["kind"] not in ("leftover", "run")]
    return entry["batch_id"], items


def predicate_of(envelope: bytes) -> dict[str, Any]:
    """What a signed envelope says, unverified."""
    return json.loads(base64.b64decode(json.loads(envelope)["payload"]))["predicate"]


_RANDOM = re.compile(r"((?:^|/)model-|receipts/\w+/batches/|marks/[0-9]{8}-)[0-9a-f]{16,}")
_COUNTED = ("datasets/", "models/", "deletions/", "receipts/", "tombstones/")


def _plain_keys(store: ObjectStore) -> list[str]:
    """Keys of what must be there, and no more; where a key holds random digits, without them."""
    keys = [info.key for info in store.list("") if info.key.startswith(_COUNTED)]
    keys += [info.key for info in store.list("runs") if "/attempts/" not in info.key]
    return [_RANDOM.sub(r"\1*", key) for key in keys]
