"""Linear probe on pairs of each branch (Alain and Bengio, arXiv:1610.01644): memory that no single angle shows.

The residue asks whether the cosine of two vectors tells what forgotten users had together. A probe may weigh the
columns as it likes: it learns on half of the pairs which products of columns belong to pairs that only the forgotten
brought together, and is asked about the other half. So it looks where a method that levelled the cosine may have
left something. Ridge regression in closed form around equal weights: with nothing to learn it is the cosine.
"""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from tru_core.audits.base import Attack, AuditCase, Measurement, System
from tru_core.audits.residue import pair_rows, unseen_pairs
from tru_core.audits.statistics import Cases, FloatArray, compare, placements
from tru_core.hashing import hash_below, text_key
from tru_core.interactions import IntArray
from tru_core.unlearning.residue import Contrast, RowPairs, make_probe

NAME = "branch_probe"
PAPER = "Alain and Bengio, arXiv:1610.01644"
MIN_PAIRS = 40
_FOLDS = 2
_OUTPUT = "output vectors"


def _products(vectors: Float[Tensor, "row column"], pairs: RowPairs) -> Float[Tensor, "pair column"]:
    first, second = (vectors[torch.from_numpy(rows)] for rows in (pairs.first, pairs.second))
    return first * second


def _folds(pairs: RowPairs, seed: int) -> IntArray:
    return hash_below(_FOLDS, seed, text_key("probe-fold"), pairs.first, pairs.second)


def probe_scores(vectors: Float[Tensor, "row column"], contrast: Contrast, *, seed: int) -> FloatArray:
    """Give for each pair the share of random pairs that the probe of the other half finds less likely; mean: AUC."""
    unit = functional.normalize(vectors.double(), dim=1)
    found, random = _products(unit, contrast.pairs), _products(unit, contrast.random)
    own, other = _folds(contrast.pairs, seed), _folds(contrast.random, seed)
    scores = np.full(len(found), 0.5)
    for fold in range(_FOLDS):
        taught, taught_random = (torch.from_numpy(np.flatnonzero(of != fold)) for of in (own, other))
        examples = torch.cat([found[taught], random[taught_random]])
        labels = torch.cat([torch.ones(len(taught)), torch.zeros(len(taught_random))]).double()
        if not len(taught) or not len(taught_random):
            continue
        centred = examples - examples.mean(dim=0)
        scale = centred.square().mean().sqrt().clamp_min(1e-12)
        columns = torch.cat([centred / scale, centred.sum(dim=1, keepdim=True) / scale], dim=1)
        weights = torch.linalg.solve(columns.T @ columns + _penalty(columns), columns.T @ (labels - labels.mean()))
        total = weights[:-1] + weights[-1]
        asked, asked_random = np.flatnonzero(own == fold), np.flatnonzero(other == fold)
        odds, odds_random = ((products @ total).numpy() for products in (found, random))
        scores[asked] = placements(odds[asked], odds_random[asked_random])
    return scores


def _penalty(columns: Float[Tensor, "pair column"]) -> Float[Tensor, "column column"]:
    """Penalise single columns strongly, as most of what they would explain is chance, and their sum hardly."""
    size = columns.shape[1]
    strength = torch.full((size,), float(np.sqrt(len(columns)) * size), dtype=columns.dtype)
    strength[-1] = 1e-3
    return torch.diag(strength)


def measure(case: AuditCase) -> list[Measurement]:
    """Probe the output vectors, which bears a verdict, and each branch, which is reported."""
    probe = make_probe(case.problem, seed=case.seed, held_out=False)
    contrast, side = probe.forgotten, 1 if probe.side == "item" else 0
    if min(len(contrast.pairs), len(contrast.random)) < MIN_PAIRS:
        return []
    names = [_OUTPUT]
    systems = (case.original, case.candidate, *case.retrains, *(shadow.system for shadow in case.shadows))
    if all(system.branches is not None for system in systems):
        names += sorted(case.original.branches or {})
    cases = Cases(clusters=pair_rows(contrast.pairs), unseen=unseen_pairs(case, probe))

    def vectors(system: System, name: str) -> Tensor:
        return (system.users, system.items)[side] if name == _OUTPUT else (system.branches or {})[name][side]

    def scores(system: System, name: str) -> FloatArray:
        return probe_scores(vectors(system, name), contrast, seed=case.seed)

    return [
        Measurement(
            attack=NAME,
            paper=PAPER,
            statistic=f"AUC of a probe for pairs of {probe.side}s that only the forgotten brought together, {name}",
            aspect="shared" if name == _OUTPUT else "reported",
            shows_not="It is linear in products of columns; what takes a deeper probe to read it does not see.",
            **compare(
                case, cases, lambda system, name=name: probe_scores(vectors(system, name), contrast, seed=case.seed)
            ),
        )
        for name in names
    ]


BRANCH_PROBE = Attack(NAME, PAPER, measure)
