"""Algorithm 1 of arXiv:2604.02183v1 as printed: targeted reverse update by ascent, then repair. It hardly forgets.

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
from typing import Literal

import torch
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from tru_core.backbones.base import Backbone, LossTerms, complete_gradients, gradient_norms
from tru_core.errors import NumericsError
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
from tru_core.problem import Problem, candidate_score, evaluate
from tru_core.sampling import Batch, EpochPlan, check_all_visited, iterate_batches, plan_epoch
from tru_core.unlearning.method import Candidate, Method, Tools, candidate_of
from tru_core.unlearning.paper.interventions import gate_gradient
from tru_core.unlearning.paper.targeting import Targeting, TargetingSettings, check_settings, measure_norms, target
from tru_core.unlearning.rows import fresh_seed, reset_subject_rows, subjects_removed


class AlgorithmOneSettings(TargetingSettings):
    """Settings of Algorithm 1, beside those of the three interventions. Where the paper is silent the reason is here.

    Attributes:
        branch_scaling: Eq. (4) on or off. Left out: on, as printed.
        learning_rate: eta: Adam's step size of repair (times 1 - alpha) and, where it has none of its own, of ascent.
        ascent_learning_rate: Own eta of the reverse step, in the same unit; left out: ``learning_rate``.
        batch_size: Rows of a batch, as in training.
        reset_subjects: Make the rows of deleted users and items fresh. Off only to measure what the rest does
            alone: a model published so still holds the deleted rows.
        seed: Decides batches, negatives and fresh rows.
        epochs: Unlearning epochs at most. Not in the paper; its >50x speed-up means a handful.
        patience: Stop after so many epochs without a better score (see
            :func:`tru_core.problem.candidate_score`). Not in the paper.
        reverse_ratio: alpha in Eq. (2): the reverse step has weight alpha, repair 1 - alpha. The paper gives
            0.2 for MMRecUn and none for TRU: like for like.
        energy_batches: M, batches for Eqs. (4) and (5); the paper's grid is 1 ... 5. Aggregated as the mean
            over batches of the gradient's L2 norm.
        reverse_optimizer: ``adam`` scales the *update* of each parameter (own state, no gradient at all for
            masked modules), since Adam divides out any factor on the gradient; ``sgd`` is Eq. (7) verbatim.
        reverse_objective: ``ranking`` ascends BPR alone; ``full`` the whole training loss, with L2 and the
            contrastive terms, as the notation has it. The default keeps ascent on what is to be forgotten.
        max_gradient_norm: Clip the reverse direction to this L2 norm; ascent on BPR is unbounded. None: never.
        repair_batches: Retained batches per epoch; None is a whole pass, as Algorithm 1 says.
    """

    learning_rate: PositiveFloat = 1e-3
    ascent_learning_rate: PositiveFloat | None = None
    batch_size: PositiveInt = 2048
    reset_subjects: bool = True
    seed: NonNegativeInt = 0
    epochs: PositiveInt = 3
    patience: PositiveInt = 3
    reverse_ratio: float = Field(default=0.2, gt=0, lt=1)
    energy_batches: PositiveInt = 3
    reverse_optimizer: Literal["adam", "sgd"] = "adam"
    reverse_objective: Literal["ranking", "full"] = "ranking"
    max_gradient_norm: PositiveFloat | None = None
    repair_batches: PositiveInt | None = None

    @property
    def scales_branches(self) -> bool:
        """Whether Eq. (4) is on."""
        return self.branch_scaling is not False


def _objective(terms: LossTerms, settings: AlgorithmOneSettings) -> torch.Tensor:
    return terms.ranking if settings.reverse_objective == "ranking" else terms.total()


def _gradient(model: Backbone, graph: Graph, batch: Batch, settings: AlgorithmOneSettings) -> None:
    """Leave in every ``.grad`` the gradient of the job's forget or retain objective on one batch."""
    model.zero_grad(set_to_none=True)
    _objective(model.loss(graph, batch), settings).backward()
    complete_gradients(model, graph.collective)


def mean_gradient_norms(
    model: Backbone, graph: Graph, batches: Iterable[Batch], settings: AlgorithmOneSettings
) -> tuple[dict[str, float], dict[str, float]]:
    """Mean over batches of the gradient's L2 norm, by branch (Eq. 4) and by module (Eq. 5).

    The gate's penalty takes no part. Norms are of whole batches of the job, so they are the same for any
    number of workers.
    """
    measured = []
    for batch in batches:
        _gradient(model, graph, batch, settings)
        measured.append(measure_norms(model, graph.collective))
    model.zero_grad(set_to_none=True)

    def mean(which: int) -> dict[str, float]:
        return {name: sum(norms[which][name] for norms in measured) / len(measured) for name in measured[0][which]}

    return mean(0), mean(1)


def _target(
    model: Backbone, problem: Problem, forget: EpochPlan, retain: EpochPlan, settings: AlgorithmOneSettings
) -> Targeting:
    graph, count = problem.graph_with, settings.energy_batches
    forget_energy, sensitivity = mean_gradient_norms(model, graph, iterate_batches(forget, limit=count), settings)
    retain_energy = forget_energy
    if settings.scales_branches:
        retain_energy, _ = mean_gradient_norms(model, graph, iterate_batches(retain, limit=count), settings)
    return target(model, retain_energy, forget_energy, sensitivity, settings, graph.collective)


def _make_reverse_optimizer(model: Backbone, settings: AlgorithmOneSettings) -> torch.optim.Optimizer:
    if settings.reverse_optimizer == "adam":
        return make_adam(model, settings.learning_rate)
    return torch.optim.SGD(parameter_groups(model), lr=settings.learning_rate)


def reverse_step(
    model: Backbone,
    graph: Graph,
    batch: Batch,
    optimizer: torch.optim.Optimizer,
    targeting: Targeting,
    settings: AlgorithmOneSettings,
) -> None:
    """Ascend the gated forget objective once on one batch: Eq. (7), masked and scaled per parameter."""
    _gradient(model, graph, batch, settings)
    module_of = {parameter: name for name, group in model.anatomy.modules.items() for parameter in group}
    rate = settings.learning_rate if settings.ascent_learning_rate is None else settings.ascent_learning_rate
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
            "was published. Lower ascent_learning_rate or set max_gradient_norm."
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


def algorithm_one(
    model: Backbone,
    problem: Problem,
    settings: AlgorithmOneSettings,
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
    seed_of_rows = fresh_seed(settings.seed)
    removed = problem.request if settings.reset_subjects else None
    if not problem.num_forget:
        # Subjects whose interactions left earlier: nothing to reverse, but their rows must not stay trained.
        if removed is not None:
            reset_subject_rows(model, shard, removed, seed=seed_of_rows)
        return state
    optimizers = {
        "reverse": _make_reverse_optimizer(model, settings),
        "repair": make_adam(model, settings.learning_rate * (1.0 - settings.reverse_ratio)),
    }
    if state.parameters:
        _restore(state, model, optimizers)
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
            with subjects_removed(model, shard, removed, seed=seed_of_rows):
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
            | targeting.row()
        )
        if on_epoch is not None:
            on_epoch(state)
    set_parameters(model, state.best)
    if removed is not None:
        reset_subject_rows(model, shard, removed, seed=seed_of_rows)
    return state


def forget(original: Backbone, problem: Problem, settings: AlgorithmOneSettings, tools: Tools) -> Candidate:
    """Unlearn by Algorithm 1; an interrupted run resumes."""
    state = algorithm_one(original, problem, settings, state=tools.state, on_epoch=tools.on_epoch)
    return candidate_of(original, problem, state.history, best_epoch=state.best_epoch)


ALGORITHM_ONE = Method(title="Algorithm 1", settings_type=AlgorithmOneSettings, forget=forget)
