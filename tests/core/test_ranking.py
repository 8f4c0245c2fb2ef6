"""Recall and NDCG by hand, and against a plain Python version."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tru_core import ranking
from tru_core.collective import LocalCollective
from tru_core.interactions import Pairs, make_pairs
from tru_core.ranking import RankingMetrics, rank_metrics, top_items

ALONE = LocalCollective()


def pairs_of(pairs: list[tuple[int, int]], num_items: int) -> Pairs:
    users, items = np.array([u for u, _ in pairs], dtype=np.int64), np.array([i for _, i in pairs], dtype=np.int64)
    return make_pairs(users, items, num_items=num_items)


def measure(
    scores: list[list[float]], targets: list[tuple[int, int]], masked: list[tuple[int, int]], *, k: int
) -> RankingMetrics:
    """Rank by a table of scores: item vectors are the unit vectors."""
    table = torch.tensor(scores, dtype=torch.float64)
    num_items = table.shape[1]
    unit = torch.eye(num_items, dtype=torch.float64)
    return rank_metrics(table, unit, pairs_of(targets, num_items), pairs_of(masked, num_items), ALONE, k=k)


def naive(
    scores: np.ndarray, targets: list[tuple[int, int]], masked: list[tuple[int, int]], k: int
) -> tuple[float, float, int]:
    recalls, gains = [], []
    for user in range(len(scores)):
        wanted = {item for u, item in targets if u == user}
        if not wanted:
            continue
        allowed = [item for item in range(scores.shape[1]) if (user, item) not in masked]
        listed = sorted(allowed, key=lambda item: -scores[user, item])[:k]
        recalls.append(sum(item in wanted for item in listed) / len(wanted))
        gain = sum(1 / math.log2(place + 2) for place, item in enumerate(listed) if item in wanted)
        gains.append(gain / sum(1 / math.log2(place + 2) for place in range(min(len(wanted), k))))
    if not recalls:
        return 0.0, 0.0, 0
    return sum(recalls) / len(recalls), sum(gains) / len(gains), len(recalls)


def test_values_by_hand() -> None:
    # user 0 lists 0, 1, 2 and wants 0 and 2; user 1 lists 3, 2, 1 and wants 2
    found = measure([[4, 3, 2, 1], [1, 2, 3, 4]], [(0, 0), (0, 2), (1, 2)], [], k=2)
    assert found.recall == pytest.approx((1 / 2 + 1) / 2)
    best = 1 + 1 / math.log2(3)
    assert found.ndcg == pytest.approx((1 / best + 1 / math.log2(3)) / 2)
    assert found.num_users == 2


def test_more_targets_than_k_still_allow_a_perfect_ndcg() -> None:
    found = measure([[3, 2, 1, 0]], [(0, 0), (0, 1), (0, 2)], [], k=2)
    assert found.recall == pytest.approx(2 / 3)
    assert found.ndcg == pytest.approx(1.0)


def test_masked_items_make_room_for_the_next() -> None:
    assert measure([[3, 2, 1]], [(0, 2)], [], k=1).recall == 0
    assert measure([[3, 2, 1]], [(0, 2)], [(0, 0), (0, 1)], k=1).recall == 1


def test_the_mask_of_one_user_does_not_touch_another() -> None:
    found = measure([[3, 2, 1], [3, 2, 1]], [(0, 0), (1, 0)], [(0, 0)], k=1)
    assert found.recall == pytest.approx(0.5)


def test_a_masked_target_is_never_a_hit_even_when_the_list_is_longer_than_what_is_left() -> None:
    assert measure([[3, 2, 1]], [(0, 0)], [(0, 0)], k=3).recall == 0
    assert measure([[3, 2, 1]], [(0, 0)], [(0, 0), (0, 1), (0, 2)], k=3).recall == 0


def test_the_place_of_a_masked_item_is_no_hit_of_the_user_before() -> None:
    # -1 of user 1 is the last item of user 0 in a flat key
    assert measure([[0, 0, 1], [3, 2, 1]], [(0, 2), (1, 0)], [(1, 0), (1, 1), (1, 2)], k=3).recall == 0.5


def test_k_beyond_the_number_of_items_lists_all() -> None:
    found = measure([[1, 2]], [(0, 0)], [], k=20)
    assert found.recall == 1
    assert found.ndcg == pytest.approx(1 / math.log2(3))


def test_users_without_targets_do_not_count() -> None:
    found = measure([[1, 2], [1, 2], [1, 2]], [(1, 1)], [], k=1)
    assert (found.recall, found.ndcg, found.num_users) == (1.0, 1.0, 1)


def test_no_target_at_all_gives_zeros_and_no_division() -> None:
    assert measure([[1, 2]], [], [(0, 0)], k=1) == RankingMetrics(recall=0.0, ndcg=0.0, num_users=0)


def test_top_items_lists_best_first_and_marks_masked_places() -> None:
    table = torch.tensor([[1.0, 3.0, 2.0], [1.0, 2.0, 3.0]])
    masked = pairs_of([(0, 1), (1, 0), (1, 1), (1, 2)], 3)
    listed = top_items(table, torch.eye(3), np.array([0, 1]), masked, k=3)
    assert listed.tolist() == [[2, 0, -1], [-1, -1, -1]]
    assert top_items(table, torch.eye(3), np.array([1]), pairs_of([], 3), k=2).tolist() == [[2, 1]]


@pytest.mark.parametrize("block", [1, 2, 1024])
@given(seed=st.integers(0, 10_000), k=st.integers(1, 12))
def test_metrics_equal_the_naive_ones_whatever_the_block(block: int, seed: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    num_users, num_items = int(rng.integers(1, 7)), int(rng.integers(1, 10))
    scores = rng.permutation(num_users * num_items).reshape(num_users, num_items).astype(float)
    kinds = rng.choice(3, size=scores.shape, p=[0.5, 0.3, 0.2])
    targets, masked = ([(int(u), int(i)) for u, i in np.argwhere(kinds == kind)] for kind in (1, 2))
    masked += targets[:1] if rng.random() < 0.3 else []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking, "BLOCK_USERS", block)
        found = measure(scores.tolist(), targets, masked, k=k)
    recall, ndcg, count = naive(scores, targets, masked, k)
    assert found.recall == pytest.approx(recall, abs=1e-12)
    assert found.ndcg == pytest.approx(ndcg, abs=1e-12)
    assert found.num_users == count


def test_scores_are_inner_products() -> None:
    users, items = torch.tensor([[1.0, -1.0]]), torch.tensor([[5.0, 5.0], [1.0, 0.0], [0.0, -2.0]])
    assert top_items(users, items, np.array([0]), pairs_of([], 3), k=3).tolist() == [[2, 1, 0]]


def test_ranking_leaves_no_gradient_and_changes_nothing() -> None:
    users = torch.ones(1, 2, requires_grad=True)
    items = torch.ones(2, 2, requires_grad=True)
    rank_metrics(users, items, pairs_of([(0, 0)], 2), pairs_of([(0, 1)], 2), ALONE)
    assert users.grad is None
    assert torch.equal(items.detach(), torch.ones(2, 2))
