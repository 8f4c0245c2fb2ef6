"""Linear probe on pairs of each branch (Alain and Bengio, arXiv:1610.01644): memory that no single angle shows.

The residue asks whether the cosine of two vectors tells what forgotten users had together, and the ranks whether the
inner product tells who had what. A probe may weigh the columns as it likes: it learns on half of the forgotten pairs,
against random pairs of the same rows, and is asked about the other half. So it looks where a method that levelled one
number may have left another. From its AUC on forgotten pairs goes its AUC on held-out pairs, which no model saw.
Ridge regression in closed form around equal weights: with nothing to learn it is the cosine or the inner product.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from tru_core.audits.base import Aspect, Attack, AuditCase, Measurement, System
from tru_core.audits.forget_ranks import held_out_pairs
from tru_core.audits.pair_ranks import popular_alike
from tru_core.audits.residue import OUTPUT, pair_rows, spaces_of, unseen_pairs
from tru_core.audits.shadows import subjects_of, unseen_by_shadows
from tru_core.audits.statistics import Cases, FloatArray, clustered_error, compare, placements
from tru_core.hashing import hash_below, text_key
from tru_core.interactions import IntArray, Pairs
from tru_core.measures.residue import Contrast, make_probe

NAME = "branch_probe"
PAPER = "Alain and Bengio, arXiv:1610.01644"
MIN_PAIRS = 40
_FOLDS = 2


@dataclass(frozen=True)
class Question:
    """Pairs to tell apart, as rows of two tables of vectors.

    Attributes:
        found, random, held_out: int64 [pair, 2]: forgotten pairs, random pairs of the same rows, held-out pairs.
        held_random: int64 [pair, 2], what the held-out pairs are told from.
    """

    found: IntArray
    random: IntArray
    held_out: IntArray
    held_random: IntArray


def _products(first: Tensor, second: Tensor, pairs: IntArray) -> Float[Tensor, "pair column"]:
    return first[torch.from_numpy(pairs[:, 0])] * second[torch.from_numpy(pairs[:, 1])]


def _weights(found: Float[Tensor, "pair column"], random: Float[Tensor, "other column"]) -> Float[Tensor, " column"]:
    """Fit labels by equal weights and, penalised strongly, as most of what they explain is chance, by single ones."""
    examples = torch.cat([found, random])
    labels = torch.cat([examples.new_ones(len(found)), examples.new_zeros(len(random))])
    centred = examples - examples.mean(dim=0)
    columns = torch.cat([centred, centred.sum(dim=1, keepdim=True)], dim=1) / centred.square().mean().sqrt().clamp_min(
        1e-12
    )
    size = columns.shape[1]
    penalty = columns.new_full((size,), len(columns) ** 0.5 * size)
    penalty[-1] = 1e-3
    solved = torch.linalg.solve(columns.T @ columns + penalty.diag(), columns.T @ (labels - labels.mean()))
    return solved[:-1] + solved[-1]


def probe_scores(first: Tensor, second: Tensor, question: Question, *, seed: int) -> tuple[FloatArray, FloatArray]:
    """Let the probe of either half of the pairs judge the other half, and the held-out pairs.

    Args:
        first, second: (row, column), the vectors of a pair's first and second row.

    Returns:
        The share of random pairs that each forgotten pair and each held-out pair is above. Their means are the AUCs.
    """
    sets = (question.found, question.random, question.held_out, question.held_random)
    products = [_products(first.double(), second.double(), pairs) for pairs in sets]
    folds = [hash_below(_FOLDS, seed, text_key("probe-fold"), pairs[:, 0], pairs[:, 1]) for pairs in sets]
    scores, held = np.full(len(question.found), 0.5), np.full(len(question.held_out), 0.5)
    for fold in range(_FOLDS):
        taught = [torch.from_numpy(np.flatnonzero(own != fold)) for own in folds[:2]]
        if not len(taught[0]) or not len(taught[1]):
            continue
        weights = _weights(products[0][taught[0]], products[1][taught[1]])
        odds = [(own @ weights).numpy() for own in products]
        asked = [own == fold for own in folds]
        scores[asked[0]] = placements(odds[0][asked[0]], odds[1][asked[1]])
        held[asked[2]] = placements(odds[2][asked[2]], odds[3][asked[3]])
    return scores, held


def _measure(
    case: AuditCase, cases: Cases, question: Question, words: str, aspect: Aspect, vectors: tuple
) -> Measurement:
    """Measure one space.

    Args:
        vectors: What gives the vectors of the first rows and of the second rows of a system.
    """

    def both(system: System) -> tuple[FloatArray, FloatArray]:
        first, second = (functional.normalize(of(system).double(), dim=1) for of in vectors)
        return probe_scores(first, second, question, seed=case.seed)

    def scores(system: System) -> FloatArray:
        found, held = both(system)
        return found - (held.mean() if len(held) else 0.5)

    fields = compare(case, cases, scores)
    found, held = both(case.candidate)
    error = float(np.hypot(fields["error"], clustered_error(held, question.held_out)))
    return Measurement(
        attack=NAME,
        paper=PAPER,
        statistic=f"AUC of a probe for {words}, above that for held-out pairs",
        aspect=aspect,
        never_seen=0.0,
        never_seen_error=error,
        shows_not="It is linear in products of columns; what takes a deeper probe to read it does not see.",
        details={"auc": float(found.mean()), "auc_held_out": float(held.mean()) if len(held) else 0.5},
        **(fields | {"error": error}),
    )


def _company(case: AuditCase) -> list[Measurement]:
    """Probe pairs of rows that only the forgotten brought together."""
    probe = make_probe(case.problem, seed=case.seed)
    contrast, held_out = probe.forgotten, probe.held_out
    if min(len(contrast.pairs), len(contrast.random)) < MIN_PAIRS:
        return []

    def rows(of: Contrast | None) -> tuple[IntArray, IntArray]:
        nothing = np.zeros((0, 2), dtype=np.int64)
        return (nothing, nothing) if of is None else (pair_rows(of.pairs), pair_rows(of.random))

    cases = Cases(clusters=pair_rows(contrast.pairs), unseen=unseen_pairs(case, probe))
    question = Question(*rows(contrast), *rows(held_out))
    return [
        _measure(
            case,
            cases,
            question,
            f"{probe.side}s that only the forgotten brought together, {name}",
            "shared" if name == OUTPUT else "reported",
            (vectors, vectors),
        )
        for name, vectors in spaces_of(case, 1 if probe.side == "item" else 0).items()
        if not name.startswith("rows")
    ]


def _interactions(case: AuditCase) -> list[Measurement]:
    """Probe single forgotten interactions of users who stay, against items as popular."""
    problem = case.problem
    if len(problem.forget) < MIN_PAIRS or not len(problem.request.pair_users):
        return []

    def rows(pairs: Pairs) -> tuple[IntArray, IntArray]:
        users, items = popular_alike(pairs, case)
        return np.stack([pairs.users, pairs.items], axis=1), np.stack([users, items], axis=1)

    cases = Cases(clusters=subjects_of(problem), unseen=unseen_by_shadows(case))
    question = Question(*rows(problem.forget), *rows(held_out_pairs(case)))
    outputs = (lambda system: system.users, lambda system: system.items)
    return [_measure(case, cases, question, "forgotten interactions, output vectors", "subject", outputs)]


def measure(case: AuditCase) -> list[Measurement]:
    """Probe output vectors, which bears a verdict, and each branch, which is reported."""
    return _company(case) + _interactions(case)


BRANCH_PROBE = Attack(NAME, PAPER, measure)
