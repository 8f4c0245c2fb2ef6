"""A batch of requests becomes a model that forgot, a data set without the rows, and what the ledger says of each."""

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from tests.deletion_world import (
    HEADER,
    NOT_THERE,
    all_rows,
    delete,
    ledger_of,
    make_job,
    model_tensors,
    must_not_run,
    newest_attempt,
    pairs_of,
    request_of,
    run_here,
)
from tests.tiny_snapshot import item_id, user_id, write_tiny_snapshot
from tru_core.backbones import BACKBONES
from tru_core.unlearning.tru.settings import TRUSettings
from workflows import cli
from workflows.config.job import BackboneConfig, JobConfig
from workflows.config.unlearn import UnlearnConfig
from workflows.data.request_tables import parse_requests
from workflows.data.snapshot import (
    TRAIN,
    current_snapshot,
    publish_snapshot,
    read_features,
    read_item_graph,
    read_vocabulary,
    write_manifest,
)
from workflows.key_files import make_keys
from workflows.models.publish import current_version, read_versions
from workflows.running import runs
from workflows.storage import ObjectStore, open_store, put_file


@pytest.fixture
def job(deletion_job: JobConfig) -> JobConfig:
    return deletion_job


@pytest.fixture
def store(job: JobConfig) -> ObjectStore:
    return open_store(job.storage)


def test_a_deleted_user_is_gone_from_ids_rows_and_model(job: JobConfig, store: ObjectStore, tmp_path: Path) -> None:
    before, original = current_snapshot(store, "tiny"), current_version(store, "mgcn")
    kept = {pair for pair in pairs_of(store, before) if pair[0] != 3}
    old = model_tensors(store, original)
    figures = delete(job, tmp_path, f"r1,user,{user_id(3)},")
    after, version = current_snapshot(store, "tiny"), current_version(store, "mgcn")

    assert pairs_of(store, after) == kept
    assert after.parent_snapshot_id == before.snapshot_id
    assert (after.num_users, after.num_items, after.num_deleted_users) == (before.num_users, before.num_items, 1)
    ids, rows = read_vocabulary(store, after.user_vocabulary)
    assert user_id(3) not in ids
    assert rows.tolist() == [row for row in range(60) if row != 3]
    changed = [a != b for a, b in zip(after.interactions, before.interactions, strict=True)]
    assert sum(changed) == 1, "only the bucket of the user is written again"
    assert after.item_vocabulary == before.item_vocabulary
    assert (after.features, after.item_graphs) == (before.features, before.item_graphs)

    assert (version.version, version.parent_version, version.method) == (2, 1, "tru")
    assert version.snapshot_id == after.snapshot_id
    new = model_tensors(store, version)
    table = next(name for name, value in old.items() if name.startswith("parameters/") and value.shape == (60, 8))
    assert (old[table][3] != new[table][3]).all()
    assert (figures["version"], figures["parent_version"]) == (2, 1)
    assert figures["num_requests"] == {"published": 1}
    assert figures["num_interactions"] == 12
    assert figures["num_forget"] == 8
    assert {"test_recall20", "valid_recall20", "forget_recall20", "seconds", "run_id"} <= set(figures)
    assert newest_attempt(store)["figures"]["version"] == 2


def test_a_deleted_item_is_gone_from_rows_features_and_item_graphs(
    job: JobConfig, store: ObjectStore, tmp_path: Path
) -> None:
    before = current_snapshot(store, "tiny")
    kept = {pair for pair in pairs_of(store, before) if pair[1] != 7}
    modalities = ("visual", "text")
    features = {modality: read_features(store, before, modality, range(8)) for modality in modalities}
    graphs = {modality: read_item_graph(store, before, modality) for modality in modalities}
    delete(job, tmp_path, f"r1,item,,{item_id(7)}")
    after = current_snapshot(store, "tiny")
    assert pairs_of(store, after) == kept
    assert item_id(7) not in read_vocabulary(store, after.item_vocabulary)[0]
    assert after.deleted_item_rows == [7]
    assert after.user_vocabulary == before.user_vocabulary
    for modality in modalities:
        old, new = features[modality], read_features(store, after, modality, range(8))
        assert old[7].any()
        assert not new[7].any()
        assert (np.delete(old, 7, axis=0) == np.delete(new, 7, axis=0)).all()
        same = [a == b for a, b in zip(after.features[modality].files, before.features[modality].files, strict=True)]
        assert same.count(False) == 1
        items, neighbours, similarity = graphs[modality]
        stays = (items != 7) & (neighbours != 7)
        assert 0 < stays.sum() < len(stays) - 1
        found = read_item_graph(store, after, modality)
        for column, expected in zip(found, (items, neighbours, similarity), strict=True):
            assert (column == expected[stays]).all()


def test_a_deleted_pair_leaves_user_and_item_where_they_are(job: JobConfig, store: ObjectStore, tmp_path: Path) -> None:
    before = current_snapshot(store, "tiny")
    pairs = pairs_of(store, before)
    pair = next(pair for pair in sorted(pairs) if pair[2] == TRAIN)
    figures = delete(job, tmp_path, f"r1,interaction,{user_id(pair[0])},{item_id(pair[1])}")
    after = current_snapshot(store, "tiny")
    assert pairs_of(store, after) == pairs - {pair}
    assert after.user_vocabulary == before.user_vocabulary
    assert (figures["num_interactions"], figures["num_forget"]) == (1, 1)
    assert current_version(store, "mgcn").version == 2


def test_a_batch_of_all_kinds_counts_each_interaction_once_and_a_repeated_request_is_a_duplicate(
    job: JobConfig, store: ObjectStore, tmp_path: Path
) -> None:
    pairs = sorted(pairs_of(store, current_snapshot(store, "tiny")))
    user, item, _ = next(pair for pair in pairs if pair[2] == TRAIN)
    named = {pair for pair in pairs if pair[0] == user or pair[1] == item}
    figures = delete(
        job,
        tmp_path,
        f"r1,user,{user_id(user)},",
        f"r2,item,,{item_id(item)}",
        f"r3,interaction,{user_id(user)},{item_id(item)}",
        f"r4,user,{user_id(user)},",
        f"r5,user,{NOT_THERE},",
    )
    assert figures["num_requests"] == {"not_found": 1, "published": 3}
    assert figures["num_interactions"] == len(named)
    assert figures["num_forget"] == sum(pair[2] == TRAIN for pair in named)
    repeated = request_of(job, "r4")
    assert (repeated.state, repeated.duplicate_of) == ("duplicate", "r1")


def test_columns_beyond_the_schema_stay_in_rewritten_buckets(
    job: JobConfig, store: ObjectStore, tmp_path: Path
) -> None:
    manifest = current_snapshot(store, "tiny")
    entries = []
    for entry in manifest.interactions:
        table = pq.ParquetFile(pa.BufferReader(store.read(entry.file.key))).read()
        table = table.append_column("timestamp", pa.array(range(1000, 1000 + table.num_rows), pa.int64()))
        sink = io.BytesIO()
        pq.write_table(table, sink)
        file = put_file(store, entry.file.key.replace("tiny-0", "timed"), sink.getvalue())
        entries.append(entry.model_copy(update={"file": file}))
    timed = manifest.model_copy(
        update={"snapshot_id": "timed", "parent_snapshot_id": manifest.snapshot_id, "interactions": entries}
    )
    publish_snapshot(store, timed, write_manifest(store, timed))
    runs.train(job)
    tables = [pq.ParquetFile(pa.BufferReader(store.read(entry.file.key))).read() for entry in entries]
    delete(job, tmp_path, f"r1,user,{user_id(3)},")
    after = current_snapshot(store, "tiny")
    changed = next(a for a, b in zip(after.interactions, entries, strict=True) if a != b)
    old = tables[changed.bucket]
    new = pq.ParquetFile(pa.BufferReader(store.read(changed.file.key))).read()
    assert new.equals(old.filter(pa.array(old.column("user_row").to_numpy() != 3)))


def test_a_held_out_pair_leaves_the_data_and_no_training_is_needed(
    job: JobConfig, store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "run_task", must_not_run)
    pairs = pairs_of(store, current_snapshot(store, "tiny"))
    pair = next(pair for pair in sorted(pairs) if pair[2] != TRAIN)
    figures = delete(job, tmp_path, f"r1,interaction,{user_id(pair[0])},{item_id(pair[1])}")
    assert pairs_of(store, current_snapshot(store, "tiny")) == pairs - {pair}
    assert (figures["version"], current_version(store, "mgcn").version) == (1, 1)
    request = request_of(job, "r1")
    assert (request.state, request.outcome) == ("receipted", "published")
    monkeypatch.setattr(runs, "run_task", run_here)
    assert delete(job, tmp_path, f"r2,user,{user_id(3)},")["version"] == 2


def test_a_user_whose_interactions_left_earlier_still_loses_the_trained_row(
    job: JobConfig, store: ObjectStore, tmp_path: Path
) -> None:
    """Here the row stays trained when its last interaction goes: by default that already takes it."""
    job = job.model_copy(update={"unlearn": job.unlearn.with_settings({"replace_rows": "none"}, where="test")})
    mine = sorted(pair for pair in pairs_of(store, current_snapshot(store, "tiny")) if pair[0] == 3)
    delete(job, tmp_path, *(f"p{item},interaction,{user_id(3)},{item_id(item)}" for _, item, _ in mine))
    before = current_version(store, "mgcn")
    old = model_tensors(store, before)
    figures = delete(job, tmp_path, f"r1,user,{user_id(3)},", name="later.csv")
    after = current_version(store, "mgcn")
    assert (after.version, figures["num_forget"]) == (before.version + 1, 0)
    new = model_tensors(store, after)
    table = next(name for name, value in old.items() if name.startswith("parameters/") and value.shape == (60, 8))
    changed = (old[table] != new[table]).all(axis=1)
    assert changed.tolist() == [row == 3 for row in range(60)]


def test_a_second_batch_starts_from_what_the_first_left(job: JobConfig, store: ObjectStore, tmp_path: Path) -> None:
    pairs = pairs_of(store, current_snapshot(store, "tiny"))
    delete(job, tmp_path, f"r1,user,{user_id(3)},", f"r2,item,,{item_id(7)}")
    figures = delete(job, tmp_path, f"r3,user,{user_id(4)},", f"r4,item,,{item_id(8)}", f"r5,user,{NOT_THERE},")
    assert figures["num_requests"] == {"not_found": 1, "published": 2}
    after = current_snapshot(store, "tiny")
    assert pairs_of(store, after) == {p for p in pairs if p[0] not in (3, 4) and p[1] not in (7, 8)}
    assert (after.num_deleted_users, after.deleted_item_rows) == (2, [7, 8])
    features = read_features(store, after, "text", range(8))
    assert not features[[7, 8]].any()
    assert [version.version for version in read_versions(store, "mgcn")] == [1, 2, 3]


@pytest.mark.parametrize("backbone", list(BACKBONES))
def test_one_user_one_item_and_one_pair_are_deleted_together_on_every_backbone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backbone: str
) -> None:
    monkeypatch.setattr(runs, "run_task", run_here)
    changes = {"precision": "float32", "unlearn": UnlearnConfig(settings=TRUSettings())}
    job = make_job(tmp_path, backbone=BackboneConfig(name=backbone, settings={"embedding_size": 8}), **changes)
    store = open_store(job.storage)
    write_tiny_snapshot(store)
    make_keys(tmp_path / "keys")
    runs.train(job)
    table = all_rows(store, current_snapshot(store, "tiny"))
    rows = np.flatnonzero(table.split == TRAIN)[[0, len(table.split) // 3, len(table.split) // 2]]
    (user, _), (_, item), pair = ((int(table.user_rows[row]), int(table.item_rows[row])) for row in rows)
    lines = (
        f"u,user,{user_id(user)},",
        f"i,item,,{item_id(item)}",
        f"p,interaction,{user_id(pair[0])},{item_id(pair[1])}",
    )
    figures = delete(job, tmp_path, *lines)
    assert figures["version"] == 2
    tensors = model_tensors(store, current_version(store, "mgcn"))
    assert all(np.isfinite(value).all() for value in tensors.values())


def test_a_receipt_is_handed_out_and_verified_offline(
    job: JobConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    delete(job, tmp_path, f"r1,user,{user_id(3)},", f"r2,user,{user_id(3)},", f"r3,user,{NOT_THERE},")
    text = yaml.safe_dump(job.model_dump(mode="json", include={"storage", "dataset", "model", "keys"}))
    (tmp_path / "job.yaml").write_text(text)
    for request_id, outcome in (("r1", "published"), ("r2", "published"), ("r3", "not_found")):
        out = tmp_path / f"{request_id}.json"
        argv = ["delete", "receipt", request_id, "--out", str(out), "--job", str(tmp_path / "job.yaml")]
        assert cli.main(argv) == 0
        assert user_id(3) not in out.read_text()
        assert cli.main(["verify", str(out), "--public-key", str(tmp_path / "keys" / "signing.pub"), "--json"]) == 0
        said = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert (said["request_id"], said["outcome"]) == ("r1" if request_id == "r2" else request_id, outcome)


def test_a_request_that_waits_has_no_receipt(
    job: JobConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    requests = parse_requests(f"{HEADER}r1,user,{user_id(3)},\n".encode(), name="requests.csv")
    ledger_of(job).submit(requests, source="requests.csv")
    text = yaml.safe_dump(job.model_dump(mode="json", include={"storage", "dataset", "model", "keys"}))
    (tmp_path / "job.yaml").write_text(text)
    argv = ["delete", "receipt", "r1", "--out", str(tmp_path / "r1.json"), "--job", str(tmp_path / "job.yaml")]
    assert cli.main(argv) == 4
    assert "has no receipt: it is queued" in capsys.readouterr().err
    assert not (tmp_path / "r1.json").exists()
