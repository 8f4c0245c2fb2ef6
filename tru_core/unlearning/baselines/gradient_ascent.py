"""GradientAscent: climb the ranking loss of what is to be forgotten, nothing else (NegGrad in the literature).

Plain, as the literature has it: no retained pair, no stop before the given number of epochs, no row reset; rows of
deleted users stay as the steps leave them. Steps work on the graph with the deleted edges, where the pairs were
learned; what is measured has them out. BPR alone rises, not the L2 or contrastive terms, which say nothing of a pair.
"""

from typing import Literal

import torch
from pydantic import PositiveFloat, PositiveInt

from tru_core.backbones.base import Backbone
from tru_core.fit import make_adam, parameter_groups
from tru_core.problem import Problem
from tru_core.settings import Settings
from tru_core.unlearning.method import Candidate, Method, Tools, candidate_of
from tru_core.unlearning.passes import ascend, plan_forget


class GradientAscentSettings(Settings):
    """How far to climb.

    Attributes:
        epochs: Passes over the pairs to forget. A pass of a 5 % request is two or three batches.
        learning_rate: Step size; training's.
        optimizer: ``adam`` as in training, or ``sgd``, whose step on BPR's mean is much shorter at one rate.
        max_gradient_norm: Clip the job's gradient to this L2 norm. None, the plain form: BPR's ascent has no bound,
            but its gradient does not grow with the margin.
    """

    epochs: PositiveInt = 5
    learning_rate: PositiveFloat = 1e-3
    optimizer: Literal["adam", "sgd"] = "adam"
    max_gradient_norm: PositiveFloat | None = None


def forget(original: Backbone, problem: Problem, settings: GradientAscentSettings, tools: Tools) -> Candidate:
    """Ascend BPR on every pair to forget, epoch after epoch."""
    if settings.optimizer == "adam":
        optimizer = make_adam(original, settings.learning_rate)
    else:
        optimizer = torch.optim.SGD(parameter_groups(original), lr=settings.learning_rate)
    history = []
    for epoch in range(settings.epochs):
        num_visited = ascend(
            original,
            problem,
            plan_forget(problem, tools.fit, epoch=epoch),
            optimizer,
            objective=lambda terms: terms.ranking,
            max_gradient_norm=settings.max_gradient_norm,
        )
        history.append({"epoch": epoch + 1.0, "num_rows_visited": float(num_visited)})
    return candidate_of(original, problem, history)


GRADIENT_ASCENT = Method(title="GradientAscent", settings_type=GradientAscentSettings, forget=forget)
