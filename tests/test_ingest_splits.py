"""Splits and duplicates depend on what the rows say, never on the order in which they came."""

from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workflows.data.snapshot import TEST, TRAIN, VALID
from workflows.ingest.splits import find_duplicates, sort_rows, split_users

EXPECTED_HELD = {1: 0, 2: 0, 3: 1, 4: 1, 10: 1, 14: 1, 15: 2, 20: 2, 24: 2, 25: 3, 100: 10}


def _split(
    counts: list[int], *, kind: Literal["random", "time"], seed: int = 0, times: np.ndarray | None = None
) -> np.ndarray:
    users = np.repeat(np.arange(len(counts)), counts)
    items = np.concatenate([np.arange(count) for count in counts])
    moments = np.zeros(len(users), dtype=np.int64) if times is None else times
    return split_users(users, items, kind=kind, timestamp=moments, seed=seed)


@pytest.mark.parametrize("kind", ["random", "time"])
def test_each_user_gives_a_tenth_rounded_half_up_to_valid_and_test(kind: Literal["random", "time"]) -> None:
    split = _split(list(EXPECTED_HELD), kind=kind)
    ends = np.cumsum(list(EXPECTED_HELD))
    for held, end, count in zip(EXPECTED_HELD.values(), ends, EXPECTED_HELD, strict=True):
        own = split[end - count : end]
        assert [int((own == part).sum()) for part in (TRAIN, VALID, TEST)] == [count - 2 * held, held, held]


def test_a_split_by_time_tests_on_the_last_interactions() -> None:
    times = np.array([5, 1, 9, 3, 7, 2, 8, 4, 6, 0])
    split = _split([10], kind="time", times=times)
    assert times[split == TEST].tolist() == [9]
    assert times[split == VALID].tolist() == [8]


def test_another_seed_gives_another_random_split_of_the_same_size() -> None:
    one, two = _split([40] * 30, kind="random", seed=1), _split([40] * 30, kind="random", seed=2)
    assert (one == TEST).sum() == (two == TEST).sum()
    assert (one != two).any()


def test_a_random_split_chooses_every_place_about_equally_often() -> None:
    split = _split([10] * 4000, kind="random").reshape(4000, 10)
    share = (split == TEST).mean(axis=0)
    assert np.all(np.abs(share - 0.1) < 0.02)  # 4 standard errors of 0.0047


def test_a_users_split_does_not_depend_on_the_other_users() -> None:
    users = np.repeat([3, 7], [10, 12])
    items = np.concatenate([np.arange(10), np.arange(12)])
    zeros = np.zeros(22, dtype=np.int64)
    both = split_users(users, items, kind="random", timestamp=zeros, seed=5)
    alone = split_users(users[10:], items[10:], kind="random", timestamp=zeros[10:], seed=5)
    np.testing.assert_array_equal(both[10:], alone)


def _sorted(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    rest = {name: columns[name] for name in ("split", "timestamp", "file", "source_row")}
    order = sort_rows(columns["users"], columns["items"], **rest)
    return {name: column[order] for name, column in columns.items()}


def test_of_a_repeated_pair_the_train_row_stays_then_the_earliest() -> None:
    columns = _sorted(
        {
            "users": np.array([1, 1, 1, 1, 1, 2]),
            "items": np.array([4, 4, 4, 5, 5, 5]),
            "split": np.array([2, 0, 0, 1, 1, 0], dtype=np.int8),
            "timestamp": np.array([1, 9, 8, 3, 3, 3]),
            "file": np.zeros(6, dtype=np.int64),
            "source_row": np.arange(6),
        }
    )
    same = find_duplicates(columns["users"], columns["items"], split=columns["split"], timestamp=columns["timestamp"])
    assert columns["source_row"][same.is_kept].tolist() == [2, 3, 5]
    assert columns["source_row"][same.is_in_two_splits].tolist() == [0]
    assert columns["source_row"][same.is_repeat].tolist() == [1]
    assert columns["source_row"][same.is_exact].tolist() == [4]


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), num_rows=st.integers(1, 60))
def test_any_order_of_rows_gives_the_same_rows_and_split(seed: int, num_rows: int) -> None:
    draw = np.random.default_rng(seed)
    columns = {
        "users": draw.integers(0, 4, num_rows),
        "items": draw.integers(0, 5, num_rows),
        "split": draw.integers(0, 3, num_rows).astype(np.int8),
        "timestamp": draw.integers(0, 3, num_rows),
        "file": draw.integers(0, 2, num_rows),
        "source_row": np.arange(num_rows),
    }
    shuffled = draw.permutation(num_rows)
    results = []
    for given_columns in (columns, {name: column[shuffled] for name, column in columns.items()}):
        rows = _sorted(given_columns)
        same = find_duplicates(rows["users"], rows["items"], split=rows["split"], timestamp=rows["timestamp"])
        marks = np.stack([same.is_kept, same.is_in_two_splits, same.is_repeat, same.is_exact])
        assert (marks.sum(axis=0) == 1).all()
        kept = {name: column[same.is_kept] for name, column in rows.items()}
        split = split_users(kept["users"], kept["items"], kind="random", timestamp=kept["timestamp"], seed=3)
        results.append(np.stack([*kept.values(), split]))
    np.testing.assert_array_equal(results[0], results[1])
