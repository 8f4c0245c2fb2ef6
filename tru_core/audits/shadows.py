"""Which subjects each shadow model is trained on (Carlini et al., arXiv:2112.03570: each in half of the models).

A subject is a user who loses pairs, with all of them, or, where the request is of items, an item with all its pairs.
"""

import numpy as np
from numpy.typing import NDArray

from tru_core.audits.base import AuditCase
from tru_core.errors import ConfigError
from tru_core.hashing import hash_keys, text_key
from tru_core.interactions import IntArray, Pairs, make_pairs, select
from tru_core.problem import Problem


def subjects_of(problem: Problem) -> IntArray:
    """Give the subject of each pair of ``problem.forget``: a user's vocabulary row, or an item's."""
    request, forget = problem.request, problem.forget
    is_items = len(request.items) and not len(request.users) and not len(request.pair_users)
    return forget.items if is_items else problem.shard.user_rows[forget.users]


def draw_members(problem: Problem, *, num_shadows: int, seed: int) -> NDArray[np.bool_]:
    """Part the subjects over the shadow models so that each subject is in exactly half of them.

    Args:
        num_shadows: Even, at least 2.
        seed: The auditor's own. With the subject's row and the model's number it decides all.

    Returns:
        bool [shadow, forget pair].

    Raises:
        ConfigError: If the number is odd or below 2.
    """
    if num_shadows < 2 or num_shadows % 2:
        raise ConfigError(f"audit: an even number of shadow models is needed, at least 2; found {num_shadows}")
    subjects, place = np.unique(subjects_of(problem), return_inverse=True)
    keys = hash_keys(seed, text_key("shadow-members"), subjects[None, :], np.arange(num_shadows)[:, None])
    ranks = np.argsort(np.argsort(keys, axis=0, kind="stable"), axis=0, kind="stable")
    return (ranks < num_shadows // 2)[:, place]


def unseen_by_shadows(case: AuditCase) -> NDArray[np.bool_]:
    """Say for each shadow model of a case and each forgotten pair whether the model never saw it."""
    members = [~shadow.members for shadow in case.shadows]
    return np.array(members, dtype=bool).reshape(-1, len(case.problem.forget))


def shadow_train_pairs(problem: Problem, members: NDArray[np.bool_]) -> Pairs:
    """The pairs that one shadow model is trained on: all retained ones and its members.

    Args:
        members: bool [forget pair], one row of :func:`draw_members`.
    """
    chosen = select(problem.forget, members)
    users = np.concatenate([problem.retain.users, chosen.users])
    return make_pairs(users, np.concatenate([problem.retain.items, chosen.items]), num_items=problem.retain.num_items)
