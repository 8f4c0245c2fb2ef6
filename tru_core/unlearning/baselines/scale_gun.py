"""ScaleGUN, "edge-style adaptation": deleted edges leave, and one Newton correction follows them (arXiv:2408.09212).

RECONSTRUCTED. The paper of TRU names the adaptation and gives no formula, and claims no certificate for it (A.1 of
arXiv:2604.02183v1). The source keeps propagated features, updates them locally and lazily when an edge goes, and
corrects a linear head once: ``w <- w + H^-1 (grad L(w; X_old) - grad L(w; X_new))``. Here the embedding tables
(rows of users and of items) take the head's place, propagation is done anew and exactly, and both losses are of the
retained pairs:

    tables <- tables + (H + damping)^-1 (grad L(D_r, graph with) - grad L(D_r, graph without))

H is the Hessian of L(D_r, graph without), from some batches. L is the backbone's whole training loss. Left out: the
source's noise in the objective and its budget of gradient residuals, which belong to the certificate. Rows of
deleted subjects stay as the correction leaves them.
"""

from pydantic import Field, PositiveFloat, PositiveInt

from tru_core.backbones.base import Backbone
from tru_core.problem import Problem
from tru_core.sampling import iterate_batches
from tru_core.settings import Settings
from tru_core.unlearning.baselines.newton import newton_step, sum_gradient
from tru_core.unlearning.method import Candidate, Method, Tools, candidate_of
from tru_core.unlearning.passes import plan_retain


class ScaleGUNSettings(Settings):
    """Settings of the correction; none is stated.

    Attributes:
        damping: Curvature added in every direction, in units of the loss summed over pairs. With 10 the system was
            positive definite on TikTok, MGCN; with 1 it was not, and the step meant nothing.
        iterations: Of conjugate gradients. Each costs two gradients on every batch of the Hessian.
        tolerance: Relative residual at which they end.
        hessian_batches: Batches that the Hessian is taken from, scaled to all retained pairs. Both gradients are
            taken from all of them.
    """

    damping: PositiveFloat = 10.0
    iterations: PositiveInt = 10
    tolerance: float = Field(default=1e-3, ge=0, lt=1)
    hessian_batches: PositiveInt = 8


def embedding_tables(model: Backbone) -> list[str]:
    """The tables with a row for each user or item that are not the items' raw features."""
    return [name for name, axis in model.anatomy.tables.items() if axis != "item_block"]


def forget(original: Backbone, problem: Problem, settings: ScaleGUNSettings, tools: Tools) -> Candidate:
    """Correct the embedding tables once for the edges that left."""
    names, graph = embedding_tables(original), problem.graph_without
    batches = list(iterate_batches(plan_retain(problem, tools.fit, epoch=0)))
    some = batches[: settings.hessian_batches]
    share = sum(batch.num_rows for batch in some) / sum(batch.num_rows for batch in batches)
    old, new = (
        sum_gradient(original, names, of, batches, objective=lambda terms: terms.total())
        for of in (problem.graph_with, graph)
    )

    def gradient() -> list:
        found = sum_gradient(original, names, graph, some, objective=lambda terms: terms.total())
        return [part / share for part in found]

    solution = newton_step(
        original,
        names,
        [before - after for before, after in zip(old, new, strict=True)],
        gradient,
        graph.collective,
        damping=settings.damping,
        iterations=settings.iterations,
        tolerance=settings.tolerance,
    )
    return candidate_of(original, problem, [solution.row()])


SCALE_GUN = Method(title="ScaleGUN (edge-style)", settings_type=ScaleGUNSettings, forget=forget)
