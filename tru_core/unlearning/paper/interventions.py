"""The three interventions of TRU as pure functions: gate, branch scale, module choice.

Source of every formula: arXiv:2604.02183v1, Eqs. (3)-(6). What the paper leaves open is said at
each function; all switches stand in :class:`tru_core.unlearning.tru.method.TRUSettings`.
"""

import math
from collections.abc import Mapping
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from tru_core.errors import NumericsError

GateSign = Literal["shrink", "literal"]


def _check_energies(energies: Mapping[str, float], what: str) -> None:
    for name, value in energies.items():
        if not (math.isfinite(value) and value >= 0):
            raise NumericsError(
                f"{what} of {name} is {value}; expected a finite norm of at least 0. The reverse step was not "
                "taken and the last checkpoint is kept. Lower the reverse learning rate or clip the gradient."
            )


def gate_gradient(
    gradient: Float[Tensor, "..."], weight: Float[Tensor, "..."], *, gate_weight: float, sign: GateSign
) -> Float[Tensor, "..."]:
    """Add the fusion gate to the direction that the reverse step *ascends*, Eq. (3).

    The reverse objective is ``L(forget) + gate_weight * ||fusion weights||_1``. Eq. (7) ascends it,
    which read literally makes the fusion weights grow, against the penalty's stated purpose. With
    ``shrink`` the penalty is what the reverse step minimises beside ``-L``: the direction is
    ``grad L - gate_weight * sign(weight)``. ``literal`` is ``grad L + gate_weight * sign(weight)``.

    Args:
        gradient: Gradient of the forget loss, of the weight's shape.
        weight: A fusion weight.
        gate_weight: lambda_fusion, at least 0; 0 turns the gate off.

    Returns:
        The direction of ascent, a new tensor.
    """
    towards_zero = -1.0 if sign == "shrink" else 1.0
    return gradient + towards_zero * gate_weight * weight.sign()


def branch_scale(
    retain_energy: Mapping[str, float], forget_energy: Mapping[str, float], *, floor: float, eps: float = 1e-8
) -> dict[str, float]:
    """Damp the reverse step on branches that would forget faster than they retain.

    Eq. (4): ``max(floor, min(1, retain / (forget + eps)))``, only ever a brake: it is near 1 while
    both losses come from fitted data and falls as ascent raises the forget gradient.

    Args:
        retain_energy: L2 norm of the retain loss's gradient by branch, >= 0.
        forget_energy: The same for the forget loss, without the gate.
        floor: gamma_min, the smallest factor, in (0, 1]. Its value is not in the paper.

    Returns:
        The factor of each branch's reverse update, in [floor, 1].

    Raises:
        NumericsError: If an energy is negative, NaN or infinite.
    """
    _check_energies(retain_energy, "the retain gradient's norm")
    _check_energies(forget_energy, "the forget gradient's norm")
    return {
        branch: max(floor, min(1.0, retain_energy[branch] / (forget_energy[branch] + eps))) for branch in forget_energy
    }


def select_modules(
    sensitivity: Mapping[str, float],
    sizes: Mapping[str, int],
    *,
    share: float,
    min_parameter_share: float,
) -> frozenset[str]:
    """Choose the modules that the reverse step may move: AdaptiveTop of Eq. (6).

    The most sensitive ``ceil(share * modules)`` modules, then the next ones until they hold at least
    ``min_parameter_share`` of all parameters. Ties go to the name that sorts first. Modules without
    any gradient are never chosen: they would take a place and do nothing.

    Args:
        sensitivity: Eq. (5), mean over forget batches of the gradient's L2 norm (plain norm, not
            squared, not divided by size), by module.
        sizes: Number of parameters of each module, over all workers.
        share: p in (0, 1].
        min_parameter_share: tau_min in [0, 1].

    Raises:
        NumericsError: If a sensitivity is negative, NaN or infinite.
    """
    _check_energies(sensitivity, "the sensitivity")
    ranked = sorted((name for name in sensitivity if sensitivity[name] > 0), key=lambda n: (-sensitivity[n], n))
    total, chosen, held = sum(sizes.values()), [], 0
    for name in ranked:
        if len(chosen) >= math.ceil(share * len(sensitivity)) and held >= min_parameter_share * total:
            break
        chosen.append(name)
        held += sizes[name]
    return frozenset(chosen)
