"""Sharded user-item propagation and item-item graphs, as products with compressed rows.

Each worker holds the block of its own users, ``R_w`` (users of the worker x all items), entries
1/sqrt(degree_user * degree_item) with degrees over *all* workers. The user side of a layer,
``R_w @ items``, is local; the item side, ``sum over workers of R_w.T @ users_w``, is one all-sum of an
(items x dim) table, whatever the number of users or edges. So propagation is exact, not sampled.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int64
from numpy.typing import NDArray
from torch import Tensor

from tru_core.collective import Collective
from tru_core.interactions import IntArray, Pairs, Shard, item_degrees


@dataclass(frozen=True)
class SparseMatrix:
    """A constant sparse matrix and its transpose, both in compressed rows, so that either product is fast."""

    forward: Tensor
    transposed: Tensor

    @cached_property
    def transposed_order(self) -> Tensor:
        """int64 [entry]: where each entry of ``transposed`` stands among the entries of ``forward``."""
        return torch.argsort(self.forward.col_indices(), stable=True)


class _SparseProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx, matrix: Tensor, transposed: Tensor, dense: Tensor) -> Tensor:
        ctx.transposed = transposed
        return matrix @ dense

    @staticmethod
    def backward(ctx, *gradients: Tensor) -> tuple[None, None, Tensor]:
        return None, None, ctx.transposed @ gradients[0].contiguous()


def _product(matrix: Tensor, transposed: Tensor, dense: Tensor) -> Tensor:
    result = _SparseProduct.apply(matrix, transposed, dense.contiguous())
    if not isinstance(result, Tensor):
        raise TypeError("a sparse product gives one tensor")
    return result


def _compressed(
    rows: IntArray, columns: IntArray, values: NDArray[np.float64], shape: tuple[int, int], dtype: torch.dtype
) -> Tensor:
    order = np.lexsort((columns, rows))
    starts = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=shape[0]))])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta state", category=UserWarning)
        return torch.sparse_csr_tensor(
            torch.from_numpy(starts.astype(np.int64)),
            torch.from_numpy(columns[order].astype(np.int64)),
            torch.from_numpy(values[order]).to(dtype),
            size=shape,
            check_invariants=True,
        )


def entry_rows(matrix: SparseMatrix) -> Int64[Tensor, " entry"]:
    """Give the row of each entry of ``matrix.forward``, in its order; ``col_indices()`` gives the columns."""
    starts = matrix.forward.crow_indices()
    return torch.repeat_interleave(torch.arange(len(starts) - 1), starts.diff())


def with_values(matrix: SparseMatrix, values: Float[Tensor, " entry"]) -> SparseMatrix:
    """Put other values, in the order of ``matrix.forward``, at the places of a matrix's entries."""

    def same_places(pattern: Tensor, ordered: Tensor) -> Tensor:
        return torch.sparse_csr_tensor(
            pattern.crow_indices(), pattern.col_indices(), ordered, size=pattern.shape, check_invariants=False
        )

    return SparseMatrix(
        forward=same_places(matrix.forward, values),
        transposed=same_places(matrix.transposed, values[matrix.transposed_order]),
    )


def make_sparse(
    rows: IntArray, columns: IntArray, values: NDArray[np.float64], *, shape: tuple[int, int], dtype: torch.dtype
) -> SparseMatrix:
    """Compress a matrix given by its entries, and its transpose."""
    return SparseMatrix(
        forward=_compressed(rows, columns, values, shape, dtype),
        transposed=_compressed(columns, rows, values, (shape[1], shape[0]), dtype),
    )


def multiply(matrix: SparseMatrix, dense: Float[Tensor, "column dim"]) -> Float[Tensor, "row dim"]:
    """Multiply a sparse matrix with a dense one. Differentiable in the dense one."""
    return _product(matrix.forward, matrix.transposed, dense)


def multiply_transposed(matrix: SparseMatrix, dense: Float[Tensor, "row dim"]) -> Float[Tensor, "column dim"]:
    """Multiply the transpose of a sparse matrix with a dense one. Differentiable in the dense one."""
    return _product(matrix.transposed, matrix.forward, dense)


@dataclass(frozen=True)
class Graph:
    """What a backbone propagates on.

    Attributes:
        user_item: This worker's block R_w, (users of the worker x items), symmetrically normalised.
        item_item: For each modality its kNN item graph, (items x items), symmetrically normalised; replicated.
        user_rows: int64 [user], vocabulary rows of this worker's users.
        user_degrees: int64 [user], edges of each of this worker's users.
        item_degrees: int64 [item], edges of each item over all workers.
        deleted_items: int64, items that are gone: no edge, no neighbour, and their features are not to be used.
        collective: The workers of the job.
    """

    user_item: SparseMatrix
    item_item: Mapping[str, SparseMatrix]
    user_rows: IntArray
    user_degrees: IntArray
    item_degrees: IntArray
    deleted_items: IntArray
    collective: Collective


def users_from_items(graph: Graph, items: Float[Tensor, "item dim"]) -> Float[Tensor, "user dim"]:
    """One propagation from all items to this worker's users: ``R_w @ items``. Local."""
    return multiply(graph.user_item, items)


def items_from_users(graph: Graph, users: Float[Tensor, "user dim"]) -> Float[Tensor, "item dim"]:
    """One propagation from the users of all workers to all items: ``R.T @ users``. One all-sum."""
    return graph.collective.all_sum(multiply_transposed(graph.user_item, users))


def _inverse_root(degrees: NDArray) -> NDArray[np.float64]:
    degrees = degrees.astype(np.float64)
    return np.divide(1.0, np.sqrt(degrees), out=np.zeros_like(degrees), where=degrees > 0)


def normalise_user_item(pairs: Pairs, shard: Shard, collective: Collective, dtype: torch.dtype) -> SparseMatrix:
    """Build R_w with entries 1/sqrt(degree_user * degree_item), without self-loops; degrees over all workers."""
    by_user = _inverse_root(np.bincount(pairs.users, minlength=len(shard.user_rows)))
    by_item = _inverse_root(item_degrees(pairs, collective))
    values = by_user[pairs.users] * by_item[pairs.items]
    shape = (len(shard.user_rows), shard.num_items)
    return make_sparse(pairs.users, pairs.items, values, shape=shape, dtype=dtype)


@dataclass(frozen=True)
class ItemNeighbours:
    """A kNN item graph as ingest stores it: directed entries with their cosine similarity.

    Attributes:
        items, neighbours: int64 [entry], item rows. An item is its own neighbour too.
        similarity: float [entry], cosine in [-1, 1]; negative values count as 0.
    """

    items: IntArray
    neighbours: IntArray
    similarity: NDArray[np.float64]


def normalise_item_item(
    neighbours: ItemNeighbours, *, num_items: int, deleted: IntArray, dtype: torch.dtype
) -> SparseMatrix:
    """Build S = D^-1/2 W D^-1/2 of one modality, W the kNN cosines and D its row sums (MGCN).

    Entries from or to deleted items are left out before normalising, so that a deleted item
    touches no other item.
    """
    kept = ~(np.isin(neighbours.items, deleted) | np.isin(neighbours.neighbours, deleted))
    items, others = neighbours.items[kept], neighbours.neighbours[kept]
    weights = np.maximum(neighbours.similarity[kept].astype(np.float64), 0.0)
    scale = _inverse_root(np.bincount(items, weights=weights, minlength=num_items))
    values = scale[items] * weights * scale[others]
    return make_sparse(items, others, values, shape=(num_items, num_items), dtype=dtype)


def build_graph(
    pairs: Pairs,
    shard: Shard,
    item_neighbours: Mapping[str, ItemNeighbours],
    collective: Collective,
    *,
    deleted_items: IntArray | None = None,
    dtype: torch.dtype = torch.float32,
) -> Graph:
    """Build all graphs of a backbone from one worker's training pairs.

    Args:
        pairs: The edges: all training pairs for the graph with the deleted edges, the retained for the one without.
        deleted_items: Items that are gone: cut out of the item-item graphs, and named in the graph.
    """
    gone = np.zeros(0, dtype=np.int64) if deleted_items is None else deleted_items
    return Graph(
        user_item=normalise_user_item(pairs, shard, collective, dtype),
        item_item={
            modality: normalise_item_item(entries, num_items=shard.num_items, deleted=gone, dtype=dtype)
            for modality, entries in item_neighbours.items()
        },
        user_rows=shard.user_rows,
        user_degrees=np.bincount(pairs.users, minlength=len(shard.user_rows)).astype(np.int64),
        item_degrees=item_degrees(pairs, collective),
        deleted_items=gone,
        collective=collective,
    )
