"""Row refit: rows of users who lose some of their pairs start afresh and are fitted on what they keep.

A user's row is fitted to all of the user's pairs at once; ascent on a deleted pair cannot take back
what that pair did to it, long before it hurts everybody else. Starting the row afresh can: it is
local, cheap, the same for any share, and the fit sees retained pairs only. Measured by us before it
was built, not part of the paper.
"""

import itertools
from collections.abc import Iterator
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tru_core.backbones.base import Backbone
from tru_core.collective import all_sum_number
from tru_core.fit import pool_for, validation_recall
from tru_core.graph import users_from_items
from tru_core.interactions import IntArray, Pairs, Shard, positions_of, select
from tru_core.sampling import Batch, iterate_batches, plan_epoch
from tru_core.unlearning.problem import Problem


def touched_users(problem: Problem) -> IntArray:
    """Positions of this worker's users who lose some training pairs but stay, ascending."""
    positions, owned = positions_of(problem.shard, problem.request.users)
    return np.setdiff1d(problem.forget.users, positions[owned])


def user_tables(model: Backbone) -> list[str]:
    """The names of a backbone's tables of users."""
    return [name for name, axis in model.anatomy.tables.items() if axis == "user"]


def make_rows_fresh(model: Backbone, shard: Shard, users: IntArray, *, seed: int) -> None:
    """Give the rows of some of this worker's users untrained values, in place.

    Args:
        users: int64, positions.
    """
    with torch.no_grad():
        for name in user_tables(model):
            model.get_parameter(name)[torch.from_numpy(users)] = model.fresh_rows(
                name, shard.user_rows[users], seed=seed
            )


_USERS_PER_COLUMN = 16
_RIDGE = 1e-3


def ridge_map(
    gram: Float[Tensor, "input input"], moments: Float[Tensor, "input output"]
) -> Float[Tensor, "input output"]:
    """Solve a ridge regression from its sums over all workers, with a penalty of 1/1000 of the mean square."""
    penalty = _RIDGE * gram.diagonal().mean() + 1e-30
    return torch.linalg.solve(gram + torch.eye(len(gram), dtype=gram.dtype) * penalty, moments)


def predict_rows(model: Backbone, problem: Problem, users: IntArray, *, seed: int) -> None:
    """Replace the rows of some of this worker's users by what their retained items predict, in place.

    A user's row is a function of the user's items, and nearly a linear one: ridge regression of the trained rows on
    ``x_u = sum over retained items of v_i / sqrt(degree_u * degree_i)``, v the items' output vectors, explains 0.82
    of them on TikTok and 0.88 on MovieLens (MGCN). So a row that must forget some pairs need not start from noise.
    The map is learned from users whom the request does not touch, where there are enough of them, else from all who
    stay: dim x dim numbers for all users together. Who retains nothing gets an untrained row.

    Args:
        users: int64, ascending positions.
        seed: Decides untrained rows.
    """
    graph, shard = problem.graph_without, problem.shard
    num_kept = np.bincount(problem.retain.users, minlength=len(shard.user_rows))
    with torch.no_grad():
        _, items = model.embeddings(graph)
        evidence = users_from_items(graph, items).double()
        known, kept = num_kept > 0, users[num_kept[users] > 0]
        calm = known.copy()
        calm[users] = False
        if all_sum_number(int(calm.sum()), graph.collective) < _USERS_PER_COLUMN * items.shape[1]:
            positions, owned = positions_of(shard, problem.request.users)
            calm = known.copy()
            calm[positions[owned]] = False
        inputs = evidence[torch.from_numpy(calm)]
        gram = graph.collective.all_sum(inputs.T @ inputs)
        for name in user_tables(model):
            table = model.get_parameter(name)
            moments = graph.collective.all_sum(inputs.T @ table[torch.from_numpy(calm)].double())
            predicted = evidence[torch.from_numpy(kept)] @ ridge_map(gram, moments)
            table[torch.from_numpy(users)] = model.fresh_rows(name, shard.user_rows[users], seed=seed)
            table[torch.from_numpy(kept)] = predicted.to(table.dtype)


def replace_rows(
    model: Backbone,
    problem: Problem,
    users: IntArray,
    *,
    how: Literal["best", "predicted", "fresh", "none"],
    seed: int,
) -> None:
    """Replace the rows of some of this worker's users by rows that did not see the forgotten pairs, in place.

    Args:
        users: int64, ascending positions.
        how: ``predicted`` (:func:`predict_rows`), ``fresh`` (:func:`make_rows_fresh`), ``none``; ``best`` takes of
            the first two the one with the higher validation recall@20 of all users. Predicted rows win where a row
            holds what its user likes (MGCN); where items' vectors are made of users' rows (MIG-GT) fresh ones do.
        seed: Decides untrained rows.
    """
    if how == "none":
        return
    if how == "fresh":
        make_rows_fresh(model, problem.shard, users, seed=seed)
        return
    index = torch.from_numpy(users)
    predict_rows(model, problem, users, seed=seed)
    if how == "predicted":
        return
    tables = {name: model.get_parameter(name) for name in user_tables(model)}
    predicted = {name: table.detach()[index].clone() for name, table in tables.items()}
    recall = validation_recall(model, problem.graph_without, problem.valid, problem.retain)
    make_rows_fresh(model, problem.shard, users, seed=seed)
    if validation_recall(model, problem.graph_without, problem.valid, problem.retain) < recall:
        with torch.no_grad():
            for name, table in tables.items():
                table[index] = predicted[name]


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

    Who keeps nothing keeps a fresh row, as after retraining. Works on the graph without the deleted edges, with the
    backbone's whole training loss. Batches are
    those of the job, so the result does not depend on the number of workers.

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
    make_rows_fresh(model, shard, users, seed=seed)
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
