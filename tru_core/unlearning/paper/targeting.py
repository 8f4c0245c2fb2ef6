"""What a reverse step may move and how far: branch scales (Eq. 4) and module choice (Eqs. 5-6) on a backbone."""

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import Field, NonNegativeFloat

from tru_core.backbones.base import Backbone, gradient_norms, num_parameters
from tru_core.collective import Collective
from tru_core.errors import ConfigError
from tru_core.settings import Settings
from tru_core.unlearning.paper.interventions import GateSign, branch_scale, select_modules


class TargetingSettings(Settings):
    """The three interventions of the paper as switches, for every method that has them.

    Attributes:
        gate: Fusion gate of Eq. (3) on or off.
        gate_weight: lambda_fusion. Not in the paper; ``gate_weight * sqrt(fusion weights)`` of about a tenth
            of the fusion gradient's norm.
        gate_sign: ``shrink`` lets the penalty shrink fusion weights, as its purpose says; ``literal``
            ascends it with the loss, as Eq. (7) is printed.
        branch_scaling: Eq. (4) on or off (the paper's retain-scale switch). Left out, the method decides.
        scale_floor: gamma_min. Not in the paper.
        isolation: Module mask of Eq. (6) on or off.
        module_share: p, the paper's grid is 0.1 ... 0.9.
        min_parameter_share: tau_min. Not in the paper; 0.05 makes sure of an embedding table, not of a wide
            feature table that would swallow the mask.
        excluded_modules: Modules that the reverse step never moves, by name, whatever their sensitivity.
    """

    gate: bool = True
    gate_weight: NonNegativeFloat = 1e-4
    gate_sign: GateSign = "shrink"
    branch_scaling: bool | None = None
    scale_floor: float = Field(default=0.1, gt=0, le=1)
    isolation: bool = True
    module_share: float = Field(default=0.5, gt=0, le=1)
    min_parameter_share: float = Field(default=0.05, ge=0, le=1)
    excluded_modules: tuple[str, ...] = ()

    @property
    def scales_branches(self) -> bool:
        """Whether Eq. (4) is on."""
        return bool(self.branch_scaling)


@dataclass(frozen=True)
class Targeting:
    """What measurements decide: the reverse step's factor by branch, and the modules that it may move."""

    scales: dict[str, float]
    sensitivity: dict[str, float]
    chosen: frozenset[str]

    def row(self) -> dict[str, float]:
        """The numbers of a history row."""
        return (
            {f"scale/{name}": value for name, value in self.scales.items()}
            | {f"sensitivity/{name}": value for name, value in self.sensitivity.items()}
            | {f"chosen/{name}": float(name in self.chosen) for name in self.sensitivity}
        )


def measure_norms(model: Backbone, collective: Collective) -> tuple[dict[str, float], dict[str, float]]:
    """L2 norms of the job's present gradient, by branch and by module. Call after ``complete_gradients``."""
    branches: dict[str, list[str]] = {}
    for parameter, branch in model.anatomy.branch.items():
        branches.setdefault(branch, []).append(parameter)
    groups = {f"branch/{name}": tuple(parameters) for name, parameters in branches.items()}
    groups |= {f"module/{name}": tuple(parameters) for name, parameters in model.anatomy.modules.items()}
    norms = gradient_norms(model, groups, collective)

    def part(prefix: str) -> dict[str, float]:
        return {n.removeprefix(prefix): v for n, v in norms.items() if n.startswith(prefix)}

    return part("branch/"), part("module/")


def target(
    model: Backbone,
    retain_energy: Mapping[str, float],
    forget_energy: Mapping[str, float],
    sensitivity: Mapping[str, float],
    settings: TargetingSettings,
    collective: Collective,
) -> Targeting:
    """Scale branches and choose modules from measured norms; all of them in full where a switch is off.

    Args:
        retain_energy, forget_energy: Norm of each branch's gradient, Eq. (4).
        sensitivity: Norm of each module's forget gradient, Eq. (5).
    """
    scales = dict.fromkeys(forget_energy, 1.0)
    if settings.scales_branches:
        scales = branch_scale(retain_energy, forget_energy, floor=settings.scale_floor)
        # Shared parameters belong to no single branch: they take the full step.
        scales["shared"] = 1.0
    allowed = {name: value for name, value in sensitivity.items() if name not in settings.excluded_modules}
    chosen = frozenset(allowed)
    if settings.isolation:
        sizes = {name: num_parameters(model, model.anatomy.modules[name], collective) for name in allowed}
        chosen = select_modules(
            allowed, sizes, share=settings.module_share, min_parameter_share=settings.min_parameter_share
        )
    return Targeting(scales=scales, sensitivity=dict(sensitivity), chosen=chosen)


def check_settings(model: Backbone, settings: TargetingSettings) -> None:
    """Check what only the backbone can know.

    Raises:
        ConfigError: If an excluded module does not exist or none would be left.
    """
    unknown = sorted(set(settings.excluded_modules) - set(model.anatomy.modules))
    if unknown:
        raise ConfigError(
            f"unlearn.excluded_modules names {unknown[0]!r}; this backbone has {', '.join(model.anatomy.modules)}"
        )
    if len(settings.excluded_modules) >= len(model.anatomy.modules):
        raise ConfigError("unlearn.excluded_modules names every module: the reverse step could not move anything")
