"""Rows of touched items: what they are computed from, that nothing of the old row stays, and what is put back."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tru_core.audits.injection import PlantingSettings, plant
from tru_core.backbones import Backbone
from tru_core.collective import LocalCollective
from tru_core.fit import FitSettings, parameter_values, set_parameters, validation_recall
from tru_core.interactions import make_request
from tru_core.problem import Problem
from tru_core.testing.models import build_model, fitted, problem_of
from tru_core.testing.worlds import Part, shards_of, tiny_world
from tru_core.unlearning.rows import reset_subject_rows
from tru_core.unlearning.tru import item_rows
from tru_core.unlearning.tru.item_rows import predict_item_rows, replace_item_rows, touched_items


@pytest.fixture(scope="module")
def part() -> Part:
    return shards_of(tiny_world(num_users=40, num_items=40), 1)[0]


@pytest.fixture(scope="module")
def trained(part: Part) -> dict:
    """Weights of an Original that knows its pairs."""
    settings = FitSettings(max_epochs=40, patience=40, batch_size=64, learning_rate=0.02)
    return fitted(part, model=build_model(part), settings=settings).parameters


@pytest.fixture
def problem(part: Part) -> Problem:
    """Two users are deleted, an item, and a pair of a third user."""
    train = part.shard.train
    place = np.flatnonzero((train.users == 5) & (train.items != 4))[0]
    return problem_of(
        part,
        make_request(
            users=np.array([2, 9]), items=np.array([4]), pair_users=np.array([5]), pair_items=train.items[[place]]
        ),
    )


def reset_model(part: Part, trained: dict, problem: Problem) -> Backbone:
    model = build_model(part)
    set_parameters(model, trained)
    reset_subject_rows(model, part.shard, problem.request, seed=3)
    return model


def test_touched_items_are_those_that_lose_a_pair_and_stay(problem: Problem) -> None:
    expected = sorted(set(problem.forget.items.tolist()) - {4})
    assert expected
    assert touched_items(problem).tolist() == expected


@pytest.mark.parametrize("items_per_column", [0, 1000])
def test_predicted_rows_are_a_ridge_regression_on_those_who_retain_the_item(
    part: Part, trained: dict, problem: Problem, items_per_column: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Learned from items that the request leaves alone where they are enough, else from all that somebody retains."""
    monkeypatch.setattr(item_rows, "_ITEMS_PER_COLUMN", items_per_column)
    model, items = reset_model(part, trained, problem), touched_items(problem)
    graph = problem.graph_without
    users = [model.get_parameter("user_table")]
    users += [vectors for vectors, _ in model.branch_embeddings(graph).values()]
    evidence = graph.user_item.forward.to_dense().T @ torch.cat(users, dim=1).detach()
    degrees = graph.item_degrees
    learned = np.flatnonzero((degrees > 0) & (np.arange(40) != 4))
    if items_per_column == 0:
        learned = np.setdiff1d(learned, items)
    inputs, rows = evidence[learned].double(), parameter_values(model)["item_table"][learned].double()
    gram = inputs.T @ inputs
    gram += torch.eye(len(gram), dtype=gram.dtype) * 1e-3 * gram.diagonal().mean()
    kept = items[degrees[items] > 0]
    predicted = evidence[kept].double() @ torch.linalg.solve(gram, inputs.T @ rows)
    before = parameter_values(model)
    lost = 1.0 - degrees[kept] / problem.graph_with.item_degrees[kept]
    weight = torch.from_numpy(np.minimum(1.0, lost / 0.25))[:, None]
    assert ((weight > 0) & (weight < 1)).any()
    expected = weight * predicted + (1 - weight) * before["item_table"][kept].double()
    predict_item_rows(model, problem, items, seed=3)
    after = parameter_values(model)
    torch.testing.assert_close(after["item_table"][kept].double(), expected, rtol=1e-4, atol=1e-5)
    moved = (after["item_table"] != before["item_table"]).any(dim=1).nonzero().flatten().tolist()
    assert moved == items.tolist()
    assert all(torch.equal(after[name], before[name]) for name in after if name != "item_table")


def test_an_item_that_nobody_retains_gets_an_untrained_row(part: Part, trained: dict) -> None:
    train = part.shard.train
    own = train.items == train.items[0]
    request = make_request(pair_users=train.users[own], pair_items=train.items[own])
    problem = problem_of(part, request)
    model = reset_model(part, trained, problem)
    predict_item_rows(model, problem, touched_items(problem), seed=3)
    row = parameter_values(model)["item_table"][[train.items[0]]]
    assert torch.equal(row, model.fresh_rows("item_table", train.items[:1], seed=3))


def test_nothing_of_the_old_row_stays_where_a_quarter_of_the_pairs_is_lost(
    part: Part, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a model whose users' vectors hold nothing of items, so that only the row itself could tell."""
    monkeypatch.setattr(item_rows, "_ITEMS_PER_COLUMN", 0)
    problem, found = problem_of(part, make_request(users=np.arange(0, 40, 2))), []
    items, degrees = touched_items(problem), problem.graph_without.item_degrees
    items = items[degrees[items] <= 0.75 * problem.graph_with.item_degrees[items]]
    assert len(items)
    for noise in (0.0, 5.0):
        model = build_model(part, "lightgcn", layers=0)
        model.get_parameter("item_table").data[torch.from_numpy(items)] += noise
        predict_item_rows(model, problem, items, seed=3)
        found.append(parameter_values(model)["item_table"][items])
    assert torch.equal(found[0], found[1])


@pytest.mark.parametrize("after", [0.18, 0.21])
def test_rows_are_put_back_where_everybody_would_pay(
    part: Part, trained: dict, problem: Problem, after: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, recalls = reset_model(part, trained, problem), [after, 0.2]
    before = parameter_values(model)
    monkeypatch.setattr(item_rows, "recall_without", lambda *_: recalls.pop())
    replaced = replace_item_rows(model, problem, seed=3, max_quality_loss=0.05)
    assert replaced == (after > 0.19)
    assert torch.equal(parameter_values(model)["item_table"], before["item_table"]) != replaced


def test_a_backbone_without_a_table_of_items_and_a_request_that_touches_none_are_left_alone(
    part: Part, trained: dict
) -> None:
    for backbone, request in (("mig_gt", make_request(users=np.array([2]))), ("mgcn", make_request())):
        model = build_model(part, backbone)
        before = parameter_values(model)
        assert not replace_item_rows(model, problem_of(part, request), seed=3, max_quality_loss=0.0)
        assert all(torch.equal(before[name], value) for name, value in parameter_values(model).items())


def test_planted_pairs_of_deleted_users_leave_the_rows_and_the_rest_recommends_as_before() -> None:
    part = shards_of(tiny_world(num_users=120, num_items=60), 1)[0]
    planted = plant(
        part.shard,
        PlantingSettings(num_probes=12, regime="user", users_per_pair=12, pairs_per_user=2),
        LocalCollective(),
    )
    part = replace(part, shard=planted.shard)
    model = build_model(part)
    fitted(part, model=model, settings=FitSettings(max_epochs=60, patience=60, batch_size=128, learning_rate=0.02))
    problem = problem_of(part, planted.request)
    reset_subject_rows(model, part.shard, problem.request, seed=3)

    def look() -> tuple[float, float]:
        unit = torch.nn.functional.normalize(parameter_values(model)["item_table"], dim=1)
        alike = float((unit[planted.first] * unit[planted.second]).sum(dim=1).mean())
        return alike, validation_recall(model, problem.graph_without, problem.valid, problem.retain)

    (before, recall), _ = look(), predict_item_rows(model, problem, touched_items(problem), seed=3)
    after, new_recall = look()
    assert before > 0.3
    assert abs(after) < before / 3
    assert new_recall > recall - 0.05
