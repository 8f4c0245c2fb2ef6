"""Contracts as tests, for object stores of your own.

Importing this package imports pytest; the rest of ``workflows`` never imports this package.
"""

import pytest

# Before the contracts are imported, so that a failed claim shows the values that it compared.
pytest.register_assert_rewrite("workflows.testing.store_contract", "workflows.testing.fault_contract")

from workflows.testing.fault_contract import FaultContract  # noqa: E402
from workflows.testing.store_contract import StoreContract  # noqa: E402

__all__ = ["FaultContract", "StoreContract"]
