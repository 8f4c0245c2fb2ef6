"""Contracts as tests, for backbones and methods of your own; and the tiny worlds on which they run.

Importing this package imports pytest; the rest of ``tru_core`` never imports this package.
"""

import pytest

# Before the contracts are imported, so that a failed claim shows the values that it compared.
pytest.register_assert_rewrite("tru_core.testing.backbone_contract", "tru_core.testing.method_contract")

from tru_core.testing.backbone_contract import BackboneContract  # noqa: E402
from tru_core.testing.method_contract import MethodContract  # noqa: E402

__all__ = ["BackboneContract", "MethodContract"]
