"""The hash decides initial values, batches, negatives and buckets: its values may never change."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tru_core.hashing import hash_below, hash_keys, hash_uniform, text_key, user_bucket

KEYS = st.integers(min_value=0, max_value=2**64 - 1)


def splitmix_finaliser(value: int) -> int:
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) % 2**64
    return value ^ (value >> 31)


def slow_hash(*keys: int) -> int:
    state = 0
    for key in keys:
        state = splitmix_finaliser((state + 0x9E3779B97F4A7C15 * (key + 1)) % 2**64)
    return state


def test_hashes_never_change() -> None:
    assert int(hash_keys(0)) == 0xE220A8397B1DCDAF  # also splitmix64's first output from seed 0
    assert int(hash_keys(1, 2, 3)) == 0x27D1DADE99DDF6A4
    assert hash_below(1000, 7, np.arange(5)).tolist() == [434, 452, 32, 605, 29]
    assert hash_uniform(7, np.arange(3)).tolist() == [0.9153980962857293, 0.3944572910569193, 0.30794958315676235]
    assert text_key("negative") == 0xB0016DAD2EB97A5A
    assert user_bucket(np.arange(12), 16).tolist() == [4, 6, 7, 4, 11, 8, 0, 12, 1, 12, 2, 6]


@given(st.lists(KEYS, min_size=1, max_size=5))
def test_the_hash_is_splitmix_over_the_keys(keys: list[int]) -> None:
    assert int(hash_keys(*keys)) == slow_hash(*keys)


@given(KEYS, st.lists(KEYS, min_size=1, max_size=20))
def test_a_value_depends_on_its_keys_and_not_on_its_company(first: int, others: list[int]) -> None:
    together = hash_keys(first, np.array(others, dtype=np.uint64))
    assert together.tolist() == [int(hash_keys(first, other)) for other in others]


def test_keys_broadcast() -> None:
    table = hash_keys(3, np.arange(4)[:, None], np.arange(5)[None, :])
    assert table.shape == (4, 5)
    assert int(table[2, 3]) == int(hash_keys(3, 2, 3))
    assert hash_keys(3, np.zeros(0, dtype=np.int64)).shape == (0,)


def test_the_order_of_the_keys_matters() -> None:
    assert hash_keys(1, 2) != hash_keys(2, 1)
    assert len({int(hash_keys(*keys)) for keys in ((0,), (0, 0), (0, 0, 0))}) == 3


def chi_square(values: np.ndarray, num_cells: int) -> float:
    expected = len(values) / num_cells
    return float(((np.bincount(values, minlength=num_cells) - expected) ** 2 / expected).sum())


@pytest.mark.parametrize("num_cells", [2, 16, 97])
def test_hashes_of_consecutive_rows_are_uniform(num_cells: int) -> None:
    # chi-square has mean n - 1 and variance 2 (n - 1); six standard deviations is passed once in 10^8 or so
    values = hash_below(num_cells, 5, text_key("batch"), 3, np.arange(100_000))
    assert chi_square(values, num_cells) < (num_cells - 1) + 6 * np.sqrt(2 * (num_cells - 1)) + 6


def test_hashes_under_neighbouring_keys_are_independent() -> None:
    first, second = (hash_below(8, 5, epoch, np.arange(100_000)) for epoch in (0, 1))
    assert chi_square(first * 8 + second, 64) < 63 + 6 * np.sqrt(2 * 63)


def test_uniform_numbers_fill_the_unit_interval() -> None:
    values = hash_uniform(9, np.arange(100_000))
    assert values.min() >= 0
    assert values.max() < 1
    assert abs(values.mean() - 0.5) < 6 * np.sqrt(1 / 12 / 100_000)
    assert abs(values.var() - 1 / 12) < 6 * np.sqrt(1 / 180 / 100_000)


def test_user_buckets_are_even() -> None:
    assert chi_square(user_bucket(np.arange(50_000), 16), 16) < 15 + 6 * np.sqrt(30)
