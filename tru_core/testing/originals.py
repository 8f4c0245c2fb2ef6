"""A tiny trained Original, and requests against it, for every test of an unlearning method."""

from functools import cache

import torch
from torch import Tensor

from tru_core.backbones import Backbone
from tru_core.fit import FitSettings, set_parameters
from tru_core.forget_sets import sample_request
from tru_core.interactions import Regime, Request
from tru_core.problem import Problem
from tru_core.testing.models import ALONE, build_model, builder, fitted
from tru_core.testing.worlds import Part, shards_of, tiny_world
from tru_core.unlearning.method import Candidate, Tools

FIT = FitSettings(max_epochs=3, patience=3, batch_size=48, learning_rate=0.02, seed=3)
REGIMES: tuple[Regime, ...] = ("user", "item", "interaction")


def request_of(part: Part, regime: Regime) -> Request:
    """A fifth of the users, items or pairs of a whole world."""
    return sample_request(part.shard, ALONE, regime=regime, share=0.2, seed=4)


@cache
def whole() -> Part:
    """The tiny world as one worker has it."""
    return shards_of(tiny_world(), 1)[0]


@cache
def trained_values(backbone: str) -> dict[str, Tensor]:
    """The Original's parameters, trained once a session on all users."""
    return fitted(whole(), model=build_model(whole(), backbone, seed=FIT.seed), settings=FIT).best


def original_of(part: Part, backbone: str = "mgcn") -> Backbone:
    """The Original as the worker of this part holds it."""
    model = build_model(part, backbone, seed=FIT.seed)
    values = dict(trained_values(backbone))
    for table, axis in model.anatomy.tables.items():
        if axis != "item":
            rows = part.shard.user_rows if axis == "user" else model.held_items(table)
            values[table] = values[table][rows]
    set_parameters(model, values)
    return model


def tools_of(part: Part, backbone: str = "mgcn") -> Tools:
    """What a method may need of the job that trained the Original."""
    return Tools(new_model=builder(part, backbone), fit=FIT)


def mean_margin(candidate: Candidate, problem: Problem) -> float:
    """How far pairs to forget stand above the mean item of their users."""
    users = candidate.users[torch.from_numpy(problem.forget.users)]
    own = (users * candidate.items[torch.from_numpy(problem.forget.items)]).sum(dim=1)
    return float((own - users @ candidate.items.mean(dim=0)).mean())
