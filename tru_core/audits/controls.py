"""Candidates that did not forget as they should, made on purpose: an audit that lets one pass is broken (A10).

Doing nothing needs no function: it is the Original itself.
"""

from dataclasses import replace

import numpy as np
import torch
from torch.nn import functional

from tru_core.audits.base import System
from tru_core.problem import Problem


def masked(system: System, problem: Problem) -> System:
    """Hide the forgotten pairs from the lists and change nothing else."""
    return replace(system, hidden=problem.forget)


def over_forgotten(system: System, problem: Problem) -> System:
    """Turn the vector of each user who loses pairs away from their items: these rank far below any Retrain's.

    Of a Retrain, it leaves nothing to find but that it went too far.
    """
    users, which = system.users.clone(), torch.from_numpy(problem.forget.users)
    unit = functional.normalize(system.items, dim=1)
    away = torch.zeros_like(users).index_add(0, which, -unit[torch.from_numpy(problem.forget.items)])
    rows = torch.from_numpy(np.unique(problem.forget.users))
    users[rows] = away[rows]
    return replace(system, users=users)
