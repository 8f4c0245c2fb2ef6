"""Targeted reverse update (TRU): Algorithm 1 of arXiv:2604.02183v1.

Each epoch: measure branch scales (Eq. 4) and module sensitivities (Eq. 5), choose modules (Eq. 6),
take one gated, scaled and masked step of ascent on each forget batch (Eqs. 3, 7) on the graph
*with* the deleted edges, then ordinary steps on retained batches on the graph *without* them.

Around it stands structural removal (:mod:`tru_core.unlearning.rows`): edges, and the rows of
deleted users and items. It comes first in effect though last in code, because the reverse
gradient must still pass through the trained rows.
"""

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from tru_core.backbones.base import Backbone, LossTerms, complete_gradients, gradient_norms, num_parameters
from tru_core.errors import ConfigError, NumericsError
from tru_core.fit import (
    OnEpoch,
    TrainingState,
    adam_moments,
    make_adam,
    parameter_groups,
    parameter_values,
    pool_for,
    restore_adam,
    set_parameters,
    train_batches,
)
from tru_core.graph import Graph
from tru_core.hashing import text_key
from tru_core.sampling import Batch, EpochPlan, check_all_visited, iterate_batches, plan_epoch
from tru_core.settings import Settings
from tru_core.unlearning.interventions import GateSign, branch_scale, gate_gradient, select_modules
from tru_core.unlearning.problem import Problem, evaluate
from tru_core.unlearning.refit import refit_touched_users
from tru_core.unlearning.rows import reset_subject_rows, subjects_removed


class TRUSettings(Settings):
    """Settings of TRU. Where the paper is silent the choice, its reason and its switch stand here.

    Attributes:
        epochs: Unlearning epochs at most. Not in the paper; its >50x speed-up means a handful.
        patience: Stop after so many epochs without a better score (see :func:`candidate_score`). Not in
            the paper; the choice looks at validation and forget pairs only, never at test or Retrain.
        reverse_ratio: alpha in Eq. (2): the reverse step has weight alpha, repair 1 - alpha. The paper gives
            0.2 for MMRecUn and none for TRU: like for like.
        learning_rate: eta, for repair (times 1 - alpha) and, where it has none of its own, reverse (times alpha).
        reverse_learning_rate: Own eta of the reverse step. Two reverse batches an epoch at 1e-3 hardly
            move a fitted model, so this is the first thing to raise.
        batch_size: Rows of a batch, as in training.
        gate: Fusion gate of Eq. (3) on or off.
        gate_weight: lambda_fusion. Not in the paper; ``gate_weight * sqrt(fusion weights)`` of about a tenth
            of the fusion gradient's norm.
        gate_sign: ``shrink`` lets the penalty shrink fusion weights, as its purpose says; ``literal``
            ascends it with the loss, as Eq. (7) is printed.
        branch_scaling: Eq. (4) on or off (the paper's retain-scale switch).
        scale_floor: gamma_min. Not in the paper.
        isolation: Module mask of Eq. (6) on or off.
        module_share: p, the paper's grid is 0.1 ... 0.9.
        min_parameter_share: tau_min. Not in the paper; 0.05 makes sure of an embedding table, not of a wide
            feature table that would swallow the mask.
        excluded_modules: Modules that the reverse step never moves, by name, whatever their sensitivity.
        energy_batches: M, batches for Eqs. (4) and (5); the paper's grid is 1 ... 5. Aggregated as the mean
            over batches of the gradient's L2 norm.
        reverse_optimizer: ``adam`` scales the *update* of each parameter (own state, no gradient at all for
            masked modules), since Adam divides out any factor on the gradient; ``sgd`` is Eq. (7) verbatim.
        reverse_objective: ``ranking`` ascends BPR alone; ``full`` the whole training loss, with L2 and the
            contrastive terms, as the notation has it. The default keeps ascent on what is to be forgotten.
        max_gradient_norm: Clip the reverse direction to this L2 norm; ascent on BPR is unbounded. None: never.
        repair_batches: Retained batches per epoch; None is a whole pass, as Algorithm 1 says.
        refit_steps: Before the first epoch, make the rows of users who lose single interactions fresh and fit
            them on what they keep, in so many steps (:mod:`tru_core.unlearning.refit`). Algorithm 1 alone leaves
            forget recall where it was; this is what forgets there. 0 is Algorithm 1.
        refit_learning_rate: Adam's step size of that fit.
        refit_reverse_weight: Weight of a bounded reverse loss on the deleted pairs in the same steps; it has no
            stop of its own yet, so look at validation and forget recall when raising it (0: none).
        reset_subjects: Make the rows of deleted users and items fresh. Off only to measure what the paper's
            update does alone: a model published so still holds the deleted rows.
        seed: Decides batches, negatives and fresh rows.
    """

    epochs: PositiveInt = 3
    patience: PositiveInt = 3
    reverse_ratio: float = Field(default=0.2, gt=0, lt=1)
    learning_rate: PositiveFloat = 1e-3
    reverse_learning_rate: PositiveFloat | None = None
    batch_size: PositiveInt = 2048
    gate: bool = True
    gate_weight: NonNegativeFloat = 1e-4
    gate_sign: GateSign = "shrink"
    branch_scaling: bool = True
    scale_floor: float = Field(default=0.1, gt=0, le=1)
    isolation: bool = True
    module_share: float = Field(default=0.5, gt=0, le=1)
    min_parameter_share: float = Field(default=0.05, ge=0, le=1)
    excluded_modules: tuple[str, ...] = ()
    energy_batches: PositiveInt = 3
    reverse_optimizer: Literal["adam", "sgd"] = "adam"
    reverse_objective: Literal["ranking", "full"] = "ranking"
    max_gradient_norm: PositiveFloat | None = None
    repair_batches: PositiveInt | None = None
    refit_steps: NonNegativeInt = 10
    refit_learning_rate: PositiveFloat = 1e-2
    refit_reverse_weight: NonNegativeFloat = 0.1
    reset_subjects: bool = True
    seed: NonNegativeInt = 0


def candidate_score(valid_recall: float, forget_recall: float) -> float:
    """Judge an epoch from validation and forget pairs only: higher is better.

    ``valid - |forget - valid|``: useful, and forgotten pairs are recommended as often as pairs that
    the model never saw. Both sides count: fewer than never seen is as visible as more.
    """
    return valid_recall - abs(forget_recall - valid_recall)


@dataclass(frozen=True)
class _Targeting:
    """What one epoch's measurements decide: the step size of every module that may move."""

    scales: dict[str, float]
    sensitivity: dict[str, float]
    chosen: frozenset[str]


def _objective(terms: LossTerms, settings: TRUSettings) -> torch.Tensor:
    return terms.ranking if settings.reverse_objective == "ranking" else terms.total()


def _gradient(model: Backbone, graph: Graph, batch: Batch, settings: TRUSettings) -> None:
    """Leave in every ``.grad`` the gradient of the job's forget or retain objective on one batch."""
    model.zero_grad(set_to_none=True)
    _objective(model.loss(graph, batch), settings).backward()
    complete_gradients(model, graph.collective)


def mean_gradient_norms(
    model: Backbone, graph: Graph, batches: Iterable[Batch], settings: TRUSettings
) -> tuple[dict[str, float], dict[str, float]]:
    """Mean over batches of the gradient's L2 norm, by branch (Eq. 4) and by module (Eq. 5).

    The gate's penalty takes no part. Norms are of whole batches of the job, so they are the same for any
    number of workers.
    """
    branches: dict[str, list[str]] = {}
    for parameter, branch in model.anatomy.branch.items():
        branches.setdefault(branch, []).append(parameter)
    groups = {f"branch/{name}": tuple(parameters) for name, parameters in branches.items()}
    groups |= {f"module/{name}": tuple(parameters) for name, parameters in model.anatomy.modules.items()}
    sums, num_batches = dict.fromkeys(groups, 0.0), 0
    for batch in batches:
        _gradient(model, graph, batch, settings)
        for name, norm in gradient_norms(model, groups, graph.collective).items():
            sums[name] += norm
        num_batches += 1
    model.zero_grad(set_to_none=True)
    means = {name: value / max(1, num_batches) for name, value in sums.items()}

    def part(prefix: str) -> dict[str, float]:
        return {n.removeprefix(prefix): v for n, v in means.items() if n.startswith(prefix)}

    return part("branch/"), part("module/")


def _target(
    model: Backbone, problem: Problem, forget: EpochPlan, retain: EpochPlan, settings: TRUSettings
) -> _Targeting:
    graph, count = problem.graph_with, settings.energy_batches
    forget_energy, sensitivity = mean_gradient_norms(model, graph, iterate_batches(forget, limit=count), settings)
    scales = dict.fromkeys(forget_energy, 1.0)
    if settings.branch_scaling:
        retain_energy, _ = mean_gradient_norms(model, graph, iterate_batches(retain, limit=count), settings)
        scales = branch_scale(retain_energy, forget_energy, floor=settings.scale_floor)
        # Shared parameters belong to no single branch: they take the full step.
        scales["shared"] = 1.0
    allowed = {name: value for name, value in sensitivity.items() if name not in settings.excluded_modules}
    chosen = frozenset(allowed)
    if settings.isolation:
        modules = model.anatomy.modules
        sizes = {name: num_parameters(model, modules[name], graph.collective) for name in allowed}
        chosen = select_modules(
            allowed, sizes, share=settings.module_share, min_parameter_share=settings.min_parameter_share
        )
    return _Targeting(scales=scales, sensitivity=sensitivity, chosen=chosen)


def _make_reverse_optimizer(model: Backbone, settings: TRUSettings) -> torch.optim.Optimizer:
    if settings.reverse_optimizer == "adam":
        return make_adam(model, settings.learning_rate)
    return torch.optim.SGD(parameter_groups(model), lr=settings.learning_rate)


def reverse_step(
    model: Backbone,
    graph: Graph,
    batch: Batch,
    optimizer: torch.optim.Optimizer,
    targeting: _Targeting,
    settings: TRUSettings,
) -> None:
    """Ascend the gated forget objective once on one batch: Eq. (7), masked and scaled per parameter."""
    _gradient(model, graph, batch, settings)
    module_of = {parameter: name for name, group in model.anatomy.modules.items() for parameter in group}
    rate = settings.learning_rate if settings.reverse_learning_rate is None else settings.reverse_learning_rate
    moving = []
    for group in optimizer.param_groups:
        name, parameter = group["name"], group["params"][0]
        if parameter.grad is None or module_of[name] not in targeting.chosen:
            parameter.grad = None
            continue
        direction = parameter.grad
        if settings.gate and name in model.anatomy.fusion:
            direction = gate_gradient(
                direction, parameter.detach(), gate_weight=settings.gate_weight, sign=settings.gate_sign
            )
        parameter.grad = -direction
        group["lr"] = rate * settings.reverse_ratio * targeting.scales[model.anatomy.branch[name]]
        moving.append(name)
    norm = gradient_norms(model, {"all": moving}, graph.collective)["all"]
    if not math.isfinite(norm):
        raise NumericsError(
            f"the reverse gradient's norm is {norm}. The step was not taken, the last checkpoint is kept and nothing "
            "was published. Lower reverse_learning_rate or set max_gradient_norm."
        )
    if settings.max_gradient_norm is not None and norm > settings.max_gradient_norm:
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(settings.max_gradient_norm / norm)
    optimizer.step()


def _save(state: TrainingState, model: Backbone, optimizers: dict[str, torch.optim.Optimizer]) -> None:
    state.parameters, state.moments = parameter_values(model), {}
    for side, optimizer in optimizers.items():
        if isinstance(optimizer, torch.optim.Adam):
            state.moments |= {f"{side}.{name}": value for name, value in adam_moments(optimizer).items()}


def _restore(state: TrainingState, model: Backbone, optimizers: dict[str, torch.optim.Optimizer]) -> None:
    set_parameters(model, state.parameters)
    for side, optimizer in optimizers.items():
        if isinstance(optimizer, torch.optim.Adam):
            moments = {n.removeprefix(f"{side}."): v for n, v in state.moments.items() if n.startswith(f"{side}.")}
            restore_adam(optimizer, moments)


def check_settings(model: Backbone, settings: TRUSettings) -> None:
    """Check what only the backbone can know.

    Raises:
        ConfigError: If an excluded module does not exist or none would be left.
    """
    unknown = sorted(set(settings.excluded_modules) - set(model.anatomy.modules))
    if unknown:
        raise ConfigError(
            f"unlearn.excluded_modules names {unknown[0]!r}; this backbone has {', '.join(model.anatomy.modules)}"
        )
    if len(settings.excluded_modules) >= len(model.anatomy.modules):
        raise ConfigError("unlearn.excluded_modules names every module: the reverse step could not move anything")


def unlearn(
    model: Backbone,
    problem: Problem,
    settings: TRUSettings,
    *,
    state: TrainingState | None = None,
    on_epoch: OnEpoch | None = None,
) -> TrainingState:
    """Make a trained model forget a request; leave the model at its best epoch, subjects removed.

    Args:
        model: The Original, trained on ``forget`` and ``retain`` together. Changed in place.
        state: Where an interrupted run stood; None starts afresh.
        on_epoch: Called on every worker after each epoch.

    Returns:
        The final state; ``history`` holds scales, sensitivities, chosen modules and recalls by epoch.

    Raises:
        AuditError: If an epoch did not visit every forget row exactly once.
        ConfigError: If a setting does not fit the backbone.
        NumericsError: If a loss or gradient is not finite.
    """
    check_settings(model, settings)
    state = TrainingState(best_score=-math.inf) if state is None else state
    shard, collective = problem.shard, problem.graph_with.collective
    fresh_seed = settings.seed + text_key("subject rows") % 2**31
    removed = problem.request if settings.reset_subjects else None
    if not problem.num_forget:
        # Subjects whose interactions left earlier: nothing to reverse, but their rows must not stay trained.
        if removed is not None:
            reset_subject_rows(model, shard, removed, seed=fresh_seed)
        return state
    optimizers = {
        "reverse": _make_reverse_optimizer(model, settings),
        "repair": make_adam(model, settings.learning_rate * (1.0 - settings.reverse_ratio)),
    }
    if state.parameters:
        _restore(state, model, optimizers)
    elif settings.refit_steps:
        started = time.perf_counter()
        refit_touched_users(
            model,
            problem,
            steps=settings.refit_steps,
            learning_rate=settings.refit_learning_rate,
            reverse_weight=settings.refit_reverse_weight,
            batch_size=settings.batch_size,
            seed=fresh_seed,
        )
        state.seconds += time.perf_counter() - started
    pools = pool_for(shard.train, collective), pool_for(problem.retain, collective)
    while state.epoch < settings.epochs and state.epoch - state.best_epoch < settings.patience:
        started = time.perf_counter()
        forget, retain = (
            plan_epoch(
                pairs, shard, pool, collective, batch_size=settings.batch_size, seed=settings.seed, epoch=state.epoch
            )
            for pairs, pool in zip((problem.forget, problem.retain), pools, strict=True)
        )
        targeting = _target(model, problem, forget, retain, settings)
        num_visited = 0
        for batch in iterate_batches(forget):
            reverse_step(model, problem.graph_with, batch, optimizers["reverse"], targeting, settings)
            num_visited += len(batch.users)
        num_visited = check_all_visited(num_visited, problem.num_forget, collective)
        loss, _ = train_batches(
            model,
            problem.graph_without,
            iterate_batches(retain, limit=settings.repair_batches),
            optimizers["repair"],
        )
        if removed is None:
            outcome = evaluate(model, problem)
        else:
            with subjects_removed(model, shard, removed, seed=fresh_seed):
                outcome = evaluate(model, problem)
        score = candidate_score(outcome.valid.recall, outcome.forget.recall)
        state.epoch += 1
        _save(state, model, optimizers)
        if score > state.best_score:
            state.best_score, state.best_epoch, state.best = score, state.epoch, state.parameters
        state.seconds += time.perf_counter() - started
        state.history.append(
            {
                "epoch": state.epoch,
                "loss": loss,
                "valid_recall20": outcome.valid.recall,
                "forget_recall20": outcome.forget.recall,
                "num_rows_visited": num_visited,
            }
            | {f"scale/{name}": value for name, value in targeting.scales.items()}
            | {f"sensitivity/{name}": value for name, value in targeting.sensitivity.items()}
            | {f"chosen/{name}": float(name in targeting.chosen) for name in targeting.sensitivity}
        )
        if on_epoch is not None:
            on_epoch(state)
    set_parameters(model, state.best)
    if removed is not None:
        reset_subject_rows(model, shard, removed, seed=fresh_seed)
    return state
