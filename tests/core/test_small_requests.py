"""The smallest requests are unlearned on every backbone: one pair, a lonely item, users who lose all, one of each kind.

Statistics of one pair, or of none, have no spread to divide by: nothing here may become NaN or stop the run.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from tru_core.backbones import BACKBONES
from tru_core.fit import FitSettings, parameter_values, set_parameters
from tru_core.interactions import Request, make_request
from tru_core.testing.models import build_model, fitted, problem_of
from tru_core.testing.worlds import Part, World, shards_of, tiny_world
from tru_core.unlearning.paper.algorithm_one import AlgorithmOneSettings, algorithm_one
from tru_core.unlearning.tru.method import unlearn
from tru_core.unlearning.tru.settings import TRUSettings
from tru_core.unlearning.tru.stop_rule import Statistics

LOSES_ALL, LONELY_USER, COMMON_USER = 3, 5, 9


pytestmark = pytest.mark.many_calls


def world_with_a_lonely_item() -> World:
    """A tiny world in which one user has one training pair, of an item that nobody else has."""
    world = tiny_world()
    lonely = world.num_items - 1
    others = [pairs[(pairs[:, 1] != lonely) & (pairs[:, 0] != LONELY_USER)] for pairs in (world.train, world.valid)]
    return World(
        num_users=world.num_users,
        num_items=world.num_items,
        train=np.concatenate([others[0], np.array([[LONELY_USER, lonely]])]),
        valid=others[1],
        test=world.test,
        features=world.features,
        item_neighbours=world.item_neighbours,
    )


WORLD = world_with_a_lonely_item()
LONELY_ITEM = WORLD.num_items - 1


def items_of(user: int) -> np.ndarray:
    return WORLD.train[WORLD.train[:, 0] == user, 1]


def pairs(user: int, items: np.ndarray) -> Request:
    return make_request(pair_users=np.full(len(items), user), pair_items=items)


REQUESTS: dict[str, Callable[[], Request]] = {
    "one pair": lambda: pairs(COMMON_USER, items_of(COMMON_USER)[:1]),
    "one user": lambda: make_request(users=np.array([COMMON_USER])),
    "one item": lambda: make_request(items=items_of(COMMON_USER)[:1]),
    "one user, one item, one pair": lambda: make_request(
        users=np.array([COMMON_USER]),
        items=items_of(LOSES_ALL)[:1],
        pair_users=np.array([LOSES_ALL + 1]),
        pair_items=items_of(LOSES_ALL + 1)[:1],
    ),
    "an item of one user": lambda: make_request(items=np.array([LONELY_ITEM])),
    "a user of one item": lambda: make_request(users=np.array([LONELY_USER])),
    "the only pair of both": lambda: pairs(LONELY_USER, np.array([LONELY_ITEM])),
    "all pairs of a user who stays": lambda: pairs(LOSES_ALL, items_of(LOSES_ALL)),
    "all but one pair of a user": lambda: pairs(LOSES_ALL, items_of(LOSES_ALL)[1:]),
}


@pytest.fixture(scope="module", params=list(BACKBONES))
def trained(request: pytest.FixtureRequest) -> tuple[str, Part, dict[str, torch.Tensor]]:
    (part,) = shards_of(WORLD, 1)
    model = build_model(part, request.param, dtype=torch.float32)
    fitted(part, model=model, settings=FitSettings(max_epochs=3, batch_size=32, learning_rate=1e-2))
    return request.param, part, parameter_values(model)


@pytest.mark.parametrize(
    "changes",
    [{}, {"repair": True, "branch_scaling": True, "shared_learning_rate": 1e-3}, None],
    ids=["as it is", "everything on", "Algorithm 1"],
)
@pytest.mark.parametrize("name", list(REQUESTS))
def test_the_smallest_requests_leave_a_finite_model_that_moved(
    trained: tuple[str, Part, dict[str, torch.Tensor]],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    changes: dict[str, Any] | None,
) -> None:
    backbone, part, values = trained
    model = build_model(part, backbone, dtype=torch.float32)
    set_parameters(model, values)
    problem = problem_of(part, REQUESTS[name](), dtype=torch.float32)
    # Steps are taken whether or not the stop rule would ask for them: the more, the more could go wrong.
    monkeypatch.setattr(Statistics, "unsettled", lambda *_, **__: frozenset({"forget", "residue"}))
    if changes is None:
        state = algorithm_one(model, problem, AlgorithmOneSettings(batch_size=32, epochs=1))
    else:
        settings = TRUSettings(**{"batch_size": 32, "reverse_steps": 4, "max_quality_loss": 1.0} | changes)
        state = unlearn(model, problem, settings)
    assert len(state.history) == (1 if changes is None else 3)
    for row in state.history:
        assert all(math.isfinite(value) for value in row.values()), row
        assert row["num_rows_visited"] == problem.num_forget
    after = parameter_values(model)
    assert all(torch.isfinite(value).all() for value in after.values())
    assert any(not torch.equal(after[key], values[key]) for key in after)
    with torch.no_grad():
        users, items = model.embeddings(problem.graph_without)
    assert torch.isfinite(users).all()
    assert torch.isfinite(items).all()
