"""How alike items are that only the forgotten brought together, against a slow count, and the level that is fair."""

import numpy as np
import pytest
import torch
from torch import Tensor

from tru_core.collective import LocalCollective
from tru_core.interactions import make_request
from tru_core.measures.residue import NUM_STRATA, Contrast, RowPairs, pair_source
from tru_core.problem import Problem
from tru_core.testing.models import build_model, problem_of
from tru_core.testing.worlds import shards_of, tiny_world
from tru_core.unlearning.tru.likeness import GAP, HeldOut, draw_pairs, held_out_likeness, likeness, never_together
from tru_core.unlearning.tru.matching import Values, chance_above

ALONE = LocalCollective()


def values_of(values: list[float], weights: list[float]) -> Values:
    return Values(torch.tensor(values), torch.zeros(len(values), dtype=torch.int64), torch.tensor(weights))


def contrast_of(pairs: list[tuple[int, int]], strata: list[int], random: list[tuple[int, int]], others: list[int]):
    first, second, left, right = (np.array([pair[side] for pair in of]) for of in (pairs, random) for side in (0, 1))
    return Contrast(RowPairs(first, second), np.array(strata), RowPairs(left, right), np.array(others))


def cosine(vectors: Tensor, pair: tuple[int, int]) -> float:
    a, b = (vectors[row].numpy() for row in pair)
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


@pytest.fixture(scope="module")
def problem() -> Problem:
    part = shards_of(tiny_world(num_users=80, num_items=160), 1)[0]
    return problem_of(part, make_request(users=np.arange(0, 80, 4)))


def test_likeness_is_in_deviations_of_the_random_pairs_of_the_same_stratum() -> None:
    vectors = torch.from_numpy(np.random.default_rng(0).normal(size=(8, 3)))
    pairs, random = [(0, 1), (2, 3), (4, 5)], [(0, 3), (2, 1), (4, 1), (6, 5), (7, 3)]
    found, known = likeness(vectors, contrast_of(pairs, [1, 1, 2], random, [1, 1, 1, 2, 2]), ALONE)
    drawn = np.array([cosine(vectors, pair) for pair in random])
    means = {1: drawn[:3].mean(), 2: drawn[3:].mean()}
    centred = drawn - np.array([means[1]] * 3 + [means[2]] * 2)
    spread = np.sqrt((centred**2).mean())
    expected = [(cosine(vectors, pair) - means[of]) / spread for pair, of in zip(pairs, (1, 1, 2), strict=True)]
    assert found.values.tolist() == pytest.approx(expected)
    assert known.values.tolist() == pytest.approx((centred / spread).tolist())
    assert (found.weights.tolist(), known.weights.tolist()) == ([1.0] * 3, pytest.approx([1 / 3] * 3 + [1 / 2] * 2))


def test_a_stratum_without_random_pairs_is_compared_with_all_of_them() -> None:
    vectors = torch.from_numpy(np.random.default_rng(0).normal(size=(4, 3)))
    found, known = likeness(vectors, contrast_of([(0, 1)], [0], [(0, 2), (1, 3)], [1, 1]), ALONE)
    drawn = np.array([cosine(vectors, pair) for pair in ((0, 2), (1, 3))])
    assert found.values.tolist() == pytest.approx([(cosine(vectors, (0, 1)) - drawn.mean()) / drawn.std()])
    assert torch.isfinite(known.values).all()


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_the_level_is_between_random_and_held_out_pairs(share: float) -> None:
    random, held = values_of([-1.0, 0.0, 1.0, 2.0], [0.25] * 4), values_of([3.0, 4.0], [0.5] * 2)
    for value, below, above in ((1.5, 0.75, 0.0), (3.5, 1.0, 0.5), (5.0, 1.0, 1.0)):
        level = never_together(random, HeldOut(held, share))
        found = values_of([value], [1.0])
        assert chance_above(found, level, ALONE) == pytest.approx((1 - share) * below + share * above)


def test_held_out_pairs_count_the_more_the_more_alike_they_are(problem: Problem) -> None:
    part = shards_of(tiny_world(num_users=80, num_items=160), 1)[0]
    model = build_model(part)
    _, contrast = draw_pairs(pair_source(problem), max_pairs=10_000, seed=1, held_out=True)
    assert contrast is not None
    with torch.no_grad():
        # Untrained, nothing is more alike by the gap: random pairs alone are the level.
        assert held_out_likeness(model, problem, contrast).share == 0.0
        table = model.get_parameter("item_table")
        for first, second in zip(contrast.pairs.first, contrast.pairs.second, strict=True):
            table[second] = table[first]
        held = held_out_likeness(model, problem, contrast)
    gap = max(GAP, 3 * (12 * len(contrast.pairs)) ** -0.5)
    _, items = model.embeddings(problem.graph_without)
    above = chance_above(*likeness(items.detach(), contrast, ALONE), ALONE) - 0.5
    assert held.share == pytest.approx(1 - gap / above)
    assert 0 < held.share < 1
    sums = torch.zeros(NUM_STRATA).index_add(0, held.likeness.strata, held.likeness.weights.float())
    assert set(sums.round(decimals=5).tolist()) <= {0.0, 1.0}


def test_without_held_out_pairs_random_ones_are_the_level(problem: Problem) -> None:
    model = build_model(shards_of(tiny_world(num_users=80, num_items=160), 1)[0])
    random = values_of([0.0, 1.0], [0.5, 0.5])
    assert never_together(random, held_out_likeness(model, problem, None)) is random


def test_pairs_of_deleted_items_users_are_no_pairs_of_items() -> None:
    part = shards_of(tiny_world(), 1)[0]
    request = make_request(items=np.array([4, 11]))
    assert draw_pairs(pair_source(problem_of(part, request)), max_pairs=100, seed=0, held_out=True) == (None, None)
