"""Every backbone keeps the contract. A new one in ``BACKBONES`` is tested by all of this as it is."""

import json

import pytest

from tests.core.golden import STORED, first_losses
from tru_core.backbones import BACKBONES
from tru_core.testing import BackboneContract


class TestEveryBackbone(BackboneContract):
    backbones = tuple(BACKBONES.values())


@pytest.mark.parametrize("backbone", list(BACKBONES))
def test_the_first_losses_are_the_stored_ones(backbone: str) -> None:
    stored = json.loads(STORED.read_text())
    assert backbone in stored, "a new backbone: run python -m tests.core.golden"
    found = first_losses(backbone)
    assert len(found) == len(stored[backbone])
    for ours, theirs in zip(found, stored[backbone], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-9)
