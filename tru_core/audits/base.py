"""What every audit is given and what it hands back: systems to compare, measurements, findings, a verdict.

An attack measures one statistic or several on every system of a case alike: on the candidate, on the Original (which
must look guilty, or the attack sees nothing here), and on the references (Retrain with other seeds, which must look
innocent). It gives no verdict. :func:`tru_core.audits.verdict.judge` gives it, by equivalence, from all measurements
together, because the margin of each depends on how many there are.

An audit is one process: every system holds all users and all items. All draws follow from ``AuditCase.seed``, which
no method is told.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from tru_core.backbones.base import Anatomy, Backbone
from tru_core.errors import DataError
from tru_core.fit import FitSettings, parameter_values
from tru_core.interactions import Pairs
from tru_core.problem import Problem

AUDIT_SEED = 20_261_126
AUDIT_VERSION = 2
"""Part of an audit's name: raise it when findings hold other figures or other rules."""

Result = Literal["passed", "failed", "inconclusive"]
Reference = Literal["retrain", "never_seen"]
Aspect = Literal["subject", "shared", "retained", "exact", "reported"]
"""What a measurement is about, which decides how it is judged.

- ``subject``: what the system does for the forgotten subjects themselves. Needs a positive control.
- ``shared``: what shared tables and other users' vectors still tell of them. Needs a positive control.
- ``retained``: the privacy of those who stay. One-sided, against the Original.
- ``exact``: a rule that has no noise (a deleted row is fresh or it is not).
- ``reported``: for the reader, never a verdict.
"""


@dataclass(frozen=True)
class System:
    """One recommender as the auditor sees it.

    Attributes:
        name: What a table calls it.
        seed: What its training (or its Original's) drew from.
        users, items: Output vectors of all users and items on the graph without the deleted edges; for the Original
            too, so that a difference lies in what it learned. A score is their inner product.
        branches: Vectors before fusion on the same graph, by branch; None where several models' scores are added.
        parameters: Values by parameter name; None where there is no single model.
        moments: The optimizer state that is kept with it, as :func:`tru_core.fit.adam_moments` gives; None if none is.
        anatomy: Which parameters are tables of users or items; None where there is no single model.
        hidden: Pairs that its lists never show whatever their score: a filter in front of the output. None: no filter.
    """

    name: str
    seed: int
    users: Float[Tensor, "user dim"]
    items: Float[Tensor, "item dim"]
    branches: Mapping[str, tuple[Tensor, Tensor]] | None = None
    parameters: Mapping[str, Tensor] | None = None
    moments: Mapping[str, Tensor] | None = None
    anatomy: Anatomy | None = None
    hidden: Pairs | None = None


def system_of(
    model: Backbone, problem: Problem, *, name: str, seed: int, moments: Mapping[str, Tensor] | None = None
) -> System:
    """Look at a model on the graph without the deleted edges."""
    with torch.no_grad():
        users, items = model.embeddings(problem.graph_without)
        branches = {n: (u.clone(), i.clone()) for n, (u, i) in model.branch_embeddings(problem.graph_without).items()}
    values = parameter_values(model)
    return System(
        name, seed, users.clone(), items.clone(), branches, parameters=values, moments=moments, anatomy=model.anatomy
    )


@dataclass(frozen=True)
class Shadow:
    """A recommender that the auditor trained on the retained pairs and on some subjects of the request.

    Attributes:
        system: Measured like every other, on the graph without the deleted edges.
        members: bool [forget pair], in the order of ``problem.forget``: the pairs that it was trained on. Drawn by
            :func:`tru_core.audits.shadows.draw_members`.
    """

    system: System
    members: NDArray[np.bool_]


@dataclass(frozen=True)
class Trainer:
    """How the Original was trained: what relearning and further attacks train with.

    Attributes:
        new_model: Builds the untrained backbone from a seed.
        fit: Its schedule.
    """

    new_model: Callable[[int], Backbone]
    fit: FitSettings


@dataclass(frozen=True)
class AuditCase:
    """Everything that is audited together.

    Attributes:
        problem: The request against the data, in one process.
        original: The model before the deletion. The positive control.
        candidate: The model that is judged.
        retrains: Models trained on the retained pairs alone, each from another seed: the reference and the negative
            control. At least 3 for a verdict against Retrain; none gives the weaker one against the never seen.
        shadows: For the attacks that need them; empty: these are left out.
        optimised: Names of attacks whose statistic the method used as its loss or its stop rule. Their findings may
            fail the candidate; they cannot pass it alone.
        trainer: None leaves out what trains, and what needs to know a fresh row.
        fresh_seeds: Seeds that the method states its fresh rows were drawn from, besides the candidate's own.
        seed: The auditor's own.
    """

    problem: Problem
    original: System
    candidate: System
    retrains: tuple[System, ...] = ()
    shadows: tuple[Shadow, ...] = ()
    optimised: frozenset[str] = frozenset()
    trainer: Trainer | None = None
    fresh_seeds: tuple[int, ...] = ()
    seed: int = AUDIT_SEED

    def __post_init__(self) -> None:
        problem = self.problem
        if problem.graph_without.collective.world_size != 1:
            raise DataError("an audit compares whole systems in one process: load all users and items on one worker")
        shadows = tuple(shadow.system for shadow in self.shadows)
        for system in (self.original, self.candidate, *self.retrains, *shadows):
            found, expected = (len(system.users), len(system.items)), (problem.shard.num_users, problem.shard.num_items)
            if found != expected:
                raise DataError(
                    f"audit: system {system.name} has vectors of {found} users and items, the data set has {expected}. "
                    "Nothing was judged. Measure every system on this data set's snapshot."
                )


@dataclass(frozen=True)
class Measurement:
    """One statistic of an attack on every system, before it is judged.

    Attributes:
        attack, paper: Name and source of the attack.
        statistic: What is measured, in words, with its unit or range.
        aspect: How it is judged.
        value: The candidate's.
        original: The Original's; None where it has none.
        references: The Retrains', one for each.
        deviations: How far each shadow model lies from the Retrains' mean on the subjects that it never saw: further
            evidence of what a seed moves. Empty without shadows.
        error: Standard error of ``value`` from the finite number of subjects, clustered by subject: its interval.
        seed_error: What a seed is expected to move ``value`` by if it moves each subject's part independently: from
            differences between Retrains, clustered by subject. 0 where there are fewer than 2.
        never_seen: The fair level without a Retrain; None where only a Retrain can tell it.
        never_seen_error: Standard error of ``value - never_seen``.
        floor: Smallest margin that is ever asked for, and the size of what a seed moves before any seed has shown it.
        num_cases: Subjects or pairs behind it.
        shows_not: One plain sentence: what it does not show.
        is_optimised: The method used this attack's statistic as its loss or stop rule.
        details: Further figures for the reader, by name.
    """

    attack: str
    paper: str
    statistic: str
    aspect: Aspect
    value: float
    original: float | None
    references: tuple[float, ...]
    error: float
    num_cases: int
    shows_not: str
    deviations: tuple[float, ...] = ()
    seed_error: float = 0.0
    never_seen: float | None = None
    never_seen_error: float = 0.0
    floor: float = 0.02
    is_optimised: bool = False
    details: Mapping[str, float | int | str] = field(default_factory=dict)


@dataclass(frozen=True)
class Attack:
    """One attack: a function of a case with a name. Gives no measurement where it does not apply."""

    name: str
    paper: str
    measure: Callable[[AuditCase], list[Measurement]]


@dataclass(frozen=True)
class Finding:
    """A measurement and what follows from it.

    Attributes:
        value, low, high: The candidate's statistic with its 95 % interval from sampling.
        original: The Original's statistic.
        reference, reference_value, num_references: What it is held against, its mean, and how many seeds gave it.
        reference_low, reference_high: The smallest and the largest of them: the seed band as it was seen.
        margin: How far from ``reference_value`` still counts as equal. None where nothing is asked to be equal.
        smallest_effect: Distance from the reference that is found with 90 % power.
        unseen_share: The margin as a part of the Original's distance from the reference, in [0, 1]: so much of what
            the Original shows could stay and pass. 1: it sees nothing.
        positive_control: The Original lies outside the margin: the attack sees what there was to see. None: not asked.
        negative_control: Each Retrain lies inside the margin that the others give. None: fewer than 3 Retrains.
        verdict: ``reported`` bears none.
        reason: Why, in a plain sentence.
    """

    attack: str
    paper: str
    statistic: str
    aspect: Aspect
    value: float
    low: float
    high: float
    original: float | None
    reference: Reference
    reference_value: float | None
    num_references: int
    reference_low: float | None
    reference_high: float | None
    margin: float | None
    smallest_effect: float | None
    unseen_share: float | None
    positive_control: bool | None
    negative_control: bool | None
    num_cases: int
    is_optimised: bool
    verdict: Literal["passed", "failed", "inconclusive", "reported"]
    reason: str
    shows_not: str
    details: Mapping[str, float | int | str] = field(default_factory=dict)

    def row(self) -> dict[str, Any]:
        """The finding as a flat dict of JSON values; details stand under ``detail_<name>``."""
        plain = asdict(self)
        return {k: v for k, v in plain.items() if k != "details"} | {f"detail_{k}": v for k, v in self.details.items()}


@dataclass(frozen=True)
class Verdict:
    """What all findings say together.

    Attributes:
        verdict: ``failed`` if any finding failed; ``passed`` if none did and, of the subjects and of what is
            shared, at least one conclusive finding each that the method did not optimise; else ``inconclusive``.
        reference: What the verdict rests on; ``never_seen`` is the weaker one.
        reason: Why, in a plain sentence.
    """

    verdict: Result
    reference: Reference
    reason: str
    findings: tuple[Finding, ...]
    num_retrains: int
    num_shadows: int
    version: int = AUDIT_VERSION

    def rows(self) -> list[dict[str, Any]]:
        """The findings as flat dicts of JSON values."""
        return [finding.row() for finding in self.findings]
