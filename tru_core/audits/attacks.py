"""Every attack by name, and all of them at once. A new one is one file and one line here."""

from collections.abc import Mapping

from tru_core.audits.base import Attack, AuditCase, Verdict
from tru_core.audits.branch_probe import BRANCH_PROBE
from tru_core.audits.exposure import EXPOSURE
from tru_core.audits.forget_ranks import FORGET_RANKS
from tru_core.audits.membership_lira import MEMBERSHIP_LIRA
from tru_core.audits.membership_lists import MEMBERSHIP_LISTS
from tru_core.audits.membership_retained import MEMBERSHIP_RETAINED
from tru_core.audits.neighbours import NEIGHBOURS
from tru_core.audits.optimizer_state import OPTIMIZER_STATE
from tru_core.audits.relearning import RELEARNING
from tru_core.audits.residue import RESIDUE
from tru_core.audits.verdict import judge

ATTACKS: dict[str, Attack] = {
    attack.name: attack
    for attack in (
        OPTIMIZER_STATE,
        FORGET_RANKS,
        RESIDUE,
        BRANCH_PROBE,
        MEMBERSHIP_LISTS,
        MEMBERSHIP_LIRA,
        RELEARNING,
        MEMBERSHIP_RETAINED,
        EXPOSURE,
        NEIGHBOURS,
    )
}


def audit(case: AuditCase, attacks: Mapping[str, Attack] = ATTACKS) -> Verdict:
    """Run every attack that applies and judge what they measured.

    Raises:
        DataError: As :func:`~tru_core.audits.verdict.judge` does.
    """
    measurements = [found for attack in attacks.values() for found in attack.measure(case)]
    return judge(measurements, num_retrains=len(case.retrains), num_shadows=len(case.shadows))
