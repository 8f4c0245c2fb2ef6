"""Row refit: rows of users who lose single interactions start afresh and are fitted on what they keep.

A user's row is fitted to all of the user's pairs at once; ascent on a deleted pair cannot take back
what that pair did to it, long before it hurts everybody else. Starting the row afresh can: it is
local, cheap, the same for any share, and the fit sees retained pairs only. Item rows still tell what
was deleted, so each step may also push the deleted pairs down, by a loss that is bounded: BPR with
positive and negative exchanged, which ends where a pair ranks below random items. Shared parameters
and every other row stay as they are. Measured by us before it was built, not part of the paper.
"""

import itertools
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from tru_core.backbones.base import Backbone
from tru_core.fit import pool_for
from tru_core.interactions import IntArray, Pairs, positions_of, select
from tru_core.sampling import Batch, iterate_batches, plan_epoch
from tru_core.unlearning.problem import Problem


def touched_users(problem: Problem) -> IntArray:
    """Positions of this worker's users who lose some training pairs but stay, and keep at least one."""
    positions, owned = positions_of(problem.shard, problem.request.users)
    touched = np.setdiff1d(problem.forget.users, positions[owned])
    return np.intersect1d(touched, problem.retain.users)


def _user_tables(model: Backbone) -> list[str]:
    return [name for name, axis in model.anatomy.tables.items() if axis == "user"]


def refit_touched_users(
    model: Backbone,
    problem: Problem,
    *,
    steps: int,
    learning_rate: float,
    reverse_weight: float,
    batch_size: int,
    seed: int,
) -> int:
    """Make the rows of touched users fresh and take Adam steps on them alone, on their retained pairs.

    Works on the graph without the deleted edges, with the backbone's whole training loss. Batches are
    those of the job, so the result does not depend on the number of workers.

    Args:
        steps: Batches to fit, epoch after epoch of the touched users' retained pairs.
        learning_rate: Adam's step size for these rows.
        reverse_weight: Weight of the bounded reverse loss on the touched users' deleted pairs; 0 fits only.
        batch_size: Rows of a batch over all workers, on average.
        seed: Decides fresh rows, batches and negatives.

    Returns:
        Rows refitted on this worker.
    """
    users = touched_users(problem)
    shard, graph = problem.shard, problem.graph_without
    tables = {name: model.get_parameter(name) for name in _user_tables(model)}
    is_touched = torch.zeros(len(shard.user_rows), dtype=torch.bool)
    is_touched[torch.from_numpy(users)] = True
    with torch.no_grad():
        for name, table in tables.items():
            table[is_touched] = model.fresh_rows(name, shard.user_rows[users], seed=seed)
    kept, lost = (select(part, np.isin(part.users, users)) for part in (problem.retain, problem.forget))
    pool = pool_for(problem.retain, graph.collective)

    def batches(pairs: Pairs) -> Iterator[Batch]:
        for epoch in itertools.count():
            plan = plan_epoch(pairs, shard, pool, graph.collective, batch_size=batch_size, seed=seed, epoch=epoch)
            if not plan.num_batches:
                return
            yield from iterate_batches(plan)

    optimizer = torch.optim.Adam(tables.values(), lr=learning_rate)
    others = [p for name, p in model.named_parameters() if name not in tables and p.requires_grad]
    try:
        for parameter in others:
            parameter.requires_grad_(False)
        for fitted, reversed_ in itertools.islice(zip(batches(kept), batches(lost), strict=False), steps):
            optimizer.zero_grad(set_to_none=True)
            loss = model.loss(graph, fitted).total()
            if reverse_weight:
                loss = loss + reverse_weight * model.loss(graph, _exchanged(reversed_)).ranking
            loss.backward()
            _keep_rows([table.grad for table in tables.values()], is_touched)
            optimizer.step()
    finally:
        for parameter in others:
            parameter.requires_grad_(True)
    return len(users)


def _exchanged(batch: Batch) -> Batch:
    """The batch with positives and negatives exchanged: its ranking loss falls to 0 as the pairs are forgotten."""
    return replace(batch, positives=batch.negatives, negatives=batch.positives)


def _keep_rows(gradients: list[Tensor | None], is_kept: Tensor) -> None:
    """Zero all other rows: with fresh moments, Adam then leaves them exactly where they are."""
    for gradient in gradients:
        if gradient is not None:
            gradient[~is_kept] = 0.0
