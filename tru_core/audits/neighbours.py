"""How far retained users' lists and scores lie from a Retrain's (RBO: Webber et al., TOIS 2010; Jaccard; JS).

Reported with the Retrain-to-Retrain band, near to and far from the forget set, and never a verdict: two Retrains with
other seeds differ more than the Original and its own Retrain do, so closeness proves nothing, nor does distance.
"""

from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from numpy.typing import NDArray

from tru_core.audits.base import Attack, AuditCase, Measurement, System
from tru_core.audits.statistics import FloatArray, clustered_error
from tru_core.interactions import IntArray, item_degrees
from tru_core.measures.diagnostics import top_lists

NAME = "neighbours"
PAPER = "Webber et al., TOIS 2010 (RBO); Jaccard similarity; Jensen-Shannon divergence"
_PERSISTENCE = 0.9
_NUM_USERS = 1_000


def rank_biased_overlap(first: NDArray, second: NDArray) -> FloatArray:
    """Rank-biased overlap of two lists of each user down to their end, in [0, 1]; 1 for equal lists.

    ``sum of p^(d-1) * |common of the first d| / d`` over the depths, divided by its largest value.

    Args:
        first, second: int [user, place], items, -1 where a list has ended.
    """
    weights = _PERSISTENCE ** np.arange(first.shape[1])
    total = np.zeros(len(first))
    for depth in range(1, first.shape[1] + 1):
        left, right = first[:, :depth], second[:, :depth]
        common = ((left[:, :, None] == right[:, None, :]) & (left >= 0)[:, :, None]).sum(axis=(1, 2))
        total += weights[depth - 1] * common / depth
    return total / weights.sum()


def jaccard(first: NDArray, second: NDArray) -> FloatArray:
    """Jaccard similarity of two lists of each user, in [0, 1]."""
    common = ((first[:, :, None] == second[:, None, :]) & (first >= 0)[:, :, None]).sum(axis=(1, 2))
    union = (first >= 0).sum(axis=1) + (second >= 0).sum(axis=1) - common
    return np.where(union > 0, common / np.maximum(union, 1), 1.0)


def score_divergence(first: System, second: System, users: IntArray) -> FloatArray:
    """Jensen-Shannon divergence between the softmax of two systems' scores of each user, in bits: in [0, 1]."""
    rows = torch.from_numpy(users)
    logs = [(system.users[rows].double() @ system.items.double().T).log_softmax(dim=1) for system in (first, second)]
    middle = torch.logaddexp(*logs) - float(np.log(2.0))
    halves = [(own.exp() * (own - middle)).sum(dim=1) / 2 for own in logs]
    return (sum(halves[1:], halves[0]) / float(np.log(2.0))).numpy()


@dataclass(frozen=True)
class _Distances:
    overlap: FloatArray
    jaccard: FloatArray
    divergence: FloatArray


def measure(case: AuditCase) -> list[Measurement]:
    """Measure distances to the Retrain of the Original's seed, or to the first; the band is of each two Retrains."""
    problem, collective = case.problem, case.problem.graph_without.collective
    if len(case.retrains) < 2:
        return []

    def lists(system: System) -> tuple[IntArray, NDArray]:
        return top_lists(
            system.users,
            system.items,
            problem.retain,
            problem.shard,
            collective,
            num_users=_NUM_USERS,
            seed=case.seed,
            excluded_users=problem.request.users,
        )

    users, _ = lists(case.candidate)
    near = _is_near(case, users)

    def distances(first: System, second: System) -> _Distances:
        left, right = lists(first)[1], lists(second)[1]
        return _Distances(
            rank_biased_overlap(left, right), jaccard(left, right), score_divergence(first, second, users)
        )

    twins = [system for system in case.retrains if system.seed == case.original.seed] or list(case.retrains)
    others = [distances(*both) for both in combinations(case.retrains, 2)]
    own, original = distances(case.candidate, twins[0]), distances(case.original, twins[0])
    found = []
    for field, words in (
        ("overlap", "rank-biased overlap"),
        ("jaccard", "Jaccard@20"),
        ("divergence", "score divergence"),
    ):
        for chosen, where in ((near, "near to"), (~near, "far from")):
            if not chosen.any():
                continue
            values = getattr(own, field)[chosen]
            found.append(
                Measurement(
                    attack=NAME,
                    paper=PAPER,
                    statistic=f"{words} with a Retrain, retained users {where} the forget set",
                    aspect="reported",
                    value=float(values.mean()),
                    original=float(getattr(original, field)[chosen].mean()),
                    references=tuple(float(getattr(other, field)[chosen].mean()) for other in others),
                    error=clustered_error(values, np.flatnonzero(chosen)),
                    num_cases=int(chosen.sum()),
                    shows_not="Closeness to a Retrain proves no forgetting: two Retrains differ more from each other.",
                    details={"same_seed_as_the_original": "yes" if twins[0].seed == case.original.seed else "no"},
                )
            )
    return found


def _is_near(case: AuditCase, users: IntArray) -> NDArray[np.bool_]:
    """The half of these users whose retained items have the larger share of forgotten pairs."""
    problem, collective = case.problem, case.problem.graph_without.collective
    shares = item_degrees(problem.forget, collective) / np.maximum(item_degrees(problem.shard.train, collective), 1)
    count = np.bincount(problem.retain.users, minlength=len(problem.shard.user_rows))
    total = np.bincount(problem.retain.users, weights=shares[problem.retain.items], minlength=len(count))
    means = (total / np.maximum(count, 1))[users]
    return means > np.median(means)


NEIGHBOURS = Attack(NAME, PAPER, measure)
