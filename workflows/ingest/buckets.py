"""Write interactions by user bucket: a shuffle brings whole buckets together, then one function writes each."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
import pyarrow as pa
import ray
import ray.data

from tru_core.errors import IntegrityError
from workflows.data.snapshot import INTERACTION_SCHEMA, TEST, TRAIN, VALID, BucketEntry, SplitCounts
from workflows.ingest.problems import Problem, find_problem, problems_as_json, problems_from_json
from workflows.ingest.settings import IN_SETTINGS
from workflows.ingest.splits import find_duplicates, sort_rows, split_users
from workflows.ingest.tasks import collect, map_blocks, map_pieces, materialize
from workflows.storage import FileEntry, ObjectStore, interactions_key, put_file
from workflows.storage.parquet import parquet_bytes

ROWS_PER_PARTITION = 2_000_000
_COLUMNS = ("user_row", "item_row", "split", "timestamp", "file", "source_row")


@dataclass(frozen=True)
class BucketPlan:
    """What a task needs to write buckets. ``split_kind``: as in the manifest. ``file_keys``: the raw files' names."""

    store: ObjectStore
    dataset: str
    snapshot_id: str
    num_items: int
    num_user_buckets: int
    split_kind: str
    split_seed: int
    has_timestamp: bool
    file_keys: list[str]


@dataclass(frozen=True)
class BucketCounts:
    """Rows of one bucket, or of all."""

    train: int = 0
    valid: int = 0
    test: int = 0
    duplicates_dropped: int = 0
    repeats_dropped: int = 0
    pairs_in_two_splits_dropped: int = 0

    def __add__(self, other: "BucketCounts") -> "BucketCounts":
        return BucketCounts(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))


@dataclass(frozen=True)
class WrittenInteractions:
    """The files of all buckets and what they hold. ``is_train_item`` marks items with a train interaction."""

    entries: list[BucketEntry]
    counts: BucketCounts
    is_train_item: np.ndarray

    @property
    def split_counts(self) -> SplitCounts:
        return SplitCounts(train=self.counts.train, valid=self.counts.valid, test=self.counts.test)


def gather_buckets(rows: ray.data.Dataset, *, num_user_buckets: int, num_rows: int) -> ray.data.Dataset:
    """Bring each bucket's rows into one block: all into a single one where they are few, else by a shuffle.

    A shuffle starts processes of its own, which takes longer than all else where rows are few.
    """
    blocks = materialize(rows)
    if blocks.num_blocks() <= 1:
        return blocks
    if num_rows <= ROWS_PER_PARTITION:
        return materialize(map_pieces(1, _join_blocks, blocks=blocks.get_internal_block_refs()))
    num_cpus = int(ray.cluster_resources().get("CPU", 1))
    wanted = max(2 * num_cpus, num_rows // ROWS_PER_PARTITION)
    return materialize(blocks.repartition(min(num_user_buckets, wanted), keys=["bucket"]))


def _join_blocks(_: int, *, blocks: list[ray.ObjectRef]) -> Iterator[pa.Table]:
    yield pa.concat_tables(ray.get(blocks))


def find_repeats(blocks: ray.data.Dataset, plan: BucketPlan) -> list[Problem]:
    """Where a user and an item meet for the second time."""
    notes = [
        text
        for table in collect(map_blocks(blocks, _find_duplicates, plan=plan))
        for text in table.column(0).to_pylist()
    ]
    return [problem for text in notes for problem in problems_from_json(json.loads(text))]


def _find_duplicates(block: pa.Table, *, plan: BucketPlan) -> Iterator[pa.Table]:
    rows = _sorted_columns(block)
    is_kept = find_duplicates(
        rows["user_row"], rows["item_row"], split=rows["split"], timestamp=rows["timestamp"]
    ).is_kept
    problems = []
    for number in np.unique(rows["file"]):
        problems += find_problem(
            ~is_kept & (rows["file"] == number),
            rows["source_row"],
            file=plan.file_keys[int(number)],
            column="user and item",
            expected="each pair once",
            found="pairs that stand there before",
            fix=f"Remove them, or set duplicates: drop {IN_SETTINGS}.",
        )
    yield pa.table({"note": [json.dumps(problems_as_json(problems))]})


def write_buckets(blocks: ray.data.Dataset, plan: BucketPlan) -> WrittenInteractions:
    """Drop duplicates, split, and write one file for each bucket, empty buckets too.

    Raises:
        IntegrityError: A bucket came in two parts, which would mean that rows were lost.
    """
    entries: dict[int, BucketEntry] = {}
    total = BucketCounts()
    is_train_item = np.zeros(plan.num_items, dtype=bool)
    for table in collect(map_blocks(blocks, _write_block, plan=plan)):
        for line in table.to_pylist():
            entry = BucketEntry.model_validate_json(line["entry"])
            if entry.bucket in entries:
                raise IntegrityError(f"data set {plan.dataset}: bucket {entry.bucket} was written in two parts.")
            entries[entry.bucket] = entry
            total += BucketCounts(**json.loads(line["counts"]))
            is_train_item |= np.unpackbits(np.frombuffer(line["train_items"], np.uint8), count=plan.num_items).astype(
                bool
            )
    empty = {name: np.empty(0, dtype=np.int64) for name in (*_COLUMNS,)}
    for bucket in set(range(plan.num_user_buckets)) - set(entries):
        entries[bucket] = BucketEntry(bucket=bucket, file=_write_bucket(empty, bucket, plan), num_rows=0)
    return WrittenInteractions([entries[bucket] for bucket in sorted(entries)], total, is_train_item)


def _sorted_columns(block: pa.Table) -> dict[str, np.ndarray]:
    columns = {name: block.column(name).to_numpy() for name in _COLUMNS}
    order = sort_rows(
        columns["user_row"],
        columns["item_row"],
        split=columns["split"],
        timestamp=columns["timestamp"],
        file=columns["file"],
        source_row=columns["source_row"],
    )
    return {name: column[order] for name, column in columns.items()}


def _write_block(block: pa.Table, *, plan: BucketPlan) -> Iterator[pa.Table]:
    bucket_of_row = block.column("bucket").to_numpy()
    lines = []
    for bucket in np.unique(bucket_of_row):
        rows = _sorted_columns(block.filter(pa.array(bucket_of_row == bucket)))
        same = find_duplicates(rows["user_row"], rows["item_row"], split=rows["split"], timestamp=rows["timestamp"])
        kept = {name: column[same.is_kept] for name, column in rows.items()}
        if plan.split_kind in ("random", "time"):
            kept["split"] = split_users(
                kept["user_row"],
                kept["item_row"],
                kind="time" if plan.split_kind == "time" else "random",
                timestamp=kept["timestamp"],
                seed=plan.split_seed,
            )
        num_in = [int(np.count_nonzero(kept["split"] == part)) for part in (TRAIN, VALID, TEST)]
        dropped = [int(np.count_nonzero(mask)) for mask in (same.is_exact, same.is_repeat, same.is_in_two_splits)]
        is_train_item = np.zeros(plan.num_items, dtype=bool)
        is_train_item[kept["item_row"][kept["split"] == TRAIN]] = True
        file = _write_bucket(kept, int(bucket), plan)
        entry = BucketEntry(bucket=int(bucket), file=file, num_rows=len(kept["user_row"]))
        counts = dict(zip((field.name for field in fields(BucketCounts)), [*num_in, *dropped], strict=True))
        lines.append(
            {
                "entry": entry.model_dump_json(),
                "counts": json.dumps(counts),
                "train_items": np.packbits(is_train_item).tobytes(),
            }
        )
    yield pa.Table.from_pylist(lines)


def _write_bucket(rows: dict[str, np.ndarray], bucket: int, plan: BucketPlan) -> FileEntry:
    schema = INTERACTION_SCHEMA.append(pa.field("timestamp", pa.int64())) if plan.has_timestamp else INTERACTION_SCHEMA
    table = pa.table([pa.array(rows[field.name]).cast(field.type) for field in schema], schema=schema)
    return put_file(plan.store, interactions_key(plan.dataset, plan.snapshot_id, bucket), parquet_bytes(table))
