"""MultiDelete: its three terms by hand, and what each of them does alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.core.methods import FIT, forgotten, mean_margin, original_of, request_of, whole
from tru_core.fit import parameter_values
from tru_core.interactions import make_request
from tru_core.sampling import Batch, iterate_batches
from tru_core.testing.models import problem_of
from tru_core.unlearning.baselines.multi_delete import (
    MultiDeleteSettings,
    Views,
    loss_share,
    pair_vectors,
    read_out,
    views_of,
)
from tru_core.unlearning.passes import plan_forget, plan_retain


def table(*rows: tuple[float, ...]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def batch(users: list[int], positives: list[int], negatives: list[int], num_rows: int) -> Batch:
    places = (torch.tensor(users), torch.tensor(positives), torch.tensor(negatives))
    return Batch(*places, offset=0, num_rows=num_rows, key=(0, 0, 0))


def test_a_pair_is_its_user_beside_its_item() -> None:
    tables = (table((1, 2), (3, 4)), table((5, 6), (7, 8), (9, 10)))
    found = pair_vectors(tables, torch.tensor([1, 0]), torch.tensor([2, 0]))
    assert found.tolist() == [[3, 4, 9, 10], [1, 2, 5, 6]]


def test_branches_are_read_out_side_by_side_in_the_order_of_their_names() -> None:
    one, other = (table((1,)), table((2,))), (table((3,)), table((4,)))
    for branches in ({"id": one, "text": other}, {"text": other, "id": one}):
        users, items = read_out(branches)
        assert users.tolist() == [[1, 3]]
        assert items.tolist() == [[2, 4]]


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        # User 0 paired with item 1 goes to user 0 paired with item 0: (0, 3 - 1) over 2 columns and 2 rows.
        ((1, 0, 0), (2**2) / 4),
        # Retained (0, 0): the user moved by 1, the item by 2; one row of 2 columns.
        ((0, 1, 0), (1 + 4) / 2),
        # Read out, in 4 columns, one moved by 4.
        ((0, 0, 1), 16 / 4),
        ((2, 3, 4), 2 * 1 + 3 * 2.5 + 4 * 4),
    ],
)
def test_the_three_terms_are_what_they_are_by_hand(weights: tuple[float, float, float], expected: float) -> None:
    fused = (table((5,)), table((1,), (3,)))
    single = (table((1, 1)), table((2, 2), (7, 7)))
    before = Views(fused_with=fused, fused_without=fused, single_without=single)
    now = Views(
        fused_with=fused,
        fused_without=(table((6,)), table((3,), (30,))),
        single_without=(table((1, 1)), table((2, 6), (70, 70))),
    )
    names = ("decoupling_weight", "multimodal_weight", "unimodal_weight")
    settings = MultiDeleteSettings(**dict(zip(names, weights, strict=True)))
    lost, kept = batch([0], [1], [0], num_rows=2), batch([0], [0], [1], num_rows=1)
    assert float(loss_share(now, before, lost, kept, settings)) == pytest.approx(expected)


def test_at_the_start_only_the_decoupling_has_something_to_say() -> None:
    part = whole()
    problem, model = problem_of(part, request_of(part, "interaction")), original_of(part)
    lost = next(iter(iterate_batches(plan_forget(problem, FIT, epoch=0))))
    kept = next(iter(iterate_batches(plan_retain(problem, FIT, epoch=0))))
    now, before = views_of(model, problem), views_of(original_of(part), problem)
    assert float(loss_share(now, before, lost, kept, MultiDeleteSettings(decoupling_weight=0)).detach()) == 0
    found = float(loss_share(now, before, lost, kept, MultiDeleteSettings()).detach())
    items = before.fused_with[1].detach()
    expected = (items[lost.positives] - items[lost.negatives]).square().sum() / (len(lost.users) * 2 * items.shape[1])
    assert found == pytest.approx(float(expected))


def test_retention_alone_changes_nothing() -> None:
    part = whole()
    problem = problem_of(part, request_of(part, "interaction"))
    model = forgotten("multi_delete", problem, part, settings=MultiDeleteSettings(decoupling_weight=0)).model
    assert model is not None
    expected = parameter_values(original_of(part))
    assert all(torch.equal(expected[name], value) for name, value in parameter_values(model).items())


def test_deleted_pairs_lose_their_margin_and_retention_holds_the_others_back() -> None:
    part = whole()
    problem = problem_of(part, request_of(part, "interaction"))
    kept = replace(problem, forget=problem.retain)
    start = forgotten("edge_deletion", problem, part)
    lost_margin, kept_drop = [mean_margin(start, problem)], []
    for weight in (0.0, 1.0):
        settings = MultiDeleteSettings(multimodal_weight=weight, unimodal_weight=weight, learning_rate=0.02)
        found = forgotten("multi_delete", problem, part, settings=settings)
        lost_margin.append(mean_margin(found, problem))
        kept_drop.append(mean_margin(start, kept) - mean_margin(found, kept))
    assert max(lost_margin[1:]) < 0.7 * lost_margin[0]
    assert kept_drop[1] < 0.7 * kept_drop[0]


def test_a_pass_takes_every_deleted_pair_with_a_retained_one_beside_it_however_few_are_left() -> None:
    """More to forget than to retain: retained batches come round again."""
    part = whole()
    train = part.shard.train
    gone = np.arange(len(train)) % 10 > 0
    problem = problem_of(part, make_request(pair_users=train.users[gone], pair_items=train.items[gone]))
    assert problem.num_forget > 2 * FIT.batch_size > len(problem.retain)
    settings = MultiDeleteSettings(epochs=2)
    candidate = forgotten("multi_delete", problem, part, settings=settings)
    assert [row["num_rows_visited"] for row in candidate.history] == [problem.num_forget] * 2
