"""Membership by likelihood ratio for each subject (LiRA, Carlini et al., arXiv:2112.03570; U-LiRA, arXiv:2403.01218).

Half of the shadow models were trained on a subject, half were not. For each subject its own statistic has a mean in
either half; the deviation is pooled over subjects, as LiRA does where shadow models are few. The log of the ratio says
which half a system looks like. Non-members are the same subjects in the shadow models that never saw them, each left
out of its own means: no stranger has to stand in for a person.

Two statistics of a user, which tell of different places: how alike the forgotten items are to each other (*history*:
only shared tables can tell) and where they rank for the user (*ranks*). For single interactions also the pair's rank.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch.nn import functional

from tru_core.audits.base import Aspect, Attack, AuditCase, Measurement, System
from tru_core.audits.pair_ranks import Ranked, pair_ranks, rank_among
from tru_core.audits.shadows import subjects_of
from tru_core.audits.statistics import Cases, FloatArray, Scores, compare, placements
from tru_core.interactions import IntArray

NAME = "membership_lira"
PAPER = "Carlini et al., arXiv:2112.03570; Hayes et al., arXiv:2403.01218"
MIN_SHADOWS = 8
_RATES = (0.01, 0.001)
_SHOWS_NOT = "It is as strong as its shadow models are many, and assumes that an attacker can train such models."


@dataclass(frozen=True)
class Calibration:
    """What the shadow models say of each subject.

    Attributes:
        values: float [shadow, case].
        members: bool [shadow, case].
    """

    values: FloatArray
    members: NDArray[np.bool_]

    def log_ratio(self, values: FloatArray, *, left_out: int | None = None) -> FloatArray:
        """Give for each case the log of how much more likely a value is for a member. float [case].

        Args:
            left_out: A shadow model that takes no part in the means.
        """
        kept = np.ones(self.members.shape, dtype=bool)
        if left_out is not None:
            kept[left_out] = False
        means, spreads = [], []
        for group in (self.members & kept, ~self.members & kept):
            count = np.maximum(group.sum(axis=0), 1)
            middle = (self.values * group).sum(axis=0) / count
            rests = ((self.values - middle) ** 2 * group).sum()
            spreads.append(rests / max(1.0, float(group.sum() - len(middle))) * (1.0 + 1.0 / count))
            means.append(middle)
        inside, outside = ((values - m) ** 2 / np.maximum(s, 1e-12) for m, s in zip(means, spreads, strict=True))
        return (outside - inside + np.log(np.maximum(spreads[1], 1e-12) / np.maximum(spreads[0], 1e-12))) / 2


def _cosine_sums(unit: FloatArray, place: IntArray, partners: IntArray, num: int) -> tuple[FloatArray, FloatArray]:
    """Sum the cosines over all pairs of partners of each subject, and count these pairs. float [subject]."""
    sums = np.zeros((num, unit.shape[1]))
    np.add.at(sums, place, unit[partners])
    counts = np.bincount(place, minlength=num)
    return (sums**2).sum(axis=1) - counts, counts * (counts - 1.0)


def user_history(system: System, case: AuditCase) -> FloatArray:
    """How alike the items are that each subject brought together: mean cosine over pairs with a forgotten item in it.

    Of a deleted item it is the users whom it brought together. In deviations of the cosine between random rows, so
    that systems of another scale compare. A subject without such a pair gives 0.

    Returns:
        float [subject], in the order of the subjects' rows.
    """
    problem = case.problem
    subjects, train = subjects_of(problem), problem.shard.train
    order = np.unique(subjects)
    is_items = subjects is problem.forget.items
    vectors = system.users if is_items else system.items
    unit = functional.normalize(vectors.double(), dim=1).numpy()
    found = []
    for pairs in (train, problem.retain):
        owners = pairs.items if is_items else problem.shard.user_rows[pairs.users]
        own = np.isin(owners, order)
        partners = (pairs.users if is_items else pairs.items)[own]
        found.append(_cosine_sums(unit, np.searchsorted(order, owners[own]), partners, len(order)))
    sums, counts = found[0][0] - found[1][0], found[0][1] - found[1][1]
    middle, products = unit.mean(axis=0), unit.T @ unit / len(unit)
    spread = np.sqrt(max(float((products**2).sum()) - float(middle @ middle) ** 2, 1e-12))
    return np.where(counts > 0, (sums / np.maximum(counts, 1.0) - float(middle @ middle)) / spread, 0.0)


def user_ranks(system: System, ranked: Ranked, subjects: IntArray) -> FloatArray:
    """Mean rank of each subject's pairs. float [subject].

    Args:
        subjects: int64 [pair].
    """
    ranks = pair_ranks(system, ranked)
    _, place = np.unique(subjects, return_inverse=True)
    return np.bincount(place, weights=ranks) / np.bincount(place)


def _tails(candidate: FloatArray, null: FloatArray, worst: FloatArray) -> dict[str, float | int]:
    """Balanced accuracy, rates at few false positives where there are enough non-members, and the worst subjects."""
    details: dict[str, float | int] = {"num_non_members": len(null)}
    details["balanced_accuracy"] = float(((candidate > 0).mean() + (null <= 0).mean()) / 2)
    for rate in _RATES:
        if len(null) >= 10 / rate:
            details[f"tpr_at_{rate:g}_fpr"] = float((candidate > np.quantile(null, 1.0 - rate)).mean())
    top = np.sort(worst)[-max(1, -(-len(worst) // 100)) :]
    details["worst_1pct_member_probability"] = float((1.0 / (1.0 + np.exp(-np.clip(top, -50.0, 50.0)))).mean())
    return details


def _measure(
    case: AuditCase, name: str, aspect: Aspect, of: Scores, members: NDArray[np.bool_], clusters: IntArray
) -> Measurement:
    calibration = Calibration(np.stack([of(shadow.system) for shadow in case.shadows]), members)
    own = [calibration.log_ratio(calibration.values[k], left_out=k) for k in range(len(members))]
    null = np.concatenate([ratios[~inside] for ratios, inside in zip(own, members, strict=True)])

    def scores(system: System) -> FloatArray:
        return placements(calibration.log_ratio(of(system)), null)

    fields = compare(
        case,
        Cases(clusters=clusters, unseen=~members),
        scores,
        shadow_scores=[placements(ratios, null) for ratios in own],
    )
    candidate = calibration.log_ratio(of(case.candidate))
    return Measurement(
        attack=NAME,
        paper=PAPER,
        statistic=f"AUC of the likelihood ratio, {name}, against models that never saw them",
        aspect=aspect,
        never_seen=0.5,
        never_seen_error=fields["error"],
        shows_not=_SHOWS_NOT,
        details={"num_shadows": len(members)} | _tails(candidate, null, candidate),
        **fields,
    )


def measure(case: AuditCase) -> list[Measurement]:
    """Measure by user (or deleted item), and by interaction where the request names some."""
    if len(case.shadows) < MIN_SHADOWS or not len(case.problem.forget):
        return []
    by_pair = np.stack([shadow.members for shadow in case.shadows])
    subjects, ranked = subjects_of(case.problem), rank_among(case.problem.forget, case)
    order, first = np.unique(subjects, return_index=True)
    members = by_pair[:, first]
    found = [
        _measure(case, "users by their history", "shared", lambda s: user_history(s, case), members, order),
        _measure(case, "users by their ranks", "subject", lambda s: user_ranks(s, ranked, subjects), members, order),
    ]
    if len(case.problem.request.pair_users):
        found.append(_measure(case, "interactions", "subject", lambda s: pair_ranks(s, ranked), by_pair, subjects))
    return found


MEMBERSHIP_LIRA = Attack(NAME, PAPER, measure)
