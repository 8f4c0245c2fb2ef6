"""Rows of users who lose some pairs and stay: made fresh and fitted on what they retain."""

import numpy as np
import pytest
import torch

from tru_core.fit import parameter_values
from tru_core.interactions import make_request
from tru_core.testing.models import build_model, mixed_request, problem_of
from tru_core.testing.worlds import Part, shards_of, tiny_world
from tru_core.unlearning.refit import refit_touched_users

STEP = {"learning_rate": 0.02, "batch_size": 64, "seed": 5}


@pytest.fixture(scope="module")
def part() -> Part:
    return shards_of(tiny_world(), 1)[0]


def test_only_rows_of_touched_users_move(part: Part) -> None:
    model = build_model(part)
    before, problem = parameter_values(model), problem_of(part, mixed_request(part))
    assert refit_touched_users(model, problem, steps=4, **STEP) == 2
    after = parameter_values(model)
    moved = (before["user_table"] != after["user_table"]).any(dim=1)
    assert moved.nonzero().flatten().tolist() == [1, 2]
    assert all(torch.equal(before[name], after[name]) for name in before if name != "user_table")
    assert all(parameter.requires_grad for parameter in model.parameters())
    fresh = model.fresh_rows("user_table", part.shard.user_rows[[1]], seed=STEP["seed"])
    assert torch.equal(after["user_table"][[1]], fresh), "who keeps nothing keeps a fresh row"


def test_fresh_rows_are_fitted_on_retained_pairs(part: Part) -> None:
    problem = problem_of(part, mixed_request(part))
    model, unfitted = build_model(part), build_model(part)
    refit_touched_users(unfitted, problem, steps=0, **STEP)
    refit_touched_users(model, problem, steps=30, **STEP)
    assert not torch.equal(model.get_parameter("user_table")[2], unfitted.get_parameter("user_table")[2])
    kept = problem.retain.items[problem.retain.users == 2]
    margins = []
    for candidate in (unfitted, model):
        users, items = candidate.embeddings(problem.graph_without)
        scores = (users[2] @ items.T).detach()
        margins.append(float(scores[torch.from_numpy(kept)].mean() - scores.mean()))
    assert margins[1] > margins[0]


def test_without_touched_users_nothing_happens(part: Part) -> None:
    model, problem = build_model(part), problem_of(part, make_request(users=np.array([0, 1])))
    before = parameter_values(model)
    assert refit_touched_users(model, problem, steps=4, **STEP) == 0
    assert all(torch.equal(before[name], value) for name, value in parameter_values(model).items())
