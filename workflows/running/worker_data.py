"""One worker's part of a snapshot and of a request, as the core's types."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tru_core.backbones import ItemFeatures
from tru_core.collective import Collective
from tru_core.forget_sets import sample_request, split_request
from tru_core.graph import ItemNeighbours
from tru_core.hashing import user_bucket
from tru_core.interactions import Pairs, Request, Shard, make_pairs, make_request
from tru_core.problem import Problem
from workflows.data.snapshot import (
    TEST,
    TRAIN,
    VALID,
    SnapshotManifest,
    item_bucket_range,
    read_features,
    read_interactions,
    read_item_graph,
)
from workflows.storage import ObjectStore, read_verified
from workflows.tasks import RequestRows, WorkerTask


@dataclass(frozen=True)
class WorkerData:
    """One worker's part of a snapshot."""

    manifest: SnapshotManifest
    shard: Shard
    features: dict[str, ItemFeatures]
    item_neighbours: dict[str, ItemNeighbours]


def standardise(values: Tensor, is_kept: Tensor, collective: Collective) -> Tensor:
    """Give every column mean 0 and deviation 1 over the kept rows of all workers; a constant column becomes 0.

    Args:
        values: (own item, column).
        is_kept: bool (own item). Rows of deleted items take no part and become 0.
    """
    wide, kept = values.double(), is_kept.double()[:, None]
    sums = collective.all_sum(torch.cat([wide * kept, kept], dim=1).sum(dim=0))
    centred = (wide - sums[:-1] / sums[-1]) * kept
    variance = collective.all_sum(centred.square().sum(dim=0)) / sums[-1]
    scale = torch.where(variance > 0, variance.clamp_min(1e-300).rsqrt(), 0.0)
    return (centred * scale).to(values.dtype)


def load_data(
    store: ObjectStore,
    manifest: SnapshotManifest,
    collective: Collective,
    *,
    dtype: torch.dtype,
    standardised: bool,
) -> WorkerData:
    """Read this worker's user buckets and item buckets, and the item graphs, which all workers share.

    Args:
        standardised: Scale the features by column, see :func:`standardise`.
    """
    rank, world = collective.rank, collective.world_size
    user_rows = np.arange(manifest.num_users)
    user_rows = user_rows[user_bucket(user_rows, manifest.num_user_buckets) % world == rank]
    table = read_interactions(store, manifest, range(rank, manifest.num_user_buckets, world))
    positions = np.searchsorted(user_rows, table.user_rows)

    def part(split: int) -> Pairs:
        chosen = table.split == split
        return make_pairs(positions[chosen], table.item_rows[chosen], num_items=manifest.num_items)

    item_buckets = range(rank, manifest.num_item_buckets, world)
    ranges = [item_bucket_range(manifest.num_items, manifest.num_item_buckets, bucket) for bucket in item_buckets]
    item_rows = np.concatenate([np.zeros(0, dtype=np.int64), *(np.asarray(r, dtype=np.int64) for r in ranges)])
    features, neighbours = {}, {}
    for modality in manifest.features:
        values = torch.from_numpy(read_features(store, manifest, modality, item_buckets)).to(dtype)
        if standardised:
            is_kept = torch.from_numpy(~np.isin(item_rows, manifest.deleted_item_rows))
            values = standardise(values, is_kept, collective)
        features[modality] = ItemFeatures(item_rows, values)
        items, others, similarity = read_item_graph(store, manifest, modality)
        neighbours[modality] = ItemNeighbours(items, others, similarity.astype(np.float64))
    return WorkerData(
        manifest=manifest,
        shard=Shard(user_rows, manifest.num_users, manifest.num_items, part(TRAIN), part(VALID), part(TEST)),
        features=features,
        item_neighbours=neighbours,
    )


def read_request(
    store: ObjectStore, task: WorkerTask, shard: Shard, collective: Collective
) -> tuple[Request, int | None]:
    """The task's request and, where a planner counted it, the number of training pairs it names."""
    if task.request is not None:
        rows = RequestRows.model_validate_json(read_verified(store, task.request))
        pairs = np.asarray(rows.pairs, dtype=np.int64).reshape(-1, 2)
        users, items = np.asarray(rows.users, dtype=np.int64), np.asarray(rows.items, dtype=np.int64)
        request = make_request(users=users, items=items, pair_users=pairs[:, 0], pair_items=pairs[:, 1])
        return request, rows.num_train_pairs
    if task.forget is None:
        return make_request(), 0
    drawn = task.forget
    request = sample_request(
        shard,
        collective,
        regime=drawn.regime,
        selection=drawn.selection,
        share=drawn.share,
        count=drawn.count,
        seed=drawn.seed,
    )
    return request, None


def read_batches(task: WorkerTask, problem: Problem) -> list[Request]:
    """The batches in which the task's request comes in: one with all of it where nothing else is said."""
    if task.forget is None or task.forget.batches == 1:
        return [problem.request]
    collective = problem.graph_with.collective
    return split_request(
        problem.request, problem.shard, collective, num_batches=task.forget.batches, seed=task.forget.seed
    )
