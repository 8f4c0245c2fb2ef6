"""What the attacks share: means over subjects on every system alike, their errors, and Student's quantile.

Every statistic is a mean over *cases* (a pair, a user) of one number on one system. Cases of one subject hang together
and are one cluster. A seed moves each case; how far it moves the mean shows in Retrains, and in shadow models on the
subjects that they never saw.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tru_core.audits.base import AuditCase, System
from tru_core.interactions import IntArray

FloatArray = NDArray[np.float64]
Scores = Callable[[System], FloatArray]


def placements(values: FloatArray, others: FloatArray) -> FloatArray:
    """Give for each value the share of others that lie below it, ties half; 0.5 where there are none.

    Their mean is the AUC of the values against the others (the placement values of DeLong et al. 1988).
    """
    if not len(others):
        return np.full(len(values), 0.5)
    ordered = np.sort(others)
    below, up_to = np.searchsorted(ordered, values, side="left"), np.searchsorted(ordered, values, side="right")
    return (below + up_to) / (2.0 * len(others))


def clustered_error(values: FloatArray, clusters: IntArray) -> float:
    """Standard error of the mean of values whose clusters are independent. 0 for a single cluster.

    Args:
        clusters: int64 [value], any numbering; or [value, 2] for pairs of one kind of thing, where two values hang
            together if they share either (Aronow et al., Political Analysis 2015).
    """
    if len(values) < 2:
        return 0.0
    rests, columns = values - values.mean(), clusters.reshape(len(values), -1)
    _, place = np.unique(columns, return_inverse=True)
    place = place.reshape(columns.shape)
    sums = sum(np.bincount(column, weights=rests, minlength=place.max() + 1) for column in place.T)
    count = int(place.max()) + 1
    squares = float((np.asarray(sums) ** 2).sum())
    if columns.shape[1] == 2:
        squares = max(squares - float((rests**2).sum()), float((rests**2).sum()))
    return float(np.sqrt(squares * count / (count - 1)) / len(values)) if count > 1 else 0.0


@dataclass(frozen=True)
class Cases:
    """What a statistic is the mean over.

    Attributes:
        clusters: int64 [case], the subject behind each; or [case, 2], the two rows of a pair.
        unseen: bool [shadow, case], whether each shadow model never saw it.
    """

    clusters: IntArray
    unseen: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.clusters)


def _seed_error(references: list[FloatArray], clusters: IntArray) -> float:
    """Pool the clustered errors of each reference's difference from the others' mean, scaled to one reference's."""
    count = len(references)
    if count < 2:
        return 0.0
    total = np.sum(references, axis=0)
    errors = [clustered_error(own - (total - own) / (count - 1), clusters) for own in references]
    return float(np.sqrt(np.mean(np.square(errors)) * (count - 1) / count))


def _to_all_cases(deviations: list[float], seed_error: float, unseen: NDArray[np.bool_]) -> tuple[float, ...]:
    """Shrink shadow models' deviations, which are means over some of the cases, to the scatter of means over all.

    What a seed does to each case alone scatters more in a mean over fewer; what it does to all alike does not.
    """
    if len(deviations) < 2:
        return tuple(deviations)
    share = float(unseen.mean())
    scatter = float(np.var(deviations, ddof=1))
    own = max(scatter - seed_error**2 * (1.0 / share - 1.0), scatter * share)
    return tuple((np.asarray(deviations) * np.sqrt(own / max(scatter, 1e-30))).tolist())


def compare(case: AuditCase, cases: Cases, scores: Scores, *, shadow_scores: list[FloatArray] | None = None) -> Any:
    """Take the mean over cases on every system: the fields of a :class:`~tru_core.audits.base.Measurement`.

    Args:
        scores: Gives float [case] of a system.
        shadow_scores: What to take for each shadow model instead, where it helped to make ``scores``.

    Returns:
        A dict of value, original, references, deviations, error, seed_error and num_cases.
    """
    candidate, original = scores(case.candidate), scores(case.original)
    references = [scores(system) for system in case.retrains]
    deviations = []
    if references:
        middle = np.mean(references, axis=0)
        found = [scores(shadow.system) for shadow in case.shadows] if shadow_scores is None else shadow_scores
        for own, unseen in zip(found, cases.unseen, strict=True):
            if unseen.any():
                deviations.append(float((own - middle)[unseen].mean()))
    seed_error = _seed_error(references, cases.clusters)
    return {
        "value": float(candidate.mean()),
        "original": float(original.mean()),
        "references": tuple(float(own.mean()) for own in references),
        "deviations": _to_all_cases(deviations, seed_error, cases.unseen),
        "error": clustered_error(candidate, cases.clusters),
        "seed_error": seed_error,
        "num_cases": len(cases),
    }
