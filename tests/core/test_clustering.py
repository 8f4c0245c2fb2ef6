"""Clusters of equal size: marginals, sizes, what is found in blobs, and the same clusters on any number of workers."""

import numpy as np
import pytest
import torch
from torch import Tensor

from tru_core.collective import Collective
from tru_core.errors import DataError, NumericsError
from tru_core.hashing import hash_uniform
from tru_core.interactions import IntArray
from tru_core.testing.models import ALONE
from tru_core.testing.threads import in_threads
from tru_core.unlearning.baselines.clustering import (
    balanced_assignment,
    balanced_kmeans,
    first_centroids,
    sinkhorn,
    transport_clusters,
)


def uniform(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(hash_uniform(seed, *np.indices(shape)))


def blobs(sizes: tuple[int, ...]) -> tuple[Tensor, IntArray]:
    """Blobs on a line, 10 apart and 1 wide; users of all blobs mixed. Gives vectors and blobs by user row."""
    label = np.repeat(np.arange(len(sizes)), sizes)
    label = label[np.argsort(hash_uniform(9, np.arange(len(label))), kind="stable")]
    return uniform(len(label), 3) + 10.0 * torch.from_numpy(label)[:, None], label


def clusters_by_transport(vectors: Tensor, rows: IntArray, count: int, collective: Collective = ALONE) -> IntArray:
    return transport_clusters(vectors, rows, count, collective, regularisation=0.1, iterations=10, seed=4)


def clusters_by_kmeans(vectors: Tensor, rows: IntArray, count: int, collective: Collective = ALONE) -> IntArray:
    return balanced_kmeans(vectors, rows, count, collective, iterations=20, seed=4)


both_methods = pytest.mark.parametrize("cluster", [clusters_by_transport, clusters_by_kmeans])


def test_a_sinkhorn_plan_gives_every_user_and_every_cluster_an_equal_mass() -> None:
    plan = sinkhorn(uniform(40, 6), ALONE, regularisation=0.1, tolerance=1e-10)
    torch.testing.assert_close(plan.sum(dim=1), torch.full((40,), 1 / 40, dtype=torch.float64), rtol=1e-9, atol=0)
    torch.testing.assert_close(plan.sum(dim=0), torch.full((6,), 1 / 6, dtype=torch.float64), rtol=1e-9, atol=0)


def test_a_sinkhorn_plan_is_the_cheapest_one_with_entropy() -> None:
    """The optimum is the only plan of the form a_i exp(-cost / regularisation) b_j: double differences tell it."""
    cost = uniform(9, 4)
    logs = sinkhorn(cost, ALONE, regularisation=0.3, tolerance=1e-10).log() + cost / 0.3
    double = logs[:1, :1] - logs[:1] - logs[:, :1] + logs
    torch.testing.assert_close(double, torch.zeros_like(double), rtol=0, atol=1e-9)


def test_a_cost_far_above_the_regularisation_neither_overflows_nor_vanishes() -> None:
    cost = torch.tensor([[0.0, 1e4], [0.0, 1e4], [1e4, 0.0], [1e4, 0.0]], dtype=torch.float64)
    plan = sinkhorn(cost, ALONE, regularisation=0.1, tolerance=1e-9)
    torch.testing.assert_close(plan, (cost == 0).double() / 4)


def test_a_cost_that_is_not_a_number_is_refused() -> None:
    with pytest.raises(NumericsError, match="Sinkhorn"):
        sinkhorn(torch.full((3, 2), torch.nan, dtype=torch.float64), ALONE, regularisation=0.1, tolerance=1e-3)


@pytest.mark.parametrize("world_size", [2, 3])
def test_workers_share_one_sinkhorn_plan_even_where_one_has_no_user(world_size: int) -> None:
    cost = uniform(11, 3)
    parts = [cost[:7], cost[7:]] if world_size == 2 else [cost[:7], cost[7:7], cost[7:]]
    plans = in_threads(world_size, lambda c: sinkhorn(parts[c.rank], c, regularisation=0.1, tolerance=1e-10))
    torch.testing.assert_close(torch.cat(plans), sinkhorn(cost, ALONE, regularisation=0.1, tolerance=1e-10))


@both_methods
@pytest.mark.parametrize("count", [2, 3])
def test_blobs_of_equal_size_are_found(cluster, count: int) -> None:
    vectors, label = blobs((20,) * count)
    found = cluster(vectors, np.arange(len(label)), count)
    assert len({(int(a), int(b)) for a, b in zip(found, label, strict=True)}) == len(set(found)) == count


def test_kmeans_clusters_never_exceed_their_share() -> None:
    for count in (3, 4, 7):
        sizes = np.bincount(clusters_by_kmeans(uniform(50, 4), np.arange(50), count), minlength=count)
        assert sizes.sum() == 50
        assert sizes.max() <= -(-50 // count)


@pytest.mark.parametrize(("regularisation", "largest"), [(0.1, 28), (0.01, 12)])
def test_transport_clusters_near_their_share_as_the_regularisation_falls(regularisation: float, largest: int) -> None:
    """Lopsided data: the nearest centroid alone gives sizes more than 60 away from 80."""
    vectors, rows = uniform(400, 3) ** 4, np.arange(400)
    nearest = torch.cdist(vectors, first_centroids(vectors, rows, 5, ALONE, seed=4)).argmin(dim=1)
    assert abs(np.bincount(nearest, minlength=5) - 80).max() > 60
    found = transport_clusters(vectors, rows, 5, ALONE, regularisation=regularisation, iterations=10, seed=4)
    assert abs(np.bincount(found, minlength=5) - 80).max() <= largest


def test_a_balanced_assignment_is_the_walk_by_ascending_distance() -> None:
    for seed in range(20):
        distances = uniform(17, 4, seed=seed).numpy()
        expected, room = np.full(17, -1), np.full(4, 5)
        for place in np.argsort(distances, axis=None):
            user, cluster = divmod(int(place), 4)
            if expected[user] < 0 and room[cluster]:
                expected[user], room[cluster] = cluster, room[cluster] - 1
        assert balanced_assignment(distances, capacity=5).tolist() == expected.tolist()


@both_methods
@pytest.mark.parametrize("world_size", [2, 4])
def test_clusters_do_not_depend_on_the_number_of_workers(cluster, world_size: int) -> None:
    vectors, owner = uniform(37, 4), np.arange(37) * 7 % world_size
    expected = cluster(vectors, np.arange(37), 4)

    def body(collective: Collective) -> IntArray:
        rows = np.flatnonzero(owner == collective.rank)
        return cluster(vectors[torch.from_numpy(rows)], rows, 4, collective)

    for rank, found in enumerate(in_threads(world_size, body)):
        assert found.tolist() == expected[owner == rank].tolist()


@both_methods
def test_more_clusters_than_users_are_refused(cluster) -> None:
    with pytest.raises(DataError, match="Lower num_shards"):
        cluster(uniform(3, 2), np.arange(3), 4)
