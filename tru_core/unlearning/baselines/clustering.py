"""Clusters of equal size among users that are spread over workers: balanced optimal transport and balanced k-means.

Both start from the vectors of users that a hash of the user row picks, and give each of this worker's users its
cluster. The order of users and the number of workers do not matter, up to rounding of sums over workers.
"""

import math

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from tru_core.collective import Collective, all_sum_number
from tru_core.errors import DataError, NumericsError
from tru_core.hashing import hash_keys, text_key
from tru_core.interactions import IntArray

SINKHORN_PASSES = 10_000


def first_centroids(
    vectors: Float[Tensor, "user dim"], user_rows: IntArray, num_clusters: int, collective: Collective, *, seed: int
) -> Float[Tensor, "cluster dim"]:
    """Take the vectors of the users with the smallest hashes of (seed, user row) among all workers, in float64.

    Raises:
        DataError: If there are fewer users than clusters.
    """
    priorities = (hash_keys(seed, text_key("centroid"), user_rows) >> np.uint64(1)).astype(np.int64)
    own = np.argsort(priorities, kind="stable")[:num_clusters]
    offered = torch.cat(collective.all_gather(torch.from_numpy(priorities[own])))
    theirs = torch.cat(collective.all_gather(vectors.double()[torch.from_numpy(own)]))
    if len(offered) < num_clusters:
        raise DataError(
            f"{num_clusters} shards were asked for, but there are only {len(offered)} users. Nothing was changed. "
            "Lower num_shards."
        )
    return theirs[offered.argsort()[:num_clusters]]


def squared_distances(
    vectors: Float[Tensor, "user dim"], centroids: Float[Tensor, "cluster dim"]
) -> Float[Tensor, "user cluster"]:
    """Squared Euclidean distances, at least 0, in float64."""
    vectors, centroids = vectors.double(), centroids.double()
    squares = vectors.square().sum(dim=1, keepdim=True) + centroids.square().sum(dim=1)
    return (squares - 2 * vectors @ centroids.T).clamp_(min=0.0)


def _log_column_sums(logs: Tensor, collective: Collective) -> Tensor:
    """Log of the sums over the rows of all workers of ``exp(logs)``, without overflow."""
    top = logs.max(dim=0).values if len(logs) else logs.new_full((logs.shape[1],), -torch.inf)
    top = torch.stack(collective.all_gather(top)).max(dim=0).values
    return collective.all_sum((logs - top).exp().sum(dim=0)).log() + top


def sinkhorn(
    cost: Float[Tensor, "user cluster"], collective: Collective, *, regularisation: float, tolerance: float
) -> Float[Tensor, "user cluster"]:
    """Move equal masses from the users of all workers to clusters of equal mass, at least entropic cost.

    ``min over P of <P, cost> - regularisation * entropy(P)``, P's rows summing to 1 / users and its columns to
    1 / clusters (Cuturi, NeurIPS 2013), by alternate scaling in the log domain. A row's scale is local; a
    column's takes one maximum and one sum over workers.

    Args:
        cost: Of this worker's users; as large as one likes against the regularisation.
        regularisation: Weight of the entropy, positive, in units of the cost.
        tolerance: Largest relative difference of a column's mass from 1 / clusters. Rows hold to rounding.

    Returns:
        This worker's rows of P, float64.

    Raises:
        NumericsError: If a cost is not finite, or the columns do not reach the tolerance.
    """
    scaled = -cost.double() / regularisation
    num_users = all_sum_number(len(cost), collective)
    by_column = scaled.new_zeros(cost.shape[1])
    difference = math.inf
    for _ in range(SINKHORN_PASSES):
        by_row = -math.log(num_users) - torch.logsumexp(scaled + by_column, dim=1)
        plan = scaled + by_row[:, None] + by_column
        change = -math.log(cost.shape[1]) - _log_column_sums(plan, collective)
        difference = float(torch.expm1(-change).abs().max())
        if difference <= tolerance:
            return plan.exp()
        if not math.isfinite(difference):
            break
        by_column = by_column + change
    raise NumericsError(
        f"the balanced clusters' sizes are off by {difference} after at most {SINKHORN_PASSES} Sinkhorn passes "
        f"(expected {tolerance}). Nothing was changed. Raise the regularisation."
    )


def transport_clusters(
    vectors: Float[Tensor, "user dim"],
    user_rows: IntArray,
    num_clusters: int,
    collective: Collective,
    *,
    regularisation: float,
    iterations: int,
    seed: int,
    tolerance: float = 1e-3,
) -> IntArray:
    """Cluster users by balanced optimal transport, as UltraRE does.

    Each iteration: squared Euclidean cost to the centroids, divided by its mean over all users and clusters so
    that the regularisation has no unit (our reading; the source does not say how it scales); a Sinkhorn plan with
    uniform marginals; the cluster of the largest entry for each user; centroids to the means of their users. The
    plan is balanced exactly, the arg-max of it nearly. A cluster that nobody prefers keeps its centroid.

    Args:
        regularisation: Of the Sinkhorn plan, for a cost of mean 1.
        iterations: Of the whole; ends earlier once no user changes.

    Returns:
        int64 [user], the cluster of each of this worker's users.

    Raises:
        DataError: If there are fewer users than clusters.
        NumericsError: If the plan does not converge.
    """
    vectors = vectors.double()
    centroids = first_centroids(vectors, user_rows, num_clusters, collective, seed=seed)
    chosen = torch.full((len(vectors),), -1)
    for _ in range(iterations):
        cost = squared_distances(vectors, centroids)
        entries = all_sum_number(cost.numel(), collective)
        mean = all_sum_number(float(cost.sum()), collective) / entries
        plan = sinkhorn(cost / max(mean, 1e-300), collective, regularisation=regularisation, tolerance=tolerance)
        before, chosen = chosen, plan.argmax(dim=1)
        if not all_sum_number(int((before != chosen).sum()), collective):
            break
        centroids = _means(vectors, chosen, centroids, collective)
    return chosen.numpy()


def _means(vectors: Tensor, chosen: Tensor, centroids: Tensor, collective: Collective) -> Tensor:
    """The mean of each cluster's users over all workers; a cluster without users keeps its centroid."""
    sums = collective.all_sum(torch.zeros_like(centroids).index_add_(0, chosen, vectors))
    counts = collective.all_sum(torch.bincount(chosen, minlength=len(centroids)).double())[:, None]
    return torch.where(counts > 0, sums / counts.clamp(min=1.0), centroids)


def balanced_assignment(distances: NDArray[np.float64], *, capacity: int) -> IntArray:
    """Give each user a cluster, the closest (user, cluster) pairs first, no cluster more than ``capacity`` users.

    What a walk through all pairs by ascending distance gives (RecEraser's user-based balanced partition), found
    without the walk: users ask for their nearest cluster, a full cluster keeps its closest, the others ask on.
    Both sides prefer the shorter distance, so that only one stable outcome exists and both ways end there. Ties
    fall to the smaller index.

    Args:
        distances: float64 [user, cluster].
        capacity: At least users / clusters.

    Returns:
        int64 [user].
    """
    users = np.arange(len(distances))
    preferences = np.argsort(distances, axis=1, kind="stable")
    asked = np.zeros(len(distances), dtype=np.int64)
    while True:
        wanted = preferences[users, asked]
        order = np.lexsort((distances[users, wanted], wanted))
        starts = np.searchsorted(wanted[order], np.arange(distances.shape[1]))
        refused = order[users - starts[wanted[order]] >= capacity]
        if not len(refused):
            return wanted
        asked[refused] += 1


def balanced_kmeans(
    vectors: Float[Tensor, "user dim"],
    user_rows: IntArray,
    num_clusters: int,
    collective: Collective,
    *,
    iterations: int,
    seed: int,
) -> IntArray:
    """Cluster users by k-means with at most ceil(users / clusters) users in each cluster, as RecEraser does.

    Gathers one (users x dim) table of all workers onto each: a walk by distance needs all of them, and it is done
    once in the life of a model. Every worker then computes the same clusters from the same table.

    Args:
        iterations: At most; ends earlier once no user changes.

    Returns:
        int64 [user], the cluster of each of this worker's users.

    Raises:
        DataError: If there are fewer users than clusters.
    """
    rows = torch.cat(collective.all_gather(torch.from_numpy(user_rows)))
    order = rows.argsort()
    everyone = torch.cat(collective.all_gather(vectors.double()))[order]
    centroids = first_centroids(vectors, user_rows, num_clusters, collective, seed=seed)
    capacity = -(-len(everyone) // num_clusters)
    chosen = np.full(len(everyone), -1)
    for _ in range(iterations):
        before = chosen
        chosen = balanced_assignment(squared_distances(everyone, centroids).numpy(), capacity=capacity)
        if np.array_equal(before, chosen):
            break
        place = torch.from_numpy(chosen)
        sums = torch.zeros_like(centroids).index_add_(0, place, everyone)
        counts = torch.bincount(place, minlength=num_clusters).double()[:, None]
        centroids = torch.where(counts > 0, sums / counts.clamp(min=1.0), centroids)
    return chosen[np.searchsorted(rows[order].numpy(), user_rows)]
