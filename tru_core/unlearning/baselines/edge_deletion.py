"""EdgeDeletion: the deleted edges leave the graph, no parameter changes. The free lower bar."""

from tru_core.backbones.base import Backbone
from tru_core.problem import Problem
from tru_core.settings import Settings
from tru_core.unlearning.method import Candidate, Method, Tools, candidate_of


class EdgeDeletionSettings(Settings):
    """EdgeDeletion has nothing to set."""


def forget(original: Backbone, problem: Problem, settings: EdgeDeletionSettings, tools: Tools) -> Candidate:
    """Look at the Original on the graph without the deleted edges."""
    return candidate_of(original, problem)


EDGE_DELETION = Method(title="EdgeDeletion", settings_type=EdgeDeletionSettings, forget=forget)
