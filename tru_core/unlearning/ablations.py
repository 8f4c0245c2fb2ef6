"""What TRU and Algorithm 1 are without each of their parts: rows of a comparison."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Ablation:
    """A method and its settings, on top of the job's own where that is the job's method."""

    method: str
    settings: dict[str, Any]


_SHARED = {"shared_learning_rate": 1e-3, "repair": True, "branch_scaling": True}

ABLATIONS: dict[str, Ablation] = {
    "TRU, subjects' rows stay": Ablation("tru", {"reset_subjects": False}),
    "TRU, touched rows stay": Ablation("tru", {"replace_rows": "none"}),
    "TRU, touched rows fresh": Ablation("tru", {"replace_rows": "fresh"}),
    "TRU, touched rows predicted": Ablation("tru", {"replace_rows": "predicted"}),
    "TRU, touched items' rows stay": Ablation("tru", {"replace_items": "none"}),
    "TRU, no reverse": Ablation("tru", {"reverse_steps": 0}),
    "TRU, no forget loss": Ablation("tru", {"forget_weight": 0.0}),
    "TRU, no residue loss": Ablation("tru", {"residue_weight": 0.0}),
    "TRU, with repair": Ablation("tru", {"repair": True}),
    "TRU, shared modules move": Ablation("tru", _SHARED),
    "TRU, shared, no gate": Ablation("tru", _SHARED | {"gate": False}),
    "TRU, shared, no scaling": Ablation("tru", _SHARED | {"branch_scaling": False}),
    "TRU, shared, no isolation": Ablation("tru", _SHARED | {"isolation": False}),
    "TRU, shared, literal gate sign": Ablation("tru", _SHARED | {"gate_sign": "literal"}),
    "Algorithm 1": Ablation("algorithm_one", {}),
    "Algorithm 1, no gate": Ablation("algorithm_one", {"gate": False}),
    "Algorithm 1, no scaling": Ablation("algorithm_one", {"branch_scaling": False}),
    "Algorithm 1, no isolation": Ablation("algorithm_one", {"isolation": False}),
    "Algorithm 1, literal gate sign": Ablation("algorithm_one", {"gate_sign": "literal"}),
    "Algorithm 1, SGD": Ablation("algorithm_one", {"reverse_optimizer": "sgd"}),
    "Algorithm 1, rows stay": Ablation("algorithm_one", {"reset_subjects": False}),
}
