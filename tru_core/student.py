"""Student's t distribution: the quantile that intervals over a few seeds or Retrains need."""

from functools import cache

import numpy as np


@cache
def student_quantile(probability: float, degrees: float) -> float:
    """Quantile of Student's t distribution, by integrating its density over the angle ``atan(t / sqrt(degrees))``.

    Args:
        probability: Above 0.5, below 1.
        degrees: Degrees of freedom, above 0.
    """
    angle = np.linspace(0.0, np.pi / 2, 20_001)
    density = np.cos(angle) ** (degrees - 1.0) if degrees >= 1 else np.maximum(np.cos(angle), 1e-9) ** (degrees - 1.0)
    mass = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    return float(np.sqrt(degrees) * np.tan(np.interp(probability - 0.5, mass / mass[-1] / 2, angle)))
