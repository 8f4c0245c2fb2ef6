"""Co-consumption residue: does the item space still tell which items forgotten users had together? (own measure).

Pairs of items that somebody had together only in what is forgotten, against random pairs of the same items: the AUC of
the cosine of their vectors. Asked of output vectors, of the table of rows and of each branch, with the auditor's own
draw of pairs. For deleted items the same is asked of pairs of users whom only these items connect. Above a Retrain
the pair is remembered, below it it was pushed apart: both tell.
"""

from collections.abc import Callable

import numpy as np
from torch import Tensor

from tru_core.audits.base import Attack, AuditCase, Measurement, System
from tru_core.audits.shadows import shadow_train_pairs
from tru_core.audits.statistics import Cases, FloatArray, clustered_error, compare, placements
from tru_core.interactions import IntArray, Pairs
from tru_core.unlearning.residue import NUM_STRATA, Contrast, ResidueProbe, RowPairs, cosines, had_together, make_probe

NAME = "residue"
PAPER = "measured by this project; no published source"
_STRATA = ("no", "1 to 3", "4 or more")
Vectors = Callable[[System], Tensor]


def pair_rows(pairs: RowPairs) -> IntArray:
    """The two rows of each pair: int64 [pair, 2]."""
    return np.stack([pairs.first, pairs.second], axis=1)


def contrast_scores(vectors: Tensor, contrast: Contrast) -> FloatArray:
    """Give for each pair the share of random pairs of its stratum that are less alike; the mean is the AUC."""
    found, random = (
        cosines(vectors, contrast.pairs).double().numpy(),
        cosines(vectors, contrast.random).double().numpy(),
    )
    scores = np.full(len(found), 0.5)
    for stratum in range(NUM_STRATA):
        own = contrast.strata == stratum
        scores[own] = placements(found[own], random[contrast.random_strata == stratum])
    return scores


def unseen_pairs(case: AuditCase, probe: ResidueProbe) -> np.ndarray:
    """Say for each shadow model and forgotten pair whether nobody had both in what that model was trained on."""
    problem, pairs = case.problem, probe.forgotten.pairs

    def columns(of: Pairs) -> tuple[IntArray, IntArray]:
        return (of.items, of.users) if probe.side == "item" else (of.users, of.items)

    trained = [columns(shadow_train_pairs(problem, shadow.members)) for shadow in case.shadows]
    size = problem.shard.num_users if probe.side == "item" else problem.shard.num_items
    together = [had_together(pairs, members, groups, num_groups=size) for members, groups in trained]
    return ~np.array(together, dtype=bool).reshape(-1, len(pairs))


def never_seen_level(
    scores: FloatArray, held: FloatArray, contrast: Contrast, held_out: Contrast
) -> tuple[float, float]:
    """Give the held-out pairs' AUC, strata weighted as among the forgotten, and the error of the difference."""
    level, variance = 0.0, clustered_error(scores, pair_rows(contrast.pairs)) ** 2
    for stratum in range(NUM_STRATA):
        own, other = contrast.strata == stratum, held_out.strata == stratum
        if not own.any():
            continue
        share = own.mean()
        level += share * (held[other].mean() if other.any() else 0.5)
        variance += (share * clustered_error(held[other], pair_rows(held_out.pairs)[other])) ** 2
    return float(level), float(np.sqrt(variance))


def _measure(case: AuditCase, probe: ResidueProbe, cases: Cases, name: str, vectors: Vectors) -> Measurement:
    """Measure one space."""
    contrast = probe.forgotten
    scores = contrast_scores(vectors(case.candidate), contrast)
    never_seen, error = None, 0.0
    if probe.held_out is not None and len(probe.held_out.pairs):
        held = contrast_scores(vectors(case.candidate), probe.held_out)
        never_seen, error = never_seen_level(scores, held, contrast, probe.held_out)
    details = {}
    for stratum, words in enumerate(_STRATA):
        own = contrast.strata == stratum
        if own.any():
            details[f"auc, rarer with {words} retained"] = float(scores[own].mean())
            details[f"pairs, rarer with {words} retained"] = int(own.sum())
    return Measurement(
        attack=NAME,
        paper=PAPER,
        statistic=f"AUC of the likeness of {probe.side}s that only the forgotten brought together, {name}",
        aspect="reported" if name.startswith("branch") else "shared",
        never_seen=never_seen,
        never_seen_error=error,
        is_optimised=NAME in case.optimised,
        shows_not="It sees what lies in the angle between two vectors; a memory in another form it does not see.",
        details=details,
        **compare(case, cases, lambda system: contrast_scores(vectors(system), contrast)),
    )


def measure(case: AuditCase) -> list[Measurement]:
    """Measure output vectors, the rows of the side's tables, and each branch."""
    probe = make_probe(case.problem, seed=case.seed)
    if not len(probe.forgotten.pairs) or not len(probe.forgotten.random):
        return []
    side = 1 if probe.side == "item" else 0
    cases = Cases(clusters=pair_rows(probe.forgotten.pairs), unseen=unseen_pairs(case, probe))
    spaces: dict[str, Vectors] = {"output vectors": lambda system: (system.users, system.items)[side]}
    systems = (case.original, case.candidate, *case.retrains, *(shadow.system for shadow in case.shadows))
    if all(system.parameters is not None and system.anatomy is not None for system in systems):
        for table in _tables(case.original, probe.side):
            spaces[f"rows of {table}"] = lambda system, table=table: (system.parameters or {})[table]
    if all(system.branches is not None for system in systems) and len(case.original.branches or {}) > 1:
        for branch in sorted(case.original.branches or {}):
            spaces[f"branch {branch}"] = lambda system, branch=branch: (system.branches or {})[branch][side]
    return [_measure(case, probe, cases, name, vectors) for name, vectors in spaces.items()]


def _tables(system: System, side: str) -> list[str]:
    """The trained tables of a side: one row of free values for each user or item."""
    tables = system.anatomy.tables if system.anatomy is not None else {}
    return sorted(name for name, axis in tables.items() if axis == side)


RESIDUE = Attack(NAME, PAPER, measure)
