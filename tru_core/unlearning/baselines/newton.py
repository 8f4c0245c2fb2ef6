"""Second-order steps without a Hessian: conjugate gradients on products with it, over the workers of a job.

A vector is a list of tensors, one for each parameter; rows of a local table stay with their worker, a replicated
parameter is the same everywhere and counts once. Backbones can be differentiated once (sparse products and InfoNCE
have a backward pass and no second one), so a product with the Hessian is a central difference of gradients.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tru_core.backbones.base import Backbone, LossTerms, is_local
from tru_core.collective import Collective, all_sum_list, all_sum_number
from tru_core.errors import NumericsError
from tru_core.graph import Graph
from tru_core.sampling import Batch

Vector = list[Tensor]


def inner_product(left: Vector, right: Vector, local: Sequence[bool], collective: Collective) -> float:
    """Inner product over the whole job, in float64: local rows summed over workers, replicated parameters once."""
    sums = {True: 0.0, False: 0.0}
    for one, other, here in zip(left, right, local, strict=True):
        sums[here] += float((one.double() * other.double()).sum())
    return all_sum_number(sums[True], collective) + sums[False]


def sum_gradient(
    model: Backbone,
    names: Sequence[str],
    graph: Graph,
    batches: Sequence[Batch],
    *,
    objective: Callable[[LossTerms], Tensor],
) -> Vector:
    """The gradient, by some parameters, of the *sum* of an objective over all rows of the batches.

    A sum and not a mean, so that a row's curvature, and what damps it, do not depend on the size of the data.
    """
    parameters = [model.get_parameter(name) for name in names]
    total = [torch.zeros_like(parameter) for parameter in parameters]
    for batch in batches:
        share = objective(model.loss(graph, batch)) * batch.num_rows
        for place, part in zip(total, torch.autograd.grad(share, parameters), strict=True):
            place.add_(part)
    all_sum_list([part for part, name in zip(total, names, strict=True) if not is_local(model, name)], graph.collective)
    return total


def hessian_product(gradient: Callable[[], Vector], parameters: Vector, direction: Vector, *, scale: float) -> Vector:
    """Multiply a direction with the Hessian: ``(g(p + s d) - g(p - s d)) / 2 s``. The parameters end as they were.

    Args:
        gradient: The gradient at what the parameters hold when it is called.
        parameters: Changed in place and put back.
        scale: s. The error is of order s**2 in exact arithmetic.
    """
    kept = [parameter.detach().clone() for parameter in parameters]
    found: list[Vector] = []
    try:
        for sign in (1.0, -1.0):
            with torch.no_grad():
                for parameter, start, part in zip(parameters, kept, direction, strict=True):
                    parameter.copy_(start + sign * scale * part)
            found.append(gradient())
    finally:
        with torch.no_grad():
            for parameter, start in zip(parameters, kept, strict=True):
                parameter.copy_(start)
    return [(ahead - behind) / (2.0 * scale) for ahead, behind in zip(*found, strict=True)]


@dataclass(frozen=True)
class Solution:
    """What conjugate gradients found.

    Attributes:
        value: x, this worker's rows of it.
        num_iterations: Products with the matrix that it took.
        residual: ``|b - A x| / |b|`` over the job; 0 where b is 0.
        is_convex: False where a direction of curvature <= 0 ended it early.
    """

    value: Vector
    num_iterations: int
    residual: float
    is_convex: bool

    def row(self) -> dict[str, float]:
        """The numbers for a method's history."""
        return {
            "num_iterations": float(self.num_iterations),
            "residual": self.residual,
            "is_convex": float(self.is_convex),
        }


def conjugate_gradients(
    product: Callable[[Vector], Vector],
    right: Vector,
    local: Sequence[bool],
    collective: Collective,
    *,
    iterations: int,
    tolerance: float,
) -> Solution:
    """Solve ``A x = b`` for a symmetric positive definite A, from x = 0 (Hestenes and Stiefel, 1952).

    A trained model's Hessian need not be positive definite, damped or not. A direction of curvature <= 0 ends the
    search with the iterate of least residual until then, x = 0 among them, since near such a direction steps have any
    length; ``is_convex`` says so.

    Args:
        product: A times a vector; entered by all workers.
        right: b, this worker's rows of it.
        local: Which entries of a vector are rows of this worker alone.
        iterations: At most.
        tolerance: Ends once ``|b - A x| <= tolerance * |b|``.

    Raises:
        NumericsError: If a number is not finite.
    """
    value = [torch.zeros_like(part) for part in right]
    residual, direction = [part.clone() for part in right], [part.clone() for part in right]
    size = start = inner_product(right, right, local, collective)
    count, is_convex = 0, True
    best, least = [part.clone() for part in value], size
    while count < iterations and size > tolerance**2 * start and math.isfinite(size):
        turned = product(direction)
        count += 1
        curvature = inner_product(direction, turned, local, collective)
        if curvature <= 0:
            is_convex, value, size = False, best, least
            break
        step = size / curvature
        for place, change in zip(value, direction, strict=True):
            place.add_(change, alpha=step)
        for place, change in zip(residual, turned, strict=True):
            place.sub_(change, alpha=step)
        before, size = size, inner_product(residual, residual, local, collective)
        if size < least:
            best, least = [part.clone() for part in value], size
        direction = [r + (size / before) * d for r, d in zip(residual, direction, strict=True)]
    if not all(map(math.isfinite, (size, start))):
        raise NumericsError(
            f"conjugate gradients met a number that is not finite after {count} products. Nothing was changed and "
            "nothing was published. Raise damping."
        )
    return Solution(value, count, (size / start) ** 0.5 if start else 0.0, is_convex)


def newton_step(
    model: Backbone,
    names: Sequence[str],
    right: Vector,
    gradient: Callable[[], Vector],
    collective: Collective,
    *,
    damping: float,
    iterations: int,
    tolerance: float,
) -> Solution:
    """Solve ``(H + damping) x = b`` and add x to the parameters, in place.

    Args:
        names: The parameters that move. Where only some rows may, b and the gradient are 0 at all others.
        right: b, this worker's rows of it.
        gradient: The gradient whose derivative H is, at what the parameters hold when it is called.
        damping: Curvature that is added in every direction: no step is longer than ``|b| / damping``.

    Raises:
        NumericsError: If a number is not finite.
    """
    parameters: Vector = [model.get_parameter(name) for name in names]
    local = [is_local(model, name) for name in names]
    moving = [(part != 0) * parameter.detach() for part, parameter in zip(right, parameters, strict=True)]
    length = max(inner_product(moving, moving, local, collective) ** 0.5, 1.0)
    relative = torch.finfo(right[0].dtype).eps ** (1.0 / 3.0)

    def product(direction: Vector) -> Vector:
        norm = inner_product(direction, direction, local, collective) ** 0.5
        turned = hessian_product(gradient, parameters, direction, scale=relative * length / norm)
        return [part + damping * along for part, along in zip(turned, direction, strict=True)]

    solution = conjugate_gradients(product, right, local, collective, iterations=iterations, tolerance=tolerance)
    with torch.no_grad():
        for parameter, change in zip(parameters, solution.value, strict=True):
            parameter.add_(change)
    return solution
