"""Ranks of item-based collaborative filtering against full matrices, ties, masks and several workers."""

from functools import cache

import numpy as np
import pytest
import torch

from tru_core.collective import Collective
from tru_core.graph import build_graph
from tru_core.interactions import Pairs, Request, make_pairs, make_request
from tru_core.problem import Problem
from tru_core.testing.models import ALONE, problem_of
from tru_core.testing.threads import in_threads
from tru_core.testing.worlds import shards_of, tiny_world
from tru_core.unlearning.tru import item_cf
from tru_core.unlearning.tru.item_cf import item_cf_ranks

NUM_USERS, NUM_ITEMS = 40, 30


@cache
def request() -> Request:
    """Every fifth pair."""
    pairs = tiny_world(num_users=NUM_USERS, num_items=NUM_ITEMS).train[::5]
    return make_request(pair_users=pairs[:, 0], pair_items=pairs[:, 1])


def problem(world_size: int = 1, collective: Collective = ALONE) -> Problem:
    parts = shards_of(tiny_world(num_users=NUM_USERS, num_items=NUM_ITEMS), world_size)
    return problem_of(parts[collective.rank], request(), collective)


def dense_ranks(asked: Pairs, retain: Pairs) -> list[int]:
    """The same from ``R R^T R`` in float64, one item after the other."""
    matrix = np.zeros((NUM_USERS, NUM_ITEMS))
    matrix[retain.users, retain.items] = 1.0
    by_user, by_item = (np.maximum(matrix.sum(axis=axis), 1.0) ** -0.5 for axis in (1, 0))
    matrix *= by_user[:, None] * by_item[None, :]
    scores = matrix @ matrix.T @ matrix
    own = set(zip(retain.users.tolist(), retain.items.tolist(), strict=True))
    return [
        sum(scores[user, i] > scores[user, item] + 1e-9 and (user, i) not in own for i in range(NUM_ITEMS))
        for user, item in zip(asked.users.tolist(), asked.items.tolist(), strict=True)
    ]


@pytest.mark.parametrize("block", [256, 7])
def test_ranks_are_those_of_the_full_matrices_without_what_is_retained(
    block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(item_cf, "_BLOCK_USERS", block)
    asked = problem()
    wanted = dense_ranks(asked.forget, asked.retain)
    assert item_cf_ranks(asked.graph_without, asked.forget, asked.retain).tolist() == wanted
    assert {0} < set(wanted)


def test_items_that_score_alike_are_not_above() -> None:
    # Users 0 and 1 share item 0; user 1 has items 1, 2 and 3 too, all alike for user 0, and nobody has item 4.
    rows = make_pairs(np.array([0, 1, 1, 1, 1]), np.array([0, 0, 1, 2, 3]), num_items=5)
    part = shards_of(tiny_world(num_users=2, num_items=5), 1)[0]
    graph = build_graph(rows, part.shard, {}, ALONE, dtype=torch.float32)
    asked = make_pairs(np.zeros(4, dtype=np.int64), np.arange(1, 5), num_items=5)
    assert item_cf_ranks(graph, asked, rows).tolist() == [0, 0, 0, 3]


def test_nothing_asked_is_nothing() -> None:
    asked = problem()
    empty = make_pairs(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), num_items=NUM_ITEMS)
    assert len(item_cf_ranks(asked.graph_without, empty, asked.retain)) == 0


@pytest.mark.parametrize("world_size", [2, 3])
def test_several_workers_rank_as_one_even_where_one_asks_nothing(
    world_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(item_cf, "_BLOCK_USERS", 5)

    def ranks(part: Problem, asked: Pairs) -> dict[tuple[int, int], int]:
        found = item_cf_ranks(part.graph_without, asked, part.retain)
        rows = part.shard.user_rows[asked.users].tolist()
        return dict(zip(zip(rows, asked.items.tolist(), strict=True), found.tolist(), strict=True))

    def body(collective: Collective) -> dict[tuple[int, int], int]:
        part = problem(world_size, collective)
        pairs = part.forget
        asked = pairs if collective.rank else Pairs(pairs.users[:0], pairs.items[:0], NUM_ITEMS)
        return ranks(part, asked)

    alone = ranks(problem(), problem().forget)
    nothing, *others = in_threads(world_size, body)
    assert nothing == {}
    assert all(found and found.items() <= alone.items() for found in others)
