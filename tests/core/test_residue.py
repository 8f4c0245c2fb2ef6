"""Pairs that only the forgotten brought together, listed by brute force, and vectors whose residue is known."""

from collections.abc import Sequence
from functools import cache
from itertools import combinations

import numpy as np
import pytest
import torch
from torch import Tensor

from tru_core.collective import Collective
from tru_core.hashing import hash_keys, hash_normal, text_key
from tru_core.interactions import Pairs, Request, make_request
from tru_core.measures import residue
from tru_core.measures.residue import (
    Contrast,
    Residue,
    ResidueProbe,
    RowPairs,
    auc,
    cosines,
    make_probe,
    measure_residue,
    pair_source,
    row_vectors,
)
from tru_core.problem import Problem
from tru_core.testing.models import ALONE, problem_of
from tru_core.testing.threads import Differentiable, in_threads
from tru_core.testing.worlds import World, shards_of, tiny_world

Edge = tuple[int, int]


@cache
def world() -> World:
    return tiny_world(num_users=60, num_items=100)


@cache
def request_of(kind: str) -> Request:
    """Requests of every kind against the world."""
    pairs = world().train[hash_keys(text_key("asked"), np.arange(len(world().train))) % np.uint64(5) == 0]
    named = {
        "users": make_request(users=np.arange(0, 60, 4)),
        "items": make_request(items=np.arange(0, 100, 3)),
        "pairs": make_request(pair_users=pairs[:, 0], pair_items=pairs[:, 1]),
        "all": make_request(
            users=np.array([3, 9]), items=np.arange(0, 100, 9), pair_users=pairs[:, 0], pair_items=pairs[:, 1]
        ),
    }
    return named[kind]


KINDS = ("users", "items", "pairs", "all")


@cache
def problem_in(kind: str) -> Problem:
    return problem_of(shards_of(world(), 1)[0], request_of(kind))


@cache
def probe_in(kind: str) -> ResidueProbe:
    return make_probe(problem_in(kind), seed=3)


def edges_of(pairs: Pairs, *, by: str) -> set[Edge]:
    """(group, member): members are the rows that are paired, items by their users or users by their items."""
    users, items = pairs.users.tolist(), pairs.items.tolist()
    return set(zip(users, items, strict=True)) if by == "item" else set(zip(items, users, strict=True))


def together(edges: set[Edge]) -> set[Edge]:
    """All pairs of members that some group holds, smaller first."""
    groups: dict[int, list[int]] = {}
    for group, member in sorted(edges):
        groups.setdefault(group, []).append(member)
    return {pair for members in groups.values() for pair in combinations(members, 2)}


def expected_pairs(problem: Problem, extra: Pairs, *, by: str) -> set[Edge]:
    """Pairs that some group holds of what it retains and the extra, one of them extra, and no group retains."""
    kept, more = edges_of(problem.retain, by=by), edges_of(extra, by=by)
    touching = {
        pair
        for group in {group for group, _ in more}
        for pair in together({edge for edge in kept | more if edge[0] == group})
        if {(group, pair[0]), (group, pair[1])} & (more - kept)
    }
    if by == "item":
        gone = set(problem.request.items.tolist())
        touching = {pair for pair in touching if not gone & set(pair)}
    return touching - together(kept)


def listed(pairs: RowPairs) -> list[Edge]:
    return list(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True))


def contrasts(kind: str) -> list[tuple[Contrast, Pairs]]:
    """Both contrasts of a probe with the pairs that each is drawn from."""
    probe, problem = probe_in(kind), problem_in(kind)
    assert probe.held_out is not None
    return [(probe.forgotten, problem.forget), (probe.held_out, problem.valid)]


# ------------------------------------------------------------------------------------------------------------- pairs


@pytest.mark.parametrize("kind", KINDS)
def test_the_pairs_are_those_that_only_the_forgotten_or_the_held_out_brought_together(kind: str) -> None:
    side = "user" if kind == "items" else "item"
    assert probe_in(kind).side == side
    for contrast, extra in contrasts(kind):
        found = listed(contrast.pairs)
        assert len(found) == len(set(found)) > 10  # each once
        assert set(found) == expected_pairs(problem_in(kind), extra, by=side)


def test_no_pair_holds_a_deleted_item() -> None:
    gone = request_of("all").items
    assert len(np.intersect1d(problem_in("all").forget.items, gone)) > 5  # they could have been in one
    for contrast, _ in contrasts("all"):
        assert not any(np.isin(rows, gone).any() for rows in contrast.rows())


@pytest.mark.parametrize("kind", KINDS)
def test_random_pairs_mix_the_rows_of_a_stratum_and_nobody_had_them_together(kind: str) -> None:
    side = probe_in(kind).side
    for contrast, extra in contrasts(kind):
        had = together(edges_of(problem_in(kind).shard.train, by=side) | edges_of(extra, by=side))
        pairs = list(zip(listed(contrast.pairs), contrast.strata.tolist(), strict=True))
        random = list(zip(listed(contrast.random), contrast.random_strata.tolist(), strict=True))
        assert len(random) > len(pairs) / 2
        for (first, second), stratum in random:
            assert first != second
            assert (min(first, second), max(first, second)) not in had
            assert any(of == stratum and pair[0] == first for pair, of in pairs)
            assert any(of == stratum and pair[1] == second for pair, of in pairs)


@pytest.mark.parametrize("kind", KINDS)
def test_the_stratum_is_by_the_retained_degree_of_the_rarer_row(kind: str) -> None:
    problem = problem_in(kind)
    members = [member for _, member in edges_of(problem.retain, by=probe_in(kind).side)]
    for contrast, _ in contrasts(kind):
        rarer = [min(members.count(first), members.count(second)) for first, second in listed(contrast.pairs)]
        assert contrast.strata.tolist() == [0 if degree == 0 else 1 if degree < 4 else 2 for degree in rarer]
        assert len(set(contrast.strata.tolist())) > 1


def test_the_held_out_pairs_are_listed_only_where_they_are_asked_for() -> None:
    probe = make_probe(problem_in("pairs"), seed=3, held_out=False)
    assert probe.held_out is None
    assert listed(probe.forgotten.pairs) == listed(probe_in("pairs").forgotten.pairs)


@pytest.mark.parametrize("kind", KINDS)
def test_a_source_gives_the_same_pairs_in_every_order_of_draws(kind: str) -> None:
    source = pair_source(problem_in(kind))
    few, whole = source.draw(seed=4, max_pairs=12), source.draw(seed=3)
    expected = (make_probe(problem_in(kind), seed=4, max_pairs=12), probe_in(kind))
    for found, alone in zip((few, whole, source.draw(seed=4, max_pairs=12)), (*expected, expected[0]), strict=True):
        for own, other in ((found.forgotten, alone.forgotten), (found.held_out, alone.held_out)):
            assert own is not None
            assert other is not None
            assert listed(own.pairs) == listed(other.pairs)
            assert listed(own.random) == listed(other.random)
    assert source.draw(seed=3, held_out=False).held_out is None


@pytest.mark.parametrize("kind", ["users", "items"])
def test_at_most_so_many_pairs_are_drawn_and_by_the_seed(kind: str) -> None:
    every = set(listed(probe_in(kind).forgotten.pairs))
    few = [listed(make_probe(problem_in(kind), seed=seed, max_pairs=12).forgotten.pairs) for seed in (3, 3, 4)]
    assert few[0] == few[1] != few[2]
    assert all(0 < len(pairs) <= 12 and set(pairs) < every for pairs in few)


def test_of_a_large_group_each_forgotten_member_gets_its_share_of_the_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    # One user forgets 20 of 40 items, another keeps one: 20 forgotten ones share 100 pairs, 5 for each.
    monkeypatch.setattr(residue, "MAX_PAIRS_PER_GROUP", 100)
    train = np.array([(0, item) for item in range(40)] + [(1, 40)])
    nothing = np.zeros((0, 2), dtype=np.int64)
    large = World(2, 41, train, nothing, nothing, features={}, item_neighbours={})
    request = make_request(pair_users=np.zeros(20, dtype=np.int64), pair_items=np.arange(20))
    problem = problem_of(shards_of(large, 1)[0], request)
    found = listed(make_probe(problem, seed=0).forgotten.pairs)
    assert set(found) < expected_pairs(problem, problem.forget, by="item")
    assert 50 <= len(found) <= 100  # at worst every pair was drawn from both its ends
    assert all(sum(item in pair for pair in found) >= 5 for item in range(20))


def test_of_a_popular_item_about_so_many_users_are_paired(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(residue, "MAX_PAIRS_PER_GROUP", 50)
    train, nothing = np.array([(user, 0) for user in range(400)] + [(400, 1)]), np.zeros((0, 2), dtype=np.int64)
    popular = World(401, 2, train, nothing, nothing, features={}, item_neighbours={})
    pairs = make_probe(problem_of(shards_of(popular, 1)[0], make_request(items=np.array([0]))), seed=0).forgotten.pairs
    assert 30 < len(np.unique(np.concatenate([pairs.first, pairs.second]))) < 75
    assert 15 < len(pairs) < 75


# ------------------------------------------------------------------------------------------------------------ measure


@pytest.mark.parametrize("num_levels", [1, 4, 1000])
def test_the_auc_equals_a_count_over_all_pairs(num_levels: int) -> None:
    found, random = (
        torch.from_numpy((hash_keys(text_key(name), np.arange(count)) % np.uint64(num_levels)).astype(np.float64))
        for name, count in (("found", 31), ("random", 44))
    )
    wins = (found[:, None] > random).double() + 0.5 * (found[:, None] == random).double()
    assert auc(found, random) == pytest.approx(float(wins.mean()))
    assert auc(found, random) + auc(random, found) == pytest.approx(1.0)


def test_the_auc_is_a_half_where_either_side_is_empty() -> None:
    assert auc(torch.zeros(0), torch.ones(3)) == auc(torch.ones(3), torch.zeros(0)) == 0.5


NUM_COUPLES = 60
# Items 2 c and 2 c + 1 are held together by deleted user c alone, and singly by so many users who stay.
SINGLE_HOLDERS = [(0, 2, 5)[couple % 3] for couple in range(NUM_COUPLES)]


@cache
def couples() -> tuple[Problem, ResidueProbe]:
    """Deleted users with two items each that nobody else has together, in all three strata."""
    singles = [item for item in range(2 * NUM_COUPLES) for _ in range(SINGLE_HOLDERS[item // 2])]
    train = [(item // 2, item) for item in range(2 * NUM_COUPLES)]
    train += [(NUM_COUPLES + place, item) for place, item in enumerate(singles)]
    pairs, nothing = np.array(train, dtype=np.int64), np.zeros((0, 2), dtype=np.int64)
    num_users = NUM_COUPLES + len(singles)
    paired = World(num_users, 2 * NUM_COUPLES, pairs, nothing, nothing, features={}, item_neighbours={})
    problem = problem_of(shards_of(paired, 1)[0], make_request(users=np.arange(NUM_COUPLES)))
    return problem, make_probe(problem, seed=1)


def couple_vectors(signs: Sequence[float]) -> Tensor:
    """An axis for each couple; the second item lies on it, or opposite, by its couple's sign."""
    vectors = torch.zeros((2 * NUM_COUPLES, NUM_COUPLES), dtype=torch.float64)
    for couple, sign in enumerate(signs):
        vectors[2 * couple, couple], vectors[2 * couple + 1, couple] = 3.0, 0.1 * sign
    return vectors


def test_the_couples_are_the_pairs() -> None:
    contrast = couples()[1].forgotten
    assert listed(contrast.pairs) == [(2 * couple, 2 * couple + 1) for couple in range(NUM_COUPLES)]
    assert contrast.strata.tolist() == [(0, 2, 5).index(holders) for holders in SINGLE_HOLDERS]
    assert len(set(listed(contrast.random))) > 1.6 * NUM_COUPLES  # two for each, hardly ever the same


@pytest.mark.parametrize(("sign", "expected"), [(1.0, 1.0), (-1.0, 0.0)])
def test_the_residue_is_one_where_couples_lie_together_and_zero_where_they_lie_opposite(
    sign: float, expected: float
) -> None:
    found = measure_residue(couple_vectors([sign] * NUM_COUPLES), couples()[1].forgotten)
    assert found == Residue(overall=expected, by_stratum=(expected,) * 3, counts=(20, 20, 20))


def test_the_residue_is_a_half_for_vectors_that_know_nothing() -> None:
    found = []
    for draw in range(6):
        vectors = torch.from_numpy(hash_normal(text_key("blind"), draw, *np.indices((2 * NUM_COUPLES, 8))))
        found.append(measure_residue(vectors, couples()[1].forgotten).overall)
    # One draw's deviation is about (12 * 60)^-0.5 = 0.04, that of the mean of six 0.015.
    assert np.mean(found) == pytest.approx(0.5, abs=0.05)
    assert measure_residue(torch.ones(2 * NUM_COUPLES, 8), couples()[1].forgotten).overall == pytest.approx(0.5)


def test_each_stratum_is_judged_by_itself_and_counts_by_its_pairs() -> None:
    contrast = couples()[1].forgotten
    vectors = couple_vectors([-1.0 if stratum == 1 else 1.0 for stratum in contrast.strata.tolist()])
    found = measure_residue(vectors, contrast)
    assert found.overall == pytest.approx(2 / 3)
    assert (found.by_stratum, found.counts) == ((1.0, 0.0, 1.0), (20, 20, 20))
    chosen = (contrast.strata == 0) | ((contrast.strata == 1) & (contrast.pairs.first < NUM_COUPLES))
    fewer = Contrast(
        RowPairs(contrast.pairs.first[chosen], contrast.pairs.second[chosen]),
        contrast.strata[chosen],
        contrast.random,
        contrast.random_strata,
    )
    found = measure_residue(vectors, fewer)
    assert found.overall == pytest.approx(2 / 3)
    assert (found.by_stratum, found.counts) == ((1.0, 0.0, 0.5), (20, 10, 0))


def test_a_stratum_is_not_judged_by_the_random_pairs_of_another() -> None:
    # Rare items all lie close together: their random pairs are more alike than the couples of other items.
    contrast, rare = couples()[1].forgotten, np.repeat([holders == 0 for holders in SINGLE_HOLDERS], 2)
    common, tilt = torch.from_numpy(5.0 * rare).unsqueeze(1), torch.zeros((2 * NUM_COUPLES, 1), dtype=torch.float64)
    tilt[1::2] = 3.0  # so that the cosine of other couples is far below 1
    vectors = torch.cat([couple_vectors([10.0] * NUM_COUPLES), common, tilt], dim=1)
    assert float(cosines(vectors, contrast.random)[contrast.random_strata == 0].min()) > 0.6
    assert float(cosines(vectors, contrast.pairs)[contrast.strata == 1].max()) < 0.4
    assert measure_residue(vectors, contrast).by_stratum == (1.0,) * 3


def test_a_cosine_is_that_of_the_two_rows_and_has_a_gradient() -> None:
    vectors = torch.tensor([[3.0, 0.0], [1.0, 1.0], [-2.0, 0.0]], dtype=torch.float64, requires_grad=True)
    found = cosines(vectors, RowPairs(np.array([0, 0]), np.array([1, 2])))
    assert found.tolist() == pytest.approx([0.5**0.5, -1.0])
    found[0].backward()
    assert vectors.grad is not None
    assert float(vectors.grad[0, 1]) > 0  # upwards brings row 0 nearer to row 1
    assert vectors.grad[2].tolist() == [0.0, 0.0]


LONELY = {
    "nothing": make_request(),
    "a user of one item": make_request(users=np.array([0])),
    "the only pair of a user": make_request(pair_users=np.array([0]), pair_items=np.array([0])),
    "an item of one user": make_request(items=np.array([0])),
    "an item of nobody": make_request(items=np.array([4])),
}


@pytest.mark.parametrize("name", list(LONELY))
@pytest.mark.parametrize("world_size", [1, 2])
def test_a_request_that_brought_nothing_together_has_no_residue(name: str, world_size: int) -> None:
    nothing = np.zeros((0, 2), dtype=np.int64)
    lonely = World(3, 5, np.array([(0, 0), (1, 1), (2, 2), (2, 3)]), nothing, nothing, features={}, item_neighbours={})
    parts = shards_of(lonely, world_size)

    def body(collective: Collective) -> ResidueProbe:
        return make_probe(problem_of(parts[collective.rank], LONELY[name], collective), seed=0)

    for probe in in_threads(world_size, body):
        assert probe.held_out is not None
        assert probe.side == ("user" if "an item" in name else "item")
        for contrast in (probe.forgotten, probe.held_out):
            assert measure_residue(torch.ones((5, 4)), contrast) == Residue(0.5, (0.5,) * 3, (0, 0, 0))


# ------------------------------------------------------------------------------------------------------------ workers


def columns_of(probe: ResidueProbe) -> list[list[int]]:
    """Every number of a probe."""
    assert probe.held_out is not None
    both = (probe.forgotten, probe.held_out)
    return [rows.tolist() for c in both for rows in (*c.rows(), c.strata, c.random_strata)]


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("per_group", [residue.MAX_PAIRS_PER_GROUP, 5])
def test_several_workers_all_ask_for_the_same_pairs_as_one(
    kind: str, world_size: int, per_group: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(residue, "MAX_PAIRS_PER_GROUP", per_group)
    monkeypatch.setattr(residue, "_BLOCK", 7)  # in several blocks
    expected = make_probe(problem_in(kind), seed=3, max_pairs=60)
    assert min(len(expected.forgotten.pairs), len(expected.forgotten.random)) > 4
    parts = shards_of(world(), world_size)

    def body(collective: Collective) -> ResidueProbe:
        return make_probe(problem_of(parts[collective.rank], request_of(kind), collective), seed=3, max_pairs=60)

    for probe in in_threads(world_size, body):
        assert probe.side == expected.side
        assert columns_of(probe) == columns_of(expected)


def user_table() -> Tensor:
    return torch.from_numpy(hash_normal(text_key("users"), *np.indices((world().num_users, 4))))


def test_the_item_side_is_the_items_and_the_user_side_of_one_worker_the_users() -> None:
    users, items, shard = user_table(), torch.ones(100, 4, dtype=torch.float64), problem_in("items").shard
    assert row_vectors(probe_in("users"), users, items, shard, ALONE) is items
    assert torch.equal(row_vectors(probe_in("items"), users, items, shard, ALONE), users)


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize("held_out", [True, False])
def test_the_rows_of_users_come_from_their_owners_and_their_gradients_go_back(world_size: int, held_out: bool) -> None:
    users, items, parts = user_table(), torch.ones(100, 4, dtype=torch.float64), shards_of(world(), world_size)
    probe = make_probe(problem_in("items"), seed=3, held_out=held_out)
    leaf = users.clone().requires_grad_()
    cosines(leaf, probe.forgotten.pairs).square().sum().backward()
    assert leaf.grad is not None

    def body(collective: Collective) -> tuple[Tensor, Tensor]:
        rows = torch.from_numpy(parts[collective.rank].shard.user_rows)
        own, between = users[rows].requires_grad_(), Differentiable(collective)
        table = row_vectors(probe, own, items, parts[collective.rank].shard, between)
        # Each worker has the whole loss: its share is one of so many.
        (cosines(table, probe.forgotten.pairs).square().sum() / world_size).backward()
        assert own.grad is not None
        return table.detach(), own.grad

    contrasts_of = [probe.forgotten] if probe.held_out is None else [probe.forgotten, probe.held_out]
    asked = np.unique(np.concatenate([rows for contrast in contrasts_of for rows in contrast.rows()]))
    for part, (table, gradient) in zip(parts, in_threads(world_size, body), strict=True):
        assert torch.equal(table[asked], users[asked])
        assert torch.allclose(gradient, leaf.grad[torch.from_numpy(part.shard.user_rows)], atol=1e-12)
        for contrast in contrasts_of:
            assert measure_residue(table, contrast) == measure_residue(users, contrast)
