"""A snapshot without some of its rows: only files that hold them are written again, the others are named again.

Taking rows away does not depend on what was taken away before, so it can be done to any later
snapshot of the same data set too. Rows are never reused: the tables keep their size.
"""

import hashlib
import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from tru_core.hashing import user_bucket
from tru_core.interactions import IntArray
from workflows.data.snapshot import (
    ITEM_GRAPH_SCHEMA,
    VOCABULARY_SCHEMA,
    InteractionTable,
    SnapshotManifest,
    SplitCounts,
    item_bucket_range,
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
    features_key,
    interactions_key,
    item_graph_key,
    manifest_key,
    put_file,
    read_verified,
    snapshot_prefix,
    vocabulary_key,
)
from workflows.storage.parquet import parquet_bytes
from workflows.tasks import RequestRows


def pair_keys(rows: RequestRows, num_items: int) -> IntArray:
    """One sorted int64 for each named pair: ``user_row * num_items + item_row``."""
    pairs = np.asarray(rows.pairs, dtype=np.int64).reshape(-1, 2)
    return np.unique(pairs[:, 0] * num_items + pairs[:, 1])


def buckets_named(rows: RequestRows, num_user_buckets: int) -> list[int]:
    """User buckets that can hold interactions of a request: all of them, where it names an item."""
    if rows.items:
        return list(range(num_user_buckets))
    users = np.asarray([*rows.users, *(user for user, _ in rows.pairs)], dtype=np.int64)
    return np.unique(user_bucket(users, num_user_buckets)).tolist()


def is_named(table: InteractionTable, rows: RequestRows, num_items: int) -> NDArray[np.bool_]:
    """Say for each interaction whether the request names it: by its user, its item or as a pair."""
    keys = table.user_rows * num_items + table.item_rows
    return (
        np.isin(table.user_rows, np.asarray(rows.users, dtype=np.int64))
        | np.isin(table.item_rows, np.asarray(rows.items, dtype=np.int64))
        | np.isin(keys, pair_keys(rows, num_items))
    )


def write_snapshot_without(
    store: ObjectStore, parent: SnapshotManifest, rows: RequestRows, *, snapshot_id: str, created_at: str
) -> tuple[SnapshotManifest, FileEntry]:
    """Write the snapshot that follows ``parent`` when a request's rows are gone. It is not current yet.

    Interactions leave whatever part of the split they are in. Deleted users and items leave the
    vocabularies; deleted items' features become zero and they leave the item graphs, as item and as neighbour.

    Args:
        snapshot_id: Says what is taken from where: a snapshot that is there already under this id is taken as it is.

    Returns:
        The new manifest, and its entry.

    Raises:
        IntegrityError: If a file of the parent is damaged.
    """
    key = manifest_key(snapshot_prefix(parent.dataset, snapshot_id))
    if store.exists(key):
        body = store.read(key)
        entry = FileEntry(key=key, size_bytes=len(body), sha256=hashlib.sha256(body).hexdigest())
        return read_manifest(store, entry), entry
    interactions, removed = _without_interactions(store, parent, rows, snapshot_id)
    users, num_users = _without_ids(store, parent, parent.user_vocabulary, rows.users, "users", snapshot_id)
    items, num_items = _without_ids(store, parent, parent.item_vocabulary, rows.items, "items", snapshot_id)
    changes = {
        "snapshot_id": snapshot_id,
        "parent_snapshot_id": parent.snapshot_id,
        "created_at": created_at,
        "counts": SplitCounts(
            train=parent.counts.train - removed[0],
            valid=parent.counts.valid - removed[1],
            test=parent.counts.test - removed[2],
        ),
        "user_vocabulary": users,
        "item_vocabulary": items,
        "interactions": interactions,
        "deleted_item_rows": sorted({*parent.deleted_item_rows, *rows.items}),
        "num_deleted_users": parent.num_deleted_users + num_users,
        "report": {"deleted_users": num_users, "deleted_items": num_items, "deleted_interactions": sum(removed)},
    }
    if rows.items:
        changes["features"] = _without_features(store, parent, rows.items, snapshot_id)
        changes["item_graphs"] = _without_neighbours(store, parent, rows.items, snapshot_id)
    manifest = SnapshotManifest.model_validate(dict(parent) | changes)
    return manifest, write_manifest(store, manifest)


def _put_table(store: ObjectStore, key: str, table: pa.Table) -> FileEntry:
    return put_file(store, key, parquet_bytes(table))


def _without_interactions(store: ObjectStore, parent: SnapshotManifest, rows: RequestRows, snapshot_id: str):
    """The bucket entries, and how many interactions of train, valid and test are gone."""
    entries, removed = list(parent.interactions), np.zeros(3, dtype=np.int64)
    for bucket in buckets_named(rows, parent.num_user_buckets):
        table = read_interactions(store, parent, [bucket])
        gone = is_named(table, rows, parent.num_items)
        if not gone.any():
            continue
        # The file itself is filtered, so that columns such as the timestamp stay.
        whole = pq.ParquetFile(pa.BufferReader(read_verified(store, entries[bucket].file))).read()
        kept = whole.filter(pa.array(~gone))
        file = _put_table(store, interactions_key(parent.dataset, snapshot_id, bucket), kept)
        entries[bucket] = entries[bucket].model_copy(update={"file": file, "num_rows": kept.num_rows})
        removed += np.bincount(table.split[gone], minlength=3)
    return entries, removed.tolist()


def _without_ids(
    store: ObjectStore, parent: SnapshotManifest, entry: FileEntry, rows: list[int], side: str, snapshot_id: str
) -> tuple[FileEntry, int]:
    """A vocabulary's entry, and how many ids are gone."""
    if not rows:
        return entry, 0
    ids, known = read_vocabulary(store, entry)
    kept = ~np.isin(known, rows)
    if kept.all():
        return entry, 0
    table = pa.table([pa.array(ids, pa.string()).filter(pa.array(kept)), known[kept]], schema=VOCABULARY_SCHEMA)
    return _put_table(store, vocabulary_key(parent.dataset, snapshot_id, side), table), int((~kept).sum())


def _without_features(store: ObjectStore, parent: SnapshotManifest, items: list[int], snapshot_id: str):
    features = {}
    for modality, entry in parent.features.items():
        files = list(entry.files)
        for bucket in range(parent.num_item_buckets):
            own = item_bucket_range(parent.num_items, parent.num_item_buckets, bucket)
            places = [row - own.start for row in items if row in own]
            if places:
                block = read_features(store, parent, modality, [bucket])
                block[places] = 0
                sink = io.BytesIO()
                np.save(sink, block, allow_pickle=False)
                files[bucket] = put_file(
                    store, features_key(parent.dataset, snapshot_id, modality, bucket), sink.getvalue()
                )
        features[modality] = entry.model_copy(update={"files": files})
    return features


def _without_neighbours(store: ObjectStore, parent: SnapshotManifest, items: list[int], snapshot_id: str):
    graphs = {}
    for modality, entry in parent.item_graphs.items():
        files = list(entry.files)
        columns = read_item_graph(store, parent, modality)
        gone = np.isin(columns[0], items) | np.isin(columns[1], items)
        for bucket in range(parent.num_item_buckets):
            rows = item_bucket_range(parent.num_items, parent.num_item_buckets, bucket)
            own = (columns[0] >= rows.start) & (columns[0] < rows.stop)
            if gone[own].any():
                kept = pa.table([column[own & ~gone] for column in columns], schema=ITEM_GRAPH_SCHEMA)
                files[bucket] = _put_table(store, item_graph_key(parent.dataset, snapshot_id, modality, bucket), kept)
        graphs[modality] = entry.model_copy(update={"files": files})
    return graphs
