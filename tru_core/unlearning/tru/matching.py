"""Matched losses: bring what is to be forgotten to the level of what was never seen, and no further.

Ascent on a training loss has no end, and what it pushes below the never seen is as visible as what stays above.
So the reverse update here has a target: each value of a forgotten pair is drawn to the value of the reference pairs
at the same rank, from either side. The loss is zero, and its gradient too, once both have the same distribution.
Measured by us before it was built; not in the paper. Pairs are compared within strata, because a popular item is
recommended more, seen or not.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from tru_core.collective import Collective, all_sum_number


@dataclass(frozen=True)
class Values:
    """Values of this worker's pairs, their strata, and how much each counts.

    Attributes:
        values: float [pair].
        strata: int64 [pair].
        weights: float [pair], positive.
    """

    values: Float[Tensor, " pair"]
    strata: Int64[Tensor, " pair"]
    weights: Float[Tensor, " pair"]


def _gathered(own: Values, collective: Collective) -> Values:
    if collective.world_size == 1:
        return Values(own.values.detach(), own.strata, own.weights)
    parts = (own.values.detach(), own.strata, own.weights)
    return Values(*(torch.cat(collective.all_gather(part)) for part in parts))


def _sorted(values: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Sort by value, then by weight: the same order whichever worker's values stood first."""
    order = weights.argsort(stable=True)
    order = order[values[order].argsort(stable=True)]
    return values[order], weights[order]


def _interpolated(at: Tensor, points: Tensor, values: Tensor) -> Tensor:
    """Linear interpolation of ``values`` given at ascending ``points``, constant beyond both ends."""
    right = torch.searchsorted(points, at).clamp(1, max(1, len(points) - 1))
    if len(points) == 1:
        return values.expand(len(at))
    low, high = points[right - 1], points[right]
    share = ((at - low) / (high - low).clamp_min(1e-30)).clamp(0.0, 1.0)
    return values[right - 1] + share * (values[right] - values[right - 1])


def matched_targets(found: Values, reference: Values, collective: Collective) -> Float[Tensor, " pair"]:
    """Give each found value the reference's quantile at its rank, within its stratum, over all workers.

    A value in a stratum without references is its own target. No gradient.
    """
    everyone, known = _gathered(found, collective), _gathered(reference, collective)
    targets = found.values.detach().clone()
    for stratum in torch.unique(everyone.strata).tolist():
        own, of, to = (part.strata == stratum for part in (found, everyone, known))
        if not own.any() or not to.any():
            continue
        values, weights = _sorted(everyone.values[of], everyone.weights[of])
        total = weights.cumsum(0)
        # A value's rank is the middle of its part of the cumulative weight; equal values share one part.
        mine = found.values.detach()[own].contiguous()
        first = torch.searchsorted(values, mine, side="left")
        last = torch.searchsorted(values, mine, side="right") - 1
        rank = (total[last] - (total[last] - total[first] + weights[first]) / 2) / total[-1]
        quantiles, weights = _sorted(known.values[to], known.weights[to])
        total = weights.cumsum(0)
        points = (total - weights / 2) / total[-1]
        targets[own] = _interpolated(rank, points, quantiles)
    return targets


def matched_distance(found: Values, reference: Values, collective: Collective) -> Float[Tensor, ""]:
    """Give this worker's share of the weighted mean squared distance of found values from their targets.

    The squared 2-Wasserstein distance between the two distributions, within strata: at least 0, and 0 only where the
    found lie neither above nor below the reference. Differentiable in the found values; shares add up over workers.
    """
    targets = matched_targets(found, reference, collective)
    total = all_sum_number(float(found.weights.sum()), collective)
    return ((found.values - targets).square() * found.weights).sum() / max(total, 1e-30)


def chance_noise(count: float) -> float:
    """Deviation by chance alone of :func:`chance_above` for so many found values (at least one) like the reference."""
    return (12.0 * max(count, 1.0)) ** -0.5


def chance_above(found: Values, reference: Values, collective: Collective) -> float:
    """Chance that a found value lies above a reference of its stratum, ties half; 0.5 where nothing compares.

    The AUC within strata, weighted by the found values' weights: above 0.5 the forgotten is still known, below it
    it is pushed further down than the never seen.
    """
    everyone, known = _gathered(found, collective), _gathered(reference, collective)
    wins, total = 0.0, 0.0
    for stratum in torch.unique(everyone.strata).tolist():
        of, to = everyone.strata == stratum, known.strata == stratum
        if not to.any():
            continue
        order = known.values[to].argsort()
        values, weights = known.values[to][order], known.weights[to][order].double()
        before = torch.cat([weights.new_zeros(1), weights.cumsum(0)])
        mine, counts = everyone.values[of].contiguous(), everyone.weights[of].double()
        below = before[torch.searchsorted(values, mine, side="left")]
        up_to = before[torch.searchsorted(values, mine, side="right")]
        wins += float((counts * (below + up_to) / 2 / before[-1]).sum())
        total += float(counts.sum())
    return wins / total if total else 0.5
