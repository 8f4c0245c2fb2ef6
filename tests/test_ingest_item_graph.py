"""The item graph built block by block equals the brute force over all pairs."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workflows.data.snapshot import item_bucket_range
from workflows.ingest.features import Moments
from workflows.ingest.item_graph import Neighbours, add_neighbours, unit_rows, with_self


def _by_blocks(rows: np.ndarray, *, num_buckets: int, num_neighbours: int) -> list[tuple[int, int, float]]:
    found = []
    for bucket in range(num_buckets):
        own = item_bucket_range(len(rows), num_buckets, bucket)
        best = Neighbours.none()
        for other in range(num_buckets):
            block = item_bucket_range(len(rows), num_buckets, other)
            best = add_neighbours(
                best,
                rows[own.start : own.stop],
                rows[block.start : block.stop],
                first_row=own.start,
                first_column=block.start,
                num_others=num_neighbours - 1,
            )
        graph = with_self(best, first_row=own.start, num_rows=len(own))
        found += list(zip(graph.rows.tolist(), graph.columns.tolist(), graph.similarity.tolist(), strict=True))
    return found


def _by_brute_force(rows: np.ndarray, *, num_neighbours: int) -> list[tuple[int, int, float]]:
    found = []
    wide = rows.astype(np.float64)
    for row in range(len(rows)):
        found.append((row, row, 1.0))
        others = [
            (float(np.float32(np.clip((wide[row] * wide[column]).sum(), -1, 1))), column)
            for column in range(len(rows))
            if column != row and rows[row].any() and rows[column].any()
        ]
        nearest = sorted(others, key=lambda pair: (-pair[0], pair[1]))[: num_neighbours - 1]
        found += [(row, column, similarity) for similarity, column in nearest]
    return found


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    num_items=st.integers(1, 40),
    num_buckets=st.integers(1, 9),
    num_neighbours=st.integers(1, 12),
    levels=st.sampled_from([2, 3, 1000]),
)
def test_blocks_give_what_brute_force_gives_with_ties_and_zero_rows(
    seed: int, num_items: int, num_buckets: int, num_neighbours: int, levels: int
) -> None:
    values = np.random.default_rng(seed).integers(0, levels, size=(num_items, 3)).astype(np.float32)
    rows = unit_rows(values, None)
    found = _by_blocks(rows, num_buckets=num_buckets, num_neighbours=num_neighbours)
    assert found == _by_brute_force(rows, num_neighbours=num_neighbours)


def test_one_picture_that_all_items_share_makes_no_square_of_candidates() -> None:
    rows = unit_rows(np.ones((3000, 8), dtype=np.float32), None)
    found = _by_blocks(rows, num_buckets=2, num_neighbours=4)
    assert [column for row, column, _ in found if row == 2999] == [2999, 0, 1, 2]
    assert [column for row, column, _ in found if row == 1] == [1, 0, 2, 3]


def test_rows_are_scaled_without_overflow_or_loss() -> None:
    values = np.array([[3e300, 4e300], [3e-300, 4e-300], [0, 0], [6, 8]])
    np.testing.assert_array_equal(
        unit_rows(values, None), np.array([[0.6, 0.8], [0.6, 0.8], [0, 0], [0.6, 0.8]], np.float32)
    )


def test_standardised_features_have_mean_0_and_variance_1_before_the_cosine() -> None:
    values = np.random.default_rng(1).normal(5, 3, size=(50, 4))
    values[7] = 0
    values[:, 3] = 2.5
    values[7, 3] = 0
    given_rows = np.delete(values, 7, axis=0)
    mean, deviation = given_rows.mean(axis=0), given_rows.std(axis=0)
    squares = ((given_rows - mean) ** 2).sum(axis=0)
    moments = Moments(49, mean, squares, given_rows.min(axis=0), given_rows.max(axis=0))
    expected = np.delete((values - mean) / np.where(deviation > 1e-12, deviation, np.inf), 7, axis=0)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    found = unit_rows(values, moments)
    assert not found[7].any()
    np.testing.assert_allclose(np.delete(found, 7, axis=0), expected, atol=1e-6)


@pytest.mark.parametrize("num_neighbours", [1, 5, 50])
def test_more_neighbours_than_items_gives_all_items(num_neighbours: int) -> None:
    rows = unit_rows(np.random.default_rng(0).normal(size=(5, 3)), None)
    found = _by_blocks(rows, num_buckets=3, num_neighbours=num_neighbours)
    assert len(found) == 5 * min(num_neighbours, 5)
