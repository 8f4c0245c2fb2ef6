"""Item-item graphs: the nearest items of every item by the cosine of their features, block against block.

A task takes the items of one bucket and goes through all buckets one by one, so it holds a block of rows, a
block of columns and their similarities, never items x items.
"""

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import ray
from numpy.typing import NDArray

from workflows.data.snapshot import ITEM_GRAPH_SCHEMA, FeatureEntry, ItemGraphEntry, item_bucket_range
from workflows.ingest.features import Moments
from workflows.ingest.tasks import collect, map_pieces
from workflows.storage import FileEntry, ObjectStore, item_graph_key, put_file, read_verified
from workflows.storage.parquet import parquet_bytes

_SLAB_BYTES = 64 * 2**20


@dataclass(frozen=True)
class GraphPlan:
    """What a task needs to build item graphs. Pieces are modalities times item buckets.

    ``moments``: of each modality whose columns are standardised before the cosine; none for raw features.
    """

    store: ObjectStore
    dataset: str
    snapshot_id: str
    features: dict[str, FeatureEntry]
    moments: Mapping[str, Moments]
    num_items: int
    num_item_buckets: int
    num_neighbours: int

    def rows(self, bucket: int) -> range:
        """The item rows of a bucket."""
        return item_bucket_range(self.num_items, self.num_item_buckets, bucket)


def write_item_graphs(plan: GraphPlan) -> dict[str, ItemGraphEntry]:
    """Build the graph of every modality from the features that the snapshot holds, and write it by item bucket."""
    if not plan.features:
        return {}
    num_pieces = len(plan.features) * plan.num_item_buckets
    tables = collect(map_pieces(num_pieces, _write_piece, plan=ray.put(plan)))
    entries = {line["piece"]: line["entry"] for table in tables for line in table.to_pylist()}
    files = [FileEntry.model_validate_json(entries[piece]) for piece in range(num_pieces)]
    return {
        modality: ItemGraphEntry(
            num_neighbours=plan.num_neighbours,
            files=files[number * plan.num_item_buckets : (number + 1) * plan.num_item_buckets],
        )
        for number, modality in enumerate(plan.features)
    }


def _write_piece(piece: int, *, plan: GraphPlan) -> Iterator[pa.Table]:
    number, bucket = divmod(piece, plan.num_item_buckets)
    modality = list(plan.features)[number]
    own = _unit_rows(plan, modality, bucket)
    best = Neighbours.none()
    for other in range(plan.num_item_buckets if len(own) else 0):
        block = own if other == bucket else _unit_rows(plan, modality, other)
        best = add_neighbours(
            best,
            own,
            block,
            first_row=plan.rows(bucket).start,
            first_column=plan.rows(other).start,
            num_others=plan.num_neighbours - 1,
        )
    graph = with_self(best, first_row=plan.rows(bucket).start, num_rows=len(own))
    table = pa.table([graph.rows, graph.columns, graph.similarity], schema=ITEM_GRAPH_SCHEMA)
    key = item_graph_key(plan.dataset, plan.snapshot_id, modality, bucket)
    entry = put_file(plan.store, key, parquet_bytes(table))
    yield pa.table({"piece": [piece], "entry": [entry.model_dump_json()]})


def _unit_rows(plan: GraphPlan, modality: str, bucket: int) -> NDArray[np.float32]:
    body = read_verified(plan.store, plan.features[modality].files[bucket])
    values = np.load(io.BytesIO(body), allow_pickle=False)
    return unit_rows(values, plan.moments.get(modality))


def unit_rows(values: np.ndarray, moments: Moments | None) -> NDArray[np.float32]:
    """Scale rows to length 1. Rows of zeros (items without features) stay zero.

    Args:
        values: Features, (rows x columns).
        moments: If given, every column is first brought to mean 0 and variance 1; constant columns become 0.
    """
    wide = values.astype(np.float64)
    if moments is not None and moments.num_rows:
        is_zero = np.all(wide == 0, axis=1)
        deviation = np.sqrt(moments.squares / moments.num_rows)
        deviation[moments.low == moments.high] = np.inf
        wide = (wide - moments.mean) / deviation
        wide[is_zero] = 0
    largest = np.abs(wide).max(axis=1, keepdims=True, initial=0)
    wide = wide / np.where(largest > 0, largest, 1)  # so that squares neither overflow nor vanish
    length = np.sqrt((wide**2).sum(axis=1, keepdims=True))
    return (wide / np.where(length > 0, length, 1)).astype(np.float32)


@dataclass(frozen=True)
class Neighbours:
    """Pairs of item rows and their cosine, sorted by row, then from the most similar on, then by column."""

    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    similarity: NDArray[np.float32]

    @staticmethod
    def none() -> "Neighbours":
        return Neighbours(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))


def add_neighbours(
    best: Neighbours,
    own: NDArray[np.float32],
    block: NDArray[np.float32],
    *,
    first_row: int,
    first_column: int,
    num_others: int,
) -> Neighbours:
    """Keep the ``num_others`` most similar other items of each row, of those known and those of one more block.

    The fast product in float32 only proposes pairs. What it proposes (a little more than needed, by its rounding
    bound) is computed again in float64 in a fixed order, so that the result does not depend on how the fast
    product was split over threads. Equal similarity: the lower item row is nearer. Rows of zeros have and are
    no neighbours.

    Args:
        best: Of the blocks before.
        own: Unit rows of the items ``first_row``, ``first_row`` + 1, and so on.
        block: Unit rows of the items ``first_column``, ``first_column`` + 1, and so on.
    """
    columns = _candidates(block, num_others + 1)
    if num_others < 1 or len(columns) == 0:
        return best
    bound = np.float32((own.shape[1] + 2) * 2.0**-22)  # twice the rounding error of a product in float32
    known = np.full(len(own), -np.inf, dtype=np.float32)
    if len(best.rows):
        ends = np.flatnonzero(np.append(best.rows[1:] != best.rows[:-1], True))
        counts = np.diff(ends, prepend=-1)
        is_full = counts == num_others
        known[best.rows[ends[is_full]] - first_row] = best.similarity[ends[is_full]]
    has_value = np.any(own != 0, axis=1)
    candidates = block[columns]
    found = [best]
    step = max(1, _SLAB_BYTES // (4 * len(columns)))
    for start in range(0, len(own), step):
        slab = own[start : start + step]
        fast = slab @ candidates.T
        fast[~has_value[start : start + step]] = -np.inf
        place = columns + (first_column - first_row - start)  # the row of the slab that is the same item
        is_own = (place >= 0) & (place < len(slab))
        fast[place[is_own], np.flatnonzero(is_own)] = -np.inf
        limit = known[start : start + step]
        if len(columns) > num_others:
            limit = np.maximum(limit, np.partition(fast, -num_others, axis=1)[:, -num_others])
        limit = np.maximum(limit - bound, np.float32(-2))  # minus infinity marks what is no pair
        at_row, at_column = np.nonzero(fast >= limit[:, None])
        exact = _exact_products(slab, candidates, at_row, at_column)
        found.append(Neighbours(at_row + start + first_row, columns[at_column] + first_column, exact))
    return _keep_best(found, num_others)


def _candidates(block: NDArray[np.float32], num_wanted: int) -> NDArray[np.int64]:
    """The rows of a block that can be neighbours: not zero, and of equal rows only the first ``num_wanted``.

    More of them could never be chosen, since of equal similarity the lower row is nearer; and a picture that
    thousands of items share would make thousands of candidates for each of them.
    """
    rows = np.flatnonzero(np.any(block != 0, axis=1))
    if len(rows) == 0:
        return rows
    keys = np.ascontiguousarray(block[rows] + np.float32(0)).view(np.dtype((np.void, block.shape[1] * 4))).ravel()
    _, group = np.unique(keys, return_inverse=True)
    order = np.argsort(group, kind="stable")
    sizes = np.bincount(group)
    place = np.arange(len(rows)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.sort(rows[order[place < num_wanted]])


def _exact_products(
    left: NDArray[np.float32], right: NDArray[np.float32], at_row: NDArray[np.int64], at_column: NDArray[np.int64]
) -> NDArray[np.float32]:
    exact = np.empty(len(at_row), dtype=np.float32)
    step = max(1, _SLAB_BYTES // (8 * left.shape[1]))
    for start in range(0, len(at_row), step):
        part = slice(start, start + step)
        products = left[at_row[part]].astype(np.float64) * right[at_column[part]]
        exact[part] = np.clip(products.sum(axis=1), -1, 1)
    return exact


def _keep_best(parts: list[Neighbours], num_others: int) -> Neighbours:
    rows = np.concatenate([part.rows for part in parts])
    columns = np.concatenate([part.columns for part in parts])
    similarity = np.concatenate([part.similarity for part in parts])
    order = np.lexsort((columns, -similarity, rows))
    rows, columns, similarity = rows[order], columns[order], similarity[order]
    _, starts, counts = np.unique(rows, return_index=True, return_counts=True)
    is_kept = np.arange(len(rows)) - np.repeat(starts, counts) < num_others
    return Neighbours(rows[is_kept], columns[is_kept], similarity[is_kept])


def with_self(best: Neighbours, *, first_row: int, num_rows: int) -> Neighbours:
    """Put each item before its neighbours, as its own neighbour with similarity 1."""
    own = np.arange(first_row, first_row + num_rows, dtype=np.int64)
    rows = np.concatenate([own, best.rows])
    order = np.argsort(rows, kind="stable")
    return Neighbours(
        rows=rows[order],
        columns=np.concatenate([own, best.columns])[order],
        similarity=np.concatenate([np.ones(num_rows, dtype=np.float32), best.similarity])[order],
    )
