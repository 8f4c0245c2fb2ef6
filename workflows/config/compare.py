"""The parts of a job file that say what is compared: backbones, forget sets, methods, seeds."""

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from tru_core.backbones import BACKBONES
from tru_core.errors import ConfigError
from tru_core.fit import FitSettings
from tru_core.forget_sets import Selection
from tru_core.quoting import quoted
from tru_core.settings import Settings
from tru_core.unlearning.methods import METHODS
from workflows.config.parsing import parse
from workflows.config.unlearn import UnlearnConfig, method_settings

DEFAULT_SHARE = 0.05
ORIGINAL, RETRAIN = "Original", "Retrain"
DEFAULT_METHODS = ("edge_deletion", "row_reset", "tru")


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
            raise ConfigError(
                f"backbone.name: {quoted(self.name)} is unknown; choose one of {', '.join(sorted(BACKBONES))}"
            )
        self.parsed()
        return self

    def parsed(self) -> Settings:
        """The settings as the backbone's own type."""
        kind = BACKBONES[self.name].settings_type
        return parse(kind, self.settings, where="backbone.settings")


class ForgetConfig(Settings):
    """Which part of the training data ``unlearn``, ``compare`` and ``sweep`` forget.

    Attributes:
        regime: Whole users, whole items or single interactions.
        selection: A uniform draw, or those with the most (``core``) or fewest (``edge``) interactions, or
            ``popular`` items (and interactions on them).
        share: Fraction of them, 0.05 where there is no ``count`` either.
        count: How many instead: 1 is a single subject.
        batches: For ``compare``: requests that come in one after the other, each met by the result of the last.
        seed: Decides who is drawn.
    """

    regime: Literal["user", "item", "interaction"] = "user"
    selection: Selection = "random"
    share: float | None = Field(default=None, gt=0, lt=1)
    count: PositiveInt | None = None
    batches: PositiveInt = 1
    seed: NonNegativeInt = 42

    @model_validator(mode="before")
    @classmethod
    def _default_share(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("share") is None and values.get("count") is None:
            return values | {"share": DEFAULT_SHARE}
        return values

    @model_validator(mode="after")
    def _can_be_drawn(self) -> "ForgetConfig":
        if self.share is not None and self.count is not None:
            raise ConfigError(f"forget: give share or count, not both; found share {self.share} and count {self.count}")
        if self.regime == "user" and self.selection == "popular":
            raise ConfigError("forget: users are not popular, items are; choose core for the most active users")
        if self.count is not None and self.count < self.batches:
            raise ConfigError(f"forget: {self.count} {self.regime}s cannot be parted into {self.batches} batches")
        return self

    @property
    def label(self) -> str:
        """What tables call this forget set: ``user 5 %``, ``item core 1 %``, ``1 user``, ``... in 10 batches``."""
        words = [self.regime] if self.selection == "random" else [self.regime, self.selection]
        if self.count is not None:
            plural = "s" if self.count > 1 else ""
            words = [str(self.count), *words[1:], f"{self.regime}{plural}"]
        elif self.share is not None:
            words.append(f"{100 * self.share:g} %")
        if self.batches > 1:
            words.append(f"in {self.batches} batches")
        return " ".join(words)


class CompareBackbone(BackboneConfig):
    """One recommender of a comparison.

    Attributes:
        fit: Settings of ``fit`` in which its training differs from the job's.
        label: What tables call it; its name where left out.
    """

    fit: dict[str, Any] = Field(default_factory=dict)
    label: str = ""

    @property
    def title(self) -> str:
        return self.label or self.name

    def recommender(self) -> BackboneConfig:
        """The recommender alone, as ``train`` names it."""
        return BackboneConfig(name=self.name, settings=self.settings)

    def fit_settings(self, base: FitSettings) -> FitSettings:
        """The job's training settings with this recommender's own.

        Raises:
            ConfigError: If there is no such setting, or it cannot have that value.
        """
        if "seed" in self.fit:
            raise ConfigError(f"compare.backbones: {self.title}: fit.seed: seeds stand in compare.seeds")
        values = base.model_dump() | self.fit
        return parse(FitSettings, values, where=f"compare.backbones: {self.title}: fit")


class CompareMethod(Settings):
    """One row of a comparison.

    Attributes:
        name: One of the methods in ``tru_core.unlearning.methods``.
        label: What tables call it; the method's title where left out.
        settings: The method's settings by name, on top of the job's ``unlearn`` where that names the same method. Its
            ``seed`` is the run's own, as every method's draws are, unless it stands here.
    """

    name: str
    label: str = ""
    settings: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _known(self) -> "CompareMethod":
        if self.name == "retrain":
            raise ConfigError("compare.methods: retrain is the reference and always there; leave it out")
        if self.name not in METHODS:
            known = ", ".join(sorted(name for name in METHODS if name != "retrain"))
            raise ConfigError(f"compare.methods: {quoted(self.name)} is unknown; choose one of {known}")
        return self

    @property
    def title(self) -> str:
        return self.label or METHODS[self.name].title

    def parsed(self, unlearn: UnlearnConfig, *, seed: int) -> Settings:
        """The settings as the method's own type.

        Args:
            unlearn: The job's method and its settings.
            seed: The run's.

        Raises:
            ConfigError: If there is no such setting, or it cannot have that value.
        """
        base = unlearn.base_for(self.name, seed=seed)
        return method_settings(self.name, base | self.settings, where=f"compare.methods: {self.title}: settings")


def refuse_duplicates(names: Sequence[Any], *, what: str, where: str = "compare") -> None:
    """Check that rows can be told apart.

    Args:
        where: The job file's block, for the message.

    Raises:
        ConfigError: If a name stands twice.
    """
    twice = [name for place, name in enumerate(names) if name in names[:place]]
    if twice:
        raise ConfigError(
            f"{where}: {what} {quoted(twice[0])} stands twice; give one of them another label, or drop it"
        )


class CompareConfig(Settings):
    """The grid of ``compare``: every method on every backbone and forget set, with every seed.

    Original is always there, once for each seed, and so is Retrain unless ``retrain`` is off.

    Attributes:
        backbones: Recommenders; where empty, the job's own with its own ``fit``.
        forget: Forget sets; where empty, the job's own.
        methods: Rows besides Original and Retrain.
        ablations: Add the rows of TRU without each of its parts.
        seeds: Seeds of Original, Retrain and all that a method trains or draws; where empty, the job's ``fit.seed``.
            Who is forgotten follows the seed of the forget set.
        band: Where there is one seed, run a second Retrain with the next one: two span the band that says which
            differences mean anything.
        band_seeds: Seeds of further Retrains, beside those of ``seeds`` and of no other row, for a surer band: of
            ``n`` Retrains alike, one lies between the least and the greatest of the others in ``(n - 2) / n`` of
            cases, a third for three. With ``methods`` empty and no ``seeds``, nothing else runs.
        retrain: Train Retrains. Without them a row has no band, distance and speed-up, and costs no training.
        max_concurrent_runs: Runs at the same time with one worker; None is as many as the cluster has CPUs for.
            Runs side by side compete for caches and memory: for figures of speed, 1.
    """

    backbones: list[CompareBackbone] = Field(default_factory=list)
    forget: list[ForgetConfig] = Field(default_factory=list)
    methods: list[CompareMethod] = Field(default_factory=lambda: [CompareMethod(name=name) for name in DEFAULT_METHODS])
    ablations: bool = False
    seeds: list[NonNegativeInt] = Field(default_factory=list)
    band: bool = True
    band_seeds: list[NonNegativeInt] = Field(default_factory=list)
    retrain: bool = True
    max_concurrent_runs: PositiveInt | None = None

    @model_validator(mode="after")
    def _rows_differ(self) -> "CompareConfig":
        refuse_duplicates([backbone.title for backbone in self.backbones], what="backbone")
        refuse_duplicates([forget.label for forget in self.forget], what="forget set")
        refuse_duplicates([ORIGINAL, RETRAIN, *(method.title for method in self.methods)], what="method")
        refuse_duplicates([*self.seeds, *self.band_seeds], what="seed")
        return self
