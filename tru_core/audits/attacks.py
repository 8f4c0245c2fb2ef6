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
from tru_core.problem import Problem

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


GATE_ATTACKS: tuple[str, ...] = (
    "optimizer_state",
    "forget_ranks",
    "residue",
    "branch_probe",
    "membership_retained",
    "exposure",
)
"""What needs neither Retrain nor shadow models nor training: what can be asked every night."""


def optimised_by(method: str, problem: Problem) -> frozenset[str]:
    """Name the attacks whose statistic a method uses as its loss or its stop rule for a request.

    TRU levels what items tell of who had them together, and the ranks of forgotten pairs of users who stay; rows of
    whole deleted subjects it makes fresh and looks at no more.
    """
    if method != "tru":
        return frozenset()
    request = problem.request
    found = {"residue"} if len(request.users) or len(request.pair_users) else set()
    return frozenset(found | ({"forget_ranks"} if len(request.pair_users) else set()))


def audit(case: AuditCase, attacks: Mapping[str, Attack] = ATTACKS) -> Verdict:
    """Run every attack that applies and judge what they measured.

    Raises:
        DataError: As :func:`~tru_core.audits.verdict.judge` does.
    """
    measurements = [found for attack in attacks.values() for found in attack.measure(case)]
    return judge(measurements, num_retrains=len(case.retrains), num_shadows=len(case.shadows))
