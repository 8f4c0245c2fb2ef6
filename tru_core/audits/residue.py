"""Co-consumption residue: does the item space still tell which items forgotten users had together? (own measure).

Pairs of items that somebody had together only in what is forgotten, against random pairs of the same items: the AUC of
the cosine of their vectors. From it goes the same AUC of pairs that somebody had together only in held-out data: how
alike such items are without any memory depends on how long a model was trained, and that is no residue. Asked of
output vectors, of the table of rows and of each branch, with the auditor's own draw of pairs. For deleted items it is
asked of pairs of users whom only these items connect. Above a Retrain the pair is remembered, below it it was pushed
apart: both tell.
"""

from collections.abc import Callable

import numpy as np
from torch import Tensor

from tru_core.audits.base import Attack, AuditCase, Measurement, System
from tru_core.audits.shadows import shadow_train_pairs
from tru_core.audits.statistics import Cases, FloatArray, clustered_error, compare, placements
from tru_core.interactions import IntArray, Pairs
from tru_core.measures.residue import NUM_STRATA, Contrast, ResidueProbe, RowPairs, cosines, had_together, make_probe

NAME = "residue"
PAPER = "measured by this project; no published source"
OUTPUT = "output vectors"
_STRATA = ("0", "1_to_3", "4_or_more")
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


def held_out_level(vectors: Tensor, contrast: Contrast, held_out: Contrast | None) -> tuple[FloatArray, float]:
    """Give for each pair the AUC of the held-out pairs of its stratum, and the error of the mean of these.

    0.5 where there is no such held-out pair.
    """
    level, variance = np.full(len(contrast.pairs), 0.5), 0.0
    if held_out is None or not len(held_out.pairs):
        return level, 0.0
    held, rows = contrast_scores(vectors, held_out), pair_rows(held_out.pairs)
    for stratum in range(NUM_STRATA):
        own, other = contrast.strata == stratum, held_out.strata == stratum
        if own.any() and other.any():
            level[own] = held[other].mean()
            variance += (own.mean() * clustered_error(held[other], rows[other])) ** 2
    return level, float(np.sqrt(variance))


def _measure(case: AuditCase, probe: ResidueProbe, cases: Cases, name: str, vectors: Vectors) -> Measurement:
    """Measure one space."""
    contrast, held_out = probe.forgotten, probe.held_out

    def scores(system: System) -> FloatArray:
        return contrast_scores(vectors(system), contrast) - held_out_level(vectors(system), contrast, held_out)[0]

    fields = compare(case, cases, scores)
    raw = contrast_scores(vectors(case.candidate), contrast)
    error = float(np.hypot(fields["error"], held_out_level(vectors(case.candidate), contrast, held_out)[1]))
    details = {"auc": float(raw.mean()), "auc_held_out": float(raw.mean()) - fields["value"]}
    for stratum, words in enumerate(_STRATA):
        own = contrast.strata == stratum
        if own.any():
            details[f"auc_rarer_with_{words}_retained"] = float(raw[own].mean())
            details[f"pairs_rarer_with_{words}_retained"] = int(own.sum())
    return Measurement(
        attack=NAME,
        paper=PAPER,
        statistic=f"AUC of {probe.side}s that only the forgotten brought together, above held-out pairs', {name}",
        aspect="reported" if name.startswith("branch") else "shared",
        never_seen=0.0,
        never_seen_error=error,
        is_optimised=NAME in case.optimised,
        shows_not="It sees what lies in the angle between two vectors; a memory in another form it does not see.",
        details=details,
        **(fields | {"error": error}),
    )


def spaces_of(case: AuditCase, side: int) -> dict[str, Vectors]:
    """What vectors of a side there are to ask about on every system: outputs, rows of tables, branches.

    Args:
        side: 0 users, 1 items.
    """
    found: dict[str, Vectors] = {OUTPUT: lambda system: (system.users, system.items)[side]}
    systems = (case.original, case.candidate, *case.retrains, *(shadow.system for shadow in case.shadows))
    if all(system.parameters is not None and system.anatomy is not None for system in systems):
        for table in _tables(case.original, ("user", "item")[side]):
            found[f"rows of {table}"] = lambda system, table=table: (system.parameters or {})[table]
    if all(system.branches is not None for system in systems) and len(case.original.branches or {}) > 1:
        for branch in sorted(case.original.branches or {}):
            found[f"branch {branch}"] = lambda system, branch=branch: (system.branches or {})[branch][side]
    return found


def measure(case: AuditCase) -> list[Measurement]:
    """Measure output vectors, the rows of the side's tables, and each branch."""
    probe = make_probe(case.problem, seed=case.seed)
    if not len(probe.forgotten.pairs) or not len(probe.forgotten.random):
        return []
    cases = Cases(clusters=pair_rows(probe.forgotten.pairs), unseen=unseen_pairs(case, probe))
    spaces = spaces_of(case, 1 if probe.side == "item" else 0)
    return [_measure(case, probe, cases, name, vectors) for name, vectors in spaces.items()]


def _tables(system: System, side: str) -> list[str]:
    """The trained tables of a side: one row of free values for each user or item."""
    tables = system.anatomy.tables if system.anatomy is not None else {}
    return sorted(name for name, axis in tables.items() if axis == side)


RESIDUE = Attack(NAME, PAPER, measure)
