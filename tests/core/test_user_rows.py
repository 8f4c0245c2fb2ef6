"""Rows of users who lose some pairs and stay: fresh, or predicted from what they retain."""

import numpy as np
import pytest
import torch

from tru_core.fit import FitSettings, parameter_values, set_parameters, validation_recall
from tru_core.interactions import make_request
from tru_core.problem import Problem
from tru_core.testing.models import build_model, fitted, mixed_request, problem_of
from tru_core.testing.worlds import Part, shards_of, tiny_world
from tru_core.unlearning import user_rows
from tru_core.unlearning.user_rows import predict_rows, replace_rows, touched_users


@pytest.fixture(scope="module")
def part() -> Part:
    return shards_of(tiny_world(), 1)[0]


@pytest.fixture(scope="module")
def trained(part: Part) -> dict[str, torch.Tensor]:
    settings = FitSettings(max_epochs=40, patience=40, batch_size=64, learning_rate=0.02)
    return fitted(part, model=build_model(part), settings=settings).parameters


def test_users_who_lose_something_and_stay_are_touched(part: Part) -> None:
    assert touched_users(problem_of(part, mixed_request(part))).tolist() == [1, 2]


def test_without_touched_users_nothing_happens(part: Part) -> None:
    model, problem = build_model(part), problem_of(part, make_request(users=np.array([0, 1])))
    before = parameter_values(model)
    for how in ("best", "predicted", "fresh", "none"):
        replace_rows(model, problem, touched_users(problem), how=how, seed=1)
    assert all(torch.equal(before[name], value) for name, value in parameter_values(model).items())


def evidence_by_hand(problem: Problem, items: torch.Tensor) -> torch.Tensor:
    dense = problem.graph_without.user_item.forward.to_dense()
    return dense @ items


@pytest.mark.parametrize("users_per_column", [1, 1000])
def test_predicted_rows_are_a_ridge_regression_on_retained_items(
    part: Part, trained: dict, users_per_column: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Learned from users whom the request leaves alone where they are enough, else from all who stay."""
    monkeypatch.setattr(user_rows, "_USERS_PER_COLUMN", users_per_column)
    model, problem = build_model(part), problem_of(part, mixed_request(part))
    set_parameters(model, trained)
    _, items = model.embeddings(problem.graph_without)
    evidence = evidence_by_hand(problem, items.detach())
    learned = np.setdiff1d(np.arange(24), [0, 1, 2] if users_per_column == 1 else [0, 1])
    inputs, rows = evidence[learned], trained["user_table"][learned]
    gram = inputs.T @ inputs
    gram += torch.eye(len(gram), dtype=gram.dtype) * 1e-3 * gram.diagonal().mean()
    expected = evidence[2] @ torch.linalg.inv(gram) @ inputs.T @ rows
    predict_rows(model, problem, np.array([1, 2]), seed=3)
    table = parameter_values(model)["user_table"]
    torch.testing.assert_close(table[2], expected)
    assert torch.equal(table[[1]], model.fresh_rows("user_table", part.shard.user_rows[[1]], seed=3))
    moved = (table != trained["user_table"]).any(dim=1)
    assert moved.nonzero().flatten().tolist() == [1, 2]


def test_a_predicted_row_does_not_depend_on_the_row_that_was_there(part: Part, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a model whose items' vectors hold nothing of users, so that only the row itself could tell."""
    monkeypatch.setattr(user_rows, "_USERS_PER_COLUMN", 1)
    problem, found = problem_of(part, mixed_request(part)), []
    for noise in (0.0, 5.0):
        model = build_model(part, "lightgcn", layers=0)
        model.get_parameter("user_table").data[[1, 2]] += noise
        predict_rows(model, problem, np.array([1, 2]), seed=3)
        found.append(parameter_values(model)["user_table"])
    assert torch.equal(found[0], found[1])


@pytest.mark.parametrize("better", ["predicted", "fresh"])
def test_the_best_rows_are_those_that_validate_better(
    part: Part, trained: dict, better: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem, users = problem_of(part, mixed_request(part)), np.array([1, 2])
    rows = {}
    for how in ("predicted", "fresh", "best"):
        model = build_model(part)
        set_parameters(model, trained)
        if how == "best":
            recalls = [0.1, 0.2] if better == "predicted" else [0.2, 0.1]
            monkeypatch.setattr(user_rows, "recall_without", lambda *_, left=recalls: left.pop())
        recall = replace_rows(model, problem, users, how=how, seed=3)  # type: ignore[arg-type]
        assert recall == (0.2 if how == "best" else None)
        rows[how] = parameter_values(model)["user_table"]
    assert torch.equal(rows["best"], rows[better])
    assert not torch.equal(rows["predicted"], rows["fresh"])


@pytest.mark.parametrize("is_dear", [True, False])
def test_who_lost_deleted_items_alone_goes_in_part_where_going_whole_is_dear(
    part: Part, trained: dict, is_dear: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even then whole from a quarter of the user's pairs on, and where a pair with an item that stays went."""
    train = part.shard.train
    item = int(np.bincount(train.items).argmax())
    loser = int(train.users[train.items != item][0])
    own = train.items[(train.users == loser) & (train.items != item)][:1]
    request = make_request(items=np.array([item]), pair_users=np.array([loser]), pair_items=own)
    problem, model = problem_of(part, request), build_model(part)
    set_parameters(model, trained)
    users, recalls = touched_users(problem), [0.203 if is_dear else 0.201, 0.2, 0.1]
    monkeypatch.setattr(user_rows, "recall_without", lambda *_: recalls.pop())
    recall = replace_rows(model, problem, users, how="best", seed=3)
    assert recall == (0.203 if is_dear else 0.2)
    found, shares = parameter_values(model)["user_table"], []
    for user in users:
        fresh, old = (
            model.fresh_rows("user_table", part.shard.user_rows[[user]], seed=3)[0],
            trained["user_table"][user],
        )
        lost = (problem.forget.users == user).sum() / (train.users == user).sum()
        shares.append(1.0 if user == loser or not is_dear else min(1.0, 4.0 * lost))
        torch.testing.assert_close(found[user], shares[-1] * fresh + (1.0 - shares[-1]) * old)
    assert (min(shares) < 1.0) == is_dear
    assert loser in users


def test_predicted_rows_recommend_better_than_fresh_ones() -> None:
    part = shards_of(tiny_world(num_users=120, num_items=60), 1)[0]
    model = build_model(part, "lightgcn", layers=0)
    settings = FitSettings(max_epochs=60, patience=60, batch_size=128, learning_rate=0.02)
    trained = fitted(part, model=model, settings=settings).best
    train = part.shard.train
    lost = np.flatnonzero(train.users % 2 == 0)[::4]
    problem = problem_of(part, make_request(pair_users=train.users[lost], pair_items=train.items[lost]))
    recalls = {}
    for how in ("none", "predicted", "fresh"):
        set_parameters(model, trained)
        replace_rows(model, problem, touched_users(problem), how=how, seed=3)  # type: ignore[arg-type]
        recalls[how] = validation_recall(model, problem.graph_without, problem.valid, problem.retain)
    assert recalls["predicted"] > recalls["fresh"] + 0.1
    assert recalls["predicted"] > recalls["none"] - 0.05
