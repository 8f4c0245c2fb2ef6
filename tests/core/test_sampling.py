"""Batches and negatives belong to the job: every pair once per epoch, whatever the order or the sharding."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tru_core.collective import Collective, LocalCollective
from tru_core.errors import AuditError, DataError
from tru_core.interactions import Pairs, Shard, item_degrees, make_pairs
from tru_core.sampling import (
    Batch,
    EpochPlan,
    NegativePool,
    check_all_visited,
    draw_negatives,
    iterate_batches,
    make_pool,
    plan_epoch,
)
from tru_core.testing.threads import in_threads
from tru_core.testing.worlds import shards_of, tiny_world

ALONE = LocalCollective()
Row = tuple[int, int, int]


def shard_of(table: np.ndarray, user_rows: np.ndarray | None = None) -> Shard:
    """A shard whose training pairs are the true cells of a (user x item) table."""
    users, items = np.nonzero(table)
    train = make_pairs(users, items, num_items=table.shape[1])
    rows = np.arange(len(table)) if user_rows is None else user_rows
    return Shard(user_rows=rows, num_users=1000, num_items=table.shape[1], train=train, valid=train, test=train)


def pool_of(pairs: Pairs) -> NegativePool:
    return make_pool(pairs, item_degrees(pairs, ALONE))


def plan_of(shard: Shard, *, batch_size: int = 8, seed: int = 0, epoch: int = 0) -> EpochPlan:
    pool = pool_of(shard.train)
    return plan_epoch(shard.train, shard, pool, ALONE, batch_size=batch_size, seed=seed, epoch=epoch)


def rows_of(batch: Batch, shard: Shard) -> list[Row]:
    """(user row, positive, negative) of each row of a batch."""
    users = shard.user_rows[batch.users.numpy()].tolist()
    return list(zip(users, batch.positives.tolist(), batch.negatives.tolist(), strict=True))


TABLES = st.builds(
    lambda seed, users, items: np.random.default_rng(seed).random((users, items)) < 0.4,
    st.integers(0, 10_000),
    st.integers(1, 12),
    st.integers(3, 12),
).filter(lambda table: table.any(axis=1).any() and not (table.sum(axis=1) >= table.any(axis=0).sum()).any())


@given(TABLES, st.integers(1, 40), st.integers(0, 5))
def test_every_pair_is_in_exactly_one_batch_of_an_epoch(table: np.ndarray, batch_size: int, epoch: int) -> None:
    shard = shard_of(table)
    plan = plan_of(shard, batch_size=batch_size, epoch=epoch)
    batches = list(iterate_batches(plan))
    visited = [(user, item) for batch in batches for user, item, _ in rows_of(batch, shard)]
    assert sorted(visited) == [(int(u), int(i)) for u, i in np.argwhere(table)]
    assert plan.num_batches == len(batches) <= -(-len(visited) // batch_size)
    assert all(batch.offset == 0 and batch.num_rows == len(batch.users) >= 1 for batch in batches)


@given(TABLES, st.integers(0, 5))
def test_negatives_come_from_the_pool_and_never_from_the_history(table: np.ndarray, epoch: int) -> None:
    shard = shard_of(table)
    negatives = draw_negatives(shard.train, shard.user_rows, pool_of(shard.train), seed=1, epoch=epoch)
    assert not table[shard.train.users, negatives].any()
    assert table.any(axis=0)[negatives].all()


@settings(max_examples=12)
@given(st.integers(0, 1000), st.integers(1, 40), st.sampled_from([2, 3, 4]))
def test_batches_and_negatives_do_not_depend_on_the_sharding(seed: int, batch_size: int, world_size: int) -> None:
    world = tiny_world()

    def batches_of(num_workers: int) -> list[list[Batch]]:
        shards = [part.shard for part in shards_of(world, num_workers)]

        def plan(collective: Collective) -> list[Batch]:
            shard = shards[collective.rank]
            pool = make_pool(shard.train, item_degrees(shard.train, collective))
            made = plan_epoch(shard.train, shard, pool, collective, batch_size=batch_size, seed=seed, epoch=2)
            return list(iterate_batches(made))

        return in_threads(num_workers, plan)

    whole, split = batches_of(1)[0], batches_of(world_size)
    shards = [part.shard for part in shards_of(world, world_size)]
    assert {len(batches) for batches in split} == {len(whole)}
    for number, batch in enumerate(whole):
        parts = [batches[number] for batches in split]
        found = [row for part, shard in zip(parts, shards, strict=True) for row in rows_of(part, shard)]
        assert sorted(found) == sorted(rows_of(batch, shards_of(world, 1)[0].shard))
        sizes = [len(part.users) for part in parts]
        assert {part.num_rows for part in parts} == {sum(sizes)}
        assert [part.offset for part in parts] == [sum(sizes[:rank]) for rank in range(world_size)]


def test_batches_do_not_depend_on_the_order_of_the_rows() -> None:
    shard = shards_of(tiny_world(), 1)[0].shard
    backwards = np.argsort(-shard.user_rows)  # the same users at other positions
    train = make_pairs(backwards[shard.train.users], shard.train.items, num_items=shard.num_items)
    turned = replace(shard, user_rows=shard.user_rows[::-1].copy(), train=train)
    for first, second in zip(iterate_batches(plan_of(shard)), iterate_batches(plan_of(turned)), strict=True):
        assert sorted(rows_of(first, shard)) == sorted(rows_of(second, turned))


def test_the_place_of_a_pair_and_its_negative_do_not_depend_on_other_users() -> None:
    table = np.random.default_rng(3).random((10, 12)) < 0.4
    whole, alone = shard_of(table), shard_of(table[4:6], np.array([4, 5]))
    degrees = item_degrees(whole.train, ALONE)
    everyone = draw_negatives(whole.train, whole.user_rows, make_pool(whole.train, degrees), seed=0, epoch=1)
    some = draw_negatives(alone.train, alone.user_rows, make_pool(alone.train, degrees), seed=0, epoch=1)
    assert everyone[np.isin(whole.train.users, [4, 5])].tolist() == some.tolist()


def test_epochs_and_seeds_shuffle_anew() -> None:
    shard = shards_of(tiny_world(), 1)[0].shard
    plans = [plan_of(shard, seed=seed, epoch=epoch) for seed in (0, 1) for epoch in (0, 1)]
    batches = {tuple(plan.users.tolist()) for plan in plans}
    negatives = {tuple(np.sort(plan.negatives).tolist()) for plan in plans}
    assert len(batches) == len(negatives) == 4


def chi_square(counts: np.ndarray) -> float:
    return float(((counts - counts.mean()) ** 2 / counts.mean()).sum())


def test_negatives_are_uniform_over_what_the_user_does_not_have() -> None:
    table = np.zeros((3000, 12), dtype=bool)
    table[::2, :4], table[1::2, 4:] = True, True
    shard = shard_of(table)
    negatives = draw_negatives(shard.train, shard.user_rows, pool_of(shard.train), seed=0, epoch=0)
    for parity, free in ((0, np.arange(4, 12)), (1, np.arange(4))):
        counts = np.bincount(negatives[shard.train.users % 2 == parity], minlength=12)
        assert counts.sum() == counts[free].sum()
        # chi-square with n - 1 degrees of freedom: mean n - 1, variance 2 (n - 1); six deviations
        assert chi_square(counts[free]) < len(free) - 1 + 6 * np.sqrt(2 * (len(free) - 1))


def test_a_user_who_has_all_items_but_one_always_meets_that_one() -> None:
    num_items = 800  # 64 draws miss the one item in 92 of 100 cases
    table = np.zeros((2, num_items), dtype=bool)
    table[0] = True
    table[0, 234], table[1, 234] = False, True
    shard = shard_of(table)
    negatives = draw_negatives(shard.train, shard.user_rows, pool_of(shard.train), seed=0, epoch=0)
    assert set(negatives[shard.train.users == 0].tolist()) == {234}


def test_the_last_resort_draws_uniformly_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tru_core.sampling._MAX_DRAWS", 1)
    table = np.ones((40, 30), dtype=bool)
    table[:, [3, 9, 27]] = False
    table[0], table[0, [3, 9, 27]] = False, True
    shard = shard_of(table)
    negatives = draw_negatives(shard.train, shard.user_rows, pool_of(shard.train), seed=0, epoch=0)
    counts = np.bincount(negatives[shard.train.users > 0], minlength=30)[[3, 9, 27]]
    assert counts.sum() == 39 * 27
    assert chi_square(counts) < 2 + 6 * 2


def test_a_user_with_every_item_is_a_data_error() -> None:
    with pytest.raises(DataError, match=r"1 user\(s\) interacted with every one of the 3 items"):
        pool_of(shard_of(np.array([[1, 1, 1], [1, 0, 0]])).train)


def test_items_that_nobody_trained_on_are_no_negatives() -> None:
    with pytest.raises(DataError):  # the fourth item could only be drawn if it had a pair
        pool_of(shard_of(np.array([[1, 1, 1, 0], [1, 0, 0, 0]])).train)


def test_batch_sizes_vary_like_fair_draws() -> None:
    table = np.random.default_rng(0).random((400, 60)) < 0.2
    shard = shard_of(table)
    plan = plan_of(shard, batch_size=128)
    num_batches = -(-len(shard.train) // 128)
    assert len(plan.sizes) == num_batches
    mean = len(shard.train) / num_batches
    assert np.abs(plan.sizes - mean).max() < 6 * np.sqrt(mean)


def test_batches_of_one_row_on_average_yield_no_empty_batch() -> None:
    shard = shard_of(np.eye(6, dtype=bool))
    batches = list(iterate_batches(plan_of(shard, batch_size=1)))
    assert all(batch.num_rows >= 1 for batch in batches)
    assert sum(batch.num_rows for batch in batches) == 6


def test_a_limit_takes_the_first_batches() -> None:
    shard = shards_of(tiny_world(), 1)[0].shard
    plan = plan_of(shard)
    whole, some = list(iterate_batches(plan)), list(iterate_batches(plan, limit=3))
    assert [rows_of(b, shard) for b in some] == [rows_of(b, shard) for b in whole[:3]]
    assert list(iterate_batches(plan, limit=0)) == []


def test_nothing_to_visit_is_no_batch() -> None:
    shard = shard_of(np.zeros((2, 3), dtype=bool))
    plan = plan_epoch(shard.train, shard, pool_of(shard_of(np.eye(3)).train), ALONE, batch_size=4, seed=0, epoch=0)
    assert plan.num_batches == 0
    assert list(iterate_batches(plan)) == []


def test_a_row_that_was_not_visited_fails_the_run() -> None:
    assert check_all_visited(7, 7, ALONE) == 7
    for visited in (0, 6, 8):
        with pytest.raises(AuditError, match=f"{visited} of 7 requested interactions were visited"):
            check_all_visited(visited, 7, ALONE)
