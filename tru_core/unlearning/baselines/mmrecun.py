"""MMRecUn: reverse BPR on what is to be forgotten, BPR on what is retained (arXiv:2405.15328).

Its equations were not seen; it is built as the paper of TRU describes and sets it (Eq. 2, A.1 of arXiv:2604.02183v1):

    reverse:  theta <- theta + eta * alpha       * grad L(D_f)
    repair:   theta <- theta - eta * (1 - alpha) * grad L(D_r)

STATED there: alpha 0.2, the ascent form, both sides once an epoch, Adam, eta 1e-3, batches of 2048. Ours: the reverse
side is BPR with its L2 term, without what else a backbone trains on (that is all of the name L_BPR; Eq. 2 says
L_MRS), repair the whole training loss; reverse on the graph with the deleted edges, repair on that without;
alpha scales Adam's update, since Adam divides a factor on the gradient out again, so each side has an Adam of its own;
the epoch that validates best is kept, at least one. Rows of deleted subjects stay as the steps leave them.
"""

import math

from pydantic import Field, PositiveFloat, PositiveInt

from tru_core.backbones.base import Backbone
from tru_core.fit import make_adam, parameter_values, set_parameters, train_batches
from tru_core.problem import Problem, recall_without
from tru_core.sampling import iterate_batches
from tru_core.settings import Settings
from tru_core.unlearning.method import Candidate, Method, Tools, candidate_of
from tru_core.unlearning.passes import ascend, plan_forget, plan_retain


class MMRecUnSettings(Settings):
    """Settings of MMRecUn.

    Attributes:
        epochs: At most; not stated. An epoch costs about one of training.
        patience: Stop after so many epochs without a better validation recall@20; not stated.
        reverse_ratio: alpha of Eq. (2), stated.
        learning_rate: eta of Eq. (2), stated.
        reverse_learning_rate: Own eta of the reverse side, as TRU has one; None takes the stated eta for both. Two
            reverse batches an epoch at 1e-3 hardly move a fitted model.
        max_gradient_norm: Clip the reverse gradient to this L2 norm; None, as stated: never.
    """

    epochs: PositiveInt = 10
    patience: PositiveInt = 3
    reverse_ratio: float = Field(default=0.2, gt=0, lt=1)
    learning_rate: PositiveFloat = 1e-3
    reverse_learning_rate: PositiveFloat | None = None
    max_gradient_norm: PositiveFloat | None = None


def forget(original: Backbone, problem: Problem, settings: MMRecUnSettings, tools: Tools) -> Candidate:
    """Reverse on every pair to forget, then repair on every retained one, each epoch."""
    rate = settings.learning_rate if settings.reverse_learning_rate is None else settings.reverse_learning_rate
    reverse = make_adam(original, rate * settings.reverse_ratio)
    repair = make_adam(original, settings.learning_rate * (1.0 - settings.reverse_ratio))
    history: list[dict[str, float]] = []
    best, best_recall, best_epoch = parameter_values(original), -math.inf, 0
    for epoch in range(1, settings.epochs + 1):
        num_visited = ascend(
            original,
            problem,
            plan_forget(problem, tools.fit, epoch=epoch),
            reverse,
            objective=lambda terms: terms.ranking + terms.regulariser,
            max_gradient_norm=settings.max_gradient_norm,
        )
        retained = iterate_batches(plan_retain(problem, tools.fit, epoch=epoch))
        loss, _ = train_batches(original, problem.graph_without, retained, repair)
        recall = recall_without(original, problem)
        row = {"epoch": epoch, "loss": loss, "valid_recall20": recall, "num_rows_visited": num_visited}
        history.append({name: float(value) for name, value in row.items()})
        if recall > best_recall:
            best, best_recall, best_epoch = parameter_values(original), recall, epoch
        if epoch - best_epoch >= settings.patience:
            break
    set_parameters(original, best)
    return candidate_of(original, problem, history)


MMRECUN = Method(title="MMRecUn", settings_type=MMRecUnSettings, forget=forget)
