"""The planted world trained many times, and the candidates that an audit must tell apart. Seconds, one process.

A plain training of a fixed number of epochs: the last values count, not the best of a validation that is noise here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from tru_core.audits.base import AuditCase, Shadow, System, Trainer, system_of
from tru_core.audits.shadows import draw_members, shadow_train_pairs
from tru_core.backbones import BACKBONES, Backbone
from tru_core.collective import LocalCollective
from tru_core.fit import FitSettings, fit, set_parameters
from tru_core.graph import build_graph
from tru_core.hashing import hash_keys
from tru_core.interactions import Pairs, Request, make_request
from tru_core.problem import Problem, make_problem
from tru_core.testing.worlds import Part, PlantedWorld, backbone_inputs, planted_world, shards_of
from tru_core.unlearning.rows import reset_subject_rows

SCHEDULE = FitSettings(max_epochs=40, patience=1000, batch_size=512, learning_rate=0.02)
BACKBONE_SETTINGS = {"embedding_size": 16, "layers": 1}
FRESH_SEED = 99


@dataclass(frozen=True)
class AuditWorld:
    """The planted world and a request for the planted user and some others."""

    planted: PlantedWorld
    part: Part
    problem: Problem


def audit_world(*, num_users: int = 16) -> AuditWorld:
    """Ask for the planted user and, with it, ``num_users`` in all to be forgotten."""
    planted = planted_world()
    part = shards_of(planted.world, 1)[0]
    others = np.argsort(hash_keys(7, np.arange(planted.planted_user)), kind="stable")[: num_users - 1]
    return with_request(planted, part, make_request(users=np.append(others, planted.planted_user)))


def with_request(planted: PlantedWorld, part: Part, request: Request) -> AuditWorld:
    """The planted world with any request."""
    return AuditWorld(planted, part, make_problem(part.shard, request, part.item_neighbours, LocalCollective()))


def new_model(world: AuditWorld, seed: int) -> Backbone:
    """An untrained LightGCN."""
    backbone = BACKBONES["lightgcn"]
    inputs = backbone_inputs(world.part, seed=seed, dtype=torch.float32)
    return backbone(inputs, backbone.settings_type(**BACKBONE_SETTINGS))


def train(world: AuditWorld, pairs: Pairs, *, seed: int) -> tuple[Backbone, Mapping[str, Tensor]]:
    """Train on some pairs; give the model and the optimizer's moments."""
    model, part = new_model(world, seed), world.part
    graph = build_graph(pairs, part.shard, part.item_neighbours, LocalCollective(), dtype=torch.float32)
    schedule = SCHEDULE.model_copy(update={"seed": seed})
    state = fit(model, graph, part.shard, pairs, schedule, valid=world.problem.valid)
    set_parameters(model, state.parameters)
    return model, state.moments


def trained(world: AuditWorld, pairs: Pairs, *, name: str, seed: int) -> System:
    """Train and look at the model."""
    model, moments = train(world, pairs, seed=seed)
    return system_of(model, world.problem, name=name, seed=seed, moments=moments)


def original_of(world: AuditWorld) -> System:
    """The model before the deletion."""
    return trained(world, world.part.shard.train, name="Original", seed=0)


def retrain_of(world: AuditWorld, seed: int) -> System:
    """A model that never saw the forgotten."""
    return trained(world, world.problem.retain, name=f"Retrain {seed}", seed=seed)


def shadows_of(world: AuditWorld, *, num_shadows: int = 16) -> tuple[Shadow, ...]:
    """Shadow models, each with half of the subjects."""
    return tuple(
        Shadow(
            trained(world, shadow_train_pairs(world.problem, members), name=f"shadow {number}", seed=100 + number),
            members,
        )
        for number, members in enumerate(draw_members(world.problem, num_shadows=num_shadows, seed=5))
    )


def case_of(
    world: AuditWorld, original: System, retrains: tuple[System, ...], shadows: tuple[Shadow, ...] = ()
) -> AuditCase:
    """A case whose candidate is the Original itself: nothing was done."""
    trainer = Trainer(lambda seed: new_model(world, seed), SCHEDULE)
    return AuditCase(
        problem=world.problem,
        original=original,
        candidate=replace(original, name="do nothing"),
        retrains=retrains,
        shadows=shadows,
        trainer=trainer,
        fresh_seeds=(FRESH_SEED,),
    )


def masked(world: AuditWorld, original: System) -> System:
    """Hide the forgotten pairs from the lists and change nothing else."""
    return replace(original, name="masked", hidden=world.problem.forget)


def row_reset(world: AuditWorld, original: System) -> System:
    """Make the subjects' own rows fresh and change nothing else; the optimizer is thrown away."""
    model = new_model(world, original.seed)
    set_parameters(model, dict(original.parameters or {}))
    reset_subject_rows(model, world.part.shard, world.problem.request, seed=FRESH_SEED)
    return system_of(model, world.problem, name="RowReset", seed=original.seed)


def over_forgotten(world: AuditWorld, retrain: System) -> System:
    """Turn each forgotten user's vector away from the forgotten items: scores far below any Retrain's."""
    forget, users = world.problem.forget, retrain.users.clone()
    unit = functional.normalize(retrain.items, dim=1)
    away = torch.zeros_like(users).index_add(0, torch.from_numpy(forget.users), -unit[torch.from_numpy(forget.items)])
    rows = torch.from_numpy(np.unique(forget.users))
    users[rows] = away[rows]
    return replace(retrain, name="over-forgotten", users=users)


def pushed_apart(world: AuditWorld, retrain: System, first: np.ndarray, second: np.ndarray) -> System:
    """Push the output vectors of pairs of items apart: what the forgotten brought together is less alike than ever."""
    items = retrain.items.clone()
    left, right = torch.from_numpy(first), torch.from_numpy(second)
    unit = functional.normalize(items, dim=1)
    items.index_add_(0, left, -unit[right]).index_add_(0, right, -unit[left])
    return replace(retrain, name="pushed apart", items=items)
