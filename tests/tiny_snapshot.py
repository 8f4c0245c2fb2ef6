"""A small published data set, written straight into a store without Ray: for tests of what comes after the import.

Users and items have latent tastes that make both the interactions and the features, so a model has something to learn.
"""

import io
from collections.abc import Mapping
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tru_core.hashing import user_bucket
from workflows.data.snapshot import (
    INTERACTION_SCHEMA,
    ITEM_GRAPH_SCHEMA,
    TEST,
    TRAIN,
    VALID,
    VOCABULARY_SCHEMA,
    BucketEntry,
    FeatureEntry,
    ItemGraphEntry,
    SnapshotManifest,
    SplitCounts,
    SplitRule,
    item_bucket_range,
    publish_snapshot,
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
    model_log,
    put_file,
    vocabulary_key,
)

NUM_TASTES = 4
PAIRS_PER_USER = 12
NUM_NEIGHBOURS = 10
NUM_USER_BUCKETS, NUM_ITEM_BUCKETS = 16, 8


def user_id(row: int) -> str:
    return f"user-{row:04d}"


def item_id(row: int) -> str:
    return f"item-{row:04d}"


def _put_table(store: ObjectStore, key: str, columns: list, schema: pa.Schema) -> FileEntry:
    sink = io.BytesIO()
    pq.write_table(pa.table(columns, schema=schema), sink)
    return put_file(store, key, sink.getvalue())


def _draw_interactions(user_tastes: np.ndarray, item_tastes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Rows (user, item, split) sorted by user and item: of each user 2 pairs for valid, 2 for test, the rest train."""
    rows = []
    for user, tastes in enumerate(user_tastes):
        chance = item_tastes @ tastes + 0.01
        items = rng.choice(len(item_tastes), PAIRS_PER_USER, replace=False, p=chance / chance.sum())
        split = np.full(PAIRS_PER_USER, TRAIN)
        split[:2], split[2:4] = VALID, TEST
        rows.append(np.stack([np.full(PAIRS_PER_USER, user), items, split], axis=1))
    table = np.concatenate(rows)
    return table[np.lexsort((table[:, 1], table[:, 0]))]


def _nearest(features: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each item its nearest ones by cosine, itself first: item rows, neighbour rows, similarities."""
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    cosine = unit.astype(np.float64) @ unit.astype(np.float64).T
    np.fill_diagonal(cosine, 1.0 + 1e-9)
    count = min(NUM_NEIGHBOURS, len(features))
    near = np.argsort(-cosine, axis=1, kind="stable")[:, :count]
    items = np.repeat(np.arange(len(features)), count)
    return items, near.ravel(), cosine[items, near.ravel()].clip(max=1.0).astype(np.float32)


def write_tiny_snapshot(
    store: ObjectStore,
    dataset: str = "tiny",
    num_users: int = 60,
    num_items: int = 40,
    modalities: Mapping[str, int] | None = None,
    seed: int = 0,
) -> SnapshotManifest:
    """Write a data set and make it the current snapshot. Ids are ``user-0007`` and ``item-0007``.

    Args:
        modalities: Feature columns by modality; None is visual 8, text 6.
    """
    rng = np.random.default_rng(seed)
    snapshot_id = f"tiny-{seed}"
    user_tastes = rng.dirichlet(np.full(NUM_TASTES, 0.1), size=num_users)
    item_tastes = rng.dirichlet(np.full(NUM_TASTES, 0.1), size=num_items)
    pairs = _draw_interactions(user_tastes, item_tastes, rng)

    vocabularies = {
        side: _put_table(
            store,
            vocabulary_key(dataset, snapshot_id, side),
            [[name(row) for row in range(count)], np.arange(count)],
            VOCABULARY_SCHEMA,
        )
        for side, count, name in (("users", num_users, user_id), ("items", num_items, item_id))
    }
    interactions = []
    bucket_of = user_bucket(pairs[:, 0], NUM_USER_BUCKETS)
    for bucket in range(NUM_USER_BUCKETS):
        own = pairs[bucket_of == bucket]
        columns = [own[:, 0], own[:, 1], own[:, 2].astype(np.int8)]
        file = _put_table(store, interactions_key(dataset, snapshot_id, bucket), columns, INTERACTION_SCHEMA)
        interactions.append(BucketEntry(bucket=bucket, file=file, num_rows=len(own)))

    features, graphs = {}, {}
    ranges = [item_bucket_range(num_items, NUM_ITEM_BUCKETS, bucket) for bucket in range(NUM_ITEM_BUCKETS)]
    for modality, num_columns in ({"visual": 8, "text": 6} if modalities is None else modalities).items():
        directions = rng.normal(size=(NUM_TASTES, num_columns))
        values = (item_tastes @ directions + rng.normal(scale=0.2, size=(num_items, num_columns))).astype(np.float32)
        items, neighbours, similarity = _nearest(values)
        feature_files, graph_files = [], []
        for bucket, rows in enumerate(ranges):
            sink = io.BytesIO()
            np.save(sink, values[rows.start : rows.stop], allow_pickle=False)
            feature_files.append(put_file(store, features_key(dataset, snapshot_id, modality, bucket), sink.getvalue()))
            own = (items >= rows.start) & (items < rows.stop)
            columns = [items[own], neighbours[own], similarity[own]]
            key = item_graph_key(dataset, snapshot_id, modality, bucket)
            graph_files.append(_put_table(store, key, columns, ITEM_GRAPH_SCHEMA))
        features[modality] = FeatureEntry(num_columns=num_columns, dtype="float32", files=feature_files)
        graphs[modality] = ItemGraphEntry(num_neighbours=min(NUM_NEIGHBOURS, num_items), files=graph_files)

    counts = np.bincount(pairs[:, 2], minlength=3)
    manifest = SnapshotManifest(
        dataset=dataset,
        snapshot_id=snapshot_id,
        parent_snapshot_id=None,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        num_users=num_users,
        num_items=num_items,
        num_user_buckets=NUM_USER_BUCKETS,
        num_item_buckets=NUM_ITEM_BUCKETS,
        split=SplitRule(kind="random", seed=seed),
        counts=SplitCounts(train=int(counts[TRAIN]), valid=int(counts[VALID]), test=int(counts[TEST])),
        user_vocabulary=vocabularies["users"],
        item_vocabulary=vocabularies["items"],
        interactions=interactions,
        features=features,
        item_graphs=graphs,
    )
    publish_snapshot(store, manifest, write_manifest(store, manifest))
    return manifest


def name_a_data_set(store: ObjectStore, dataset: str) -> None:
    """Let a data set exist for whoever asks for its name: a log with an entry, and no data."""
    append_log_entry(store, dataset_log(dataset), number=1, entry={"snapshot_id": "none"})


def name_a_model(store: ObjectStore, model: str) -> None:
    """Let a model exist for whoever asks for its name: a log with an entry, and no files."""
    append_log_entry(store, model_log(model), number=1, entry={"version": 1})
