"""Pairs as sets, and requests that part them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tru_core.collective import LocalCollective
from tru_core.errors import DataError
from tru_core.interactions import (
    Pairs,
    Shard,
    contains,
    item_degrees,
    make_pairs,
    make_request,
    positions_of,
    select,
    split_by_request,
    without_subjects,
)
from tru_core.testing.worlds import shards_of, tiny_world

ALONE = LocalCollective()
SOME_PAIRS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 8)), max_size=40)


def rows(values: list[int]) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def pairs_of(pairs: list[tuple[int, int]], num_items: int = 9) -> Pairs:
    return make_pairs(rows([u for u, _ in pairs]), rows([i for _, i in pairs]), num_items=num_items)


def as_set(pairs: Pairs) -> set[tuple[int, int]]:
    return set(zip(pairs.users.tolist(), pairs.items.tolist(), strict=True))


def shard_of(pairs: list[tuple[int, int]], user_rows: list[int]) -> Shard:
    train = pairs_of(pairs)
    return Shard(user_rows=rows(user_rows), num_users=100, num_items=9, train=train, valid=train, test=pairs_of([]))


@given(SOME_PAIRS)
def test_pairs_are_the_sorted_set(pairs: list[tuple[int, int]]) -> None:
    made = pairs_of(pairs)
    assert list(zip(made.users.tolist(), made.items.tolist(), strict=True)) == sorted(set(pairs))
    assert len(made) == len(set(pairs))


@given(SOME_PAIRS)
def test_contains_is_membership(pairs: list[tuple[int, int]]) -> None:
    found = contains(pairs_of(pairs), np.arange(8)[:, None], np.arange(9)[None, :])
    assert found.tolist() == [[(user, item) in set(pairs) for item in range(9)] for user in range(8)]


@pytest.mark.parametrize(("users", "items"), [([0], [9]), ([0], [-1]), ([-1], [0])])
def test_a_row_outside_the_vocabulary_is_refused(users: list[int], items: list[int]) -> None:
    with pytest.raises(DataError, match="outside the vocabulary of 9 items"):
        make_pairs(rows(users), rows(items), num_items=9)


def test_as_many_users_as_items() -> None:
    with pytest.raises(DataError, match="found 2 and 1"):
        make_pairs(rows([0, 1]), rows([0]), num_items=9)


def test_keys_do_not_overflow_at_ten_million_users_times_ten_million_items() -> None:
    pairs = make_pairs(rows([10**7]), rows([10**7 - 1]), num_items=10**7)
    assert as_set(pairs) == {(10**7, 10**7 - 1)}


@given(st.sets(st.integers(0, 30)), st.lists(st.integers(0, 30), max_size=20))
def test_positions_say_where_a_row_stands_and_whether_it_is_owned(owned: set[int], asked: list[int]) -> None:
    user_rows = sorted(owned)
    places, here = positions_of(shard_of([], user_rows), rows(asked))
    assert here.tolist() == [row in owned for row in asked]
    assert places.tolist() == [user_rows.index(row) if row in owned else 0 for row in asked]


@given(
    SOME_PAIRS,
    st.sets(st.integers(0, 40), max_size=3),
    st.sets(st.integers(0, 8), max_size=3),
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 8)), max_size=6),
)
def test_a_request_parts_the_pairs_without_loss(
    pairs: list[tuple[int, int]], users: set[int], items: set[int], single: list[tuple[int, int]]
) -> None:
    user_rows = [3, 5, 8, 13, 21, 34, 40]
    shard = shard_of(pairs, user_rows)
    request = make_request(
        users=rows(sorted(users)),
        items=rows(sorted(items)),
        pair_users=rows([u for u, _ in single]),
        pair_items=rows([i for _, i in single]),
    )
    forget, retain = split_by_request(shard.train, shard, request)
    expected = {(p, i) for p, i in pairs if user_rows[p] in users or i in items or (user_rows[p], i) in set(single)}
    assert as_set(forget) == expected
    assert as_set(retain) == set(pairs) - expected
    left = {(p, i) for p, i in pairs if user_rows[p] not in users and i not in items}
    assert as_set(without_subjects(shard.valid, shard, request)) == left


def test_an_empty_request_forgets_nothing() -> None:
    shard = shards_of(tiny_world(), 1)[0].shard
    forget, retain = split_by_request(shard.train, shard, make_request())
    assert len(forget) == 0
    assert as_set(retain) == as_set(shard.train)


def test_a_request_for_users_of_other_workers_is_no_business_of_this_one() -> None:
    parts = shards_of(tiny_world(), 2)
    request = make_request(users=parts[1].shard.user_rows)
    assert len(split_by_request(parts[0].shard.train, parts[0].shard, request)[0]) == 0
    assert len(split_by_request(parts[1].shard.train, parts[1].shard, request)[1]) == 0


def test_item_degrees_count_pairs() -> None:
    assert item_degrees(pairs_of([(0, 1), (1, 1), (2, 8)]), ALONE).tolist() == [0, 2, 0, 0, 0, 0, 0, 0, 1]


def test_select_keeps_the_order() -> None:
    pairs = pairs_of([(0, 1), (1, 1), (2, 8)])
    assert as_set(select(pairs, np.array([True, False, True]))) == {(0, 1), (2, 8)}
