"""Row refit: rows of users who lose some of their pairs start afresh and are fitted on what they keep.

It is local, cheap, the same for any share, and the fit sees retained pairs only. Measured by us before it was built,
not part of the paper.
"""

import itertools
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from tru_core.backbones.base import Backbone
from tru_core.fit import pool_for
from tru_core.interactions import Pairs, select
from tru_core.problem import Problem
from tru_core.sampling import Batch, iterate_batches, plan_epoch
from tru_core.unlearning.user_rows import make_rows_fresh, touched_users, user_tables


def refit_touched_users(
    model: Backbone,
    problem: Problem,
    *,
    steps: int,
    learning_rate: float,
    batch_size: int,
    seed: int,
) -> int:
    """Make the rows of touched users fresh and take Adam steps on them alone, on their retained pairs.

    Who keeps nothing keeps the row of one never seen. Works on the graph without the deleted edges, with the
    backbone's whole training loss. Batches are those of the job, so the result does not depend on the number of
    workers.

    Args:
        steps: Batches to fit, epoch after epoch of the touched users' retained pairs.
        learning_rate: Adam's step size for these rows.
        batch_size: Rows of a batch over all workers, on average.
        seed: Decides fresh rows, batches and negatives.

    Returns:
        Rows made fresh on this worker.
    """
    users = touched_users(problem)
    shard, graph = problem.shard, problem.graph_without
    tables = {name: model.get_parameter(name) for name in user_tables(model)}
    is_touched = torch.zeros(len(shard.user_rows), dtype=torch.bool)
    is_touched[torch.from_numpy(users)] = True
    make_rows_fresh(model, problem, users, seed=seed)
    kept = select(problem.retain, np.isin(problem.retain.users, users))
    optimizer = torch.optim.Adam(tables.values(), lr=learning_rate)
    others = [p for name, p in model.named_parameters() if name not in tables and p.requires_grad]
    try:
        for parameter in others:
            parameter.requires_grad_(False)
        for batch in itertools.islice(endless_batches(kept, problem, batch_size=batch_size, seed=seed), steps):
            optimizer.zero_grad(set_to_none=True)
            loss = model.loss(graph, batch).total()
            loss.backward()
            _keep_rows([table.grad for table in tables.values()], is_touched)
            optimizer.step()
    finally:
        for parameter in others:
            parameter.requires_grad_(True)
    return len(users)


def endless_batches(pairs: Pairs, problem: Problem, *, batch_size: int, seed: int) -> Iterator[Batch]:
    """Yield the batches of some retained pairs, epoch after epoch; none where no worker has any."""
    shard, collective = problem.shard, problem.graph_without.collective
    pool = pool_for(problem.retain, collective)
    for epoch in itertools.count():
        plan = plan_epoch(pairs, shard, pool, collective, batch_size=batch_size, seed=seed, epoch=epoch)
        if not plan.num_batches:
            return
        yield from iterate_batches(plan)


def _keep_rows(gradients: list[Tensor | None], is_kept: Tensor) -> None:
    """Zero all other rows: with fresh moments, Adam then leaves them exactly where they are."""
    for gradient in gradients:
        if gradient is not None:
            gradient[~is_kept] = 0.0
