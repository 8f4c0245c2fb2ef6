"""Rows of items that lose some of their users move to what the users who retain them predict.

A deleted user's row is gone at once, and what the user had together stays: training pulled the rows of these items to
the user's vector, and so to each other. Drawing apart the angles of such pairs (the residue, :mod:`.residue`) leaves
what a probe that weighs columns still reads. A row that is computed from those who stay alone has nothing to leave;
but it loses what the regression does not explain, so a row moves as far as its item loses users.
Measured by us before it was built, not part of the paper; the figures stand in docs/audits.md.

For deleted items nothing of this is done, and it would not help: moving the rows of the items that their users retain,
by the share of pairs that these users lose or whole, lifts what users' rows tell of the deleted (residue, MGCN, 5 %:
TikTok 0.540 to 0.541 and 0.542, MovieLens 0.617 to 0.619 and 0.626, where Retrain has 0.531 and 0.600). Nor does
training on what is retained wear it off (TikTok, one and three epochs: 0.540 and 0.539).
"""

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from tru_core.backbones.base import Backbone
from tru_core.graph import Graph, items_from_users
from tru_core.interactions import IntArray
from tru_core.problem import Problem, recall_without
from tru_core.unlearning.rows import copy_rows, put_rows
from tru_core.unlearning.user_rows import moved_share, ridge_map, user_tables

_ITEMS_PER_COLUMN = 16


def touched_items(problem: Problem) -> IntArray:
    """Rows of items that lose some training pairs but stay, ascending; the same on every worker."""
    lost = np.flatnonzero(problem.graph_with.item_degrees != problem.graph_without.item_degrees)
    return np.setdiff1d(lost, problem.request.items)


def item_tables(model: Backbone) -> list[str]:
    """The names of a backbone's tables of items."""
    return [name for name, axis in model.anatomy.tables.items() if axis == "item"]


def _evidence(model: Backbone, graph: Graph) -> Float64[Tensor, "item column"]:
    """What an item's users are: the sum of their rows and branch vectors over ``sqrt(degree_u * degree_i)``."""
    users = [model.get_parameter(name) for name in user_tables(model)]
    users += [of_users for of_users, _ in model.branch_embeddings(graph).values()]
    return items_from_users(graph, torch.cat(users, dim=1)).double()


def predict_item_rows(model: Backbone, problem: Problem, items: IntArray, *, seed: int) -> None:
    """Move the rows of some items to what the users who retain them predict, in place.

    The mirror image of :func:`tru_core.unlearning.user_rows.predict_rows`: ridge regression of the trained rows on what
    an item's users are explains 0.51 of them on TikTok (MGCN). With ``w`` of
    :func:`tru_core.unlearning.user_rows.moved_share` the new row is ``w * predicted + (1 - w) * old``: what one of four
    users did to a row is gone with it whole, what one of a hundred did was little. The map is learned from items that
    the request does not touch, where there are enough of them, else from all that somebody retains. An item that nobody
    retains gets the row of one never seen.

    Args:
        items: int64, ascending rows of items.
        seed: Decides untrained rows.
    """
    num_kept, num_before = problem.graph_without.item_degrees, problem.graph_with.item_degrees
    with torch.no_grad():
        evidence = _evidence(model, problem.graph_without)
        known, kept = num_kept > 0, items[num_kept[items] > 0]
        known[problem.request.items] = False
        calm = known.copy()
        calm[items] = False
        taught = torch.from_numpy(calm if calm.sum() >= _ITEMS_PER_COLUMN * evidence.shape[1] else known)
        inputs, rows = evidence[taught], torch.from_numpy(kept)
        weight = torch.from_numpy(moved_share(num_kept[kept], num_before[kept]))[:, None]
        for name in item_tables(model):
            table = model.get_parameter(name)
            predicted = evidence[rows] @ ridge_map(inputs.T @ inputs, inputs.T @ table[taught].double())
            moved = weight * predicted + (1.0 - weight) * table[rows].double()
            table[torch.from_numpy(items)] = model.unseen_rows(name, items, seed=seed)
            table[rows] = moved.to(table.dtype)


def replace_item_rows(
    model: Backbone, problem: Problem, *, seed: int, max_quality_loss: float, recall: float | None = None
) -> bool:
    """Move the rows of items that lose some of their users, in place, unless everybody would pay for it.

    Args:
        seed: Decides untrained rows.
        max_quality_loss: Put the rows back where validation recall@20 falls by more than this share.
        recall: Validation recall@20 of the model as it is; None: it is measured.

    Returns:
        Whether rows moved. Not where a backbone has no table of items or no item is touched.
    """
    items, names = touched_items(problem), item_tables(model)
    if not len(items) or not names:
        return False
    rows = copy_rows(model, names, items)
    before = recall_without(model, problem) if recall is None else recall
    predict_item_rows(model, problem, items, seed=seed)
    after = recall_without(model, problem)
    if after >= (1.0 - max_quality_loss) * before:
        return True
    put_rows(model, items, rows)
    return False
