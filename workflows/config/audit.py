"""The part of a job file that says what ``tru audit`` examines, and with how much evidence."""

from typing import Any

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from tru_core.audits.base import AUDIT_SEED
from tru_core.audits.injection import InjectionSettings
from tru_core.audits.verdict import MIN_RETRAINS
from tru_core.errors import ConfigError
from tru_core.fit import FitSettings
from tru_core.quoting import quoted
from tru_core.settings import Settings
from tru_core.unlearning.methods import METHODS
from workflows.config.compare import refuse_duplicates
from workflows.config.parsing import parse
from workflows.config.unlearn import UnlearnConfig, method_settings

NOTHING, MASKED, OVER_FORGOTTEN = "original", "masked", "over_forgotten"
CONTROLS = {NOTHING: "Do nothing", MASKED: "Masked outputs", OVER_FORGOTTEN: "Over-forgotten"}
"""Candidates that the audit must not let pass. Examine them beside your own, to see that it can tell."""
_SEEDED = ("retrain", OVER_FORGOTTEN)


class AuditCandidate(Settings):
    """One model to examine: what a method makes of the Original, or one that is broken on purpose.

    Attributes:
        name: One of the methods in ``tru_core.unlearning.methods``; ``original``: nothing is done; ``masked``: nothing
            is done, and the forgotten pairs are filtered out of the lists; ``over_forgotten``: a Retrain whose
            forgotten users are turned away from their items.
        label: What tables call it.
        settings: The method's settings by name, on top of the job's ``unlearn`` where that names the same method.
        seed: For ``retrain`` and ``over_forgotten``: the Retrain's own, which must be no reference's.
    """

    name: str = "tru"
    label: str = ""
    settings: dict[str, Any] = Field(default_factory=dict)
    seed: NonNegativeInt | None = None

    @model_validator(mode="after")
    def _known(self) -> "AuditCandidate":
        if self.name not in METHODS and self.name not in CONTROLS:
            known = ", ".join(sorted([*METHODS, *CONTROLS]))
            raise ConfigError(f"audit.candidates: {quoted(self.name)} is unknown; choose one of {known}")
        if (self.seed is not None) != (self.name in _SEEDED):
            raise ConfigError(f"audit.candidates: {' and '.join(_SEEDED)}, and no others, need a seed: of no reference")
        if self.name in CONTROLS and self.settings:
            raise ConfigError(f"audit.candidates: {self.name} has nothing to set; found {', '.join(self.settings)}")
        return self

    @property
    def title(self) -> str:
        if self.label:
            return self.label
        plain = CONTROLS.get(self.name) or METHODS[self.name].title
        return plain if self.seed is None else f"{plain}, seed {self.seed}"

    def parsed(self, unlearn: UnlearnConfig) -> Settings:
        """The settings as the method's own type.

        Raises:
            ConfigError: If there is no such setting, or it cannot have that value.
        """
        where = f"audit.candidates: {self.title}: settings"
        return method_settings(self.name, unlearn.base_for(self.name) | self.settings, where=where)


class AuditConfig(Settings):
    """What is examined, against what, and with how much evidence.

    Attributes:
        candidates: What methods make of the Original; each gets a verdict. Left out: the job's own method. Not looked
            at with ``version`` or ``batch``.
        version: Examine this published version of the job's model against the version it was made from, with the
            job's ``forget``.
        batch: Examine what a batch of deletions published, with the batch's own requests: its id.
        seeds: Of the Retrains that candidates are held against; where empty, the job's ``fit.seed`` and the next two.
            3 are the least for a verdict, 5 for a release. Retrains that ``compare`` has made are taken.
        shadows: Shadow models, an even number; 0 leaves out the attacks that need them. 16 is little, 64 for a
            release: the rates at few false alarms need many.
        shadow_fit: Settings of ``fit`` in which their training differs from the job's: fewer epochs.
        shadow_group: Shadow models of one Ray task. It loads the data once for all of them.
        attacks: Names of attacks; empty: all.
        injection: What is planted for the injection audit, or None to leave it out: it trains the Original anew on
            the planted data, and says nothing of a published version or of deleted items.
        seed: The auditor's own. No method is told.
        max_concurrent_runs: Ray tasks at a time; None is as many as the cluster has CPUs for.
    """

    candidates: list[AuditCandidate] = Field(default_factory=lambda: [AuditCandidate()], min_length=1)
    version: PositiveInt | None = None
    batch: str = ""
    seeds: list[NonNegativeInt] = Field(default_factory=list)
    shadows: NonNegativeInt = 16
    shadow_fit: dict[str, Any] = Field(default_factory=lambda: {"max_epochs": 10})
    shadow_group: PositiveInt = 4
    attacks: list[str] = Field(default_factory=list)
    injection: InjectionSettings | None = None
    seed: NonNegativeInt = AUDIT_SEED
    max_concurrent_runs: PositiveInt | None = None

    @model_validator(mode="after")
    def _can_be_meant(self) -> "AuditConfig":
        refuse_duplicates([candidate.title for candidate in self.candidates], what="candidate", where="audit")
        refuse_duplicates(self.seeds, what="seed", where="audit")
        if self.shadows % 2:
            raise ConfigError(f"audit.shadows: an even number is needed, each subject is in half; found {self.shadows}")
        if 0 < len(self.seeds) < MIN_RETRAINS:
            raise ConfigError(
                f"audit.seeds: {len(self.seeds)} Retrains give no band; expected at least {MIN_RETRAINS}, better 5"
            )
        if "seed" in self.shadow_fit:
            raise ConfigError("audit.shadow_fit: seed: each shadow model has a seed of its own")
        if self.version is not None and self.batch:
            raise ConfigError("audit: give version or batch, not both")
        return self

    def shadow_settings(self, base: FitSettings) -> FitSettings:
        """How shadow models are trained.

        Raises:
            ConfigError: If there is no such setting, or it cannot have that value.
        """
        return parse(FitSettings, base.model_dump() | self.shadow_fit, where="audit.shadow_fit")

    def reference_seeds(self, own: int) -> list[int]:
        """The seeds of the Retrains, with the job's own first where it says no others."""
        return self.seeds or [own, own + 1, own + 2]
