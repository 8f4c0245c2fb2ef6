"""Dataset snapshots: immutable files by bucket, and a manifest that names each with its digest.

A deletion makes a new snapshot whose manifest names the untouched files of its parent again.
The newest entry of the data set's log says which snapshot is current.
"""

import io
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import ValidationError

from tru_core.errors import ConflictError, DataError, IntegrityError, MissingObjectError
from tru_core.hashing import user_bucket
from workflows.data.manifest import (
    BucketEntry,
    FeatureEntry,
    ItemGraphEntry,
    SnapshotManifest,
    SplitCounts,
    SplitRule,
    item_bucket_range,
    manifest_files,
    read_manifest,
)
from workflows.storage import (
    FileEntry,
    LogEntry,
    ObjectStore,
    append_log_entry,
    dataset_log,
    manifest_key,
    read_log,
    read_verified,
    snapshot_prefix,
    write_json,
)
from workflows.storage.check import require_create_only

__all__ = [
    "INTERACTION_SCHEMA",
    "ITEM_GRAPH_SCHEMA",
    "TEST",
    "TRAIN",
    "VALID",
    "VOCABULARY_SCHEMA",
    "BucketEntry",
    "FeatureEntry",
    "InteractionTable",
    "ItemGraphEntry",
    "SnapshotManifest",
    "SplitCounts",
    "SplitRule",
    "current_snapshot",
    "item_bucket_range",
    "manifest_files",
    "publish_snapshot",
    "read_features",
    "read_interactions",
    "read_item_graph",
    "read_manifest",
    "read_vocabulary",
    "write_manifest",
]

TRAIN, VALID, TEST = 0, 1, 2

_NPY_MAGIC = b"\x93NUMPY"

Entry = TypeVar("Entry")

VOCABULARY_SCHEMA = pa.schema([("id", pa.string()), ("row", pa.int64())])
INTERACTION_SCHEMA = pa.schema([("user_row", pa.int64()), ("item_row", pa.int64()), ("split", pa.int8())])
ITEM_GRAPH_SCHEMA = pa.schema([("item_row", pa.int64()), ("neighbour_row", pa.int64()), ("similarity", pa.float32())])


@dataclass(frozen=True)
class InteractionTable:
    """Interactions as columns of equal length. ``split`` is 0 train, 1 valid, 2 test."""

    user_rows: NDArray[np.int64]
    item_rows: NDArray[np.int64]
    split: NDArray[np.int8]


def write_manifest(store: ObjectStore, manifest: SnapshotManifest) -> FileEntry:
    """Write the manifest: the snapshot is complete from now on, and not yet current."""
    key = manifest_key(snapshot_prefix(manifest.dataset, manifest.snapshot_id))
    return write_json(store, key, manifest.model_dump(mode="json"))


def publish_snapshot(store: ObjectStore, manifest: SnapshotManifest, entry: FileEntry) -> int:
    """Make a snapshot the current one. Publishing it a second time changes nothing.

    Returns:
        The number of its log entry.

    Raises:
        ConflictError: The current snapshot is not the parent of this one, or somebody else was first.
        IntegrityError: The storage would let two publishers win.
    """
    require_create_only(store)
    log_prefix = dataset_log(manifest.dataset)
    log = read_log(store, log_prefix)
    line = {"snapshot_id": manifest.snapshot_id, "manifest": entry.model_dump(mode="json")}
    for earlier in log:
        if earlier.entry == line:
            return earlier.number
    current_id = log[-1].entry.get("snapshot_id") if log else None
    is_successor = current_id == manifest.parent_snapshot_id
    if not (is_successor and append_log_entry(store, log_prefix, number=len(log) + 1, entry=line)):
        raise ConflictError(
            f"data set {manifest.dataset}: snapshot {manifest.snapshot_id} was made from "
            f"{manifest.parent_snapshot_id or 'nothing'}, but the current one is {current_id or 'none'}, or "
            f"changed just now. It was not published. Read the current snapshot and make the new one from it."
        )
    return len(log) + 1


def current_snapshot(store: ObjectStore, dataset: str) -> SnapshotManifest:
    """Read the manifest of the current snapshot.

    Raises:
        MissingObjectError: The data set was never published.
        IntegrityError: The log or the manifest is damaged.
        ConfigError: A newer program wrote the manifest.
    """
    return current_snapshot_entry(store, dataset)[0]


def current_snapshot_entry(store: ObjectStore, dataset: str) -> tuple[SnapshotManifest, FileEntry]:
    """Read the current snapshot's manifest, with its entry: both of one and the same log entry. Raises as above."""
    log = read_log(store, dataset_log(dataset))
    if not log:
        raise MissingObjectError(
            f"data set {dataset} does not exist in {store.url}. Correct the name or the storage url in the job file, "
            f"or make it with `tru data import SOURCE --to {shlex.quote(f'{store.url}/datasets/{dataset}')}`."
        )
    entry = _manifest_entry(log[-1], dataset)
    return read_manifest(store, entry), entry


def _manifest_entry(entry: LogEntry, dataset: str) -> FileEntry:
    try:
        return FileEntry.model_validate(entry.entry.get("manifest"))
    except ValidationError as error:
        raise IntegrityError(f"log of data set {dataset}: entry {entry.number} names no manifest.") from error


def read_interactions(store: ObjectStore, manifest: SnapshotManifest, buckets: Iterable[int]) -> InteractionTable:
    """Read the interactions of some user buckets, one bucket after the other.

    Raises:
        IntegrityError: A file differs from its digest, or its rows break the snapshot's rules.
        DataError: A bucket does not exist.
    """
    tables = [_read_bucket(store, manifest, bucket) for bucket in buckets]
    return InteractionTable(
        user_rows=_join([table.user_rows for table in tables], np.int64),
        item_rows=_join([table.item_rows for table in tables], np.int64),
        split=_join([table.split for table in tables], np.int8),
    )


def _read_bucket(store: ObjectStore, manifest: SnapshotManifest, bucket: int) -> InteractionTable:
    if not 0 <= bucket < manifest.num_user_buckets:
        raise DataError(f"user bucket {bucket} does not exist: there are {manifest.num_user_buckets}.")
    entry = manifest.interactions[bucket]
    users, items, split = _read_columns(store, entry.file, INTERACTION_SCHEMA)
    _require(len(users) == entry.num_rows, entry.file, f"expected {entry.num_rows} rows, found {len(users)}")
    _require_rows_below(users, manifest.num_users, entry.file, "user_row")
    _require_rows_below(items, manifest.num_items, entry.file, "item_row")
    _require(
        bool(np.isin(split, (TRAIN, VALID, TEST)).all()),
        entry.file,
        "column split has other values than 0, 1, 2",
    )
    is_own = user_bucket(users, manifest.num_user_buckets) == bucket
    _require(bool(is_own.all()), entry.file, f"{int((~is_own).sum())} rows belong to other buckets")
    is_ordered = (users[1:] > users[:-1]) | ((users[1:] == users[:-1]) & (items[1:] >= items[:-1]))
    _require(bool(is_ordered.all()), entry.file, "rows are not sorted by (user_row, item_row)")
    return InteractionTable(user_rows=users, item_rows=items, split=split)


def read_features(
    store: ObjectStore, manifest: SnapshotManifest, modality: str, item_buckets: Iterable[int]
) -> NDArray[np.floating]:
    """Read the features of some item buckets, (rows x columns), in the buckets' order and the stored dtype.

    Raises:
        IntegrityError: A file differs from its digest, holds Python objects, or has another shape or dtype.
        DataError: The modality or a bucket does not exist.
    """
    entry = _of_modality(manifest.features, modality, "features")
    blocks = []
    for bucket in item_buckets:
        num_rows = len(item_bucket_range(manifest.num_items, manifest.num_item_buckets, bucket))
        file = entry.files[bucket]
        block = _load_array(read_verified(store, file), file)
        found, expected = (block.shape, str(block.dtype)), ((num_rows, entry.num_columns), entry.dtype)
        _require(found == expected, file, f"expected shape and dtype {expected}, found {found}")
        blocks.append(block)
    return np.concatenate([np.empty((0, entry.num_columns), dtype=entry.dtype), *blocks])


def read_item_graph(
    store: ObjectStore, manifest: SnapshotManifest, modality: str
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Read a whole item graph as columns: item rows, neighbour rows, cosine similarity.

    Raises:
        IntegrityError: A file differs from its digest, or its rows break the snapshot's rules.
        DataError: There is no item graph of this modality.
    """
    entry = _of_modality(manifest.item_graphs, modality, "item graph")
    columns = []
    for bucket, file in enumerate(entry.files):
        items, neighbours, similarity = _read_columns(store, file, ITEM_GRAPH_SCHEMA)
        own = item_bucket_range(manifest.num_items, manifest.num_item_buckets, bucket)
        is_own = (items >= own.start) & (items < own.stop)
        _require(bool(is_own.all()), file, f"{int((~is_own).sum())} rows belong to other buckets")
        _require_rows_below(neighbours, manifest.num_items, file, "neighbour_row")
        _require(bool(np.isfinite(similarity).all()), file, "column similarity has values that are not finite")
        columns.append((items, neighbours, similarity))
    return (
        _join([items for items, _, _ in columns], np.int64),
        _join([neighbours for _, neighbours, _ in columns], np.int64),
        _join([similarity for _, _, similarity in columns], np.float32),
    )


def read_vocabulary(store: ObjectStore, entry: FileEntry) -> tuple[list[str], NDArray[np.int64]]:
    """Read the ids of a vocabulary and their rows, sorted by row. A deleted id has no line.

    Raises:
        IntegrityError: The file differs from its digest, or an id or row stands there twice.
    """
    table = _read_table(store, entry, VOCABULARY_SCHEMA)
    ids: list[str] = table.column("id").to_pylist()
    rows = table.column("row").to_numpy()
    _require(bool((rows >= 0).all()) and bool((np.diff(rows) > 0).all()), entry, "rows do not ascend from 0")
    _require(len(set(ids)) == len(ids), entry, f"{len(ids) - len(set(ids))} ids stand there twice")
    return ids, rows


def _read_columns(store: ObjectStore, entry: FileEntry, schema: pa.Schema) -> list[np.ndarray]:
    table = _read_table(store, entry, schema)
    return [table.column(name).to_numpy() for name in schema.names]


def _read_table(store: ObjectStore, entry: FileEntry, schema: pa.Schema) -> pa.Table:
    """Read the schema's columns of a verified parquet file; others may be there. No nulls."""
    try:
        file = pq.ParquetFile(pa.BufferReader(read_verified(store, entry)))
        for field in schema:
            index = file.schema_arrow.get_field_index(field.name)
            found = file.schema_arrow.field(index).type if index >= 0 else "no such column"
            _require(found == field.type, entry, f"column {field.name}: expected {field.type}, found {found}")
        table = file.read(columns=schema.names)
    except (pa.ArrowException, OSError) as error:
        raise IntegrityError(f"{entry.key} cannot be read as parquet: {error}. It was not used.") from error
    for name in schema.names:
        _require(table.column(name).null_count == 0, entry, f"column {name} has nulls")
    return table


def _load_array(body: bytes, entry: FileEntry) -> np.ndarray:
    """Decode a .npy file that holds numbers. Neither archives nor Python objects: these could run code."""
    _require(body.startswith(_NPY_MAGIC), entry, "it is no .npy file")
    try:
        return np.load(io.BytesIO(body), allow_pickle=False)
    except (ValueError, EOFError, SyntaxError) as error:
        raise IntegrityError(f"{entry.key} holds no plain array: {error}. It was not used.") from error


def _of_modality(entries: dict[str, Entry], modality: str, what: str) -> Entry:
    if modality not in entries:
        known = ", ".join(sorted(entries)) or "none"
        raise DataError(f"the snapshot has no {what} of modality {modality!r}. It has: {known}.")
    return entries[modality]


def _join(columns: list[np.ndarray], dtype: type) -> np.ndarray:
    return np.concatenate([np.empty(0, dtype=dtype), *columns])


def _require_rows_below(rows: np.ndarray, limit: int, entry: FileEntry, column: str) -> None:
    is_bad = (rows < 0) | (rows >= limit)
    _require(not is_bad.any(), entry, f"column {column}: {int(is_bad.sum())} rows are outside 0..{limit - 1}")


def _require(is_met: bool, entry: FileEntry, problem: str) -> None:
    if not is_met:
        raise IntegrityError(f"{entry.key} breaks the rules of a snapshot: {problem}. It was not used.")
