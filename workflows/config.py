"""Job files: YAML in, one checked model out. A typo, a wrong unit or a duplicate key is an error that says the mend."""

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from tru_core.backbones import BACKBONES
from tru_core.errors import ConfigError
from tru_core.fit import FitSettings
from tru_core.settings import Settings
from tru_core.unlearning.tru import TRUSettings
from workflows.storage import StorageConfig, check_name


def _name_of_something(name: str) -> str:
    try:
        return check_name(name)
    except ConfigError as error:
        raise ValueError(str(error)) from error  # so that pydantic says which setting it is


Name = Annotated[str, AfterValidator(_name_of_something)]


class BackboneConfig(Settings):
    """Which recommender, and its own settings.

    Attributes:
        name: One of the backbones in ``tru_core.backbones``.
        settings: The backbone's settings by name; what is left out has the backbone's default.
    """

    name: str = "mgcn"
    settings: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _known(self) -> "BackboneConfig":
        if self.name not in BACKBONES:
            raise ConfigError(f"backbone.name: {self.name!r} is unknown; choose one of {', '.join(sorted(BACKBONES))}")
        self.parsed()
        return self

    def parsed(self) -> Settings:
        """The settings as the backbone's own type."""
        kind = BACKBONES[self.name].settings_type
        return parse(kind, self.settings, where="backbone.settings")


class ForgetConfig(Settings):
    """Which part of the training data ``unlearn``, ``compare`` and ``sweep`` forget: a uniform random draw.

    Attributes:
        regime: Whole users, whole items or single interactions.
        share: Fraction of them. Above ``max_share`` of the job's deletion policy it is refused.
        seed: Decides who is drawn.
    """

    regime: Literal["user", "item", "interaction"] = "user"
    share: float = Field(default=0.05, gt=0, lt=1)
    seed: NonNegativeInt = 42


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

    Attributes:
        gate_weight: lambda_fusion of Eq. (3); 0 is no gate.
        branch_scaling: Eq. (4) on or off.
        module_share: p of Eq. (6).
        reverse_learning_rate: eta of the reverse step.
        max_concurrent_trials: Trials at the same time.
        max_trials: Refuse a larger grid.
    """

    gate_weight: list[Annotated[float, Field(ge=0)]] = Field(default=[0.0, 1e-4], min_length=1)
    branch_scaling: list[bool] = Field(default=[True, False], min_length=1)
    module_share: list[Annotated[float, Field(gt=0, le=1)]] = Field(default=[0.3, 0.7], min_length=1)
    reverse_learning_rate: list[PositiveFloat] = Field(default=[5e-3], min_length=1)
    max_concurrent_trials: PositiveInt = 2
    max_trials: PositiveInt = 64


class DeleteConfig(Settings):
    """Policy of deletion batches.

    Attributes:
        max_share: Refuse a batch that names more than this share of the training interactions: retrain instead.
    """

    max_share: float = Field(default=0.2, gt=0, le=1)


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


Model = TypeVar("Model", bound=BaseModel)


class _StrictLoader(yaml.SafeLoader):
    """A safe loader that refuses a key that stands twice in one mapping."""


def _unique_mapping(loader: yaml.SafeLoader, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
    keys = [loader.construct_object(key, deep=True) for key, _ in node.value]
    for place, key in enumerate(keys):
        if key in keys[:place]:
            line = node.value[place][0].start_mark.line + 1
            raise ConfigError(f"line {line}: the key {key!r} stands twice in one block; keep one of them")
    return loader.construct_mapping(node, deep=deep)


_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _unique_mapping)


def _explain(error: ValidationError, kind: type[BaseModel]) -> str:
    """Say the first problem of a refused value: where, expected, found, and the nearest known name."""
    problem = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in problem["loc"]) or "the file"
    if problem["type"] == "extra_forbidden":
        owner: Any = kind
        for part in problem["loc"][:-1]:
            field = (
                owner.model_fields.get(str(part)) if isinstance(owner, type) and issubclass(owner, BaseModel) else None
            )
            owner = field.annotation if field else None
        known = list(owner.model_fields) if isinstance(owner, type) and issubclass(owner, BaseModel) else []
        near = difflib.get_close_matches(str(problem["loc"][-1]), known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}"
        return f"{where}: there is no such setting{hint}"
    more = len(error.errors()) - 1
    also = f" (and {more} more)" if more else ""
    if problem["type"] == "missing":
        return f"{where}: this setting is needed and is not there{also}"
    text = problem["msg"].removeprefix("Value error, ").removesuffix(".")
    return f"{where}: {text}, found {problem['input']!r}{also}"


def parse(kind: type[Model], values: Any, *, where: str) -> Model:
    """Check values against a settings model.

    Raises:
        ConfigError: Naming the first problem, and where.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{where}: {_explain(error, kind)}. Nothing was started.") from None
    except ConfigError as error:  # of a part that checks itself
        raise ConfigError(f"{where}: {error}") from error


def load_yaml(path: Path) -> Any:
    """Read a YAML file strictly.

    Raises:
        ConfigError: If it cannot be read, is not YAML, or has a key twice.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as text ({error}). Name an existing job file.") from error
    try:
        return yaml.load(text, Loader=_StrictLoader)  # noqa: S506, TID251 - a safe loader of our own
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from error


def load_settings(path: Path) -> dict[str, Any]:
    """Read a YAML file of settings by name.

    Raises:
        ConfigError: As :func:`load_yaml`, or if it is something else than settings by name.
    """
    values = load_yaml(path)
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected settings by name, found {type(values).__name__}. See README, job files.")
    return values


def load_job(path: Path) -> JobConfig:
    """Read and check a job file.

    Raises:
        ConfigError: Naming the file, the setting, what was expected and what was found.
    """
    return parse(JobConfig, load_settings(path), where=str(path))
