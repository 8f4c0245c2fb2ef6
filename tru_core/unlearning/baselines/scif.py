"""SCIF: an influence function on the rows of the users who lose a pair (arXiv:2304.10199).

RECONSTRUCTED from its abstract and from a public re-implementation; its equations were not seen. Two ideas:

* *Selective*: only rows of users who lose a pair move; items, other users and shared parameters stay.
* *Collaborative*: a deleted pair is not taken out but set to the average rating, so that what others do with the
  item stays. Ratings here are "this item rather than that", and their average says nothing either way: half the
  loss of a pair, half of the pair exchanged.

    rows <- rows + (H + damping)^-1 * grad sum over D_f of ( l(u, i, j) - (l(u, i, j) + l(u, j, i)) / 2 )

l is BPR; without ``collaborative`` the difference is l(u, i, j) alone, the plain influence of taking a pair out. H
is the Hessian, by the same rows, of the whole training loss summed over all pairs that these users had, on the graph
with the deleted edges, where the Original is near its optimum. In the source's matrix factorisation no other pair has
a part in it; in a graph model others have one by propagation, which is left out. The rows of deleted users stay as
the step leaves them, which is all that this method does about them.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor

from tru_core.backbones.base import Backbone
from tru_core.fit import FitSettings, pool_for
from tru_core.interactions import select
from tru_core.problem import Problem
from tru_core.sampling import Batch, check_all_visited, iterate_batches, plan_epoch
from tru_core.settings import Settings
from tru_core.unlearning.baselines.newton import Vector, newton_step, sum_gradient
from tru_core.unlearning.method import Candidate, Method, Tools, candidate_of
from tru_core.unlearning.passes import plan_forget


class SCIFSettings(Settings):
    """Settings of the influence function; the source's were not seen.

    Attributes:
        collaborative: Set deleted pairs to the average instead of taking them out.
        damping: Curvature added in every direction, in units of the loss summed over pairs: a fitted model has next to
            none of its own in many. On TikTok, MGCN, 5 % of users: forget recall 0.84 with 10, 0.75 with 1, 0.35 with
            0.5, 0.12 with 0.3 (Retrain's level is about 0.07), and with 0.1 the system is not positive definite.
        iterations: Of conjugate gradients. Each costs two gradients on every pair of the selected users.
        tolerance: Relative residual at which they end.
    """

    collaborative: bool = True
    damping: PositiveFloat = 0.3
    iterations: PositiveInt = 10
    tolerance: float = Field(default=1e-3, ge=0, lt=1)


def influence_of_deleted_pairs(
    model: Backbone, names: Sequence[str], problem: Problem, batches: Sequence[Batch], *, collaborative: bool
) -> Vector:
    """The gradient, by some parameters, of what the deleted pairs add to the loss, on the graph with their edges."""
    graph = problem.graph_with
    found = sum_gradient(model, names, graph, batches, objective=lambda terms: terms.ranking)
    if not collaborative:
        return found
    exchanged = [replace(batch, positives=batch.negatives, negatives=batch.positives) for batch in batches]
    other = sum_gradient(model, names, graph, exchanged, objective=lambda terms: terms.ranking)
    return [(one - two) / 2.0 for one, two in zip(found, other, strict=True)]


def _batches_of(problem: Problem, selected: np.ndarray, fit: FitSettings) -> list[Batch]:
    """All training pairs of the selected users in batches of the job."""
    shard, collective = problem.shard, problem.graph_with.collective
    pairs = select(shard.train, np.isin(shard.train.users, selected))
    pool = pool_for(shard.train, collective)
    return list(
        iterate_batches(plan_epoch(pairs, shard, pool, collective, batch_size=fit.batch_size, seed=fit.seed, epoch=0))
    )


def forget(original: Backbone, problem: Problem, settings: SCIFSettings, tools: Tools) -> Candidate:
    """Take the influence of the deleted pairs out of the rows of the users who lose them."""
    names = [name for name, axis in original.anatomy.tables.items() if axis == "user"]
    graph, selected = problem.graph_with, np.unique(problem.forget.users)
    is_selected = torch.zeros((len(problem.shard.user_rows), 1), dtype=torch.bool)
    is_selected[torch.from_numpy(selected)] = True
    forgotten = list(iterate_batches(plan_forget(problem, tools.fit, epoch=0)))
    num_visited = check_all_visited(sum(len(b.users) for b in forgotten), problem.num_forget, graph.collective)
    trained = _batches_of(problem, selected, tools.fit)

    def only_selected(vector: Vector) -> Vector:
        return [part * is_selected for part in vector]

    def gradient() -> list[Tensor]:
        return only_selected(sum_gradient(original, names, graph, trained, objective=lambda terms: terms.total()))

    influence = influence_of_deleted_pairs(original, names, problem, forgotten, collaborative=settings.collaborative)
    solution = newton_step(
        original,
        names,
        only_selected(influence),
        gradient,
        graph.collective,
        damping=settings.damping,
        iterations=settings.iterations,
        tolerance=settings.tolerance,
    )
    return candidate_of(original, problem, [solution.row() | {"num_rows_visited": float(num_visited)}])


SCIF = Method(title="SCIF", settings_type=SCIFSettings, forget=forget)
