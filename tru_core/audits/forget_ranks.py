"""Forgotten pairs must rank as a Retrain ranks them, on both sides (Pawelczyk et al., arXiv:2406.17216; own measure).

A forgotten pair that resembles a taste is recommended by right, also after retraining, so the level to reach is not
zero: what ranks far below a Retrain is as visible as what ranks above it. Without a Retrain the level is that of the
same subjects' held-out pairs, which no model was trained on.
"""

import numpy as np

from tru_core.audits.base import Attack, AuditCase, Measurement
from tru_core.audits.pair_ranks import pair_ranks, rank_among
from tru_core.audits.shadows import subjects_of, unseen_by_shadows
from tru_core.audits.statistics import Cases, clustered_error, compare
from tru_core.interactions import Pairs, make_pairs, select

NAME = "forget_ranks"
PAPER = "Pawelczyk et al., arXiv:2406.17216 (both sides of the level); measure of this project"


def held_out_pairs(case: AuditCase) -> Pairs:
    """Validation and test pairs of the same subjects: of deleted items, else of the users who lose pairs."""
    shard, problem = case.problem.shard, case.problem
    users = np.concatenate([shard.valid.users, shard.test.users])
    items = np.concatenate([shard.valid.items, shard.test.items])
    pairs = make_pairs(users, items, num_items=shard.num_items)
    of_items = np.isin(pairs.items, problem.request.items)
    if subjects_of(problem) is problem.forget.items:
        return select(pairs, of_items)
    return select(pairs, ~of_items & np.isin(pairs.users, problem.forget.users))


def measure(case: AuditCase) -> list[Measurement]:
    """Take the mean rank of the forgotten pairs among comparable items."""
    forget = case.problem.forget
    if not len(forget):
        return []
    cases = Cases(clusters=subjects_of(case.problem), unseen=unseen_by_shadows(case))
    ranked = rank_among(forget, case)
    fields = compare(case, cases, lambda system: pair_ranks(system, ranked))
    held_out = held_out_pairs(case)
    never_seen, error = None, 0.0
    if len(held_out):
        level = pair_ranks(case.candidate, rank_among(held_out, case))
        never_seen, error = (
            float(level.mean()),
            float(np.hypot(clustered_error(level, held_out.users), fields["error"])),
        )
    return [
        Measurement(
            attack=NAME,
            paper=PAPER,
            statistic="mean rank of forgotten pairs among items as popular, 0 last, 1 first",
            aspect="subject",
            never_seen=never_seen,
            never_seen_error=error,
            is_optimised=NAME in case.optimised,
            shows_not="It asks about the forgotten pairs themselves, not about what other users' lists took from them.",
            details={"num_held_out": len(held_out)},
            **fields,
        )
    ]


FORGET_RANKS = Attack(NAME, PAPER, measure)
