"""The threads of ``tru_core.testing``, by the name that tests know them by."""

from tru_core.testing.threads import (
    Differentiable,
    ThreadCollective,
    in_threads,
)

__all__ = [
    "Differentiable",
    "ThreadCollective",
    "in_threads",
]
