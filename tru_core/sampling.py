"""Batches and negatives that belong to the job: functions of (seed, epoch, interaction) and nothing else.

An interaction is known by its (user row, item row). Which batch of an epoch it falls into, and
which negative item it meets there, is a hash of that; so one, two or four workers train on the
same batches, a run can resume at any epoch, and every pair is visited exactly once per epoch.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from tru_core.collective import Collective, all_sum_number
from tru_core.errors import AuditError, DataError
from tru_core.hashing import hash_below, text_key
from tru_core.interactions import IntArray, Pairs, Shard, contains

_MAX_DRAWS = 64


@dataclass(frozen=True)
class Batch:
    """This worker's rows of one batch of the job.

    Attributes:
        users: Positions in the shard's ``user_rows``.
        positives: Item rows of the pairs.
        negatives: One item row for each pair that its user did not interact with.
        offset: Where this worker's rows stand in the whole batch.
        num_rows: Rows of the whole batch, over all workers; at least 1.
        key: (seed, epoch, number): which batch of the job this is. What a backbone draws at random for a
            batch (dropout, sampled items) is a hash of it, so that it repeats on any number of workers.
    """

    users: Int64[Tensor, " row"]
    positives: Int64[Tensor, " row"]
    negatives: Int64[Tensor, " row"]
    offset: int
    num_rows: int
    key: tuple[int, int, int]


@dataclass(frozen=True)
class NegativePool:
    """Where negatives come from: any item of ``items`` that is not in the user's ``history``.

    Attributes:
        history: This worker's pairs that may not be drawn.
        items: int64 [item], the items with a training pair on any worker.
    """

    history: Pairs
    items: IntArray


def make_pool(history: Pairs, degrees: IntArray) -> NegativePool:
    """Make a pool of the items that have a training pair.

    Args:
        degrees: Training pairs of each item over all workers, as :func:`~tru_core.interactions.item_degrees` gives.

    Raises:
        DataError: If a user of this worker has every such item, so that no negative exists.
    """
    items = np.flatnonzero(degrees)
    trained = history.users[degrees[history.items] > 0]
    full = int((np.bincount(trained) >= len(items)).sum()) if len(trained) else 0
    if full:
        raise DataError(
            f"{full} user(s) interacted with every one of the {len(items)} items, so that no negative can be "
            "drawn for them. Nothing was trained. Remove these users or add items."
        )
    return NegativePool(history=history, items=items)


def draw_negatives(pairs: Pairs, user_rows: IntArray, pool: NegativePool, *, seed: int, epoch: int) -> IntArray:
    """Draw one uniform negative item for each pair, by rejection on a counter-based hash.

    Returns:
        int64 [pair] item rows, none of them in the pair's user's history.
    """
    purpose = text_key("negative")
    negatives = np.zeros(len(pairs), dtype=np.int64)
    open_rows = np.arange(len(pairs))
    for draw in range(_MAX_DRAWS):
        rows, items = user_rows[pairs.users[open_rows]], pairs.items[open_rows]
        drawn = pool.items[hash_below(len(pool.items), seed, purpose, epoch, rows, items, draw)]
        negatives[open_rows] = drawn
        open_rows = open_rows[contains(pool.history, pairs.users[open_rows], drawn)]
        if not len(open_rows):
            return negatives
    for row in open_rows:
        user = pairs.users[row]
        owned = contains(pool.history, np.full(len(pool.items), user), pool.items)
        free = pool.items[~owned]
        keys = (seed, purpose, epoch, user_rows[user], pairs.items[row], _MAX_DRAWS)
        negatives[row] = free[int(hash_below(len(free), *keys))]
    return negatives


@dataclass(frozen=True)
class EpochPlan:
    """The batches of one epoch, this worker's rows sorted by batch.

    Attributes:
        users, positives, negatives: int64 [pair], as in :class:`Batch`.
        starts: int64 [batch + 1], where each batch begins in them.
        offsets: int64 [batch], where this worker's rows stand in each whole batch.
        sizes: int64 [batch], rows of each whole batch, over all workers.
        seed, epoch: What the plan follows from.
    """

    users: IntArray
    positives: IntArray
    negatives: IntArray
    starts: IntArray
    offsets: IntArray
    sizes: IntArray
    seed: int
    epoch: int

    @property
    def num_batches(self) -> int:
        """Batches that hold at least one row on any worker."""
        return int((self.sizes > 0).sum())


def plan_epoch(
    pairs: Pairs,
    shard: Shard,
    pool: NegativePool,
    collective: Collective,
    *,
    batch_size: int,
    seed: int,
    epoch: int,
) -> EpochPlan:
    """Lay every pair into one batch of the epoch. Batches hold ``batch_size`` rows on average.

    Each pair falls into each of the ceil(total / batch_size) batches with equal chance, so batch
    sizes vary by about the square root of the batch size.
    """
    total = int(all_sum_number(len(pairs), collective))
    num_batches = max(1, -(-total // batch_size))
    rows = shard.user_rows[pairs.users]
    batch_of = hash_below(num_batches, seed, text_key("batch"), epoch, rows, pairs.items)
    order = np.argsort(batch_of, kind="stable")
    counts = np.bincount(batch_of, minlength=num_batches).astype(np.int64)
    by_worker = torch.stack(collective.all_gather(torch.from_numpy(counts))).numpy()
    negatives = draw_negatives(pairs, shard.user_rows, pool, seed=seed, epoch=epoch)
    return EpochPlan(
        users=pairs.users[order],
        positives=pairs.items[order],
        negatives=negatives[order],
        starts=np.concatenate([[0], np.cumsum(counts)]),
        offsets=by_worker[: collective.rank].sum(axis=0).astype(np.int64),
        sizes=by_worker.sum(axis=0),
        seed=seed,
        epoch=epoch,
    )


def iterate_batches(plan: EpochPlan, *, limit: int | None = None) -> Iterator[Batch]:
    """Yield the batches that hold a row on any worker, in order; every worker yields equally many.

    Args:
        limit: Stop after so many batches.
    """
    for number in np.flatnonzero(plan.sizes)[:limit]:
        rows = slice(int(plan.starts[number]), int(plan.starts[number + 1]))
        yield Batch(
            users=torch.from_numpy(plan.users[rows]),
            positives=torch.from_numpy(plan.positives[rows]),
            negatives=torch.from_numpy(plan.negatives[rows]),
            offset=int(plan.offsets[number]),
            num_rows=int(plan.sizes[number]),
            key=(plan.seed, plan.epoch, int(number)),
        )


def check_all_visited(num_rows_visited: int, num_rows_requested: int, collective: Collective) -> int:
    """Compare the rows that all workers visited with the rows that the request names.

    Args:
        num_rows_visited: Rows that this worker visited.
        num_rows_requested: Rows of the whole request.

    Returns:
        The rows that all workers visited.

    Raises:
        AuditError: If the two differ.
    """
    visited = int(all_sum_number(num_rows_visited, collective))
    if visited != num_rows_requested:
        raise AuditError(
            f"{visited} of {num_rows_requested} requested interactions were visited. Nothing was published. "
            "Run the same job again; if it repeats, the snapshot and the request disagree."
        )
    return visited
