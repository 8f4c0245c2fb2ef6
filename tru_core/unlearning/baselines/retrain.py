"""Retrain: a new model, trained on the retained pairs alone. The reference that every method is held against.

Exact: nothing of the Original is used but how it was trained. Its initial values are the Original's, since the seed
is, so that a difference between the two comes from the deleted pairs; two seeds differ by more.
"""

from tru_core.backbones.base import Backbone
from tru_core.fit import fit
from tru_core.problem import Problem
from tru_core.settings import Settings
from tru_core.unlearning.method import Candidate, Method, Tools, candidate_of


class RetrainSettings(Settings):
    """Retrain has nothing to set: it is trained as the Original was."""


def forget(original: Backbone, problem: Problem, settings: RetrainSettings, tools: Tools) -> Candidate:
    """Train a new model on what is retained. The Original is not looked at; an interrupted run goes on."""
    model = tools.new_model(tools.fit.seed)
    state = fit(
        model,
        problem.graph_without,
        problem.shard,
        problem.retain,
        tools.fit,
        valid=problem.valid,
        state=tools.state,
        on_epoch=tools.on_epoch,
    )
    return candidate_of(model, problem, state.history, best_epoch=state.best_epoch)


RETRAIN = Method(title="Retrain", settings_type=RetrainSettings, forget=forget)
