"""Sharded propagation against full tables."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tru_core.collective import LocalCollective
from tru_core.graph import (
    ItemNeighbours,
    build_graph,
    entry_rows,
    items_from_users,
    make_sparse,
    multiply,
    multiply_transposed,
    normalise_item_item,
    normalise_user_item,
    users_from_items,
    with_values,
)
from tru_core.interactions import Shard, make_pairs, select
from tru_core.testing.worlds import shards_of, tiny_world

ALONE = LocalCollective()


def make_shard(users: list[int], items: list[int], *, num_users: int, num_items: int) -> Shard:
    pairs = make_pairs(np.array(users, dtype=np.int64), np.array(items, dtype=np.int64), num_items=num_items)
    rows = np.arange(num_users)
    return Shard(user_rows=rows, num_users=num_users, num_items=num_items, train=pairs, valid=pairs, test=pairs)


def test_an_edge_weighs_one_over_the_root_of_both_degrees() -> None:
    shard = make_shard([0, 0, 1], [0, 1, 1], num_users=3, num_items=3)
    dense = normalise_user_item(shard.train, shard, ALONE, torch.float64).forward.to_dense()
    expected = torch.tensor([[1 / 2**0.5, 1 / 2, 0], [0, 1 / 2**0.5, 0], [0, 0, 0]], dtype=torch.float64)
    torch.testing.assert_close(dense, expected)


@given(st.integers(0, 10_000), st.integers(1, 9), st.integers(1, 9))
def test_normalisation_equals_the_dense_one(seed: int, num_users: int, num_items: int) -> None:
    table = np.random.default_rng(seed).random((num_users, num_items)) < 0.4
    users, items = np.nonzero(table)
    shard = make_shard(users.tolist(), items.tolist(), num_users=num_users, num_items=num_items)
    adjacency = np.zeros((num_users + num_items,) * 2)
    adjacency[:num_users, num_users:] = table
    adjacency[num_users:, :num_users] = table.T
    degrees = adjacency.sum(axis=1)
    root = np.diag([1 / np.sqrt(d) if d else 0.0 for d in degrees])
    whole = root @ adjacency @ root
    matrix = normalise_user_item(shard.train, shard, ALONE, torch.float64)
    np.testing.assert_allclose(matrix.forward.to_dense().numpy(), whole[:num_users, num_users:], atol=1e-15)
    np.testing.assert_allclose(matrix.transposed.to_dense().numpy(), whole[num_users:, :num_users], atol=1e-15)


def test_products_and_their_gradients_equal_the_dense_ones() -> None:
    rng = np.random.default_rng(0)
    rows, columns = np.nonzero(rng.random((5, 4)) < 0.5)
    order = rng.permutation(len(rows))
    values = rng.standard_normal(len(rows))
    matrix = make_sparse(rows[order], columns[order], values[order], shape=(5, 4), dtype=torch.float64)
    dense = torch.zeros(5, 4, dtype=torch.float64)
    dense[rows, columns] = torch.from_numpy(values)
    right, left = (torch.from_numpy(rng.standard_normal((n, 3))).requires_grad_() for n in (4, 5))
    torch.testing.assert_close(multiply(matrix, right), dense @ right)
    torch.testing.assert_close(multiply_transposed(matrix, left), dense.T @ left)
    assert torch.autograd.gradcheck(lambda x: multiply(matrix, x), (right,))
    assert torch.autograd.gradcheck(lambda x: multiply_transposed(matrix, x), (left,))


def test_a_product_takes_a_gradient_that_is_not_contiguous() -> None:
    matrix = make_sparse(
        np.array([0, 1, 1]), np.array([1, 0, 2]), np.array([1.0, 2.0, 3.0]), shape=(2, 3), dtype=torch.float64
    )
    dense = torch.arange(6, dtype=torch.float64).view(2, 3).T.requires_grad_()
    multiply(matrix, dense).T.mul(torch.tensor([[1.0, 10.0], [1.0, 10.0]])).sum().backward()
    assert dense.grad is not None
    assert dense.grad.tolist() == [[20.0, 20.0], [1.0, 1.0], [30.0, 30.0]]


def test_other_values_stand_at_the_places_of_a_matrix_and_of_its_transpose() -> None:
    rng = np.random.default_rng(1)
    rows, columns = np.nonzero(rng.random((7, 5)) < 0.5)
    matrix = make_sparse(rows, columns, rng.random(len(rows)), shape=(7, 5), dtype=torch.float64)
    assert entry_rows(matrix).tolist() == rows.tolist()
    values = torch.from_numpy(rng.random(len(rows)))
    dense = torch.zeros(7, 5, dtype=torch.float64)
    dense[torch.from_numpy(rows), torch.from_numpy(columns)] = values
    changed = with_values(matrix, values)
    assert torch.equal(changed.forward.to_dense(), dense)
    assert torch.equal(changed.transposed.to_dense(), dense.T)


def test_a_graph_counts_the_edges_of_its_users_and_of_all_items() -> None:
    world = tiny_world()
    by_user, by_item = (np.bincount(world.train[:, side]) for side in (0, 1))
    part = shards_of(world, 2)[1]
    graph = build_graph(part.shard.train, part.shard, {}, ALONE)
    assert graph.user_degrees.tolist() == by_user[part.shard.user_rows].tolist()
    whole = shards_of(world, 1)[0]
    assert build_graph(whole.shard.train, whole.shard, {}, ALONE).item_degrees.tolist() == by_item.tolist()


def test_a_worker_without_users_propagates_nothing() -> None:
    shard = make_shard([], [], num_users=0, num_items=3)
    graph = build_graph(shard.train, shard, {}, ALONE, dtype=torch.float64)
    assert users_from_items(graph, torch.ones(3, 2, dtype=torch.float64)).shape == (0, 2)
    assert not items_from_users(graph, torch.ones(0, 2, dtype=torch.float64)).any()


def test_building_a_graph_raises_no_warning() -> None:
    shard = make_shard([0], [0], num_users=1, num_items=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        build_graph(shard.train, shard, {}, ALONE)


def test_the_item_graph_is_the_symmetrically_normalised_cosines_without_negative_ones() -> None:
    neighbours = ItemNeighbours(
        items=np.array([0, 0, 1, 1, 2, 2]),
        neighbours=np.array([0, 1, 1, 2, 2, 0]),
        similarity=np.array([1.0, 0.5, 1.0, -0.3, 1.0, 0.25]),
    )
    dense = normalise_item_item(neighbours, num_items=3, deleted=np.zeros(0, dtype=np.int64), dtype=torch.float64)
    sums = [1.5, 1.0, 1.25]
    expected = torch.tensor(
        [
            [1 / 1.5, 0.5 / (sums[0] * sums[1]) ** 0.5, 0.0],
            [0.0, 1.0, 0.0],
            [0.25 / (sums[2] * sums[0]) ** 0.5, 0.0, 1 / 1.25],
        ],
        dtype=torch.float64,
    )
    torch.testing.assert_close(dense.forward.to_dense(), expected)
    torch.testing.assert_close(dense.transposed.to_dense(), expected.T)


def test_a_deleted_item_touches_no_other_and_the_rest_is_normalised_as_if_it_had_never_been() -> None:
    world = tiny_world()
    entries = world.item_neighbours["visual"]
    gone = np.array([3, 17])
    dense = normalise_item_item(entries, num_items=30, deleted=gone, dtype=torch.float64).forward.to_dense().numpy()
    assert not dense[gone].any()
    assert not dense[:, gone].any()
    weights = np.zeros((30, 30))
    weights[entries.items, entries.neighbours] = np.maximum(entries.similarity, 0)
    kept = np.setdiff1d(np.arange(30), gone)
    weights = weights[np.ix_(kept, kept)]
    root = np.diag(1 / np.sqrt(weights.sum(axis=1)))
    np.testing.assert_allclose(dense[np.ix_(kept, kept)], root @ weights @ root, atol=1e-14)


def test_the_graph_without_some_edges_forgets_their_degrees_too() -> None:
    world = tiny_world()
    part = shards_of(world, 1)[0]
    retain = select(part.shard.train, part.shard.train.users != 4)
    graph = build_graph(retain, part.shard, part.item_neighbours, ALONE, dtype=torch.float64)
    dense = graph.user_item.forward.to_dense().numpy()
    table = np.zeros((24, 30))
    table[retain.users, retain.items] = 1
    by_user, by_item = table.sum(axis=1), table.sum(axis=0)
    for user, item in zip(retain.users, retain.items, strict=True):
        assert dense[user, item] == pytest.approx((by_user[user] * by_item[item]) ** -0.5)
    assert not dense[4].any()
