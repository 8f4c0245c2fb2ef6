"""Unlearning methods on the tiny trained Original, for every test that runs one by its name."""

from tru_core.problem import Problem
from tru_core.settings import Settings
from tru_core.testing.originals import (
    FIT,
    REGIMES,
    mean_margin,
    original_of,
    request_of,
    tools_of,
    trained_values,
    whole,
)
from tru_core.testing.worlds import Part
from tru_core.unlearning.baselines.rec_eraser import RecEraserSettings
from tru_core.unlearning.baselines.sisa import SISASettings
from tru_core.unlearning.baselines.ultra_re import UltraRESettings
from tru_core.unlearning.method import Candidate, run_method
from tru_core.unlearning.methods import METHODS

__all__ = [
    "FIT",
    "REGIMES",
    "SHARDED",
    "forgotten",
    "mean_margin",
    "original_of",
    "request_of",
    "settings_of",
    "tools_of",
    "trained_values",
    "whole",
]

SHARDED = {
    "sisa": SISASettings(num_shards=2),
    "rec_eraser": RecEraserSettings(num_shards=2),
    "ultra_re": UltraRESettings(num_shards=2),
}


def settings_of(name: str) -> Settings:
    """A method's defaults, but for shards: a tiny world has users for two."""
    return SHARDED[name] if name in SHARDED else METHODS[name].settings_type()


def forgotten(
    name: str, problem: Problem, part: Part, backbone: str = "mgcn", settings: Settings | None = None
) -> Candidate:
    """Run a method on the Original as it stands in this part."""
    given = settings_of(name) if settings is None else settings
    return run_method(METHODS[name], original_of(part, backbone), problem, given, tools_of(part, backbone))
