"""Modality features: read the rows of an item bucket from any kind of source, check them, write them.

Every task handles one modality and one item bucket, so that no process ever holds a whole feature table.
"""

import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pyarrow as pa
import ray
from numpy.typing import NDArray

from tru_core.errors import DataError
from workflows.data.snapshot import FeatureEntry, item_bucket_range
from workflows.ingest.feature_rows import LoadedFeatures, load_lists, load_matrix
from workflows.ingest.interactions import Vocabulary
from workflows.ingest.problems import (
    MAX_ROWS_NAMED,
    NOTHING_WRITTEN,
    describe_rows,
    problems_as_json,
    problems_from_json,
)
from workflows.ingest.raw_files import FeatureSource, TableFile
from workflows.ingest.raw_tables import raise_by_line
from workflows.ingest.tasks import collect, map_pieces
from workflows.storage import FileEntry, ObjectStore, features_key, put_file


@dataclass(frozen=True)
class FeaturePlan:
    """What a task needs to read and write features. Pieces are modalities times item buckets."""

    source: ObjectStore
    store: ObjectStore
    dataset: str
    snapshot_id: str
    sources: Sequence[FeatureSource]
    num_items: int
    num_item_buckets: int
    missing_feature: Literal["error", "zero"]

    def piece(self, number: int) -> tuple[FeatureSource, int, range]:
        """The modality, the item bucket and the item rows of a piece."""
        source, bucket = divmod(number, self.num_item_buckets)
        return self.sources[source], bucket, item_bucket_range(self.num_items, self.num_item_buckets, bucket)

    @property
    def num_pieces(self) -> int:
        return len(self.sources) * self.num_item_buckets


@dataclass(frozen=True)
class Moments:
    """Count, mean and sum of squared deviations of each column, with its smallest and largest value."""

    num_rows: int
    mean: NDArray[np.float64]
    squares: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


@dataclass(frozen=True)
class FeatureScan:
    """What the check of one modality found. ``moments`` leave out rows of zeros."""

    num_missing: int
    num_without_item: int
    num_zero_rows: int
    moments: Moments

    @property
    def num_constant_columns(self) -> int:
        return int(np.count_nonzero(self.moments.low == self.moments.high)) if self.moments.num_rows > 1 else 0


def refuse_short_matrices(sources: Sequence[FeatureSource], items: Vocabulary) -> None:
    """Check that every .npy matrix has a row for every item, as far as its header tells.

    Raises:
        DataError: Item ids are no integers, or there are fewer rows than items.
    """
    for source in sources:
        if source.npy is None:
            continue
        if not items.are_integers:
            raise DataError(
                f"{source.key}: row i belongs to item id i, but the item ids are text: expected integers from 0 on. "
                f"{NOTHING_WRITTEN} Give the features as parquet with a column of item ids."
            )
        num_needed = int(items.ids[-1].as_py()) + 1
        if num_needed > source.npy.num_rows:
            raise DataError(
                f"{source.key}: expected {num_needed} rows or more (row i belongs to item id i, and the "
                f"interactions name {len(items.ids)} items), found {source.npy.num_rows}. "
                f"{NOTHING_WRITTEN} Use features of the same ids."
            )


def scan_features(plan: FeaturePlan, items: ray.ObjectRef) -> dict[str, FeatureScan]:
    """Read all features once and check them.

    Args:
        items: A reference to the item ids in row order.

    Raises:
        DataError: A value is NaN or infinite, a list has another length, an item stands there twice, or items have
            no features and the plan does not allow it.
    """
    if not plan.sources:
        return {}
    lines = [
        line
        for table in collect(map_pieces(plan.num_pieces, _scan_piece, plan=plan, items=items))
        for line in table.to_pylist()
    ]
    lines.sort(key=lambda line: line["piece"])
    tables = [table for source in plan.sources if source.table is not None for table in (source.table, *source.more)]
    problems = [problem for line in lines for problem in problems_from_json(json.loads(line["problems"]))]
    raise_by_line(plan.source.filesystem()[0], tables, problems)
    scans = {}
    for number, source in enumerate(plan.sources):
        own = lines[number * plan.num_item_buckets : (number + 1) * plan.num_item_buckets]
        num_missing = sum(line["num_missing"] for line in own)
        if num_missing and plan.missing_feature == "error":
            rows = [row + 1 for line in own for row in line["missing_rows"]][:MAX_ROWS_NAMED]
            raise DataError(
                f"{source.key}: expected {source.modality} features of all {plan.num_items} items, found none for "
                f"those of item {describe_rows(rows, num_missing)} (items ordered by id). {NOTHING_WRITTEN} Complete "
                f"the features, or import with --missing-feature zero."
            )
        scans[source.modality] = FeatureScan(
            num_missing=num_missing,
            num_without_item=own[0]["num_source_rows"] - (plan.num_items - num_missing),
            num_zero_rows=sum(line["num_zero_rows"] for line in own),
            moments=_merge_moments([_moments_from_line(line) for line in own]),
        )
    return scans


def write_features(plan: FeaturePlan, items: ray.ObjectRef) -> dict[str, FeatureEntry]:
    """Read all features again and write one file for each modality and item bucket."""
    if not plan.sources:
        return {}
    tables = collect(map_pieces(plan.num_pieces, _write_piece, plan=plan, items=items))
    entries = {line["piece"]: line["entry"] for table in tables for line in table.to_pylist()}
    files = [FileEntry.model_validate_json(entries[piece]) for piece in range(plan.num_pieces)]
    return {
        source.modality: FeatureEntry(
            num_columns=source.num_columns,
            dtype=source.dtype,
            files=files[number * plan.num_item_buckets : (number + 1) * plan.num_item_buckets],
        )
        for number, source in enumerate(plan.sources)
    }


def _scan_piece(piece: int, *, plan: FeaturePlan, items: pa.Array) -> Iterator[pa.Table]:
    _, _, rows = plan.piece(piece)
    loaded = _load(piece, plan, items)
    is_zero = np.all(loaded.values == 0, axis=1)
    moments = _moments(loaded.values[~is_zero])
    line = {
        "piece": piece,
        "problems": json.dumps(problems_as_json(loaded.problems)),
        "num_missing": int(np.count_nonzero(loaded.is_missing)),
        "missing_rows": [rows.start + int(row) for row in np.flatnonzero(loaded.is_missing)[:MAX_ROWS_NAMED]],
        "num_zero_rows": int(np.count_nonzero(is_zero & ~loaded.is_missing)),
        "num_source_rows": loaded.num_source_rows,
        "moment_rows": moments.num_rows,
        "moments": np.stack([moments.mean, moments.squares, moments.low, moments.high]).tobytes(),
    }
    types = {"missing_rows": pa.list_(pa.int64())}
    yield pa.table({name: pa.array([value], type=types.get(name)) for name, value in line.items()})


def _write_piece(piece: int, *, plan: FeaturePlan, items: pa.Array) -> Iterator[pa.Table]:
    source, bucket, _ = plan.piece(piece)
    loaded = _load(piece, plan, items)
    buffer = io.BytesIO()
    np.save(
        buffer, np.ascontiguousarray(loaded.values, dtype=f"<f{np.dtype(source.dtype).itemsize}"), allow_pickle=False
    )
    key = features_key(plan.dataset, plan.snapshot_id, source.modality, bucket)
    entry = put_file(plan.store, key, buffer.getvalue())
    yield pa.table({"piece": [piece], "entry": [entry.model_dump_json()]})


def _load(piece: int, plan: FeaturePlan, items: pa.Array) -> LoadedFeatures:
    source, bucket, rows = plan.piece(piece)
    wanted = items.slice(rows.start, len(rows))
    if source.npy is not None:
        return load_matrix(plan.source, source, source.npy, wanted)
    if source.table is not None:
        return _load_parts(plan, source, [source.table, *source.more], wanted, checks_ids=bucket == 0)
    raise DataError(f"{source.key}: has neither a matrix nor a list column. {NOTHING_WRITTEN}")


def _load_parts(
    plan: FeaturePlan, source: FeatureSource, tables: Sequence[TableFile], wanted: pa.Array, *, checks_ids: bool
) -> LoadedFeatures:
    """Read the lists of some items from all parts of a table. DataError if an item stands in two parts."""
    loaded = [
        load_lists(plan.source, replace(source, key=table.key, path=table.path), table, wanted, checks_ids=checks_ids)
        for table in tables
    ]
    values, is_missing = loaded[0].values, loaded[0].is_missing
    for table, part in zip(tables[1:], loaded[1:], strict=True):
        num_repeats = int(np.count_nonzero(~is_missing & ~part.is_missing))
        if num_repeats:
            raise DataError(
                f"{table.key}, column {source.id_column}: expected each item in one part of the table, found "
                f"{num_repeats} items that a part before it has. {NOTHING_WRITTEN} Keep one row of each."
            )
        values[~part.is_missing] = part.values[~part.is_missing]
        is_missing &= part.is_missing
    problems = [problem for part in loaded for problem in part.problems]
    return LoadedFeatures(values, is_missing, problems, sum(part.num_source_rows for part in loaded))


def _moments(values: np.ndarray) -> Moments:
    wide = values.astype(np.float64)
    num_columns = values.shape[1]
    if len(wide) == 0:
        zeros = np.zeros(num_columns)
        return Moments(0, zeros, zeros, np.full(num_columns, np.inf), np.full(num_columns, -np.inf))
    mean = wide.mean(axis=0)
    return Moments(len(wide), mean, ((wide - mean) ** 2).sum(axis=0), wide.min(axis=0), wide.max(axis=0))


def _moments_from_line(line: dict) -> Moments:
    mean, squares, low, high = np.frombuffer(line["moments"], dtype=np.float64).reshape(4, -1)
    return Moments(line["moment_rows"], mean, squares, low, high)


def _merge_moments(parts: Sequence[Moments]) -> Moments:
    """Join the moments of blocks, in their order: the pairwise update of Chan, Golub and LeVeque (1979)."""
    total = parts[0]
    for part in parts[1:]:
        num_rows = total.num_rows + part.num_rows
        share = part.num_rows / num_rows if num_rows else 0.0
        step = part.mean - total.mean
        total = Moments(
            num_rows=num_rows,
            mean=total.mean + step * share,
            squares=total.squares + part.squares + step**2 * total.num_rows * share,
            low=np.minimum(total.low, part.low),
            high=np.maximum(total.high, part.high),
        )
    return total
