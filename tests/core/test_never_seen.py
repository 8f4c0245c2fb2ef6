"""What forgotten pairs are compared with, on a world of varied users and items; margins by brute force."""

from collections import Counter
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from tru_core.collective import Collective
from tru_core.hashing import hash_keys, hash_uniform, text_key
from tru_core.interactions import IntArray, Pairs, Request, item_degrees, make_pairs, make_request, select
from tru_core.problem import Problem
from tru_core.ranking import rank_metrics, top_items
from tru_core.testing.models import ALONE, problem_of
from tru_core.testing.threads import in_threads
from tru_core.testing.worlds import World, shards_of, tiny_world
from tru_core.unlearning.tru import never_seen
from tru_core.unlearning.tru.item_cf import item_cf_ranks
from tru_core.unlearning.tru.never_seen import (
    LIST_LENGTH,
    MIN_REFERENCES,
    Judged,
    NeverSeen,
    compare_with_never_seen,
    joined,
    list_margins,
)

NUM_USERS, NUM_ITEMS, HELD_OUT = 300, 60, 2
DELETED_USERS, DELETED_ITEMS = np.array([5, 17, 80]), np.array([0, 3, 41])


@cache
def varied_world() -> World:
    """Users of 1 to 30 training pairs, two held out; an item's chance falls with its row."""
    train, valid = [], []
    for user in range(NUM_USERS):
        size = int(1 + 29 * hash_uniform(text_key("size"), user) ** 2)
        keys = hash_uniform(text_key("varied"), user, np.arange(NUM_ITEMS)) ** (1.0 + np.arange(NUM_ITEMS))
        liked = np.argsort(-(keys ** (1 / 20)), kind="stable")[: size + HELD_OUT]
        liked = liked[np.argsort(hash_keys(text_key("split"), user, liked), kind="stable")]
        valid += [(user, item) for item in liked[:HELD_OUT]]
        train += [(user, item) for item in liked[HELD_OUT:]]
    pairs = (np.array(part, dtype=np.int64).reshape(-1, 2) for part in (train, valid, []))
    return World(NUM_USERS, NUM_ITEMS, *pairs, features={}, item_neighbours={})


def request_of(world: World) -> Request:
    """Three users, three items, and every fourth pair."""
    chosen = hash_keys(text_key("asked"), np.arange(len(world.train))) % np.uint64(4) == 0
    pairs = world.train[chosen]
    return make_request(users=DELETED_USERS, items=DELETED_ITEMS, pair_users=pairs[:, 0], pair_items=pairs[:, 1])


def asked_users(problem: Problem) -> IntArray:
    """Two thirds of the users who keep something."""
    users = np.unique(problem.retain.users)
    return users[problem.shard.user_rows[users] % 3 != 0]


@cache
def varied_problem() -> Problem:
    world = varied_world()
    return problem_of(shards_of(world, 1)[0], request_of(world))


@cache
def compared() -> NeverSeen:
    return compare_with_never_seen(varied_problem(), asked_users(varied_problem()), seed=7)


def keys_of(pairs: Pairs) -> list[tuple[int, int]]:
    return list(zip(pairs.users.tolist(), pairs.items.tolist(), strict=True))


def vectors_of(name: str, count: int, *, dim: int = 5) -> Tensor:
    return torch.from_numpy(2.0 * hash_uniform(text_key(name), *np.indices((count, dim))) - 0.8)


# ------------------------------------------------------------------------------------------------------------ strata


def classes_of(pairs: Pairs, problem: Problem) -> list[tuple[int, int, int]]:
    """The classes of each pair: by where item-based collaborative filtering ranks it (0-19, 20-59), by its user's
    retained pairs (0-1, 2-3, 4-15, 16-63) and by its item's, in octaves."""
    ranks = item_cf_ranks(problem.graph_without, pairs, problem.retain)
    activity = np.bincount(problem.retain.users, minlength=len(problem.shard.user_rows))[pairs.users]
    popularity = item_degrees(problem.retain, ALONE)[pairs.items]
    of_rank = [sum(rank >= bound for bound in (20, 200)) for rank in ranks.tolist()]
    of_user = [sum(count >= bound for bound in (2, 4, 16, 64)) for count in activity.tolist()]
    of_item = [(count + 1).bit_length() - 1 for count in popularity.tolist()]
    return list(zip(of_rank, of_user, of_item, strict=True))


def test_every_stratum_has_enough_references() -> None:
    found = compared()
    sizes = Counter(found.reference.strata.tolist())
    assert len(sizes) >= 6  # the world is varied: neither all in one, nor only by activity or popularity
    assert min(sizes.values()) >= MIN_REFERENCES
    assert all(set(part.strata.tolist()) <= set(sizes) for part in found.forgotten)


def test_a_stratum_is_a_range_of_classes_by_rank_then_activity_then_popularity() -> None:
    problem, found = varied_problem(), compared()
    ranges: dict[int, set[tuple[int, int, int]]] = {}
    for judged in (found.reference, *found.forgotten):
        for classes, stratum in zip(classes_of(judged.pairs, problem), judged.strata.tolist(), strict=True):
            ranges.setdefault(stratum, set()).add(classes)
    ordered = [sorted(ranges[stratum]) for stratum in sorted(ranges)]
    assert all(left[-1] < right[0] for left, right in pairwise(ordered))  # no class in two strata either
    for part in range(3):
        assert len({classes[0][part] for classes in ordered}) > 1


def test_a_world_with_few_references_is_one_stratum() -> None:
    part = shards_of(tiny_world(), 1)[0]
    assert len(part.shard.valid) < MIN_REFERENCES
    train = part.shard.train
    problem = problem_of(part, make_request(pair_users=train.users[::3], pair_items=train.items[::3]))
    found = compare_with_never_seen(problem, np.unique(problem.retain.users), seed=0)
    assert set(torch.cat([found.reference.strata, *(part.strata for part in found.forgotten)]).tolist()) == {0}


# ------------------------------------------------------------------------------------------------- pairs and weights


@pytest.mark.parametrize("users_at_once", [1_024, 40])
def test_each_forgotten_pair_of_an_asked_user_stands_in_one_slice(
    users_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(never_seen, "MAX_USERS_AT_ONCE", users_at_once)
    problem = varied_problem()
    users = asked_users(problem)
    found = compare_with_never_seen(problem, users, seed=7)
    expected = [pair for pair in keys_of(problem.forget) if pair[0] in users and pair[1] not in DELETED_ITEMS]
    listed = [pair for part in found.forgotten for pair in keys_of(part.pairs)]
    assert sorted(listed) == sorted(expected)
    assert found.num_forgotten == len(expected) > 100
    sizes = [len(np.unique(part.pairs.users)) for part in found.forgotten]
    assert len(sizes) == -(-sum(sizes) // users_at_once)
    assert sum(sizes) == len({user for user, _ in expected})  # no user is split
    assert max(sizes) <= 1.6 * users_at_once


def test_no_deleted_subject_and_no_other_user_is_judged() -> None:
    problem, found = varied_problem(), compared()
    forgotten = [part.pairs for part in found.forgotten]
    assert set(np.intersect1d(problem.forget.items, DELETED_ITEMS)) == set(DELETED_ITEMS)  # they could have been
    for pairs in (*forgotten, found.reference.pairs):
        assert not np.isin(pairs.items, DELETED_ITEMS).any()
        assert not np.isin(pairs.users, DELETED_USERS).any()
    assert all(np.isin(pairs.users, asked_users(problem)).all() for pairs in forgotten)


def test_each_user_counts_once() -> None:
    found = compared()
    for parts in (found.forgotten, (found.reference,)):
        sums: Counter[int] = Counter()
        sizes: Counter[int] = Counter()
        for part in parts:
            for user, weight in zip(part.pairs.users.tolist(), part.weights.tolist(), strict=True):
                sums[user] += weight
                sizes[user] += 1
        assert list(sums.values()) == pytest.approx([1.0] * len(sums))
        assert len(set(sizes.values())) > 1  # 1 for each would have passed else


@pytest.mark.parametrize(("num_users", "wanted"), [(0, 4_000), (1, 1_000), (250, 1_000), (600, 2_400), (9_000, 4_000)])
def test_the_fewer_forget_the_fewer_are_references(num_users: int, wanted: int) -> None:
    assert never_seen._num_references(num_users) == wanted


def test_all_held_out_pairs_are_references_where_they_are_few_and_some_where_they_are_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    problem = varied_problem()
    users = asked_users(problem)
    assert keys_of(compared().reference.pairs) == keys_of(problem.valid)
    monkeypatch.setattr(never_seen, "MAX_REFERENCE_USERS", 100)
    drawn = [set(keys_of(compare_with_never_seen(problem, users, seed=s).reference.pairs)) for s in (7, 8)]
    assert all(150 < len(pairs) < 250 and pairs < set(keys_of(problem.valid)) for pairs in drawn)
    assert drawn[0] != drawn[1]
    again = compare_with_never_seen(problem, users, seed=7).reference
    assert set(keys_of(again.pairs)) == drawn[0]
    assert float(again.weights.sum()) == pytest.approx(len(np.unique(again.pairs.users)))


def test_a_request_without_pairs_to_judge_has_one_empty_slice() -> None:
    part = shards_of(varied_world(), 1)[0]
    found = compare_with_never_seen(problem_of(part, make_request(items=DELETED_ITEMS)), np.arange(9), seed=0)
    assert (len(found.forgotten), len(found.forgotten[0].pairs), found.num_forgotten) == (1, 0, 0)
    users, items = vectors_of("users", NUM_USERS), vectors_of("items", NUM_ITEMS)
    assert len(list_margins(users, items, found.forgotten[0], part.shard.train).values) == 0


# ----------------------------------------------------------------------------------------------------------- margins


def brute_margin(users: Tensor, items: Tensor, user: int, item: int, masked: Pairs) -> float:
    scores = users[user] @ items.T
    own = set(masked.items[masked.users == user].tolist())
    free = sorted((float(scores[i]) for i in range(len(items)) if i not in own), reverse=True)
    return (float(scores[item]) - free[:LIST_LENGTH][-1]) / float(scores.std(correction=0))


def judged_parts() -> list[Judged]:
    return [compared().reference, *compared().forgotten]


def test_a_margin_is_the_score_above_place_twenty_in_deviations_of_the_users_scores() -> None:
    users, items, problem = vectors_of("users", NUM_USERS), vectors_of("items", NUM_ITEMS), varied_problem()
    for judged in judged_parts():
        values = list_margins(users, items, judged, problem.retain)
        expected = [brute_margin(users, items, user, item, problem.retain) for user, item in keys_of(judged.pairs)]
        assert values.values.tolist() == pytest.approx(expected, abs=1e-10)
        assert torch.equal(values.strata, judged.strata)
        assert torch.equal(values.weights, judged.weights)


def test_a_pair_is_recommended_exactly_where_its_margin_is_not_negative() -> None:
    users, items, problem = vectors_of("users", NUM_USERS), vectors_of("items", NUM_ITEMS), varied_problem()
    for judged in judged_parts():
        pairs = judged.pairs
        values = list_margins(users, items, judged, problem.retain)
        asked = np.unique(pairs.users)
        lists = top_items(users, items, asked, problem.retain, k=LIST_LENGTH)
        listed = (lists[np.searchsorted(asked, pairs.users)] == pairs.items[:, None]).any(axis=1)
        assert 0 < listed.sum() < len(listed)
        at_least = values.values > -1e-12  # place 20 itself has margin 0, but for rounding
        assert at_least.tolist() == listed.tolist()
        # Weighted as it is, the share of pairs that are recommended is recall.
        recall = rank_metrics(users, items, pairs, problem.retain, ALONE).recall
        assert float(judged.weights[at_least].sum()) / len(asked) == pytest.approx(recall)


def test_margins_do_not_depend_on_the_size_of_a_users_vector() -> None:
    users, items, judged = vectors_of("users", NUM_USERS), vectors_of("items", NUM_ITEMS), compared().reference
    plain = list_margins(users, items, judged, varied_problem().retain)
    scaled = list_margins(users * torch.linspace(0.1, 9.0, NUM_USERS)[:, None], items, judged, varied_problem().retain)
    assert torch.allclose(plain.values, scaled.values, atol=1e-10)


def test_the_gradient_is_that_of_the_pairs_score_alone() -> None:
    users, items = vectors_of("users", NUM_USERS).requires_grad_(), vectors_of("items", NUM_ITEMS).requires_grad_()
    judged, masked = compared().reference, varied_problem().retain
    list_margins(users, items, judged, masked).values.sum().backward()
    expected_users, expected_items = torch.zeros_like(users), torch.zeros_like(items)
    with torch.no_grad():
        for user, item in keys_of(judged.pairs):
            deviation = (users[user] @ items.T).std(correction=0)
            expected_users[user] += items[item] / deviation
            expected_items[item] += users[user] / deviation
    assert users.grad is not None
    assert items.grad is not None
    assert torch.allclose(users.grad, expected_users, atol=1e-10)
    assert torch.allclose(items.grad, expected_items, atol=1e-10)


@pytest.mark.parametrize("num_items", [12, 25])
def test_where_fewer_than_twenty_items_are_free_the_list_ends_with_the_last_of_them(num_items: int) -> None:
    # The user retains all items but five: those are the whole list, and each is recommended.
    users, items = vectors_of("users", 1), vectors_of("items", num_items)
    free = np.arange(2, 7)
    retained = np.setdiff1d(np.arange(num_items), free)
    masked = make_pairs(np.zeros(len(retained), dtype=np.int64), retained, num_items=num_items)
    pairs = make_pairs(np.zeros(5, dtype=np.int64), free, num_items=num_items)
    judged = Judged(pairs, torch.zeros(5, dtype=torch.int64), torch.full((5,), 0.2, dtype=torch.float64))
    margins = list_margins(users, items, judged, masked).values.tolist()
    assert margins == pytest.approx([brute_margin(users, items, 0, item, masked) for item in free.tolist()])
    assert min(margins) == pytest.approx(0.0)


def test_values_are_joined_in_order() -> None:
    users, items, problem = vectors_of("users", NUM_USERS), vectors_of("items", NUM_ITEMS), varied_problem()
    whole = list_margins(users, items, compared().reference, problem.retain)
    halves = []
    for side in (False, True):
        chosen = (np.arange(len(whole.values)) >= 100) == side
        part = compared().reference
        own = torch.from_numpy(chosen)
        judged = Judged(select(part.pairs, chosen), part.strata[own], part.weights[own])
        halves.append(list_margins(users, items, judged, problem.retain))
    both = joined((halves[0], halves[1]))
    for name in ("values", "strata", "weights"):
        assert torch.allclose(getattr(both, name), getattr(whole, name))


# ----------------------------------------------------------------------------------------------------------- workers

Table = dict[tuple[int, int], tuple[int, int, float, float]]


def by_pair(problem: Problem, collective: Collective) -> tuple[list[Table], int]:
    """Slice, stratum, weight and margin of each forgotten pair and each reference, by user and item row."""
    rows = problem.shard.user_rows
    found = compare_with_never_seen(problem, asked_users(problem), seed=7)
    users, items = vectors_of("users", NUM_USERS)[torch.from_numpy(rows)], vectors_of("items", NUM_ITEMS)

    def listed(parts: tuple[Judged, ...]) -> Table:
        table: Table = {}
        for number, part in enumerate(parts):
            margins = list_margins(users, items, part, problem.retain)
            columns = (part.strata.tolist(), part.weights.tolist(), margins.values.tolist())
            for (user, item), stratum, weight, margin in zip(keys_of(part.pairs), *columns, strict=True):
                table[int(rows[user]), item] = (number, stratum, weight, margin)
        return table

    return [listed(found.forgotten), listed((found.reference,))], found.num_forgotten


@pytest.mark.parametrize("world_size", [2, 3])
def test_several_workers_compare_the_same_pairs_as_one(world_size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(never_seen, "MAX_USERS_AT_ONCE", 40)
    monkeypatch.setattr(never_seen, "MAX_REFERENCE_USERS", 200)
    world, parts = varied_world(), shards_of(varied_world(), world_size)
    alone = by_pair(varied_problem(), ALONE)

    def body(collective: Collective) -> tuple[list[Table], int]:
        return by_pair(problem_of(parts[collective.rank], request_of(world), collective), collective)

    workers = in_threads(world_size, body)
    assert [count for _, count in workers] == [alone[1]] * world_size
    for which, expected in enumerate(alone[0]):
        merged: Table = {}
        for tables, _ in workers:
            assert not merged.keys() & tables[which].keys()
            merged |= tables[which]
        assert merged.keys() == expected.keys()
        assert all(merged[pair] == pytest.approx(row, abs=1e-10) for pair, row in expected.items())
