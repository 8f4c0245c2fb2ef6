"""Small models on the tiny worlds, for every test that needs one."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from tru_core.backbones import BACKBONES, Backbone
from tru_core.collective import Collective, LocalCollective
from tru_core.fit import FitSettings, TrainingState, fit
from tru_core.graph import Graph, build_graph
from tru_core.interactions import IntArray, Request, item_degrees, make_request
from tru_core.problem import Problem, make_problem
from tru_core.sampling import Batch, iterate_batches, make_pool, plan_epoch
from tru_core.settings import Settings
from tru_core.testing.worlds import Part, backbone_inputs
from tru_core.unlearning.method import NewModel

ALONE = LocalCollective()


def class_of(backbone: str | type[Backbone]) -> type[Backbone]:
    """A backbone by its name in ``BACKBONES``; a class, which may be in no table, is itself."""
    return BACKBONES[backbone] if isinstance(backbone, str) else backbone


def small_settings(backbone: str | type[Backbone], **changes: Any) -> Settings:
    """A backbone's settings, with narrow vectors where it has a setting ``embedding_size``."""
    kind = class_of(backbone)
    narrow = {"embedding_size": 6} if "embedding_size" in kind.settings_type.model_fields else {}
    return kind.settings_type(**(narrow | changes))


def build_model(
    part: Part,
    backbone: str | type[Backbone] = "mgcn",
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    **changes: Any,
) -> Backbone:
    """A small untrained model on one worker's part of a world."""
    return class_of(backbone)(backbone_inputs(part, seed=seed, dtype=dtype), small_settings(backbone, **changes))


def builder(part: Part, backbone: str | type[Backbone] = "mgcn") -> NewModel:
    """What methods build a worker's models with."""

    def build(seed: int, *, user_rows: IntArray | None = None) -> Backbone:
        own = part if user_rows is None else replace(part, shard=replace(part.shard, user_rows=user_rows))
        return build_model(own, backbone, seed=seed)

    return build


def train_graph(part: Part, collective: Collective = ALONE, *, dtype: torch.dtype = torch.float64) -> Graph:
    """The graph of all training pairs."""
    return build_graph(part.shard.train, part.shard, part.item_neighbours, collective, dtype=dtype)


def batches_of(
    part: Part, collective: Collective = ALONE, *, batch_size: int = 32, seed: int = 0, epoch: int = 0
) -> list[Batch]:
    """The batches of an epoch over all training pairs."""
    train = part.shard.train
    pool = make_pool(train, item_degrees(train, collective))
    plan = plan_epoch(train, part.shard, pool, collective, batch_size=batch_size, seed=seed, epoch=epoch)
    return list(iterate_batches(plan))


def fitted(part: Part, collective: Collective = ALONE, *, model: Backbone, settings: FitSettings) -> TrainingState:
    """Train a model on all training pairs of its part."""
    graph = train_graph(part, collective, dtype=next(model.parameters()).dtype)
    return fit(model, graph, part.shard, part.shard.train, settings, valid=part.shard.valid)


def problem_of(
    part: Part, request: Request, collective: Collective = ALONE, *, dtype: torch.dtype = torch.float64
) -> Problem:
    """A request against a part of a world."""
    return make_problem(part.shard, request, part.item_neighbours, collective, dtype=dtype)


def mixed_request(part: Part) -> Request:
    """User 0 goes whole, user 1 loses every pair one by one, user 2 loses one pair."""
    train = part.shard.train
    second, third = np.flatnonzero(train.users == 1), np.flatnonzero(train.users == 2)[:1]
    pairs = np.concatenate([second, third])
    return make_request(users=np.array([0]), pair_users=train.users[pairs], pair_items=train.items[pairs])
