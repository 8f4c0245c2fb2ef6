"""A snapshot read back is the one that was written, whole and by its own rules, or an error says what is wrong."""

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from tru_core.errors import ConfigError, ConflictError, DataError, IntegrityError, MissingObjectError
from tru_core.hashing import user_bucket
from workflows.data.snapshot import (
    INTERACTION_SCHEMA,
    ITEM_GRAPH_SCHEMA,
    VOCABULARY_SCHEMA,
    BucketEntry,
    FeatureEntry,
    ItemGraphEntry,
    SnapshotManifest,
    SplitCounts,
    SplitRule,
    current_snapshot,
    item_bucket_range,
    manifest_files,
    publish_snapshot,
    read_features,
    read_interactions,
    read_item_graph,
    read_manifest,
    read_vocabulary,
    write_manifest,
)
from workflows.storage import (
    FileEntry,
    ObjectStore,
    append_log_entry,
    dataset_log,
    features_key,
    interactions_key,
    item_graph_key,
    put_file,
    read_log,
    snapshot_prefix,
    vocabulary_key,
    write_json,
)
from workflows.storage.local import LocalStore

NUM_USERS, NUM_ITEMS, NUM_USER_BUCKETS, NUM_ITEM_BUCKETS = 10, 7, 3, 4  # item buckets of 2, 2, 2 and 1 rows
USERS = np.repeat(np.arange(NUM_USERS), 3)
ITEMS = (USERS + np.tile([0, 2, 4], NUM_USERS)) % NUM_ITEMS
SPLIT = np.tile([0, 1, 2], NUM_USERS)
NARROW_SCHEMA = INTERACTION_SCHEMA.set(1, pa.field("item_row", pa.int32()))
IMAGE = np.arange(NUM_ITEMS * 5, dtype=np.float16).reshape(NUM_ITEMS, 5)


def parquet(columns: dict[str, Any], schema: pa.Schema) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table(columns, schema=schema), sink)
    return sink.getvalue()


def npy(array: np.ndarray, *, allow_pickle: bool = False) -> bytes:
    sink = io.BytesIO()
    np.save(sink, array, allow_pickle=allow_pickle)
    return sink.getvalue()


def interaction_bytes(users: Any, items: Any, split: Any) -> bytes:
    return parquet({"user_row": users, "item_row": items, "split": split}, INTERACTION_SCHEMA)


def sorted_bucket(bucket: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    own = np.flatnonzero(user_bucket(USERS, NUM_USER_BUCKETS) == bucket)
    own = own[np.lexsort((ITEMS[own], USERS[own]))]
    return USERS[own], ITEMS[own], SPLIT[own]


def vocabulary_bytes(letter: str, count: int) -> bytes:
    return parquet({"id": [f"{letter}{row}" for row in range(count)], "row": range(count)}, VOCABULARY_SCHEMA)


def graph_bytes(bucket: int) -> bytes:
    rows = np.repeat(item_bucket_range(NUM_ITEMS, NUM_ITEM_BUCKETS, bucket), 2)
    neighbours = (rows + np.tile([0, 1], len(rows) // 2)) % NUM_ITEMS
    similarity = np.tile(np.array([1, 0.5], dtype=np.float32), len(rows) // 2)
    return parquet({"item_row": rows, "neighbour_row": neighbours, "similarity": similarity}, ITEM_GRAPH_SCHEMA)


def make_manifest(store: ObjectStore, snapshot_id: str = "s1", parent: str | None = None) -> SnapshotManifest:
    """Write the files of the world above and name them in a manifest, which is not written yet."""
    buckets, image, graph = [], [], []
    for bucket in range(NUM_USER_BUCKETS):
        users, items, split = sorted_bucket(bucket)
        file = put_file(store, interactions_key("baby", snapshot_id, bucket), interaction_bytes(users, items, split))
        buckets.append(BucketEntry(bucket=bucket, file=file, num_rows=len(users)))
    for bucket in range(NUM_ITEM_BUCKETS):
        rows = item_bucket_range(NUM_ITEMS, NUM_ITEM_BUCKETS, bucket)
        image.append(put_file(store, features_key("baby", snapshot_id, "image", bucket), npy(IMAGE[rows])))
        graph.append(put_file(store, item_graph_key("baby", snapshot_id, "image", bucket), graph_bytes(bucket)))
    users_key, items_key = (vocabulary_key("baby", snapshot_id, side) for side in ("users", "items"))
    return SnapshotManifest(
        dataset="baby",
        snapshot_id=snapshot_id,
        parent_snapshot_id=parent,
        created_at="2026-11-23T18:00:00Z",
        num_users=NUM_USERS,
        num_items=NUM_ITEMS,
        num_user_buckets=NUM_USER_BUCKETS,
        num_item_buckets=NUM_ITEM_BUCKETS,
        split=SplitRule(kind="given", seed=0),
        counts=SplitCounts(train=10, valid=10, test=10),
        user_vocabulary=put_file(store, users_key, vocabulary_bytes("u", NUM_USERS)),
        item_vocabulary=put_file(store, items_key, vocabulary_bytes("i", NUM_ITEMS)),
        interactions=buckets,
        features={"image": FeatureEntry(num_columns=5, dtype="float16", files=image)},
        item_graphs={"image": ItemGraphEntry(num_neighbours=2, files=graph)},
        report={"duplicates_dropped": 0},
    )


def with_changes(manifest: SnapshotManifest, **changes: Any) -> SnapshotManifest:
    return SnapshotManifest.model_validate(manifest.model_dump() | changes)


def with_bucket(store: ObjectStore, manifest: SnapshotManifest, bucket: int, body: bytes) -> SnapshotManifest:
    """The manifest with another file for one bucket, of the same number of rows."""
    file = put_file(store, interactions_key("baby", "other", bucket), body)
    entries = list(manifest.interactions)
    entries[bucket] = entries[bucket].model_copy(update={"file": file})
    return manifest.model_copy(update={"interactions": entries})


def with_feature_file(store: ObjectStore, manifest: SnapshotManifest, body: bytes) -> SnapshotManifest:
    """The manifest with another image file for item bucket 1."""
    entry = manifest.features["image"]
    file = put_file(store, features_key("baby", "other", "image", 1), body)
    changed = entry.model_copy(update={"files": [entry.files[0], file, *entry.files[2:]]})
    return manifest.model_copy(update={"features": {"image": changed}})


def damage(store: ObjectStore, entry: FileEntry) -> None:
    body = store.read(entry.key)
    store.delete(entry.key)
    store.put_if_absent(entry.key, body[:-1] + bytes([body[-1] ^ 1]))


# --- the way there and back ---------------------------------------------------------------------


def test_what_was_written_is_read_back(store: ObjectStore) -> None:
    manifest = make_manifest(store)
    publish_snapshot(store, manifest, write_manifest(store, manifest))
    found = current_snapshot(store, "baby")
    assert found == manifest
    table = read_interactions(store, found, range(NUM_USER_BUCKETS))
    order = np.lexsort((table.item_rows, table.user_rows))
    expected = np.lexsort((ITEMS, USERS))
    np.testing.assert_array_equal(table.user_rows[order], USERS[expected])
    np.testing.assert_array_equal(table.item_rows[order], ITEMS[expected])
    np.testing.assert_array_equal(table.split[order], SPLIT[expected])
    assert (table.user_rows.dtype, table.item_rows.dtype, table.split.dtype) == (np.int64, np.int64, np.int8)
    features = read_features(store, found, "image", range(NUM_ITEM_BUCKETS))
    np.testing.assert_array_equal(features, IMAGE)
    assert features.dtype == np.float16
    items, neighbours, similarity = read_item_graph(store, found, "image")
    np.testing.assert_array_equal(items, np.repeat(np.arange(NUM_ITEMS), 2))
    np.testing.assert_array_equal(neighbours[::2], np.arange(NUM_ITEMS))
    np.testing.assert_array_equal(similarity, np.tile(np.array([1, 0.5], dtype=np.float32), NUM_ITEMS))
    ids, rows = read_vocabulary(store, found.user_vocabulary)
    assert ids == [f"u{row}" for row in range(NUM_USERS)]
    np.testing.assert_array_equal(rows, np.arange(NUM_USERS))


def test_workers_together_read_every_interaction_once(local_store: LocalStore) -> None:
    manifest = make_manifest(local_store)
    parts = [read_interactions(local_store, manifest, buckets) for buckets in ([1], [2, 0], [])]
    assert [len(part.user_rows) for part in parts] == [
        manifest.interactions[1].num_rows,
        manifest.interactions[2].num_rows + manifest.interactions[0].num_rows,
        0,
    ]
    seen = np.concatenate([part.user_rows * NUM_ITEMS + part.item_rows for part in parts])
    np.testing.assert_array_equal(np.sort(seen), np.sort(USERS * NUM_ITEMS + ITEMS))
    assert read_features(local_store, manifest, "image", []).shape == (0, 5)
    np.testing.assert_array_equal(read_features(local_store, manifest, "image", [3, 0]), IMAGE[[6, 0, 1]])


@pytest.mark.parametrize(("num_items", "num_buckets"), [(7050, 8), (8, 8), (9, 8), (10, 8), (1, 8), (0, 8), (5, 1)])
def test_item_buckets_cover_every_row_once_in_order(num_items: int, num_buckets: int) -> None:
    ranges = [item_bucket_range(num_items, num_buckets, bucket) for bucket in range(num_buckets)]
    assert [row for rows in ranges for row in rows] == list(range(num_items))
    width = -(-num_items // num_buckets)
    assert all(len(rows) <= width for rows in ranges)
    for bucket in (-1, num_buckets):
        with pytest.raises(DataError, match="does not exist"):
            item_bucket_range(num_items, num_buckets, bucket)


# --- which snapshot is current ------------------------------------------------------------------


def test_a_data_set_that_was_never_published_says_what_to_do(store: ObjectStore) -> None:
    write_manifest(store, make_manifest(store))  # complete, and not published
    with pytest.raises(MissingObjectError, match="make it with `tru data import") as caught:
        current_snapshot(store, "baby")
    assert caught.value.exit_code == 4


def test_the_newest_published_snapshot_is_current(store: ObjectStore) -> None:
    first = make_manifest(store, "s1")
    second = with_changes(first, snapshot_id="s2", parent_snapshot_id="s1", num_deleted_users=1)
    assert publish_snapshot(store, first, write_manifest(store, first)) == 1
    assert publish_snapshot(store, second, write_manifest(store, second)) == 2
    assert current_snapshot(store, "baby") == second
    assert {entry.key for entry in manifest_files(second)} == {entry.key for entry in manifest_files(first)}


def test_publishing_again_changes_nothing(store: ObjectStore) -> None:
    manifest = make_manifest(store)
    entry = write_manifest(store, manifest)
    assert publish_snapshot(store, manifest, entry) == publish_snapshot(store, manifest, entry) == 1
    assert write_manifest(store, manifest) == entry
    assert len(read_log(store, dataset_log("baby"))) == 1


@pytest.mark.parametrize("parent", [None, "s0"])
def test_a_snapshot_made_from_an_older_one_is_not_published(store: ObjectStore, parent: str | None) -> None:
    first = make_manifest(store, "s1")
    publish_snapshot(store, first, write_manifest(store, first))
    late = with_changes(first, snapshot_id="s2", parent_snapshot_id=parent)
    with pytest.raises(ConflictError, match="It was not published") as caught:
        publish_snapshot(store, late, write_manifest(store, late))
    assert caught.value.exit_code == 5
    assert current_snapshot(store, "baby") == first


def test_of_two_publishers_at_the_same_moment_one_wins(
    local_store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = make_manifest(local_store, "mine")
    theirs = with_changes(mine, snapshot_id="theirs")
    my_entry, their_entry = write_manifest(local_store, mine), write_manifest(local_store, theirs)

    def let_the_other_go_first(store: ObjectStore, log_prefix: str, *, number: int, entry: dict[str, Any]) -> bool:
        monkeypatch.undo()
        publish_snapshot(local_store, theirs, their_entry)
        return append_log_entry(store, log_prefix, number=number, entry=entry)

    monkeypatch.setattr("workflows.data.snapshot.append_log_entry", let_the_other_go_first)
    with pytest.raises(ConflictError, match="changed just now"):
        publish_snapshot(local_store, mine, my_entry)
    assert current_snapshot(local_store, "baby") == theirs


# --- damage -------------------------------------------------------------------------------------


def test_a_flipped_byte_in_any_file_is_found(store: ObjectStore) -> None:
    manifest = make_manifest(store)
    manifest_entry = write_manifest(store, manifest)
    publish_snapshot(store, manifest, manifest_entry)
    readers: list[tuple[FileEntry, Callable[[], Any]]] = [
        (manifest.interactions[1].file, lambda: read_interactions(store, manifest, [1])),
        (manifest.features["image"].files[2], lambda: read_features(store, manifest, "image", [2])),
        (manifest.item_graphs["image"].files[3], lambda: read_item_graph(store, manifest, "image")),
        (manifest.user_vocabulary, lambda: read_vocabulary(store, manifest.user_vocabulary)),
        (manifest_entry, lambda: current_snapshot(store, "baby")),
    ]
    for entry, read in readers:
        read()
        damage(store, entry)
        with pytest.raises(IntegrityError, match=entry.key):
            read()


def test_a_missing_file_is_named(store: ObjectStore) -> None:
    manifest = make_manifest(store)
    store.delete(manifest.interactions[1].file.key)
    with pytest.raises(MissingObjectError, match=r"interactions/bucket-00001\.parquet"):
        read_interactions(store, manifest, [0, 1])


@pytest.mark.parametrize("line", [{}, {"manifest": None}, {"manifest": {"key": "x"}}])
def test_a_log_entry_that_names_no_manifest_is_not_used(local_store: LocalStore, line: dict[str, Any]) -> None:
    append_log_entry(local_store, dataset_log("baby"), number=1, entry=line)
    with pytest.raises(IntegrityError, match="entry 1 names no manifest"):
        current_snapshot(local_store, "baby")


# --- rows that break the rules, under a right digest --------------------------------------------


def swapped(values: np.ndarray) -> np.ndarray:
    return np.concatenate([values[-1:], values[1:-1], values[:1]])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda u, i, s: (u[:-1], i[:-1], s[:-1]), "rows, found"),
        (lambda u, i, s: (u + NUM_USERS, i, s), "column user_row"),
        (lambda u, i, s: (u - NUM_USERS, i, s), "column user_row"),
        (lambda u, i, s: (u, i + NUM_ITEMS, s), "column item_row: .* outside 0..6"),
        (lambda u, i, s: (u, i, s + 1), "column split"),
        (lambda u, i, s: (swapped(u), i, s), "not sorted"),
        (lambda u, i, s: (u, i[::-1], s), "not sorted"),
    ],
)
def test_interactions_that_break_a_rule_are_not_used(
    local_store: LocalStore, change: Callable[..., Any], words: str
) -> None:
    manifest = make_manifest(local_store)
    body = interaction_bytes(*change(*sorted_bucket(1)))
    with pytest.raises(IntegrityError, match=words) as caught:
        read_interactions(local_store, with_bucket(local_store, manifest, 1, body), [1])
    assert "bucket-00001" in str(caught.value)


def test_interactions_of_another_bucket_are_not_used(local_store: LocalStore) -> None:
    manifest = make_manifest(local_store)
    entries = [
        entry.model_copy(update={"file": manifest.interactions[0].file, "num_rows": manifest.interactions[0].num_rows})
        for entry in manifest.interactions
    ]
    with pytest.raises(IntegrityError, match="belong to other buckets"):
        read_interactions(local_store, manifest.model_copy(update={"interactions": entries}), [1])


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"PAR1 and nothing else", "cannot be read as parquet"),
        (b"", "cannot be read as parquet"),
        (parquet({"user_row": [1]}, pa.schema([("user_row", pa.int64())])), "column item_row: .* no such column"),
        (
            parquet({"user_row": [1], "item_row": [1], "split": [0]}, NARROW_SCHEMA),
            "column item_row: expected int64, found int32",
        ),
        (parquet({"user_row": [1], "item_row": [None], "split": [0]}, INTERACTION_SCHEMA), "column item_row has nulls"),
    ],
)
def test_a_table_of_another_shape_is_not_used(local_store: LocalStore, body: bytes, words: str) -> None:
    manifest = with_bucket(local_store, make_manifest(local_store), 1, body)
    with pytest.raises(IntegrityError, match=words):
        read_interactions(local_store, manifest, [1])


def test_a_column_of_times_beside_the_known_ones_is_fine(local_store: LocalStore) -> None:
    users, items, split = sorted_bucket(1)
    schema = INTERACTION_SCHEMA.append(pa.field("timestamp", pa.int64()))
    columns = {"user_row": users, "item_row": items, "split": split, "timestamp": np.arange(len(users))}
    manifest = with_bucket(local_store, make_manifest(local_store), 1, parquet(columns, schema))
    np.testing.assert_array_equal(read_interactions(local_store, manifest, [1]).user_rows, users)


class Bomb:
    """An object whose pickle would create a file when it is opened."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self.path, "w")


def test_features_of_python_objects_are_refused_and_nothing_runs(local_store: LocalStore, tmp_path: Any) -> None:
    body = npy(np.array([[Bomb(str(tmp_path / "ran"))] * 5] * 2, dtype=object), allow_pickle=True)
    manifest = with_feature_file(local_store, make_manifest(local_store), body)
    with pytest.raises(IntegrityError, match="no plain array") as caught:
        read_features(local_store, manifest, "image", [1])
    assert caught.value.exit_code == 8
    assert not (tmp_path / "ran").exists()


def archive() -> bytes:
    sink = io.BytesIO()
    np.savez(sink, IMAGE[2:4])
    return sink.getvalue()


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (npy(IMAGE[2:4].astype(np.float32)), "float32"),
        (npy(IMAGE[2:4].astype(">f2")), "expected shape"),
        (npy(IMAGE[2:5]), r"\(3, 5\)"),
        (npy(IMAGE[2:4, :4]), r"\(2, 4\)"),
        (npy(IMAGE[2:4].ravel()), r"\(10,\)"),
        (npy(IMAGE[2:4])[:-3], "no plain array"),
        (npy(IMAGE[2:4])[:20], "no plain array"),
        (b"", r"no \.npy file"),
        (archive(), r"no \.npy file"),
    ],
)
def test_features_of_another_shape_or_kind_are_not_used(local_store: LocalStore, body: bytes, words: str) -> None:
    manifest = with_feature_file(local_store, make_manifest(local_store), body)
    with pytest.raises(IntegrityError, match=words):
        read_features(local_store, manifest, "image", [1])


@pytest.mark.parametrize(
    ("rows", "neighbours", "similarity", "words"),
    [
        ([2, 4], [2, 2], [1, 1], "belong to other buckets"),
        ([2, 3], [2, 7], [1, 1], "column neighbour_row"),
        ([2, 3], [2, -1], [1, 1], "column neighbour_row"),
        ([2, 3], [2, 3], [1, float("nan")], "not finite"),
    ],
)
def test_an_item_graph_that_breaks_a_rule_is_not_used(
    local_store: LocalStore, rows: list[int], neighbours: list[int], similarity: list[float], words: str
) -> None:
    manifest = make_manifest(local_store)
    columns = {"item_row": rows, "neighbour_row": neighbours, "similarity": similarity}
    file = put_file(local_store, "datasets/baby/snapshots/other/g", parquet(columns, ITEM_GRAPH_SCHEMA))
    entry = manifest.item_graphs["image"]
    changed = entry.model_copy(update={"files": [entry.files[0], file, *entry.files[2:]]})
    with pytest.raises(IntegrityError, match=words):
        read_item_graph(local_store, manifest.model_copy(update={"item_graphs": {"image": changed}}), "image")


@pytest.mark.parametrize(
    ("ids", "rows", "words"),
    [
        (["a", "b"], [1, 0], "do not ascend"),
        (["a", "b"], [0, 0], "do not ascend"),
        (["a", "b"], [-1, 0], "do not ascend"),
        (["a", "a"], [0, 1], "1 ids stand there twice"),
    ],
)
def test_a_vocabulary_that_breaks_a_rule_is_not_used(
    local_store: LocalStore, ids: list[str], rows: list[int], words: str
) -> None:
    entry = put_file(local_store, "v", parquet({"id": ids, "row": rows}, VOCABULARY_SCHEMA))
    with pytest.raises(IntegrityError, match=words):
        read_vocabulary(local_store, entry)


def test_a_vocabulary_without_the_deleted_rows_keeps_the_others_in_place(local_store: LocalStore) -> None:
    columns = {"id": ["a", "c", "é"], "row": [0, 2, 5]}
    ids, rows = read_vocabulary(local_store, put_file(local_store, "v", parquet(columns, VOCABULARY_SCHEMA)))
    assert dict(zip(ids, rows.tolist(), strict=True)) == {"a": 0, "c": 2, "é": 5}


def test_a_bucket_or_modality_that_does_not_exist_is_named(local_store: LocalStore) -> None:
    manifest = make_manifest(local_store)
    for call in (
        lambda: read_interactions(local_store, manifest, [NUM_USER_BUCKETS]),
        lambda: read_interactions(local_store, manifest, [-1]),
        lambda: read_features(local_store, manifest, "image", [NUM_ITEM_BUCKETS]),
        lambda: read_features(local_store, manifest, "text", [0]),
        lambda: read_item_graph(local_store, manifest, "text"),
    ):
        with pytest.raises(DataError, match=r"does not exist|It has: image") as caught:
            call()
        assert caught.value.exit_code == 3


# --- the manifest's own rules -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_user_buckets": 4}, "interactions must name the buckets 0..3"),
        ({"num_item_buckets": 3}, "must name one file for each of 3 buckets"),
        ({"counts": {"train": 9, "valid": 10, "test": 10}}, "do not add up to the 30 rows"),
        ({"schema_version": 0}, "schema_version"),
        ({"kind": "tru.model"}, "kind"),
        ({"more": 1}, "more"),
        ({"num_users": -1}, "num_users"),
    ],
)
def test_a_manifest_that_is_not_whole_is_refused(local_store: LocalStore, changes: dict[str, Any], words: str) -> None:
    manifest = make_manifest(local_store)
    with pytest.raises(ValidationError, match=words):
        with_changes(manifest, **changes)
    entry = write_json(local_store, "datasets/baby/snapshots/x/manifest.json", manifest.model_dump() | changes)
    with pytest.raises(IntegrityError, match="is no snapshot manifest"):
        read_manifest(local_store, entry)


@pytest.mark.parametrize("key", ["datasets/other/snapshots/s1/x", "datasets/baby/log/x", "../x", "/etc/passwd"])
def test_a_manifest_cannot_name_files_elsewhere(local_store: LocalStore, key: str) -> None:
    manifest = make_manifest(local_store)
    content = manifest.model_dump()
    content["user_vocabulary"]["key"] = key
    entry = write_json(local_store, "datasets/baby/snapshots/x/manifest.json", content)
    with pytest.raises(IntegrityError):
        read_manifest(local_store, entry)


def test_a_manifest_of_a_newer_program_is_not_guessed_at(local_store: LocalStore) -> None:
    content = make_manifest(local_store).model_dump() | {"schema_version": 2, "new_field": 1}
    entry = write_json(local_store, "datasets/baby/snapshots/x/manifest.json", content)
    with pytest.raises(ConfigError, match="schema version 2, this program reads 1") as caught:
        read_manifest(local_store, entry)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"schema_version": "x"}', b"\xff"])
def test_a_manifest_that_is_no_manifest_is_refused(local_store: LocalStore, body: bytes) -> None:
    entry = put_file(local_store, "m", body)
    with pytest.raises(IntegrityError, match="is no snapshot manifest"):
        read_manifest(local_store, entry)


def test_the_manifest_lies_where_the_architecture_says(local_store: LocalStore) -> None:
    entry = write_manifest(local_store, make_manifest(local_store))
    assert entry.key == f"{snapshot_prefix('baby', 's1')}/manifest.json"
