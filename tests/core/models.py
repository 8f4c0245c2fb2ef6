"""The small models of ``tru_core.testing``, by the name that tests know them by."""

from tru_core.testing.models import (
    ALONE,
    batches_of,
    build_model,
    builder,
    class_of,
    fitted,
    mixed_request,
    problem_of,
    small_settings,
    train_graph,
)

__all__ = [
    "ALONE",
    "batches_of",
    "build_model",
    "builder",
    "class_of",
    "fitted",
    "mixed_request",
    "problem_of",
    "small_settings",
    "train_graph",
]
