"""The algorithm: multimodal recommenders, and how to make them forget. Torch and numpy, no Ray and no storage.

What a program needs stands here by name; each is imported when it is first asked for, so ``import tru_core`` is quick.

    import numpy as np
    from tru_core import FitSettings, forget, make_dataset, make_request, train

    dataset = make_dataset(  # int [pair, 2] of user rows and item rows; float [item, column] by modality
        pairs, valid=held_out, test=others, features={"image": image, "text": text}, num_users=900, num_items=400
    )
    original = train(dataset, "mgcn", schedule=FitSettings(max_epochs=50))
    found = forget(original, make_request(users=np.array([17, 23])), method="tru")
    print(found.outcome.test.recall, found.outcome.forget.recall, found.candidate.seconds)
    scores = found.candidate.users @ found.candidate.items.T

``BACKBONES`` and ``METHODS`` are tables by name. ``evaluate`` measures the Original on the same lists.
``verify_receipt`` checks a deletion receipt offline. Every error is a ``TruError``, with an exit code and a message
that says what is safe. ``tru_core.testing`` has the contract that a backbone or method of your own must keep, as tests.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tru_core.backbones import BACKBONES
    from tru_core.errors import TruError
    from tru_core.fit import FitSettings
    from tru_core.interactions import make_request
    from tru_core.one_process import Dataset, forget, make_dataset, train
    from tru_core.problem import evaluate
    from tru_core.receipts.receipt import verify_receipt
    from tru_core.unlearning.method import Method
    from tru_core.unlearning.methods import METHODS

_HOMES = {
    "BACKBONES": "tru_core.backbones",
    "METHODS": "tru_core.unlearning.methods",
    "Dataset": "tru_core.one_process",
    "FitSettings": "tru_core.fit",
    "Method": "tru_core.unlearning.method",
    "TruError": "tru_core.errors",
    "evaluate": "tru_core.problem",
    "forget": "tru_core.one_process",
    "make_dataset": "tru_core.one_process",
    "make_request": "tru_core.interactions",
    "train": "tru_core.one_process",
    "verify_receipt": "tru_core.receipts.receipt",
}

__all__ = [
    "BACKBONES",
    "METHODS",
    "Dataset",
    "FitSettings",
    "Method",
    "TruError",
    "evaluate",
    "forget",
    "make_dataset",
    "make_request",
    "train",
    "verify_receipt",
]


def __getattr__(name: str) -> Any:
    """Import what was asked for from the module where it lives."""
    if name not in _HOMES:
        raise AttributeError(f"module 'tru_core' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value  # the next access finds it at once
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
