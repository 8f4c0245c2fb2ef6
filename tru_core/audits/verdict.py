"""Judge measurements by equivalence: the candidate must lie where Retrain lies, within what a seed moves.

"Not significantly different" is never a pass (reliability requirement A2): an attack that would not have seen the
Original either is inconclusive. The margin is a Student-t prediction interval for one more Retrain. What a seed moves
is pooled from the Retrains themselves, from shadow models on subjects that they never saw, and, with the weight of
``_PRIOR_DEGREES`` further Retrains, from how much single subjects differ between Retrains and the floor of the
statistic: three numbers that happen to lie close together are no proof of a narrow band. (Measured, MGCN on TikTok:
seeds move the residue by 0.02, of which subjects one by one make 0.003; the rest moves all alike.)

The chance of a false alarm is shared by all that bear the verdict.
"""

import math
from collections.abc import Sequence

import numpy as np

from tru_core.audits.base import Aspect, Finding, Measurement, Reference, Result, Verdict
from tru_core.errors import DataError
from tru_core.student import student_quantile

FALSE_ALARMS = 0.05
"""Chance that a Retrain with another seed fails any of the statistics together."""
MIN_RETRAINS = 3
NEVER_SEEN_FLOOR = 0.08
"""Smallest margin around the never seen: Retrain itself lies up to 0.065 from that level (MGCN and MIG-GT, TikTok)."""
_PRIOR_DEGREES = 4.0
_POWER_QUANTILE = 1.2816  # of the normal distribution, for 90 %
_TWO_SIDED = ("subject", "shared")
_MEANT: dict[Aspect, str] = {"subject": "the subjects themselves", "shared": "what is shared"}


def _spread(measurement: Measurement, references: Sequence[float]) -> tuple[float, float]:
    """Give what a seed moves the statistic by, and the degrees of freedom behind it.

    Shadow models may have been trained shorter than Retrains: only how they scatter around their own mean counts.
    """
    squares, degrees = 0.0, 0.0
    for group in (references, measurement.deviations):
        if len(group) > 1:
            squares += float(np.square(np.asarray(group) - np.mean(group)).sum())
            degrees += len(group) - 1.0
    # What a seed does to subjects one by one, and what it does to the whole space, which only seeds themselves show.
    prior = _PRIOR_DEGREES * (measurement.seed_error**2 + measurement.floor**2)
    return math.sqrt((squares + prior) / (degrees + _PRIOR_DEGREES)), degrees + _PRIOR_DEGREES


def _margin(measurement: Measurement, references: Sequence[float], chance: float) -> tuple[float, float]:
    """Give the margin around the references' mean, and what a seed moves."""
    spread, degrees = _spread(measurement, references)
    wide = spread * math.sqrt(1.0 + 1.0 / len(references))
    return max(measurement.floor, student_quantile(1.0 - chance / 2, degrees) * wide), wide


def _negative_control(measurement: Measurement, chance: float) -> bool | None:
    """Say whether each Retrain lies where the others say; None where that leaves fewer than two others."""
    references = measurement.references
    if len(references) < MIN_RETRAINS:
        return None
    for place, own in enumerate(references):
        others = references[:place] + references[place + 1 :]
        if abs(own - float(np.mean(others))) > _margin(measurement, others, chance)[0]:
            return False
    return True


def _against(measurement: Measurement, reference: Reference, chance: float) -> tuple[float, float, float] | None:
    """Give the reference's value, the margin around it and its spread; None where there is no such reference."""
    if reference == "retrain":
        return float(np.mean(measurement.references)), *_margin(measurement, measurement.references, chance)
    if measurement.never_seen is None:
        return None
    spread = measurement.never_seen_error
    quantile = student_quantile(1.0 - chance / 2, 1e3)
    return measurement.never_seen, max(measurement.floor, NEVER_SEEN_FLOOR, quantile * spread), spread


def _one_sided(measurement: Measurement, reference: Reference, chance: float) -> tuple[float, float]:
    """Give the Original's value and how far above it still is no harm: the floor, or what Retrains do by right."""
    before = measurement.original or 0.0
    if reference != "retrain":
        return before, max(measurement.floor, student_quantile(1.0 - chance, 1e3) * measurement.error)
    centre, (margin, _) = float(np.mean(measurement.references)), _margin(measurement, measurement.references, chance)
    return before, max(measurement.floor, centre + margin - before)


def _find(measurement: Measurement, reference: Reference, chance: float) -> Finding:
    """Judge one measurement."""
    m, centre, margin, effect = measurement, None, None, None
    unseen_share = None
    positive, negative = None, _negative_control(m, chance) if reference == "retrain" else None
    verdict, reason = "reported", "For the reader; it bears no verdict."
    if m.aspect == "exact":
        verdict = "passed" if m.value == 0 else "failed"
        positive = None if m.original is None else m.original > 0
        reason = "Nothing was found." if m.value == 0 else f"{m.value:g} were found; there must be none."
        centre, margin = 0.0, 0.0
    elif m.aspect == "retained":
        centre, margin = _one_sided(m, reference, chance)
        verdict = "passed" if m.value <= centre + margin else "failed"
        reason = f"{m.value:.3f}, against {centre:.3f} before the deletion; {margin:.3f} more was allowed."
    elif m.aspect == "reported":
        centre = float(np.mean(m.references)) if m.references else m.never_seen
        negative = None
    elif (against := _against(m, reference, chance)) is None:
        verdict, reason = "inconclusive", "Only a Retrain can tell what is fair here, and there is none."
    else:
        centre, margin, spread = against
        effect = margin + _POWER_QUANTILE * spread
        positive = m.original is not None and abs(m.original - centre) > margin
        unseen_share = min(1.0, _share(m, centre, margin))
        verdict, reason = _two_sided(m, centre, margin, positive=positive, negative=negative)
    return Finding(
        attack=m.attack,
        paper=m.paper,
        statistic=m.statistic,
        aspect=m.aspect,
        value=m.value,
        low=m.value - 1.96 * m.error,
        high=m.value + 1.96 * m.error,
        original=m.original,
        reference=reference,
        reference_value=centre,
        num_references=len(m.references),
        reference_low=min(m.references, default=None),
        reference_high=max(m.references, default=None),
        margin=margin,
        smallest_effect=effect,
        unseen_share=unseen_share,
        positive_control=positive,
        negative_control=negative,
        num_cases=m.num_cases,
        is_optimised=m.is_optimised,
        verdict=verdict,
        reason=reason,
        shows_not=m.shows_not,
        details=m.details,
    )


def _share(m: Measurement, centre: float, margin: float) -> float:
    """What part of the Original's distance from the reference the margin is."""
    return margin / max(abs((m.original or 0.0) - centre), 1e-12)


def _two_sided(
    m: Measurement, centre: float, margin: float, *, positive: bool, negative: bool | None
) -> tuple[Result, str]:
    """Judge a statistic that must lie neither above nor below its reference."""
    if negative is False:
        return "inconclusive", "A Retrain itself lies outside what the other Retrains say: the attack tells nothing."
    gap = m.value - centre
    if not positive and abs(gap) <= margin:
        return "inconclusive", f"The Original itself lies within the margin of {margin:.3f}: the attack tells nothing."
    if abs(gap) <= margin:
        share = f"Less than {_share(m, centre, margin):.0%} of what the Original shows could have stayed unseen."
        return "passed", f"{abs(gap):.3f} from the reference, within {margin:.3f}. {share}"
    side = "above" if gap > 0 else "below"
    return "failed", f"{abs(gap):.3f} {side} the reference, more than the margin of {margin:.3f}."


def _overall(findings: Sequence[Finding]) -> tuple[Result, str]:
    failed = [finding for finding in findings if finding.verdict == "failed"]
    if failed:
        names = ", ".join(sorted({finding.attack for finding in failed}))
        return "failed", f"{len(failed)} of {len(findings)} findings failed ({names})."
    silent = [
        _MEANT[aspect]
        for aspect in _TWO_SIDED
        if not any(f.aspect == aspect and f.verdict == "passed" and not f.is_optimised for f in findings)
    ]
    if silent:
        return "inconclusive", (
            f"No attack that the method did not optimise could tell anything about {' or '.join(silent)}. That is no "
            "pass. Train more Retrains or shadow models, or retrain."
        )
    passed = sum(finding.verdict == "passed" for finding in findings)
    return "passed", f"{passed} findings passed and none failed; each attack among them sees the Original."


def judge(measurements: Sequence[Measurement], *, num_retrains: int, num_shadows: int) -> Verdict:
    """Turn measurements into findings and one verdict.

    With :data:`MIN_RETRAINS` Retrains or more the reference is Retrain; with none it is what the model never saw.

    Raises:
        DataError: If there are Retrains but too few for a band, or a measurement is not finite.
    """
    if 0 < num_retrains < MIN_RETRAINS:
        raise DataError(
            f"audit: {num_retrains} Retrains give no band; at least {MIN_RETRAINS} are needed. Nothing was judged. "
            "Train more, or give none for the weaker verdict against the never seen."
        )
    for m in measurements:
        if not np.isfinite([m.value, m.error, *m.references]).all() or not np.isfinite(m.original or 0.0):
            raise DataError(f"audit: attack {m.attack} measured a number that is not finite ({m.statistic})")
    reference: Reference = "retrain" if num_retrains else "never_seen"
    bearing = [m for m in measurements if m.aspect in (*_TWO_SIDED, "retained")]
    chance = FALSE_ALARMS / max(1, len(bearing))
    findings = tuple(_find(m, reference, chance) for m in measurements)
    verdict, reason = _overall(findings)
    return Verdict(verdict, reference, reason, findings, num_retrains=num_retrains, num_shadows=num_shadows)
