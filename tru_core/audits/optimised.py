"""Which attacks a method uses against itself: passing these is no evidence for it, failing them is evidence against it.

TRU's stop rule levels the residue of every request, and the margins of forgotten pairs of users who stay. Users who are
deleted whole get fresh rows, and no rule looks at the ranks of their pairs.
"""

import numpy as np

from tru_core.audits.forget_ranks import NAME as FORGET_RANKS
from tru_core.audits.residue import NAME as RESIDUE
from tru_core.unlearning.problem import Problem


def optimised_by(method: str, problem: Problem) -> frozenset[str]:
    """Name the attacks whose statistic a method has as its loss or its stop rule.

    Args:
        method: By name in :data:`tru_core.unlearning.methods.METHODS`; empty where nobody says.
    """
    if method != "tru":
        return frozenset()
    rows = problem.shard.user_rows[np.unique(problem.forget.users)]
    stay = np.setdiff1d(rows, problem.request.users)
    return frozenset({RESIDUE, FORGET_RANKS} if len(stay) and len(problem.request.pair_users) else {RESIDUE})
