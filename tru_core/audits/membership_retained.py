"""Membership of those who stay, before and after: unlearning can expose the retained (RULI, arXiv:2506.13009).

The AUC with which rank alone tells a retained training pair from a held-out pair of the same users. It must not rise
above what it was in the Original, unless it does in Retrains too.
"""

import numpy as np

from tru_core.audits.base import Attack, AuditCase, Measurement, System
from tru_core.audits.pair_ranks import pair_ranks, rank_among
from tru_core.audits.statistics import Cases, FloatArray, compare, placements
from tru_core.hashing import hash_keys, text_key
from tru_core.interactions import Pairs, make_pairs, select

NAME = "membership_retained"
PAPER = "Naderloui et al., arXiv:2506.13009"
MAX_PAIRS = 10_000


def _some(pairs: Pairs, seed: int) -> Pairs:
    """At most so many pairs, chosen by hash."""
    keys = hash_keys(seed, text_key("retained"), pairs.keys)
    return select(pairs, np.argsort(np.argsort(keys, kind="stable"), kind="stable") < MAX_PAIRS)


def measure(case: AuditCase) -> list[Measurement]:
    """Measure the AUC on the retained pairs of users who have a held-out pair."""
    problem = case.problem
    users, items = (
        np.concatenate([getattr(part, side) for part in (problem.valid, problem.test)]) for side in ("users", "items")
    )
    held_out = make_pairs(users, items, num_items=problem.retain.num_items)
    retained = select(problem.retain, np.isin(problem.retain.users, held_out.users))
    if not len(held_out) or not len(retained):
        return []
    held_out, retained = _some(held_out, case.seed), _some(retained, case.seed)

    known, unknown = rank_among(retained, case), rank_among(held_out, case)

    def scores(system: System) -> FloatArray:
        return placements(pair_ranks(system, known), pair_ranks(system, unknown))

    nothing = np.zeros((len(case.shadows), len(retained)), dtype=bool)
    return [
        Measurement(
            attack=NAME,
            paper=PAPER,
            statistic="AUC of rank, retained training pairs against held-out pairs of the same users",
            aspect="retained",
            shows_not="It is a mean over all who stay: a single one may be exposed more.",
            details={"num_held_out": len(held_out)},
            **compare(case, Cases(clusters=retained.users, unseen=nothing), scores),
        )
    ]


MEMBERSHIP_RETAINED = Attack(NAME, PAPER, measure)
