"""Do retained users' lists still carry what the deleted brought in? (after RULI, arXiv:2506.13009; own measure).

An item is *theirs* as far as its training pairs are forgotten ones. Exposure is the mean of that share over the places
of the lists of users who stay. It is reported beside the Retrains' band and bears no verdict: a list changes with the
seed far more than with a deletion.
"""

import numpy as np

from tru_core.audits.base import Attack, AuditCase, Measurement, System
from tru_core.audits.statistics import Cases, FloatArray, compare
from tru_core.interactions import item_degrees
from tru_core.measures.diagnostics import top_lists

NAME = "exposure"
PAPER = "Naderloui et al., arXiv:2506.13009; measure of this project"


def measure(case: AuditCase) -> list[Measurement]:
    """Measure the exposure of forgotten users' items in the top 20 of users who stay."""
    problem, collective = case.problem, case.problem.graph_without.collective
    forgotten, train = item_degrees(problem.forget, collective), item_degrees(problem.shard.train, collective)
    shares = np.append(forgotten / np.maximum(train, 1), 0.0)

    def lists(system: System) -> tuple[np.ndarray, FloatArray]:
        users, items = top_lists(
            system.users,
            system.items,
            problem.retain,
            problem.shard,
            collective,
            seed=case.seed,
            excluded_users=problem.request.users,
        )
        return users, shares[items].mean(axis=1)

    users, _ = lists(case.candidate)
    nothing = np.zeros((len(case.shadows), len(users)), dtype=bool)
    return [
        Measurement(
            attack=NAME,
            paper=PAPER,
            statistic="mean share of forgotten pairs among all pairs of the items in retained users' top 20",
            aspect="reported",
            shows_not="Items may stand in a list by right: only what lies outside the Retrains' band says more.",
            **compare(case, Cases(clusters=users, unseen=nothing), lambda system: lists(system)[1]),
        )
    ]


EXPOSURE = Attack(NAME, PAPER, measure)
