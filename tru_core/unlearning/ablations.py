"""What TRU is without each of its parts: rows of a comparison, settings on top of the job's."""

from typing import Any

_SHARED = {"shared_learning_rate": 1e-3, "repair": True, "branch_scaling": True}
_LITERAL = {"paper_literal": True}

ABLATIONS: dict[str, dict[str, Any]] = {
    "TRU, subjects' rows stay": {"reset_subjects": False},
    "TRU, touched rows stay": {"replace_rows": "none"},
    "TRU, touched rows fresh": {"replace_rows": "fresh"},
    "TRU, touched rows predicted": {"replace_rows": "predicted"},
    "TRU, touched items' rows stay": {"replace_items": "none"},
    "TRU, no reverse": {"reverse_steps": 0},
    "TRU, no forget loss": {"forget_weight": 0.0},
    "TRU, no residue loss": {"residue_weight": 0.0},
    "TRU, with repair": {"repair": True},
    "TRU, shared modules move": _SHARED,
    "TRU, shared, no gate": _SHARED | {"gate": False},
    "TRU, shared, no scaling": _SHARED | {"branch_scaling": False},
    "TRU, shared, no isolation": _SHARED | {"isolation": False},
    "TRU, shared, literal gate sign": _SHARED | {"gate_sign": "literal"},
    "Algorithm 1": _LITERAL,
    "Algorithm 1, no gate": _LITERAL | {"gate": False},
    "Algorithm 1, no scaling": _LITERAL | {"branch_scaling": False},
    "Algorithm 1, no isolation": _LITERAL | {"isolation": False},
    "Algorithm 1, literal gate sign": _LITERAL | {"gate_sign": "literal"},
    "Algorithm 1, SGD": _LITERAL | {"reverse_optimizer": "sgd"},
    "Algorithm 1, rows stay": _LITERAL | {"reset_subjects": False},
}
