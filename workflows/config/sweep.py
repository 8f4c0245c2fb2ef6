"""The block ``sweep`` of a job file: lists of values for settings of the job's method."""

from functools import cache
from typing import Annotated, Any, Optional

from annotated_types import MinLen
from pydantic import PositiveInt, create_model, model_serializer

from tru_core.settings import Settings
from tru_core.unlearning.methods import METHODS

DEFAULT_LISTS: dict[str, dict[str, list[Any]]] = {
    "tru": {
        "gate_weight": [0.0, 1e-4],
        "branch_scaling": [False],
        "module_share": [0.3, 0.7],
        "reverse_learning_rate": [0.04, 0.08, 0.16],
        "shared_learning_rate": [0.0, 1e-3],
    },
    "algorithm_one": {
        "gate_weight": [0.0, 1e-4],
        "branch_scaling": [True],
        "module_share": [0.3, 0.7],
        "ascent_learning_rate": [2.5e-3, 5e-3, 1e-2],
    },
}
"""What is tried of a method where a list is left out. Of other methods nothing is: name the settings to try.

Of TRU the gate weighs what moves only with a ``shared_learning_rate`` above 0, and the scales weigh against repair:
without it Adam divides them out, and changes are of 1e-9.
"""


class SweepConfig(Settings):
    """What ``sweep`` tries: every combination of the lists, one for each setting of the method that stands here.

    Combinations that differ in nothing else than what has no effect are tried once. A ``gate_weight`` of 0 is no gate.

    Attributes:
        max_concurrent_trials: Trials at the same time.
        max_trials: Refuse a larger grid.
    """

    max_concurrent_trials: PositiveInt = 2
    max_trials: PositiveInt = 64

    @model_serializer(mode="plain")
    def _without_what_nobody_sweeps(self) -> dict[str, Any]:
        fields = type(self).model_fields
        values = {name: getattr(self, name) for name in fields}
        return {name: value for name, value in values.items() if value is not None or fields[name].default is not None}

    @property
    def lists(self) -> dict[str, list[Any]]:
        """The values to try, by setting."""
        own = {name: getattr(self, name) for name in type(self).model_fields if name not in SweepConfig.model_fields}
        return {name: values for name, values in own.items() if values is not None}


def sweep_type(method: str) -> type[SweepConfig]:
    """The block for a method: a list of values for each of its settings, those of :data:`DEFAULT_LISTS` first."""
    return _typed(METHODS[method].settings_type, method)


@cache
def _typed(settings_type: type[Settings], method: str) -> type[SweepConfig]:
    defaults, known = DEFAULT_LISTS.get(method, {}), settings_type.model_fields
    fields: dict[str, Any] = {}
    for name in [*defaults, *(name for name in known if name not in defaults)]:
        found: Any = known[name].annotation
        for bound in known[name].metadata:
            found = Annotated[found, bound]
        values: Any = Annotated[list[found], MinLen(1)]
        fields[name] = (Optional[values], defaults.get(name))  # noqa: UP045, a type made at run time
    return create_model("SweepConfig", __base__=SweepConfig, **fields)
