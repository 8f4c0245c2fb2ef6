"""What still holds deleted rows is found by listing and goes, now or on its date; what is still used stays."""

import secrets
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.deletion_world import delete, ledger_of, make_job, policy, run_here, with_policy
from tests.tiny_snapshot import item_id, user_id
from tru_core.errors import AccessError, ConflictError, IntegrityError, PolicyError
from tru_core.receipts.receipt import verify_receipt
from workflows.config.job import JobConfig
from workflows.data.snapshot import current_snapshot, manifest_files
from workflows.deletions import runner as deletions
from workflows.deletions.ledger import verify_ledger
from workflows.deletions.receipts.log import read_receipt
from workflows.deletions.runner import run_deletions, run_purge
from workflows.ingest import import_dataset
from workflows.key_files import make_keys, read_public_key
from workflows.models.publish import current_version, read_versions
from workflows.models.versions import list_versions, roll_back
from workflows.running import runs
from workflows.storage import ObjectStore, open_store, read_verified, write_json
from workflows.storage.local import LocalStore


@pytest.fixture
def job(deletion_job: JobConfig) -> JobConfig:
    return deletion_job


@pytest.fixture
def store(job: JobConfig) -> ObjectStore:
    return open_store(job.storage)


def plant_run(store: ObjectStore, run_id: str, *, dataset: str = "tiny", snapshot_id: str = "tiny-0") -> list[str]:
    """A run with a checkpoint, lists, a half-written model and a result. Returns the keys."""
    write_json(store, f"runs/{run_id}/about.json", {"dataset": dataset, "snapshot_id": snapshot_id})
    names = ("checkpoints/epoch-000001-aa/manifest.json", "lists-aa.safetensors", "model-aa/shared.safetensors")
    keys = [f"runs/{run_id}/retrain/{name}" for name in (*names, "result.json")]
    for key in keys:
        store.put_if_absent(key, b"rows of people")
    return keys


def items_of(figures: dict[str, Any], kind: str) -> list[tuple[str, str]]:
    return [(item["name"], item["outcome"]) for item in figures["items"] if item["kind"] == kind]


# --- canaries -----------------------------------------------------------------------------------


def spellings(value: int) -> list[bytes]:
    return [str(value).encode(), value.to_bytes(8, "little"), value.to_bytes(8, "big"), f"{value:x}".encode()]


def contents(folder: Path) -> dict[str, list[bytes]]:
    """Every file below a folder as its bytes, and of Parquet files the decompressed columns too."""
    found = {}
    for path in (path for path in folder.rglob("*") if path.is_file()):
        body = path.read_bytes()
        found[str(path)] = [body]
        if path.suffix == ".parquet":
            table = pq.ParquetFile(pa.BufferReader(body)).read()
            buffers = [b for column in table.columns for chunk in column.chunks for b in chunk.buffers() if b]
            found[str(path)] += [buffer.to_pybytes() for buffer in buffers]
    return found


def where_found(folder: Path, needles: list[bytes]) -> list[str]:
    return [name for name, bodies in contents(folder).items() if any(n in body for n in needles for body in bodies)]


@pytest.mark.ray
def test_canaries_planted_everywhere_are_nowhere_after_the_purge_and_receipts_and_ledger_verify(
    ray_session: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "run_task", run_here)
    number, text, item = (
        secrets.randbits(62) | 1 << 62,
        f"canary-{secrets.token_hex(8)}",
        secrets.randbits(62) | 1 << 62,
    )
    needles = [*spellings(number), text.encode(), *spellings(item)]
    raw = tmp_path / "raw"
    (raw / "features").mkdir(parents=True)
    rng = np.random.default_rng(0)
    users = [str(number), text, *(user_id(row) for row in range(58))]
    items = [str(item), *(item_id(row) for row in range(39))]
    pairs = [(user, i) for user in users for i in rng.choice(items, 10, replace=False)] + [(users[2], items[0])]
    pairs = list(dict.fromkeys(pairs))
    columns = {"user_id": [user for user, _ in pairs], "item_id": [i for _, i in pairs]}
    pq.write_table(pa.table(columns), raw / "interactions.parquet")
    features = pa.array(rng.normal(size=(40, 4)).astype(np.float32).tolist(), pa.list_(pa.float32()))
    pq.write_table(pa.table({"item_id": pa.array(items), "text": features}), raw / "features" / "text.parquet")

    job = make_job(tmp_path, delete=policy(min_requests=1, leftover_minutes=0))
    store = open_store(job.storage)
    import_dataset(str(raw), store, job.dataset)
    runs.train(job)
    make_keys(tmp_path / "keys")
    folder = tmp_path / "store"
    old_id = current_snapshot(store, "tiny").snapshot_id
    for key in plant_run(store, "sweep-1", snapshot_id=old_id):
        store.delete(key)
        store.put_if_absent(key, needles[0])
    store.put_if_absent("datasets/tiny/snapshots/20200101T000000Z-00000000/vocabulary/part.bin", text.encode())
    (folder / ".aside").mkdir(exist_ok=True)
    (folder / ".aside" / "half-written").write_bytes(text.encode())
    assert len(where_found(folder, needles)) > 5

    lines = [f"r1,user,{number},", f"r2,user,{text},", f"r3,item,,{item}", "r4,user,nobody,", f"r5,user,{text},"]
    figures = delete(job, tmp_path, *lines)
    assert figures["num_requests"] == {"not_found": 1, "published": 3}
    run_purge(job)
    assert where_found(folder, needles) == []
    verify_ledger(store, job.model)
    public = read_public_key(tmp_path / "keys" / "signing.pub")
    for request_id in ("r1", "r2", "r3", "r4"):
        verify_receipt(read_receipt(store, job.model, request_id) or b"", public_keys=[public])
    assert ledger_of(job).find("r5").duplicate_of == "r2"
    for file in manifest_files(current_snapshot(store, "tiny")):
        read_verified(store, file)


# --- what goes and what stays -------------------------------------------------------------------


def test_every_file_that_the_current_snapshot_names_stays_over_many_purges(
    job: JobConfig, store: ObjectStore, tmp_path: Path
) -> None:
    for row in (3, 4, 5):
        delete(job, tmp_path, f"r{row},user,{user_id(row)},", f"i{row},item,,{item_id(row)}", name=f"{row}.csv")
        named = {file.key for file in manifest_files(current_snapshot(store, "tiny"))}
        held = {info.key for info in store.list("datasets") if not info.key.endswith(".json")}
        assert held == named


def test_runs_on_old_snapshots_go_and_other_runs_stay(job: JobConfig, store: ObjectStore, tmp_path: Path) -> None:
    old = plant_run(store, "grid-old")
    other = plant_run(store, "grid-other", dataset="another")
    delete(job, tmp_path, f"r1,user,{user_id(3)},")
    new = plant_run(store, "grid-new", snapshot_id=current_snapshot(store, "tiny").snapshot_id)
    figures = run_purge(job)
    keys = {info.key for info in store.list("runs")}
    assert not keys & set(old)
    assert keys >= {*other, *new, "runs/grid-old/about.json"}
    assert ("grid-new", "purged") not in items_of(figures, "run")
    assert current_version(store, "mgcn").version == 2


def test_an_old_version_is_withdrawn_at_once_and_its_files_go_after_the_days_of_grace(
    job: JobConfig, store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graceful = with_policy(job, grace_days=7)
    figures = delete(graceful, tmp_path, f"r1,user,{user_id(3)},")
    assert figures["purge"]["deferred"] == 2  # the version, and writes that may be under way
    lines = list_versions(graceful)["versions"]
    assert [(line["status"], line["files"]) for line in lines] == [("withdrawn", "kept"), ("serving", "kept")]
    (item,) = [item for item in run_purge(graceful)["items"] if item["kind"] == "model_version"]
    published = datetime.fromisoformat(current_version(store, "mgcn").created_at)
    assert item["outcome"] == "deferred"
    assert datetime.fromisoformat(item["until"]) == published + timedelta(days=7)

    monkeypatch.setattr(deletions, "utc_now", lambda: published + timedelta(days=7))
    run_deletions(graceful)
    assert [line["files"] for line in list_versions(graceful)["versions"]] == ["purged", "kept"]
    assert items_of(run_purge(graceful), "model_version") == [("", "not_found")]


def test_another_models_serving_version_is_told_and_left_alone(
    job: JobConfig, store: ObjectStore, tmp_path: Path
) -> None:
    other = job.model_copy(update={"model": "other"})
    runs.train(other)
    delete(job, tmp_path, f"r1,user,{user_id(3)},")
    figures = run_purge(job)
    assert items_of(figures, "other_model") == [("other", "held")]
    assert [line["files"] for line in list_versions(other)["versions"]] == ["kept"]


def test_a_hold_on_the_data_set_stops_every_purge(job: JobConfig, store: ObjectStore, tmp_path: Path) -> None:
    graceful = with_policy(job, grace_days=7)
    delete(graceful, tmp_path, f"r1,user,{user_id(3)},")
    ledger_of(job).hold("dataset", reason="an inquiry", hold_id="case-2")
    assert items_of(run_purge(job), "model_version") == [("1", "held")]
    assert [line["files"] for line in list_versions(job)["versions"]] == ["kept", "kept"]
    ledger_of(job).release("case-2", reason="it is over")
    assert items_of(run_purge(job), "model_version") == [("1", "purged")]


def test_what_the_storage_refuses_to_delete_is_held_and_the_rest_goes(
    job: JobConfig, store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = LocalStore.delete

    def locked(self: LocalStore, key: str) -> None:
        if "vocabulary/users" in key and "tiny-0" in key:
            raise AccessError("object lock")
        real(self, key)

    monkeypatch.setattr(LocalStore, "delete", locked)
    assert delete(job, tmp_path, f"r1,user,{user_id(3)},")["purge"]["held"] == 1
    monkeypatch.setattr(LocalStore, "delete", real)
    assert items_of(run_purge(job), "snapshot") == [("tiny-0", "purged")]


# --- versions -----------------------------------------------------------------------------------


def test_a_rollback_to_a_version_that_knows_a_deleted_subject_needs_a_reason_that_is_recorded(
    job: JobConfig, store: ObjectStore, tmp_path: Path
) -> None:
    graceful = with_policy(job, grace_days=7)
    delete(graceful, tmp_path, f"r1,user,{user_id(3)},")
    with pytest.raises(PolicyError, match="may know who was deleted") as caught:
        roll_back(graceful, 1)
    assert caught.value.exit_code == 9
    assert current_version(store, "mgcn").version == 2
    figures = roll_back(graceful, 1, override="version 2 recommends nothing")
    assert (figures["version"], figures["rollback_of"]) == (3, 1)
    assert roll_back(graceful, 1)["version"] == 3, "it serves already"
    serving = current_version(store, "mgcn")
    assert serving.override == "version 2 recommends nothing"
    assert serving.manifest == read_versions(store, "mgcn")[0].manifest
    with pytest.raises(ConflictError, match="a rollback"):
        delete(graceful, tmp_path, f"r2,user,{user_id(4)},", name="other.csv")
    runs.train(graceful)
    assert run_deletions(graceful, is_asked=True)["num_requests"] == {"published": 1}


def test_a_version_whose_files_are_purged_cannot_come_back(job: JobConfig, store: ObjectStore, tmp_path: Path) -> None:
    delete(job, tmp_path, f"r1,user,{user_id(3)},")
    with pytest.raises(IntegrityError, match="were purged"):
        roll_back(job, 1, override="at any price")
    assert current_version(store, "mgcn").version == 2


def test_a_rollback_past_no_deletion_needs_no_reason(job: JobConfig, store: ObjectStore) -> None:
    runs.train(job.model_copy(update={"fit": job.fit.model_copy(update={"seed": 1})}))
    assert [line["status"] for line in list_versions(job)["versions"]] == ["superseded", "serving"]
    assert roll_back(job, 1)["version"] == 3
    assert current_version(store, "mgcn").override is None
