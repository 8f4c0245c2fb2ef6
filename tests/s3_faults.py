"""The proxy of ``workflows.testing``, by the name that tests know it by."""

from workflows.testing.faults import (
    CUT,
    DROP,
    DROP_ANSWER,
    FAIL_ANSWER,
    HANG_ANSWER,
    SILENT,
    TRICKLE,
    TWICE,
    Answer,
    Proxy,
    run_proxy,
)

__all__ = [
    "CUT",
    "DROP",
    "DROP_ANSWER",
    "FAIL_ANSWER",
    "HANG_ANSWER",
    "SILENT",
    "TRICKLE",
    "TWICE",
    "Answer",
    "Proxy",
    "run_proxy",
]
