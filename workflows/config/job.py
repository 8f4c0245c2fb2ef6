"""Job files: YAML in, one checked model out. A typo, a wrong unit or a duplicate key is an error that says the mend."""

from pathlib import Path
from typing import Any, Literal

from pydantic import (
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    SerializeAsAny,
    ValidationInfo,
    field_validator,
    model_validator,
)

from tru_core.errors import ConfigError
from tru_core.fit import FitSettings
from tru_core.settings import Settings
from tru_core.unlearning.methods import METHODS
from workflows.config.audit import AuditConfig
from workflows.config.compare import DEFAULT_METHODS, BackboneConfig, CompareConfig, ForgetConfig
from workflows.config.delete import DeleteConfig
from workflows.config.ledger import LedgerConfig
from workflows.config.names import Name
from workflows.config.parsing import checked, parse
from workflows.config.sweep import SweepConfig, sweep_type
from workflows.config.unlearn import DEFAULT_METHOD, UnlearnConfig, of_method
from workflows.config.yaml_reader import load_settings
from workflows.key_files import KeysConfig
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
    unlearn: UnlearnConfig = Field(default_factory=lambda: UnlearnConfig.model_validate({}))
    scaling: ScalingConfig = Field(default_factory=ScalingConfig)
    sweep: SerializeAsAny[SweepConfig] = Field(default_factory=SweepConfig)
    delete: DeleteConfig = Field(default_factory=DeleteConfig)
    ledger: LedgerConfig = Field(default_factory=LedgerConfig)
    keys: KeysConfig = Field(default_factory=KeysConfig)
    compare: CompareConfig = Field(default_factory=CompareConfig)
    audit: AuditConfig = Field(default_factory=AuditConfig)

    @model_validator(mode="before")
    @classmethod
    def _follow_the_method(cls, values: Any) -> Any:
        return _with_blocks_of_the_method(values) if isinstance(values, dict) else values

    @field_validator("sweep", mode="before")
    @classmethod
    def _sweeps_the_method(cls, values: Any, info: ValidationInfo) -> Any:
        unlearn = info.data.get("unlearn")
        if unlearn is None or not isinstance(values, dict | SweepConfig):
            return values  # refused already, or refused next
        own = values.model_dump() if isinstance(values, SweepConfig) else values
        return checked(sweep_type(unlearn.method), own, of=of_method(unlearn.method))

    @model_validator(mode="after")
    def _grid_fits(self) -> "JobConfig":
        for backbone in self.compare.backbones:
            backbone.fit_settings(self.fit)
        for method in self.compare.methods:
            method.parsed(self.unlearn, seed=self.fit.seed)
        self.delete.stronger_method(self.unlearn)
        self.audit.shadow_settings(self.fit)
        for candidate in self.audit.candidates:
            if candidate.name in METHODS:
                candidate.parsed(self.unlearn)
        return self


def _with_blocks_of_the_method(values: dict[str, Any]) -> dict[str, Any]:
    """Let what other blocks leave out follow from the job's method, where that is not the default.

    ``compare`` and ``audit`` look at the method too, and ``delete.stronger`` is empty: its default is TRU's.

    Raises:
        ConfigError: If a stronger attempt is asked for and nothing says what that is.
    """
    unlearn = values.get("unlearn")
    method = unlearn.get("method") if isinstance(unlearn, dict) else getattr(unlearn, "method", None)
    if not isinstance(method, str) or method == DEFAULT_METHOD or method not in METHODS:
        return values
    written = {name: values.get(name, {}) for name in ("compare", "audit", "delete")}
    blocks = {n: b.model_dump(exclude_unset=True) if isinstance(b, Settings) else b for n, b in written.items()}
    own = {name: dict(block) for name, block in blocks.items() if isinstance(block, dict)}
    if "compare" in own and method != "retrain":
        names = list(dict.fromkeys([*DEFAULT_METHODS, method]))
        own["compare"].setdefault("methods", [{"name": name} for name in names])
    if "audit" in own and method != "retrain":
        own["audit"].setdefault("candidates", [{"name": method}])
    if "delete" in own and "stronger" not in own["delete"]:
        asked = own["delete"].get("on_refused")
        if isinstance(asked, list) and "stronger" in asked:
            raise ConfigError(
                f"delete.on_refused: stronger has no settings for {method}. Nothing was started. Write them below "
                "delete.stronger, or leave stronger out."
            )
        own["delete"]["stronger"] = {}
    return values | own


def load_job(path: Path) -> JobConfig:
    """Read and check a job file.

    Raises:
        ConfigError: Naming the file, the setting, what was expected and what was found.
    """
    return parse(JobConfig, load_settings(path), where=str(path))
