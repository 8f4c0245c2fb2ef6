"""Rows of users who lose some pairs and stay are replaced by rows that never saw these.

A user's row is fitted to all of the user's pairs at once; ascent on a deleted pair cannot take back what that pair did
to it, long before it hurts everybody else. A row that is computed from what the user keeps has nothing to take back; a
fresh one has not either, but holds nothing of what is kept. Measured by us before it was built, not part of the paper.
"""

from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from tru_core.backbones.base import Backbone
from tru_core.collective import all_sum_number
from tru_core.graph import users_from_items
from tru_core.interactions import IntArray, positions_of
from tru_core.problem import Problem, recall_without
from tru_core.unlearning.rows import copy_rows, put_rows

_USERS_PER_COLUMN = 16
_RIDGE = 1e-3
_WHOLE_SHARE = 0.25
"""From this share of its pairs lost on, nothing of a row stays; below, that much more of it stays. Measured (MGCN, 5 %
of users, TRU with its steps): replacing every item's row whole costs MovieLens test Recall@20 0.2628 -> 0.2491 and 0.25
gives 0.2654, with no more left for a probe to read on either data set."""
_WHOLE_ROWS_COST = 0.01
"""Share of validation recall@20 that whole rows of who lost deleted items alone may cost; dearer, they move in part."""


def touched_users(problem: Problem) -> IntArray:
    """Positions of this worker's users who lose some training pairs but stay, ascending."""
    positions, owned = positions_of(problem.shard, problem.request.users)
    return np.setdiff1d(problem.forget.users, positions[owned])


def user_tables(model: Backbone) -> list[str]:
    """The names of a backbone's tables of users."""
    return [name for name, axis in model.anatomy.tables.items() if axis == "user"]


def make_rows_fresh(model: Backbone, problem: Problem, users: IntArray, *, seed: int) -> None:
    """Give the rows of some of this worker's users untrained values, in place; who retains nothing is never seen.

    Args:
        users: int64, positions.
    """
    bare = users[~np.isin(users, problem.retain.users)]
    with torch.no_grad():
        for name in user_tables(model):
            table = model.get_parameter(name)
            for some, draw in ((users, model.fresh_rows), (bare, model.unseen_rows)):
                table[torch.from_numpy(some)] = draw(name, problem.shard.user_rows[some], seed=seed)


def moved_share(num_kept: IntArray, num_before: IntArray) -> NDArray[np.float64]:
    """How far the rows of nodes move that lost some of their pairs, 0 to 1: ``min(1, share of pairs lost / 0.25)``."""
    lost = 1.0 - num_kept / np.maximum(num_before, 1)
    return np.clip(lost / _WHOLE_SHARE, 0.0, 1.0)


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
    stay: dim x dim numbers for all users together. Who retains nothing gets the row of one who was never seen.

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
            table[torch.from_numpy(users)] = model.unseen_rows(name, shard.user_rows[users], seed=seed)
            table[torch.from_numpy(kept)] = predicted.to(table.dtype)


def _share_to_go(problem: Problem, users: IntArray) -> NDArray[np.float64]:
    """How far rows need to go at least: whole where a user lost a pair with an item that stays and can be ranked."""
    size, forget = len(problem.shard.user_rows), problem.forget
    kept, lost = (np.bincount(pairs.users, minlength=size)[users] for pairs in (problem.retain, forget))
    share = moved_share(kept, kept + lost)
    share[np.isin(users, forget.users[~np.isin(forget.items, problem.request.items)])] = 1.0
    return share


def replace_rows(
    model: Backbone,
    problem: Problem,
    users: IntArray,
    *,
    how: Literal["best", "predicted", "fresh", "none"],
    seed: int,
) -> float | None:
    """Replace the rows of some of this worker's users by rows that did not see the forgotten pairs, in place.

    Args:
        users: int64, ascending positions.
        how: ``predicted`` (:func:`predict_rows`), ``fresh`` (:func:`make_rows_fresh`), ``none``; ``best`` takes of
            the first two the one with the higher validation recall@20 of all users. Who lost deleted items alone,
            which no list can name any more, goes there only by :func:`moved_share` where going whole costs everybody
            1 % of that recall or more. Measured (5 % of MovieLens's items, two seeds), with MIG-GT it does: likeness of
            users whom these items connected 0.54 when whole, 0.56 in part, Retrain 0.55; with MGCN it does not: 0.57,
            0.59, Retrain 0.55.
        seed: Decides untrained rows.

    Returns:
        Validation recall@20 of the model as it is then; None where nothing asked for it.
    """
    if how == "none":
        return None
    if how == "predicted":
        predict_rows(model, problem, users, seed=seed)
        return None
    if how == "fresh":
        make_rows_fresh(model, problem, users, seed=seed)
        return None
    old = copy_rows(model, user_tables(model), users)
    predict_rows(model, problem, users, seed=seed)
    best, recall = copy_rows(model, user_tables(model), users), recall_without(model, problem)
    make_rows_fresh(model, problem, users, seed=seed)
    if (fresh_recall := recall_without(model, problem)) >= recall:
        best, recall = copy_rows(model, user_tables(model), users), fresh_recall
    share = torch.from_numpy(_share_to_go(problem, users))[:, None]
    if all_sum_number(int((share < 1.0).sum()), problem.graph_without.collective):
        put_rows(model, users, {name: share * rows + (1.0 - share) * old[name] for name, rows in best.items()})
        recall_in_part = recall_without(model, problem)
        if recall < (1.0 - _WHOLE_ROWS_COST) * recall_in_part:
            return recall_in_part
    put_rows(model, users, best)
    return recall
