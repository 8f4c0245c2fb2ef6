"""The block ``unlearn`` of a job file: any method by name, with that method's own settings beside it."""

import json
from collections.abc import Mapping
from typing import Any

from pydantic import SerializationInfo, SerializeAsAny, model_serializer, model_validator

from tru_core.errors import ConfigError
from tru_core.quoting import may_be_secret, quoted, shown_kind
from tru_core.receipts.claims import EXACT_METHODS
from tru_core.settings import Settings
from tru_core.unlearning.methods import METHODS
from tru_core.unlearning.paper.algorithm_one import AlgorithmOneSettings
from tru_core.unlearning.tru.settings import TRUSettings
from workflows.config.parsing import checked, parse

DEFAULT_METHOD = "tru"

EARLIER_TRU_SETTINGS: dict[str, Any] = {
    "paper_literal": False,
    "learning_rate": 1e-3,
    "epochs": 3,
    "patience": 3,
    "reverse_ratio": 0.2,
    "energy_batches": 3,
    "reverse_optimizer": "adam",
    "reverse_objective": "ranking",
    "max_gradient_norm": None,
    "repair_batches": None,
}
"""What the settings of TRU held before Algorithm 1 became a method of its own, each with its default.

Job files that name them are still read: without ``paper_literal: true`` they never had an effect. Names of runs are
still made with them, so that a store of an earlier version finds its results.
"""


class _EarlierSettings(AlgorithmOneSettings):
    paper_literal: bool = False


class UnlearnConfig(Settings):
    """How ``unlearn`` and ``delete run`` forget. In a job file the settings stand beside ``method``, not in a block.

    Attributes:
        method: One of the methods in ``tru_core.unlearning.methods``; ``tru`` where nothing is said.
        settings: The method's own, of its own type.
    """

    method: str = DEFAULT_METHOD
    settings: SerializeAsAny[Settings]

    @model_validator(mode="before")
    @classmethod
    def _of_its_method(cls, values: Any) -> Any:
        if not isinstance(values, dict) or isinstance(values.get("settings"), Settings):
            return values
        method = values.get("method", DEFAULT_METHOD)
        check_method(method, where="unlearn.method")
        own = {name: value for name, value in values.items() if name != "method"}
        if method == DEFAULT_METHOD:
            own = without_earlier(own, where="unlearn", lines=_BLOCK)
        settings = checked(METHODS[method].settings_type, own, also=("method",), of=of_method(method))
        return {"method": method, "settings": settings}

    @model_validator(mode="after")
    def _settings_are_its_methods(self) -> "UnlearnConfig":
        kind = METHODS[self.method].settings_type
        if type(self.settings) is not kind:
            raise ConfigError(
                f"unlearn.settings: {kind.__name__} is expected for {self.method}; found {type(self.settings).__name__}"
            )
        return self

    @model_serializer(mode="plain")
    def _beside_each_other(self, info: SerializationInfo) -> dict[str, Any]:
        mode = "json" if info.mode == "json" else "python"
        own = self.settings.model_dump(mode=mode, exclude_defaults=info.exclude_defaults)
        return {"method": self.method} | own

    @property
    def title(self) -> str:
        """What tables and messages call the method."""
        return METHODS[self.method].title

    @property
    def is_exact(self) -> bool:
        """Whether it trains anew all that had seen what is deleted."""
        return self.method in EXACT_METHODS

    def setting(self, name: str, default: Any) -> Any:
        """One of the method's settings; the default where the method has none of that name."""
        return getattr(self.settings, name) if name in type(self.settings).model_fields else default

    def with_settings(self, changes: Mapping[str, Any], *, where: str) -> "UnlearnConfig":
        """The same method with some settings changed.

        Raises:
            ConfigError: If there is no such setting, or it cannot have that value.
        """
        settings = method_settings(self.method, self.settings.model_dump() | dict(changes), where=where, lines=_BLOCK)
        return UnlearnConfig(method=self.method, settings=settings)

    def fresh_seeds(self, method: str) -> list[int]:
        """As :func:`own_seeds`, of a model that a method made with the job's settings."""
        return own_seeds(self.settings) if method == self.method else []

    def base_for(self, method: str, *, seed: int | None = None) -> dict[str, Any]:
        """What the settings of a row of a comparison or an audit are put on top of.

        Args:
            method: The row's: only where it is the job's own do the job's settings count.
            seed: The run's, for methods that draw from one of their own; None: as the job says.
        """
        base = self.settings.model_dump() if method == self.method else {}
        if seed is not None and "seed" in METHODS[method].settings_type.model_fields:
            base["seed"] = seed
        return base


def own_seeds(settings: Settings) -> list[int]:
    """The seed from which a method draws fresh rows, where it has one of its own; the others take the training's."""
    return [getattr(settings, "seed")] if "seed" in type(settings).model_fields else []  # noqa: B009, of any method


def check_method(name: Any, *, where: str) -> None:
    """Check that there is a method of that name.

    Raises:
        ConfigError: With all names.
    """
    if not isinstance(name, str):
        raise ConfigError(f"{where}: the name of a method is expected, found {shown_kind(name)}")
    if name not in METHODS:
        raise ConfigError(f"{where}: {quoted(name)} is unknown; choose one of {', '.join(sorted(METHODS))}")


_BLOCK = "unlearn: {{method: algorithm_one{settings}}}"
_ROW = "{{name: algorithm_one, settings: {{{settings}}}}}"


def of_method(method: str) -> str:
    """Whose settings a message speaks of; "" where the job file says nothing of a method."""
    return "" if method == DEFAULT_METHOD else method


def method_settings(method: str, values: Mapping[str, Any], *, where: str, lines: str = _ROW) -> Settings:
    """Check settings of a method that stand elsewhere than in the block ``unlearn``.

    Args:
        lines: As of :func:`without_earlier`.

    Raises:
        ConfigError: If there is no such setting, or it cannot have that value.
    """
    if method == DEFAULT_METHOD:
        values = without_earlier(values, where=where, lines=lines)
    return parse(METHODS[method].settings_type, dict(values), where=where)


def without_earlier(values: Mapping[str, Any], *, where: str, lines: str) -> dict[str, Any]:
    """Drop the settings of TRU that only Algorithm 1 looked at.

    Args:
        lines: What to write instead where they ask for Algorithm 1; ``settings`` is put in.

    Raises:
        ConfigError: If they ask for Algorithm 1, with the new lines, or one cannot have that value.
    """
    earlier = {name: value for name, value in values.items() if name in EARLIER_TRU_SETTINGS}
    rest = {name: value for name, value in values.items() if name not in EARLIER_TRU_SETTINGS}
    if earlier and parse(_EarlierSettings, earlier, where=where).paper_literal:
        own = {name: value for name, value in values.items() if name in AlgorithmOneSettings.model_fields}
        if values.get("reverse_learning_rate") is not None:
            own["ascent_learning_rate"] = values["reverse_learning_rate"]
        found = parse(AlgorithmOneSettings, own, where=where).model_dump(mode="json", exclude_defaults=True)
        values_shown = {name: json.dumps(value) for name, value in found.items()}
        texts = [f"{name}: {'...' if may_be_secret(text) else text}" for name, text in values_shown.items()]
        if lines == _BLOCK:
            texts.insert(0, "")
        raise ConfigError(
            f"{where}.paper_literal: Algorithm 1 is a method of its own. Write instead: "
            f"{lines.format(settings=', '.join(texts))}. Nothing was started."
        )
    return rest


def named_settings(method: str, settings: Settings) -> dict[str, Any]:
    """The settings by which runs are named: those of TRU with what they held in earlier versions."""
    own = settings.model_dump(mode="json")
    return EARLIER_TRU_SETTINGS | own if isinstance(settings, TRUSettings) and method == DEFAULT_METHOD else own


def named_unlearn(unlearn: UnlearnConfig) -> dict[str, Any]:
    """The block by which runs and batches are named; for TRU as earlier versions named them."""
    own = named_settings(unlearn.method, unlearn.settings)
    return own if unlearn.method == DEFAULT_METHOD else {"method": unlearn.method} | own


def check_publishable(unlearn: UnlearnConfig) -> None:
    """Check that what the method leaves can be published as a version.

    Raises:
        ConfigError: If it adds the scores of several models.
    """
    if not METHODS[unlearn.method].has_one_model:
        others = ", ".join(sorted(name for name, method in METHODS.items() if method.has_one_model))
        raise ConfigError(
            f"unlearn.method: {unlearn.method} adds the scores of several models, and a version is one model. Nothing "
            f"was started. `tru compare` and `tru audit` run it; to publish, choose one of {others}."
        )
