"""Raw tables to a published snapshot: find, check all, then write, the manifest last."""

import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Literal

import numpy as np
import pyarrow as pa
import ray

from tru_core.errors import ConflictError, DataError, TruError
from workflows.data.snapshot import VOCABULARY_SCHEMA, SnapshotManifest, SplitRule, publish_snapshot, write_manifest
from workflows.ingest.buckets import (
    BucketPlan,
    WrittenInteractions,
    find_repeats,
    gather_buckets,
    write_buckets,
)
from workflows.ingest.columns import Columns, find_columns
from workflows.ingest.features import FeaturePlan, refuse_short_matrices, scan_features, write_features
from workflows.ingest.gates import refuse_pickle_switches
from workflows.ingest.interactions import (
    IdCounts,
    RawInteractions,
    Scan,
    Vocabulary,
    order_ids,
    scan_interactions,
    translate_interactions,
)
from workflows.ingest.item_graph import GraphPlan, write_item_graphs
from workflows.ingest.layouts import find_raw_data
from workflows.ingest.problems import MAX_ROWS_NAMED, NOTHING_WRITTEN, describe_rows, missing_column
from workflows.ingest.raw_files import RawData, UnusedFile
from workflows.ingest.raw_tables import plan_pieces, raise_by_line
from workflows.ingest.report import import_report, warn_of_counts
from workflows.ingest.settings import IN_SETTINGS, IngestConfig
from workflows.ingest.tasks import quiet_ray_data
from workflows.ingest.tombstone_gate import Gate, count_dropped, find_blocked, open_gate
from workflows.ingest.unused import summarise, warn_of_unused
from workflows.key_files import KeysConfig
from workflows.storage import (
    FileEntry,
    ObjectStore,
    StorageConfig,
    dataset_log,
    open_store,
    put_file,
    snapshot_prefix,
    vocabulary_key,
)
from workflows.storage.parquet import parquet_bytes

SplitKind = Literal["given", "random", "time"]


def import_dataset(
    source: str | StorageConfig,
    store: ObjectStore,
    dataset: str,
    settings: IngestConfig | None = None,
    *,
    keys: KeysConfig | None = None,
    on_unused: Callable[[Sequence[UnusedFile]], None] | None = None,
) -> SnapshotManifest:
    """Read raw tables, check them, and publish them as the first snapshot of a data set.

    Ray must be initialised. Everything is checked before the first byte is written, and the manifest and the log
    entry come last, so a data set exists whole or not at all. The files depend on the data and the settings
    only, not on the number of workers or blocks. What was deleted before does not come back: rows of users, items and
    interactions with a tombstone in the store are left out and counted in the report.

    Args:
        source: A folder or an s3:// prefix in one of the layouts of ``workflows.ingest.layouts``. A plain path or
            URL, or a StorageConfig where an endpoint is to be named.
        dataset: The name of the new data set.
        settings: Layout, split, columns and policies. All have defaults.
        keys: Where the identity key lies. It is read only where the store has tombstones.
        on_unused: Called, before any row is read, with the files of the source that are not used and why; these are
            logged in any case. They are not stored: a name that somebody chose may name a person.

    Returns:
        The manifest. Its ``report`` counts what was dropped, missing or odd.

    Raises:
        DataError: The data breaks a rule; the message names file, column and rows.
        IntegrityError: A file could run code when it is read.
        AccessError: The source or the store cannot be reached, or there is no such source.
        ConflictError: The data set exists already.
        ConfigError: The store has tombstones, and the identity key is missing or another one.
        TransientError: Ray or the storage failed.
    """
    settings = settings or IngestConfig()
    refuse_pickle_switches()
    _refuse_existing(store, dataset)
    gate = open_gate(store, settings.tombstones, keys or KeysConfig())
    raw_store = open_store(source)
    raw = find_raw_data(raw_store, settings.layout, names=settings.columns)
    unused = summarise(raw.unused)
    warn_of_unused(dataset, unused)
    if on_unused is not None:
        on_unused(unused)
    columns = find_columns(raw, settings.columns)
    split_kind = _choose_split(raw, columns, settings.split)
    pieces = plan_pieces(raw.tables, settings.rows_per_task)
    now_ms = int(datetime.now(UTC).timestamp() * 1000)
    if split_kind != "given":
        columns = Columns(columns.user, columns.item, None, columns.timestamp)
    work = RawInteractions(raw_store, raw, columns, pieces, now_ms)
    with quiet_ray_data():
        scan, dropped = scan_interactions(work), {}
        if gate is not None:
            work, scan, dropped = _without_deleted(gate, work, scan)
        return _import_checked(
            store, dataset, settings=settings, work=work, scan=scan, split_kind=split_kind, dropped=dropped
        )


def _without_deleted(gate: Gate, work: RawInteractions, scan: Scan) -> tuple[RawInteractions, Scan, dict[str, int]]:
    """Leave out what was deleted: what to read, what is there then, and what was left out, counted."""
    has_times = work.columns.timestamp is not None
    blocked = find_blocked(gate, users=scan.users.ids, items=scan.items.ids, has_times=has_times)
    if not len(blocked):
        return work, scan, count_dropped(blocked, num_rows=0)
    work = replace(work, blocked=blocked)
    rest = scan_interactions(work)
    return work, rest, count_dropped(blocked, num_rows=scan.num_rows - rest.num_rows)


def _import_checked(
    store: ObjectStore,
    dataset: str,
    *,
    settings: IngestConfig,
    work: RawInteractions,
    scan: Scan,
    split_kind: SplitKind,
    dropped: dict[str, int],
) -> SnapshotManifest:
    """From checked interactions on: check the features, then write everything and publish."""
    now = datetime.now(UTC)
    snapshot_id = f"{now:%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:8]}"
    is_cold = _find_cold_users(scan.users, split_kind)
    is_dropped = is_cold if settings.cold_users == "drop" else np.zeros_like(is_cold)
    users = order_ids(scan.users.ids.filter(pa.array(~is_dropped)))
    items = order_ids(scan.items.ids)
    _refuse_cold_users(scan.users, is_cold, settings)
    if split_kind == "given" and not scan.users.num_train.any():
        raise DataError(
            f"{work.raw.tables[0].key}, column {work.columns.split}: expected interactions in train, found none among "
            f"{scan.num_rows}. {NOTHING_WRITTEN} Import with --split random, or correct the column."
        )
    num_rows = int(scan.users.num_rows[~is_dropped].sum())
    item_ids = ray.put(items.ids)
    features = FeaturePlan(
        source=work.source,
        store=store,
        dataset=dataset,
        snapshot_id=snapshot_id,
        sources=sorted(work.raw.features, key=lambda source: source.modality),
        num_items=len(items.ids),
        num_item_buckets=settings.num_item_buckets,
        missing_feature=settings.missing_feature,
    )
    refuse_short_matrices(features.sources, items)
    feature_scans = scan_features(features, item_ids)
    buckets = BucketPlan(
        store=store,
        dataset=dataset,
        snapshot_id=snapshot_id,
        num_items=len(items.ids),
        num_user_buckets=settings.num_user_buckets,
        split_kind=split_kind,
        split_seed=settings.split_seed,
        has_timestamp=work.columns.timestamp is not None,
        file_keys=[table.key for table in work.raw.tables],
    )
    rows = translate_interactions(work, users=users, items=items, num_buckets=settings.num_user_buckets)
    blocks = gather_buckets(rows, num_user_buckets=settings.num_user_buckets, num_rows=num_rows)
    if settings.duplicates == "error":
        raise_by_line(work.source.filesystem()[0], work.raw.tables, find_repeats(blocks, buckets))
    with _say_what_is_left(dataset, snapshot_id):
        interactions = write_buckets(blocks, buckets)
        _require_all_rows(interactions, num_rows, work)
        feature_entries = write_features(features, item_ids)
        standardised = settings.neighbour_features == "standardised"
        graphs = write_item_graphs(
            GraphPlan(
                store=store,
                dataset=dataset,
                snapshot_id=snapshot_id,
                features=feature_entries,
                moments={name: found.moments for name, found in feature_scans.items()} if standardised else {},
                num_items=len(items.ids),
                num_item_buckets=settings.num_item_buckets,
                num_neighbours=settings.num_neighbours,
            )
        )
        report = import_report(
            scan, interactions, feature_scans, num_rows=num_rows, is_cold=is_cold, is_dropped=is_dropped
        )
        report["rows_read"] += dropped.get("tombstoned_rows_dropped", 0)
        report |= dropped
        manifest = SnapshotManifest(
            dataset=dataset,
            snapshot_id=snapshot_id,
            parent_snapshot_id=None,
            created_at=now.isoformat(timespec="seconds"),
            num_users=len(users.ids),
            num_items=len(items.ids),
            num_user_buckets=settings.num_user_buckets,
            num_item_buckets=settings.num_item_buckets,
            split=SplitRule(kind=split_kind, seed=settings.split_seed),
            counts=interactions.split_counts,
            user_vocabulary=_write_vocabulary(store, users, vocabulary_key(dataset, snapshot_id, "users")),
            item_vocabulary=_write_vocabulary(store, items, vocabulary_key(dataset, snapshot_id, "items")),
            interactions=interactions.entries,
            features=feature_entries,
            item_graphs=graphs,
            report=report,
        )
        publish_snapshot(store, manifest, write_manifest(store, manifest))
    warn_of_counts(dataset, report)
    return manifest


def _refuse_existing(store: ObjectStore, dataset: str) -> None:
    if store.list(dataset_log(dataset)):
        raise ConflictError(
            f"data set {dataset} exists already in {store.url}, and its rows may belong to deleted users, so a new "
            f"import cannot take its place. {NOTHING_WRITTEN} Import under another name."
        )


def _choose_split(raw: RawData, columns: Columns, asked: Literal["auto", "given", "random", "time"]) -> SplitKind:
    has_split = columns.split is not None or all(table.part is not None for table in raw.tables)
    first = raw.tables[0]
    if asked == "given" and not has_split:
        fix = f"Name the column under `columns` {IN_SETTINGS}, or import with --split random."
        raise missing_column(first.key, list(first.columns), wanted="split or x_label", is_text=first.is_text, fix=fix)
    if asked == "time" and columns.timestamp is None:
        fix = (
            f"The split by time needs it: name the column under `columns` {IN_SETTINGS}, or import with --split random."
        )
        raise missing_column(first.key, list(first.columns), wanted="timestamp", is_text=first.is_text, fix=fix)
    if asked != "auto":
        return asked
    return "given" if has_split else "random"


def _find_cold_users(users: IdCounts, split_kind: SplitKind) -> np.ndarray:
    """Marks users without a train interaction. A split made here leaves everyone one."""
    return users.num_train == 0 if split_kind == "given" else np.zeros(len(users.num_train), dtype=bool)


def _refuse_cold_users(users: IdCounts, is_cold: np.ndarray, settings: IngestConfig) -> None:
    if settings.cold_users != "error" or not is_cold.any():
        return
    ordered = order_ids(users.ids)
    rows = np.flatnonzero(np.isin(ordered.ids.to_numpy(False), users.ids.filter(pa.array(is_cold)).to_numpy(False)))
    where = describe_rows(rows[:MAX_ROWS_NAMED] + 1, len(rows))
    raise DataError(
        f"the split leaves users without a train interaction: user {where}, users ordered by id. {NOTHING_WRITTEN} "
        f"Set cold_users: keep or drop {IN_SETTINGS}, or import with --split random."
    )


def _require_all_rows(interactions: WrittenInteractions, num_rows: int, work: RawInteractions) -> None:
    counts = interactions.counts
    found = sum(vars(counts).values())
    if found != num_rows:
        files = ", ".join(table.key for table in work.raw.tables)
        raise DataError(
            f"{files}: {num_rows} interactions were checked, but {found} written. The source changed meanwhile."
        )


@contextmanager
def _say_what_is_left(dataset: str, snapshot_id: str) -> Iterator[None]:
    """Add to an error that comes after the first write what lies in the store now."""
    try:
        yield
    except TruError as error:
        raise type(error)(
            f"{error} The import stopped before its end: data set {dataset} has no manifest and no log entry and does "
            f"not exist for any reader. What was written lies below {snapshot_prefix(dataset, snapshot_id)} and can be "
            f"removed. Run the import again: it writes elsewhere."
        ) from error


def _write_vocabulary(store: ObjectStore, vocabulary: Vocabulary, key: str) -> FileEntry:
    rows = pa.array(np.arange(len(vocabulary.ids), dtype=np.int64))
    return put_file(store, key, parquet_bytes(pa.table([vocabulary.ids, rows], schema=VOCABULARY_SCHEMA)))
