"""RowReset: the deleted edges leave the graph, rows of deleted users and items become untrained. No gradient step.

Our control, not a published method: what structural removal does alone. A deleted user's row *is* the memory of
that user, so this alone brings forget recall to Retrain's level there; users of single deleted interactions keep
their rows, and RowReset is EdgeDeletion for them.
"""

from tru_core.backbones.base import Backbone
from tru_core.problem import Problem
from tru_core.settings import Settings
from tru_core.unlearning.method import Candidate, Method, Tools, candidate_of
from tru_core.unlearning.rows import fresh_seed, reset_subject_rows


class RowResetSettings(Settings):
    """RowReset has nothing to set."""


def forget(original: Backbone, problem: Problem, settings: RowResetSettings, tools: Tools) -> Candidate:
    """Make the subjects' own rows untrained and look at the rest as it is."""
    reset_subject_rows(original, problem.shard, problem.request, seed=fresh_seed(tools.fit.seed))
    return candidate_of(original, problem)


ROW_RESET = Method(title="RowReset", settings_type=RowResetSettings, forget=forget)
