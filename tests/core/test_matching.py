"""Matched losses on values whose targets and distances can be written down by hand."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tru_core.collective import Collective
from tru_core.hashing import hash_below, hash_uniform, text_key
from tru_core.testing.models import ALONE
from tru_core.testing.threads import in_threads
from tru_core.unlearning.tru.matching import Values, chance_above, matched_distance, matched_targets


def values_of(
    values: Sequence[float], *, strata: Sequence[int] | None = None, weights: Sequence[float] | None = None
) -> Values:
    """Values of one stratum that count one each, unless said otherwise."""
    return Values(
        torch.tensor(values, dtype=torch.float64),
        torch.tensor([0] * len(values) if strata is None else strata, dtype=torch.int64),
        torch.tensor([1.0] * len(values) if weights is None else weights, dtype=torch.float64),
    )


def hashed_values(name: str, count: int, *, num_strata: int = 3, num_levels: int | None = None) -> Values:
    """Values of several strata and weights that follow from a name; ``num_levels`` rounds them, which makes ties."""
    key, places = text_key(name), range(count)
    values = torch.from_numpy(hash_uniform(key, 0, list(places)))
    if num_levels is not None:
        values = (values * num_levels).floor() / num_levels
    strata = torch.from_numpy(hash_below(num_strata, key, 1, list(places)))
    weights = 1.0 / (1.0 + torch.from_numpy(hash_below(5, key, 2, list(places))).double())
    return Values(values, strata, weights)


def rows(values: Values, chosen: Tensor) -> Values:
    return Values(values.values[chosen], values.strata[chosen], values.weights[chosen])


def targets(found: Values, reference: Values) -> list[float]:
    return matched_targets(found, reference, ALONE).tolist()


# ----------------------------------------------------------------------------------------------------------- targets


@pytest.mark.parametrize("num_levels", [None, 6])
def test_the_same_distribution_in_another_order_is_its_own_target(num_levels: int | None) -> None:
    found = hashed_values("found", 40, num_levels=num_levels)
    reference = rows(found, torch.arange(39, -1, -1))
    assert targets(found, reference) == pytest.approx(found.values.tolist(), abs=1e-12)


@pytest.mark.parametrize("shift", [-0.7, 2.5])
def test_a_shifted_reference_shifts_every_target_by_as_much(shift: float) -> None:
    found = hashed_values("found", 40)
    reference = replace(found, values=found.values + shift)
    assert targets(found, reference) == pytest.approx((found.values + shift).tolist(), abs=1e-12)


def test_a_value_is_drawn_to_the_reference_of_its_rank_not_to_the_nearest() -> None:
    assert targets(values_of([5.0, -1.0, 9.0]), values_of([30.0, 10.0, 20.0])) == pytest.approx([20.0, 10.0, 30.0])


def test_targets_lie_between_references_where_these_are_fewer_and_never_beyond_them() -> None:
    # Ranks 1/8, 3/8, 5/8 and 7/8 between references at 1/4 and 3/4: at the ends the references themselves.
    found = values_of([0.0, 1.0, 2.0, 3.0])
    assert targets(found, values_of([10.0, 20.0])) == pytest.approx([10.0, 12.5, 17.5, 20.0])
    assert targets(found, values_of([7.0])) == [7.0] * 4


def test_equal_values_share_one_target_in_the_middle_of_their_ranks() -> None:
    found = values_of([4.0, 1.0, 4.0, 4.0, 8.0])
    assert targets(found, values_of([10.0, 20.0, 30.0, 40.0, 50.0])) == pytest.approx([30.0, 10.0, 30.0, 30.0, 50.0])


def test_a_value_that_counts_two_has_the_target_of_two_equal_ones() -> None:
    reference = hashed_values("reference", 17, num_strata=1)
    heavy = targets(values_of([0.1, 0.5, 0.9], weights=[1.0, 2.0, 1.0]), reference)
    twice = targets(values_of([0.1, 0.5, 0.5, 0.9]), reference)
    assert [heavy[0], heavy[1], heavy[1], heavy[2]] == pytest.approx(twice, abs=1e-12)


def test_a_reference_that_counts_three_moves_the_quantiles() -> None:
    # References 0 (three of four) and 8: levels 3/8 and 7/8. The found at 1/2 lies a quarter of the way.
    assert targets(values_of([5.0]), values_of([0.0, 8.0], weights=[3.0, 1.0])) == pytest.approx([2.0])


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2]])
def test_the_order_of_tied_values_of_unequal_weights_moves_no_target(order: list[int]) -> None:
    # The tie holds the levels 0 to 5/6 of the found: its middle is 5/12. The references' tie ends at 4.5/6.
    found = rows(values_of([1.0, 1.0, 1.0, 2.0], weights=[1.0, 3.0, 1.0, 1.0]), torch.tensor(order))
    expected = {1.0: 2.5 / 6 * 10.0, 2.0: 5.5 / 6 * 10.0}
    uniform = values_of([(place + 0.5) / 60 * 10.0 for place in range(60)])
    assert targets(found, uniform) == pytest.approx([expected[value] for value in found.values.tolist()])
    tied = rows(values_of([0.0, 0.0, 0.0, 4.0], weights=[1.0, 3.0, 1.0, 1.0]), torch.tensor(order))
    assert targets(values_of([1.0, 2.0, 3.0]), tied) == pytest.approx(
        targets(values_of([1.0, 2.0, 3.0]), values_of([0.0, 0.0, 0.0, 4.0], weights=[1.0, 1.0, 3.0, 1.0]))
    )


def test_strata_are_matched_apart() -> None:
    found = values_of([1.0, 2.0, 1.0, 2.0], strata=[0, 0, 7, 7])
    reference = values_of([10.0, 300.0, 20.0, 400.0], strata=[0, 7, 0, 7])
    assert targets(found, reference) == pytest.approx([10.0, 20.0, 300.0, 400.0])


def test_a_stratum_without_references_is_its_own_target_and_costs_nothing() -> None:
    found, reference = values_of([1.0, 5.0, 6.0], strata=[0, 1, 1]), values_of([1.0, -9.0], strata=[0, 2])
    assert targets(found, reference) == [1.0, 5.0, 6.0]
    assert float(matched_distance(found, reference, ALONE)) == 0.0


def test_nothing_found_has_no_targets_and_no_distance() -> None:
    assert targets(values_of([]), values_of([1.0])) == []
    assert float(matched_distance(values_of([]), values_of([1.0]), ALONE)) == 0.0
    assert targets(values_of([3.0]), values_of([])) == [3.0]


# ---------------------------------------------------------------------------------------------------------- distance


def test_the_distance_of_equally_many_values_is_the_squared_wasserstein_distance() -> None:
    # Sorted against sorted: (1 - 2)^2, (3 - 2)^2 and (6 - 10)^2, a third each.
    found, reference = values_of([6.0, 1.0, 3.0]), values_of([2.0, 10.0, 2.0])
    assert float(matched_distance(found, reference, ALONE)) == pytest.approx(18.0 / 3.0)
    # From the other side the two equal values share the target (1 + 3) / 2: only 10 to 6 is left.
    assert float(matched_distance(reference, found, ALONE)) == pytest.approx(16.0 / 3.0)


def test_the_distance_weighs_each_value() -> None:
    # Found 0 at level 3/8 and 1 at 7/8; references 4 and 8 at the same levels: 16 counts three times, 49 once.
    found = values_of([0.0, 1.0], weights=[3.0, 1.0])
    reference = values_of([4.0, 8.0], weights=[3.0, 1.0])
    assert float(matched_distance(found, reference, ALONE)) == pytest.approx((3 * 16.0 + 49.0) / 4.0)


def test_the_distance_is_zero_where_and_only_where_the_distributions_match() -> None:
    found = hashed_values("found", 40)
    matched = rows(found, torch.arange(39, -1, -1))
    assert float(matched_distance(found, matched, ALONE)) < 1e-24
    for place in range(0, 40, 7):
        moved = found.values.clone()
        moved[place] += 1e-3
        assert float(matched_distance(replace(found, values=moved), matched, ALONE)) > 1e-10


def test_the_gradient_pulls_what_lies_above_down_and_what_lies_below_up() -> None:
    strata = [0, 0, 1, 1, 2, 2]
    leaf = torch.tensor([5.0, 6.0, -6.0, -5.0, 1.0, 2.0], dtype=torch.float64, requires_grad=True)
    found = replace(values_of([0.0] * 6, strata=strata), values=leaf)
    reference = values_of([1.0, 2.0, 1.0, 2.0, 1.0, 2.0], strata=strata)
    matched_distance(found, reference, ALONE).backward()
    assert leaf.grad is not None
    # 2 (value - target) / 6, with the targets held still.
    assert leaf.grad.tolist() == pytest.approx([8 / 6, 8 / 6, -14 / 6, -14 / 6, 0.0, 0.0])


def test_references_have_no_gradient_and_descent_ends_at_the_reference() -> None:
    leaf = torch.tensor([9.0, -3.0, 0.5], dtype=torch.float64, requires_grad=True)
    known = torch.tensor([2.0, 1.0, 3.0], dtype=torch.float64, requires_grad=True)
    found, reference = (replace(values_of([0.0] * 3), values=values) for values in (leaf, known))
    for _ in range(60):
        loss = matched_distance(found, reference, ALONE)
        (gradient,) = torch.autograd.grad(loss, leaf)
        with torch.no_grad():
            leaf -= 0.5 * gradient
    assert leaf.tolist() == pytest.approx([3.0, 1.0, 2.0], abs=1e-4)
    matched_distance(found, reference, ALONE).backward()
    assert known.grad is None


# ------------------------------------------------------------------------------------------------------------ chance


def chance_by_pairs(found: Values, reference: Values) -> float:
    """Every found value against every reference of its stratum."""
    wins = total = 0.0
    for value, stratum, weight in zip(*(part.tolist() for part in vars(found).values()), strict=True):
        own = rows(reference, reference.strata == stratum)
        if len(own.values):
            above = (own.values < value).double() + 0.5 * (own.values == value).double()
            wins += weight * float((above * own.weights).sum() / own.weights.sum())
            total += weight
    return wins / total if total else 0.5


@pytest.mark.parametrize("num_levels", [None, 4])
@pytest.mark.parametrize("seed", range(3))
def test_the_chance_equals_a_count_over_all_pairs(seed: int, num_levels: int | None) -> None:
    found = hashed_values(f"found {seed}", 25, num_strata=4, num_levels=num_levels)
    reference = hashed_values(f"reference {seed}", 30, num_strata=3, num_levels=num_levels)
    assert (found.strata == 3).any()  # a stratum without references takes no part
    assert chance_above(found, reference, ALONE) == pytest.approx(chance_by_pairs(found, reference), abs=1e-12)


def test_the_chance_is_one_above_zero_below_and_a_half_at_the_level() -> None:
    low, high = values_of([1.0, 2.0, 3.0]), values_of([4.0, 5.0])
    assert (chance_above(high, low, ALONE), chance_above(low, high, ALONE)) == (1.0, 0.0)
    assert chance_above(low, low, ALONE) == 0.5


def test_a_value_that_counts_two_has_the_chance_of_two_equal_ones() -> None:
    once, reference = values_of([1.0, 4.0, 4.0]), values_of([0.0, 2.0, 2.0, 5.0])
    heavy = values_of([1.0, 4.0], weights=[1.0, 2.0])
    thrice = values_of([0.0, 2.0, 5.0], weights=[1.0, 2.0, 1.0])
    expected = (1 / 4 + 3 / 4 + 3 / 4) / 3
    for found in (once, heavy):
        for known in (reference, thrice):
            assert chance_above(found, known, ALONE) == pytest.approx(expected)


def test_the_chance_is_a_half_where_nothing_compares() -> None:
    some = values_of([1.0])
    for found, reference in ((values_of([]), some), (some, values_of([])), (some, values_of([0.0], strata=[1]))):
        assert chance_above(found, reference, ALONE) == 0.5


# ----------------------------------------------------------------------------------------------------------- workers


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize("num_levels", [None, 5])
def test_several_workers_have_the_targets_distance_and_chance_of_one(world_size: int, num_levels: int | None) -> None:
    found = hashed_values("found", 31, num_levels=num_levels)
    reference = hashed_values("reference", 23, num_levels=num_levels)
    owners = [
        torch.from_numpy(hash_below(world_size, text_key(n), range(len(v.values))))
        for n, v in (("f", found), ("r", reference))
    ]
    # One worker has nothing found, and another no reference.
    owners[0][owners[0] == 1] = 0
    owners[1][owners[1] == 0] = 1

    def body(collective: Collective) -> tuple[Tensor, Tensor, Tensor, float]:
        of, to = (owner == collective.rank for owner in owners)
        leaf = found.values[of].clone().requires_grad_()
        mine, known = Values(leaf, found.strata[of], found.weights[of]), rows(reference, to)
        share = matched_distance(mine, known, collective)
        share.backward()
        assert leaf.grad is not None
        own = matched_targets(mine, known, collective)
        return own, leaf.grad, share.detach(), chance_above(mine, known, collective)

    parts = in_threads(world_size, body)
    leaf = found.values.clone().requires_grad_()
    distance = matched_distance(replace(found, values=leaf), reference, ALONE)
    distance.backward()
    assert leaf.grad is not None
    expected = matched_targets(found, reference, ALONE)
    for rank, (own, gradient, _, chance) in enumerate(parts):
        assert torch.allclose(own, expected[owners[0] == rank], atol=1e-12)
        assert torch.allclose(gradient, leaf.grad[owners[0] == rank], atol=1e-12)
        assert chance == pytest.approx(chance_above(found, reference, ALONE), abs=1e-12)
    assert float(torch.stack([share for _, _, share, _ in parts]).sum()) == pytest.approx(float(distance.detach()))
