"""Draws that do not see the workers, by chance and by activity, and requests parted into batches."""

import itertools

import numpy as np
import pytest

from tru_core.collective import Collective, LocalCollective
from tru_core.errors import ConfigError, DataError
from tru_core.forget_sets import Selection, sample_request, split_request
from tru_core.interactions import (
    Regime,
    Request,
    Shard,
    contains,
    item_degrees,
    make_pairs,
    make_request,
    positions_of,
    split_by_request,
)
from tru_core.testing.threads import in_threads
from tru_core.testing.worlds import shards_of, tiny_world

ALONE = LocalCollective()
DRAWS: list[tuple[Regime, Selection]] = [
    (regime, selection)
    for regime, selection in itertools.product(("user", "item", "interaction"), ("random", "core", "edge", "popular"))
    if (regime, selection) != ("user", "popular")
]


def rows(values: list[int]) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def shard_of(pairs: list[tuple[int, int]], user_rows: list[int]) -> Shard:
    train = make_pairs(rows([u for u, _ in pairs]), rows([i for _, i in pairs]), num_items=9)
    none = make_pairs(rows([]), rows([]), num_items=9)
    return Shard(user_rows=rows(user_rows), num_users=100, num_items=9, train=train, valid=none, test=none)


def whole_shard() -> Shard:
    return shards_of(tiny_world(), 1)[0].shard


def subjects(requests: list[Request]) -> list[tuple[str, int, int]]:
    """Every subject that the workers name together; items, which all of them name, once."""
    assert len({tuple(request.items.tolist()) for request in requests}) == 1
    found = [("item", item, 0) for item in requests[0].items.tolist()]
    found += [("user", user, 0) for request in requests for user in request.users.tolist()]
    for request in requests:
        pairs = zip(request.pair_users.tolist(), request.pair_items.tolist(), strict=True)
        found += [("pair", user, item) for user, item in pairs]
    assert len(set(found)) == len(found)
    return sorted(found)


@pytest.mark.parametrize("regime", ["user", "item", "interaction"])
@pytest.mark.parametrize("share", [1e-9, 0.05, 0.5, 0.99])
def test_a_draw_has_the_asked_share_and_at_least_one(regime: Regime, share: float) -> None:
    shard = shards_of(tiny_world(), 1)[0].shard
    total = {"user": 24, "item": len(np.unique(shard.train.items)), "interaction": len(shard.train)}[regime]
    request = sample_request(shard, ALONE, regime=regime, share=share, seed=1)
    sizes = {"user": len(request.users), "item": len(request.items), "interaction": len(request.pair_users)}
    assert sizes.pop(regime) == max(1, round(share * total))
    assert not any(sizes.values())


def test_a_draw_depends_on_the_seed_and_takes_everybody_equally_often() -> None:
    shard = shards_of(tiny_world(), 1)[0].shard
    counts = np.zeros(24)
    for seed in range(60):
        counts[sample_request(shard, ALONE, regime="user", share=0.25, seed=seed).users] += 1
    # each count is binomial(60, 1/4); six standard deviations are passed once in 10^8
    assert np.abs(counts - 15).max() < 6 * np.sqrt(60 * 0.25 * 0.75)


@pytest.mark.parametrize(("regime", "selection"), DRAWS)
@pytest.mark.parametrize("world_size", [2, 3, 4])
@pytest.mark.parametrize("size", [{"share": 0.2}, {"count": 3}])
def test_the_same_subjects_are_drawn_for_any_number_of_workers(
    regime: Regime, selection: Selection, world_size: int, size: dict
) -> None:
    def drawn(num_workers: int) -> list[tuple[str, int, int]]:
        shards = [part.shard for part in shards_of(tiny_world(), num_workers)]
        return subjects(
            in_threads(
                num_workers,
                lambda c: sample_request(shards[c.rank], c, regime=regime, selection=selection, **size, seed=5),
            )
        )

    assert drawn(world_size) == drawn(1)
    assert len(drawn(1)) >= 3


def test_random_draws_are_what_they_were() -> None:
    # Drawn before selections existed: figures that were published depend on them.
    shard = whole_shard()
    assert sample_request(shard, ALONE, regime="user", share=0.2, seed=42).users.tolist() == [3, 4, 8, 16, 20]
    assert sample_request(shard, ALONE, regime="item", share=0.1, seed=42).items.tolist() == [19, 21, 22]
    pairs = sample_request(shard, ALONE, regime="interaction", share=0.03, seed=42)
    assert list(zip(pairs.pair_users.tolist(), pairs.pair_items.tolist(), strict=True)) == [
        (1, 17),
        (5, 4),
        (7, 2),
        (7, 25),
    ]


@pytest.mark.parametrize("selection", ["core", "edge"])
@pytest.mark.parametrize("seed", [0, 1])
def test_core_and_edge_are_the_users_with_the_most_and_the_fewest_pairs(selection: Selection, seed: int) -> None:
    shard = whole_shard()
    activity = np.bincount(shard.train.users, minlength=24)
    drawn = sample_request(shard, ALONE, regime="user", selection=selection, count=7, seed=seed).users
    left = np.setdiff1d(np.arange(24), drawn)
    assert len(drawn) == 7
    if selection == "core":
        assert activity[drawn].min() >= activity[left].max()
    else:
        assert activity[drawn].max() <= activity[left].min()


@pytest.mark.parametrize("selection", ["core", "edge", "popular"])
def test_items_are_drawn_by_their_number_of_pairs(selection: Selection) -> None:
    shard = whole_shard()
    degrees = item_degrees(shard.train, ALONE)
    drawn = sample_request(shard, ALONE, regime="item", selection=selection, count=5, seed=3).items
    left = np.setdiff1d(np.flatnonzero(degrees), drawn)
    assert len(drawn) == 5
    if selection == "edge":
        assert 0 < degrees[drawn].max() <= degrees[left].min()
    else:
        assert degrees[drawn].min() >= degrees[left].max()


@pytest.mark.parametrize("selection", ["core", "edge", "popular"])
def test_pairs_are_drawn_by_their_user_or_their_item(selection: Selection) -> None:
    shard = whole_shard()
    train = shard.train
    of_pair = np.bincount(train.users)[train.users]
    if selection == "popular":
        of_pair = item_degrees(train, ALONE)[train.items]
    request = sample_request(shard, ALONE, regime="interaction", selection=selection, count=20, seed=3)
    drawn = contains(make_pairs(request.pair_users, request.pair_items, num_items=30), train.users, train.items)
    assert drawn.sum() == 20
    if selection == "edge":
        assert of_pair[drawn].max() <= of_pair[~drawn].min()
    else:
        assert of_pair[drawn].min() >= of_pair[~drawn].max()


@pytest.mark.parametrize(("selection", "expected"), [("core", [[], [5, 8]]), ("edge", [[2, 3], []])])
def test_activity_counts_across_workers_whose_busiest_users_differ(
    selection: Selection, expected: list[list[int]]
) -> None:
    quiet = shard_of([(0, 0), (1, 1), (2, 0), (2, 1)], [2, 3, 7])
    busy = shard_of([(place, item) for place, count in ((0, 8), (1, 5)) for item in range(count)], [5, 8])
    found = in_threads(
        2,
        lambda c: sample_request((quiet, busy)[c.rank], c, regime="user", selection=selection, count=2, seed=0).users,
    )
    assert [users.tolist() for users in found] == expected


def test_ties_of_activity_are_drawn_by_the_seed() -> None:
    shard = shard_of([(place, place) for place in range(9)], list(range(9)))
    drawn = {
        tuple(sample_request(shard, ALONE, regime="user", selection="core", count=2, seed=seed).users.tolist())
        for seed in range(12)
    }
    assert len(drawn) > 4


@pytest.mark.parametrize(("regime", "selection"), DRAWS)
def test_one_subject_is_a_count_of_one(regime: Regime, selection: Selection) -> None:
    request = sample_request(whole_shard(), ALONE, regime=regime, selection=selection, count=1, seed=0)
    assert len(subjects([request])) == 1


@pytest.mark.parametrize("regime", ["user", "item", "interaction"])
@pytest.mark.parametrize(
    ("size", "message"),
    [
        ({}, "exactly one of share and count"),
        ({"share": 0.1, "count": 1}, "exactly one of share and count"),
        ({"share": 1.0}, "share must lie above 0 and below 1"),
        ({"count": 0}, "count must be at least 1"),
        ({"count": 1000}, "1000 [a-z]+s are to be drawn"),
    ],
)
def test_a_size_that_cannot_be_drawn_is_refused(regime: Regime, size: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        sample_request(whole_shard(), ALONE, regime=regime, **size, seed=0)


def test_users_are_not_popular() -> None:
    with pytest.raises(ConfigError, match="choose core"):
        sample_request(whole_shard(), ALONE, regime="user", selection="popular", share=0.1, seed=0)


def test_drawn_interactions_are_training_pairs_and_distinct() -> None:
    shard = shards_of(tiny_world(), 1)[0].shard
    request = sample_request(shard, ALONE, regime="interaction", share=0.3, seed=3)
    places, _ = positions_of(shard, request.pair_users)
    assert contains(shard.train, places, request.pair_items).all()
    forget, _ = split_by_request(shard.train, shard, request)
    assert len(forget) == len(request.pair_users)


def test_users_and_items_without_a_training_pair_are_not_drawn() -> None:
    shard = shard_of([(1, 4)], [3, 5, 8])
    assert sample_request(shard, ALONE, regime="user", share=0.9, seed=0).users.tolist() == [5]
    assert sample_request(shard, ALONE, regime="item", share=0.9, seed=0).items.tolist() == [4]


@pytest.mark.parametrize("regime", ["user", "item", "interaction"])
def test_nothing_to_draw_from_is_an_error(regime: Regime) -> None:
    with pytest.raises(DataError, match="nothing to forget"):
        sample_request(shard_of([], [3]), ALONE, regime=regime, share=0.5, seed=0)


MIXED = make_request(
    users=rows([1, 4, 7, 11, 20]), items=rows([0, 3]), pair_users=rows([2, 2, 3, 9]), pair_items=rows([1, 4, 4, 8])
)


@pytest.mark.parametrize("num_batches", [1, 2, 3, 4, 11])
def test_each_subject_is_in_exactly_one_of_nearly_equal_batches(num_batches: int) -> None:
    batches = split_request(MIXED, whole_shard(), ALONE, num_batches=num_batches, seed=2)
    found = [subjects([batch]) for batch in batches]
    assert len(found) == num_batches
    assert sorted(itertools.chain(*found)) == subjects([MIXED])
    assert {len(part) for part in found} <= {11 // num_batches, -(-11 // num_batches)}


def test_a_request_in_one_batch_is_the_request() -> None:
    (batch,) = split_request(MIXED, whole_shard(), ALONE, num_batches=1, seed=0)
    for name in ("users", "items", "pair_users", "pair_items"):
        assert np.array_equal(getattr(batch, name), getattr(MIXED, name))


def test_the_batches_depend_on_the_seed() -> None:
    first = {tuple(split_request(MIXED, whole_shard(), ALONE, num_batches=2, seed=s)[0].users) for s in range(8)}
    assert len(first) > 3


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize("is_whole", [True, False])
def test_batches_do_not_depend_on_the_workers_nor_on_who_names_the_subjects(world_size: int, is_whole: bool) -> None:
    parts = shards_of(tiny_world(), world_size)

    def body(collective: Collective) -> list[Request]:
        shard = parts[collective.rank].shard
        own = MIXED
        if not is_whole:
            users, pairs = (positions_of(shard, asked)[1] for asked in (MIXED.users, MIXED.pair_users))
            own = Request(MIXED.users[users], MIXED.items, MIXED.pair_users[pairs], MIXED.pair_items[pairs])
        return split_request(own, shard, collective, num_batches=3, seed=2)

    found = in_threads(world_size, body)
    alone = split_request(MIXED, whole_shard(), ALONE, num_batches=3, seed=2)
    for batch, expected in enumerate(alone):
        if is_whole:
            assert all(subjects([worker[batch]]) == subjects([expected]) for worker in found)
        else:
            assert subjects([worker[batch] for worker in found]) == subjects([expected])


def test_the_batches_forget_together_what_the_request_forgets() -> None:
    shard = whole_shard()
    together = np.zeros(len(shard.train), dtype=bool)
    for batch in split_request(MIXED, shard, ALONE, num_batches=4, seed=0):
        forget, _ = split_by_request(shard.train, shard, batch)
        together |= contains(forget, shard.train.users, shard.train.items)
    forget, _ = split_by_request(shard.train, shard, MIXED)
    assert np.array_equal(together, contains(forget, shard.train.users, shard.train.items))
    assert len(forget)


@pytest.mark.parametrize(("num_batches", "message"), [(12, "11 subjects cannot be parted into 12"), (0, "at least 1")])
def test_more_batches_than_subjects_are_refused(num_batches: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        split_request(MIXED, whole_shard(), ALONE, num_batches=num_batches, seed=0)
