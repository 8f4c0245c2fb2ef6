"""Passes over what is to be forgotten and what is retained, as several methods take them.

Batches are those of the job, so that a pass is the same on any number of workers.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from tru_core.backbones.base import Backbone, LossTerms, complete_gradients, gradient_norms
from tru_core.errors import NumericsError
from tru_core.fit import FitSettings, pool_for
from tru_core.problem import Problem
from tru_core.sampling import EpochPlan, check_all_visited, iterate_batches, plan_epoch


def plan_forget(problem: Problem, fit: FitSettings, *, epoch: int) -> EpochPlan:
    """Lay the pairs to forget into batches; negatives are those that a pair met in training: never the user's own."""
    collective, shard = problem.graph_with.collective, problem.shard
    pool = pool_for(shard.train, collective)
    return plan_epoch(problem.forget, shard, pool, collective, batch_size=fit.batch_size, seed=fit.seed, epoch=epoch)


def plan_retain(problem: Problem, fit: FitSettings, *, epoch: int) -> EpochPlan:
    """Lay the retained pairs into batches, as a training on them alone would."""
    collective, shard = problem.graph_without.collective, problem.shard
    pool = pool_for(problem.retain, collective)
    return plan_epoch(problem.retain, shard, pool, collective, batch_size=fit.batch_size, seed=fit.seed, epoch=epoch)


def step_on(
    model: Backbone,
    share: Float[Tensor, ""],
    optimizer: torch.optim.Optimizer,
    problem: Problem,
    *,
    max_gradient_norm: float | None = None,
) -> None:
    """Take one descent step on a loss of which this worker computed its share.

    Args:
        max_gradient_norm: Clip the job's gradient to this L2 norm. None: never.

    Raises:
        NumericsError: If the gradient is not finite.
    """
    collective = problem.graph_with.collective
    optimizer.zero_grad(set_to_none=True)
    share.backward()
    complete_gradients(model, collective)
    norm = gradient_norms(model, {"all": [name for name, _ in model.named_parameters()]}, collective)["all"]
    if not math.isfinite(norm):
        raise NumericsError(
            f"the gradient's norm is {norm}. The step was not taken and nothing was published. Lower learning_rate or "
            "set max_gradient_norm."
        )
    if max_gradient_norm is not None and norm > max_gradient_norm:
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(max_gradient_norm / norm)
    optimizer.step()


def ascend(
    model: Backbone,
    problem: Problem,
    plan: EpochPlan,
    optimizer: torch.optim.Optimizer,
    *,
    objective: Callable[[LossTerms], Tensor],
    max_gradient_norm: float | None = None,
) -> int:
    """Take one step of ascent on each batch to forget, on the graph with the deleted edges.

    Args:
        objective: The part of the training loss that rises.

    Returns:
        Rows visited over all workers: every one of the request, once.

    Raises:
        AuditError: If not every row was visited.
        NumericsError: If a gradient is not finite.
    """
    num_visited = 0
    for batch in iterate_batches(plan):
        share = -objective(model.loss(problem.graph_with, batch))
        step_on(model, share, optimizer, problem, max_gradient_norm=max_gradient_norm)
        num_visited += len(batch.users)
    return check_all_visited(num_visited, problem.num_forget, problem.graph_with.collective)
