"""Calls into ``tru_core`` made by these tests have their shapes and dtypes checked against its signatures.

The hook rewrites modules when they are imported, so it stands before any import of ``tru_core``. It reads
annotations as type checkers do: an int is a float (PEP 484's numeric tower).

Checks take longer than the small trainings that they look at. Tests marked ``many_calls``, whose calls others make
too, are checked where TRU_SHAPE_CHECKS is ``all``, as ``make test-all`` has it.
"""

import os

import hypothesis
import jaxtyping
import pytest
import torch

jaxtyping.install_import_hook(["tru_core"], "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")
hypothesis.settings.register_profile("core", deadline=None, max_examples=50, derandomize=True, database=None)
hypothesis.settings.load_profile("core")
torch.set_num_threads(1)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Switch the checks on or off before the fixtures of a test, those of its module among them, call anything."""
    everything = os.environ.get("TRU_SHAPE_CHECKS") == "all"
    unchecked = item.get_closest_marker("many_calls") is not None and not everything
    jaxtyping.config.update("jaxtyping_disable", unchecked)
