"""Job files: YAML in, one checked model out. A typo, a wrong unit or a duplicate key is an error that says the mend."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from tru_core.fit import FitSettings
from tru_core.settings import Settings
from tru_core.unlearning.methods import METHODS
from tru_core.unlearning.tru_settings import TRUSettings
from workflows.config.audit import AuditConfig
from workflows.config.compare import BackboneConfig, CompareConfig, ForgetConfig
from workflows.config.delete import DeleteConfig
from workflows.config.ledger import LedgerConfig
from workflows.config.names import Name
from workflows.config.parsing import parse
from workflows.config.yaml_reader import load_settings
from workflows.keys import KeysConfig
from workflows.storage import StorageConfig


class ScalingConfig(Settings):
    """Workers and how long to wait for them.

    Attributes:
        num_workers: Processes over which users are sharded. Results do not depend on it.
        threads_per_worker: CPU threads, and CPUs reserved, of each.
        max_failures: Restarts after a lost worker, from the newest whole checkpoint.
        start_timeout_seconds: How long to wait for the cluster to have room for the workers.
    """

    num_workers: PositiveInt = 1
    threads_per_worker: PositiveInt = 1
    max_failures: NonNegativeInt = 2
    start_timeout_seconds: PositiveFloat = 300.0


class SweepConfig(Settings):
    """The settings of TRU that ``sweep`` tries: every combination of the lists.

    Without ``unlearn.paper_literal`` the gate weighs what moves only with a ``shared_learning_rate`` above 0, the
    scales weigh against repair, and the module mask chooses among tables too. Combinations that differ in nothing
    else than what has no effect are tried once.

    Attributes:
        gate_weight: lambda_fusion of Eq. (3); 0 is no gate.
        branch_scaling: Eq. (4) on or off. Without repair Adam divides it out: changes of 1e-9.
        module_share: p of Eq. (6).
        reverse_learning_rate: Step size of touched rows, in root mean squares of their table. With ``paper_literal``
            it is eta of Algorithm 1, of which 5e-3 is a better middle.
        shared_learning_rate: Step size of shared modules. Without effect with ``paper_literal``.
        max_concurrent_trials: Trials at the same time.
        max_trials: Refuse a larger grid.
    """

    gate_weight: list[Annotated[float, Field(ge=0)]] = Field(default=[0.0, 1e-4], min_length=1)
    branch_scaling: list[bool] = Field(default=[False], min_length=1)
    module_share: list[Annotated[float, Field(gt=0, le=1)]] = Field(default=[0.3, 0.7], min_length=1)
    reverse_learning_rate: list[PositiveFloat] = Field(default=[0.04, 0.08, 0.16], min_length=1)
    shared_learning_rate: list[NonNegativeFloat] = Field(default=[0.0, 1e-3], min_length=1)
    max_concurrent_trials: PositiveInt = 2
    max_trials: PositiveInt = 64


class JobConfig(Settings):
    """One job file. Every workflow reads the same file and takes its own part.

    Attributes:
        storage: Folder or ``s3://bucket/prefix`` under which everything lies.
        dataset: Name of an imported data set.
        model: Name under which versions are published.
        precision: Floating point of parameters and propagation.
        feature_scaling: ``standardised`` gives every feature column mean 0 and deviation 1 before it enters the
            backbone; ``raw`` is what the published code does. Standardised won on the real set it was tried on.
    """

    storage: StorageConfig
    dataset: Name
    model: Name
    precision: Literal["float32", "float64"] = "float32"
    feature_scaling: Literal["standardised", "raw"] = "standardised"
    backbone: BackboneConfig = Field(default_factory=BackboneConfig)
    fit: FitSettings = Field(default_factory=FitSettings)
    forget: ForgetConfig = Field(default_factory=ForgetConfig)
    unlearn: TRUSettings = Field(default_factory=TRUSettings)
    scaling: ScalingConfig = Field(default_factory=ScalingConfig)
    sweep: SweepConfig = Field(default_factory=SweepConfig)
    delete: DeleteConfig = Field(default_factory=DeleteConfig)
    ledger: LedgerConfig = Field(default_factory=LedgerConfig)
    keys: KeysConfig = Field(default_factory=KeysConfig)
    compare: CompareConfig = Field(default_factory=CompareConfig)
    audit: AuditConfig = Field(default_factory=AuditConfig)

    @model_validator(mode="after")
    def _grid_fits(self) -> "JobConfig":
        for backbone in self.compare.backbones:
            backbone.fit_settings(self.fit)
        for method in self.compare.methods:
            method.parsed(self.unlearn, seed=self.fit.seed)
        self.delete.stronger_settings(self.unlearn)
        self.audit.shadow_settings(self.fit)
        for candidate in self.audit.candidates:
            if candidate.name in METHODS:
                candidate.parsed(self.unlearn)
        return self


def load_job(path: Path) -> JobConfig:
    """Read and check a job file.

    Raises:
        ConfigError: Naming the file, the setting, what was expected and what was found.
    """
    return parse(JobConfig, load_settings(path), where=str(path))
